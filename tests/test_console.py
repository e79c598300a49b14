import io
import sys
from pathlib import Path

import pytest

from reg.console import LiveLog, Progress, Row, fail, first_process, progress, say
from reg.errors import InputError


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_say_prints_a_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # A file is buffered by blocks: without a flush, a killed job would leave an empty log.
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    say("σ = 2.55")
    assert raw.getvalue().decode() == "σ = 2.55\n"


@pytest.mark.parametrize("total", [1, 7, 10, 100, 1234])
def test_a_log_gets_at_most_ten_lines_and_the_last_one(
    total: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("train", total) as shown:
        for k in range(total):
            shown.step(f"loss {k}")
    printed = lines(capsys)
    assert len(printed) == min(total, 10)
    assert all("train" in line for line in printed)
    assert f"{total}/{total}" in printed[-1]
    assert f"loss {total - 1}" in printed[-1]


def test_lines_between_validations_repeat_the_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train", 4) as shown:
        for note in ("", "loss 1", "", "loss 3"):
            shown.step(note)
    assert ["loss 1" in line for line in lines(capsys)] == [False, True, True, False]


def test_a_resumed_run_counts_on(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("train", 100, done=50) as shown:
        for _ in range(50):
            shown.step()
    printed = lines(capsys)
    assert len(printed) == 5
    assert "60/100" in printed[0]
    assert "100/100" in printed[-1]


def test_nothing_is_printed_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for total, done in ((0, 0), (8, 8)):
        with progress("train", total, done):
            pass
    assert lines(capsys) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_is_removed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown: Progress | None = None

    def broken() -> None:
        nonlocal shown
        with progress("train", 20) as shown:
            shown.step("loss 1")
            raise InputError("no such file")

    with pytest.raises(InputError):
        broken()
    assert shown is not None
    assert shown.bar is not None
    assert shown.bar.n == 1
    assert shown.bar.disable  # as tqdm leaves a bar that was closed
    assert "train" in terminal.getvalue()
    assert lines(capsys) == []


# --- the training log ----------------------------------------------------------------------

ROWS: list[Row] = [
    {"iteration": 0, "psnr": 20.0},
    {"iteration": 10, "psnr": 21.5, "loss": 1 / 3, "loss 0-10": 0.125},
]
DVCLIVE = """
class Live:
    def __init__(self, **options):
        self.options, self.step, self.logged = options, None, []

    def log_metric(self, name, value):
        self.logged.append((self.step, name, value))

    def make_summary(self):
        self.logged.append("summary")
"""


def test_the_log_is_a_table_with_a_column_per_metric(tmp_path: Path) -> None:
    path = tmp_path / "results" / "log.csv"
    live = LiveLog(path, None)
    assert live.show([]) == ""
    assert not path.exists()
    live.show(ROWS[:1])
    assert path.read_text() == "iteration,psnr\n0,20\n"
    note = live.show(ROWS, {"crops_per_second": 123.456})
    # What differs from run to run is shown, and is no part of the file.
    assert path.read_text() == "iteration,psnr,loss,loss 0-10\n0,20,,\n10,21.5,0.333333,0.125\n"
    assert note == "psnr 21.5  loss 0.3333  crops_per_second 123.5"
    assert [file.name for file in path.parent.iterdir()] == ["log.csv"]


def test_without_a_file_there_is_only_a_note() -> None:
    assert LiveLog(None, None).show(ROWS) == "psnr 21.5  loss 0.3333"


def test_dvclive_gets_every_row_once_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvclive.py").write_text(DVCLIVE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "dvclive", raising=False)
    live = LiveLog(None, tmp_path / "view")
    assert live.live.options == {
        "dir": str(tmp_path / "view"),
        "save_dvc_exp": False,
        "dvcyaml": None,
        "report": None,
    }
    live.show([])
    live.show(ROWS)  # as a run that is resumed begins
    live.show([*ROWS, {"iteration": 20, "psnr": 22.0}], {"crops_per_second": 5.0})
    logged = [entry for entry in live.live.logged if entry != "summary"]
    assert sorted(logged) == [
        (0, "psnr", 20.0),
        (10, "loss", 1 / 3),
        (10, "loss 0-10", 0.125),
        (10, "psnr", 21.5),
        (20, "crops_per_second", 5.0),
        (20, "psnr", 22.0),
    ]
    assert live.live.logged[-1] == "summary"


def test_only_the_first_process_shows_anything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert first_process()
    monkeypatch.setenv("RANK", "1")
    assert not first_process()
    say("resumed")
    with progress("train", 1) as shown:
        shown.step()
    assert lines(capsys) == []
    with pytest.raises(SystemExit):  # an error may be that of one machine
        fail(InputError("data: no such folder"))
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "3"}, True),  # torchrun within srun
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),  # torchrun's second node
        ({"NODE_RANK": "0", "LOCAL_RANK": "1"}, False),  # as Fabric starts them
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"SLURM_PROCID": "4", "SLURM_LOCALID": "0"}, False),
        ({"SLURM_PROCID": "0"}, True),
    ],
)
def test_the_first_process_is_the_first_of_all_nodes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], first: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert first_process() == first


def test_a_user_error_is_one_line_and_status_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        fail(InputError("params.yaml: lambda = -1: must be positive"))
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == "error: params.yaml: lambda = -1: must be positive\n"
    assert captured.out == ""
