import json
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from reg.errors import InputError
from reg.stage import run


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def params(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for params.yaml; how that is read is tested with reg.params."""
    given = SimpleNamespace(profile="demo")
    monkeypatch.setattr("reg.stage.read_params", lambda: given)
    return given


def test_a_stage_says_what_it_does_and_accounts_for_it(
    params: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    given = []

    def work(what: object) -> Path:
        given.append(what)
        return Path("models/demo/pretrain")

    run("pretrain", work)  # type: ignore[arg-type]
    assert given == [params]
    first, last = capsys.readouterr().out.splitlines()
    assert "pretrain" in first
    assert "demo" in first
    assert "models/demo/pretrain" in last
    account = json.loads(Path(".provenance/demo/pretrain.json").read_text())
    age = time.time() - psutil.Process().create_time()
    assert 0 < account["seconds"] <= age + 0.1  # imports count
    assert account["peak_memory_mb"] > 10


@pytest.mark.usefixtures("params")
def test_a_user_error_ends_a_stage_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def work(what: object) -> Path:
        raise InputError("data/manifest.csv: no test image")

    with pytest.raises(SystemExit) as caught:
        run("evaluate", work)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: data/manifest.csv: no test image\n"
    assert not Path(".provenance").exists()


def test_unreadable_parameters_are_a_user_error(capsys: pytest.CaptureFixture[str]) -> None:
    # There is no params.yaml here.
    with pytest.raises(SystemExit) as caught:
        run("evaluate", lambda _: Path())
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: params.yaml")
    assert message.count("\n") == 1


@pytest.mark.usefixtures("params")
def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    def work(what: object) -> Path:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run("evaluate", work)
