"""Many processes at one stage: files of finished cells join them.

`torchrun --nproc-per-node=8 -m stages.tune` runs a stage of many independent cells in eight
processes, on as many devices as there are; on a CPU a stage starts one per core by itself. They
send each other nothing: whoever is free takes the next cell that nobody has begun, and every result
is a file in `.checkpoints/<key>/`, where the first process gathers them. So all are busy until the
last cells, however much cells differ, and one that dies costs nothing but time.
"""

import atexit
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cache
from pathlib import Path
from typing import IO, Literal

import torch

from reg.checkpoints import CHECKPOINTS, State, cell_path, finished_cell
from reg.console import first_process, progress
from reg.errors import InputError
from reg.networks import best_device

MOST_PROCESSES = 8  # that a stage starts; each holds the networks and images
# Seconds that the others give the first process to begin: on a file system over a network imports
# may take minutes, and what is not there is remembered for one.
PATIENCE = 600.0


def launcher() -> Literal["torchrun", "srun"] | None:
    """Which of the two started this process; None where neither did.

    A batch script has SLURM's variables as well, but only srun numbers the processes of a step.
    Raises InputError if srun's settings contradict.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    of_step = os.environ.get("SLURM_STEP_NUM_TASKS")
    if of_step is None or of_step != os.environ.get("SLURM_NTASKS"):
        return None
    # A second of imports, which most stages do without.
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

    if not SLURMEnvironment.detect():
        return None
    try:
        SLURMEnvironment()
    except RuntimeError as error:
        raise InputError(f"srun: {' '.join(str(error).split())}") from None
    return "srun"


def place() -> tuple[int, int]:
    """Which process this is, from 0, and of how many."""
    match launcher():
        case "torchrun":
            names = "RANK", "WORLD_SIZE"
        case "srun":
            names = "SLURM_PROCID", "SLURM_NTASKS"
        case None:
            return 0, 1
    rank, count = (int(os.environ[name]) for name in names)
    return rank, count


def finish_share(key: str, cells: Mapping[str, Callable[[], State]]) -> None:
    """Finish the cells that no other process has begun; nothing where there is no other process.

    A begun cell is locked, and the system gives the lock of a process that dies back. The first
    process waits at the end for what the others have begun, and finishes what they left. Raises
    InputError where the file system has no locks.
    """
    rank, count = place()
    if count == 1 and not start_others():
        return
    if rank == 0:
        (CHECKPOINTS / key).mkdir(parents=True, exist_ok=True)
    else:
        _await(CHECKPOINTS / key, rank)
    _take(key, cells, "cells", wait=False)
    if rank == 0:
        _take(key, cells, "cells of others", wait=True)


@cache
def start_others() -> list[subprocess.Popen[bytes]]:
    """Start copies of a stage that was started alone on a CPU, so that each core has a process.

    Most images are small: two cores finish a third more of them one by one than together. What the
    copies do not finish, for whatever reason, is left to this process; they end with it. None are
    started on an accelerator, where OMP_NUM_THREADS is 1, or outside a stage.
    """
    stage = getattr(sys.modules["__main__"], "__spec__", None)
    threads = torch.get_num_threads()
    count = min(MOST_PROCESSES, threads)
    if not (stage and stage.name.startswith("stages.") and best_device().type == "cpu"):
        return []
    torch.set_num_threads(threads // count)
    shared = {
        **os.environ,
        "TORCHELASTIC_RUN_ID": "alone",  # so that `launcher` takes them for torchrun's
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": str(threads // count),
    }
    command = [sys.executable, "-m", stage.name, *sys.argv[1:]]
    others = [
        subprocess.Popen(
            command,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(1, count)
    ]
    atexit.register(end_others)
    return others


def end_others() -> int:
    """End the copies of this stage, where `start_others` was called; how many there were."""
    others = start_others() if start_others.cache_info().currsize else []
    for process in others:
        process.terminate()
        process.wait()
    return len(others)


def _take(key: str, cells: Mapping[str, Callable[[], State]], title: str, wait: bool) -> None:
    """Finish every cell that is free, or, with `wait`, that is missing once it is free."""
    starter = os.getppid()
    with progress(title, len(cells)) as shown:
        for name, compute in cells.items():
            if os.getppid() != starter and not first_process():  # the first one was killed
                raise SystemExit(1)
            try:
                lock = cell_path(key, name).with_suffix(".lock").open("a")
            except FileNotFoundError:  # the first never made the folder, or removed it
                return
            with lock:
                if _locked(lock, wait) and not cell_path(key, name).exists():
                    finished_cell(key, name, compute)
            shown.step(name)


def _await(folder: Path, rank: int) -> None:
    """Until the first process has made the folder, or has gathered everything before we came."""
    began = time.monotonic()
    while not folder.exists():
        if time.monotonic() - began > PATIENCE:
            print(f"process {rank}: nothing to share was found in {folder}", file=sys.stderr)
            return
        time.sleep(0.1)


def _locked(file: IO[str], wait: bool) -> bool:
    try:
        flock(file, LOCK_EX if wait else LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InputError(
            f"{CHECKPOINTS}: its file system has no locks ({error.strerror}), by which processes "
            "share a stage; run the stage by one process, or in a folder that has them"
        ) from None
    return True


def leave_it_to_the_first_process() -> None:
    """End every other process of a stage: what follows is gathered and written once."""
    if not first_process():
        raise SystemExit(0)
