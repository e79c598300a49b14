import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from fcntl import LOCK_EX, flock
from importlib import import_module
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import NoReturn

import pytest

from reg import processes
from reg.checkpoints import CHECKPOINTS, State, finished_cell, forget
from reg.errors import InputError
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

ROOT = Path(__file__).parents[1]

# Cells that note who computed them, and take longer the later they come.
SHARE = """
import os, time
from pathlib import Path
from reg.processes import finish_share

def compute(k):
    with Path("log").open("a") as log:
        log.write(f"{k} {os.environ['RANK']}\\n")
    time.sleep(0.01 * k)
    return {"k": k}

finish_share("key", {f"cell{k}": (lambda k=k: compute(k)) for k in range(20)})
"""
HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


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
    assert place() == (0, 1)  # a batch script, which srun did not start
    start_as(monkeypatch, SLURM_STEP_NUM_TASKS="5")
    assert place() == (4, 5)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(InputError, match=r"srun: .*ntasks-per-node"):
        place()


def test_cells_with_names_too_long_for_a_file_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    start_as(monkeypatch, **TORCHRUN | {"RANK": "0"})
    done: list[int] = []
    names = ["é" * 150 + end for end in "ab"]
    shared = {name: lambda name=name: done.append(1) or {"of": name} for name in names}
    finish_share("key", shared)
    assert done == [1, 1]
    assert [finished_cell("key", name, dict)["of"] for name in names] == names


def test_processes_compute_every_cell_once() -> None:
    environment = os.environ | TORCHRUN | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([sys.executable, "-c", SHARE], env=environment | {"RANK": str(rank)})
        for rank in range(3)
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    log = [line.split() for line in Path("log").read_text().splitlines()]
    assert sorted(int(k) for k, _ in log) == list(range(20))
    assert finished() == sorted(f"cell{k}" for k in range(20))


def test_what_another_has_begun_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    start_as(monkeypatch, **TORCHRUN | {"RANK": "1"})
    shared, done = cells(4)
    finished_cell("key", "cell2", shared["cell2"])
    with (CHECKPOINTS / "key" / "cell1.lock").open("a") as other:
        flock(other, LOCK_EX)
        finish_share("key", shared)
    assert done == [2, 0, 3]


def started(shared: dict[str, Callable[[], State]]) -> Thread:
    """A process, as a thread, that has had time for all cells but the locked one."""
    thread = Thread(target=finish_share, args=("key", shared))
    thread.start()
    thread.join(0.5)
    return thread


def test_the_first_waits_for_what_others_have_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    start_as(monkeypatch, **TORCHRUN | {"RANK": "0"})
    shared, done = cells(4)
    (CHECKPOINTS / "key").mkdir(parents=True)
    other = (CHECKPOINTS / "key" / "cell1.lock").open("a")
    flock(other, LOCK_EX)
    first = started(shared)
    assert first.is_alive()
    assert done == [0, 2, 3]
    finished_cell("key", "cell1", lambda: {"k": 1})
    other.close()
    first.join(10)
    assert not first.is_alive()
    assert done == [0, 2, 3]


def test_the_first_takes_over_from_a_process_that_was_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_as(monkeypatch, **TORCHRUN | {"RANK": "0"})
    shared, done = cells(3)
    (CHECKPOINTS / "key").mkdir(parents=True)
    lock = str(CHECKPOINTS / "key" / "cell1.lock")
    other = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    first = started(shared)
    assert done == [0, 2]
    other.send_signal(signal.SIGKILL)
    other.wait()
    first.join(10)
    assert done == [0, 2, 1]
    found = [finished_cell("key", name, compute)["k"] for name, compute in shared.items()]
    assert found == [0, 1, 2]


def test_a_process_ends_when_the_first_has_gathered_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start_as(monkeypatch, **TORCHRUN | {"RANK": "1"})
    shared, done = cells(4)
    (CHECKPOINTS / "key").mkdir(parents=True)
    exists = Path.exists

    def gathered_meanwhile(path: Path) -> bool:
        if path.stem == "cell1":
            forget("key")
            return True
        return exists(path)

    monkeypatch.setattr(Path, "exists", gathered_meanwhile)
    finish_share("key", shared)
    assert done == [0]
    assert not CHECKPOINTS.joinpath("key").is_dir()


def test_a_process_that_comes_when_all_is_gathered_does_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_as(monkeypatch, **TORCHRUN)
    monkeypatch.setattr(processes, "PATIENCE", 0.3)
    shared, done = cells(3)
    finish_share("key", shared)
    assert not done
    assert not CHECKPOINTS.exists()
    assert "process 2: nothing to share was found" in capsys.readouterr().err


def test_a_file_system_without_locks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, operation: int) -> NoReturn:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    start_as(monkeypatch, **TORCHRUN | {"RANK": "0"})
    monkeypatch.setattr(processes, "flock", refuse)
    shared, done = cells(2)
    with pytest.raises(InputError, match=r"\.checkpoints: its file system has no locks"):
        finish_share("key", shared)
    assert not done


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
