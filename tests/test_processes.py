from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from reg import processes
from reg.checkpoints import CHECKPOINTS, State, finished_cell, forget
from reg.processes import finish_share, leave_it_to_the_first_process, place

TORCHRUN = {
    "RANK": "2",
    "WORLD_SIZE": "3",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "GROUP_RANK": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1234",
    "TORCHELASTIC_RUN_ID": "here",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def start_as(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def cells(count: int) -> tuple[dict[str, Callable[[], State]], list[int]]:
    """Cells that note that they were computed."""
    done: list[int] = []

    def cell(k: int) -> Callable[[], State]:
        def compute() -> State:
            done.append(k)
            return {"k": k}

        return compute

    return {f"cell{k}": cell(k) for k in range(count)}, done


def finished() -> list[str]:
    return sorted(path.stem for path in CHECKPOINTS.glob("key/*.pt"))


def test_alone_there_is_nothing_to_share() -> None:
    shared, done = cells(4)
    assert place() == (0, 1)
    finish_share("key", shared)
    assert not done
    assert not finished()
    leave_it_to_the_first_process()


def test_a_place_is_what_torchrun_or_srun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    start_as(monkeypatch, **TORCHRUN)
    assert place() == (2, 3)
    for name in TORCHRUN:
        monkeypatch.delenv(name)
    start_as(monkeypatch, SLURM_NTASKS="5", SLURM_PROCID="4", SLURM_LOCALID="1")
    start_as(monkeypatch, SLURM_JOB_NAME="reg", SLURM_NTASKS_PER_NODE="5")
    assert place() == (4, 5)


def test_every_process_finishes_its_share_and_together_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in (2, 1, 0):
        start_as(monkeypatch, **TORCHRUN | {"RANK": str(rank)})
        shared, done = cells(7)
        finish_share("key", shared)
        assert done[: len(range(rank, 7, 3))] == list(range(rank, 7, 3))
        assert rank == 0 or len(done) == len(range(rank, 7, 3))
    assert finished() == [f"cell{k}" for k in range(7)]


def test_the_first_takes_over_what_another_did_not_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    start_as(monkeypatch, **TORCHRUN | {"RANK": "0"})
    shared, done = cells(5)
    finished_cell("key", "cell2", shared["cell2"])
    finish_share("key", shared)
    assert done == [2, 0, 3, 4, 1]  # its share, and from the end what is missing
    found = [finished_cell("key", name, compute)["k"] for name, compute in shared.items()]
    assert found == list(range(5))


def test_a_slow_process_ends_when_the_first_has_gathered_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_as(monkeypatch, **TORCHRUN | {"RANK": "1"})
    shared, done = cells(9)
    compute = shared["cell4"]

    def meanwhile() -> State:
        forget("key")
        return compute()

    shared["cell4"] = meanwhile
    with pytest.raises(SystemExit) as ended:
        finish_share("key", shared)
    assert ended.value.code == 0
    assert done == [1, 4]
    assert not (CHECKPOINTS / "key").exists()


def test_all_but_the_first_process_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "first_process", lambda: False)
    with pytest.raises(SystemExit) as ended:
        leave_it_to_the_first_process()
    assert ended.value.code == 0


@pytest.mark.parametrize("stage", ["diagnose", "evaluate_denoising"])
def test_a_stage_that_is_not_shared_is_run_by_the_first_process_alone(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "first_process", lambda: False)
    with pytest.raises(SystemExit):  # before it asks for any parameter
        import_module(f"stages.{stage}").work(SimpleNamespace())
