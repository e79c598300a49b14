import io
import sys

import pytest

from reg.console import Progress, fail, progress, say
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


def test_a_user_error_is_one_line_and_status_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        fail(InputError("params.yaml: lambda = -1: must be positive"))
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == "error: params.yaml: lambda = -1: must be positive\n"
    assert captured.out == ""
