"""Many processes at one stage: torchrun or srun start them, files of finished cells join them.

`torchrun --nproc-per-node=8 -m stages.tune` runs a stage of many independent cells in eight
processes, on as many devices as there are. They never talk: each finishes its share, every result
is a file in `.checkpoints/<key>/`, and the first process, which goes on to gather them, takes over
whatever is still missing. So none waits for another, and one that dies costs nothing but time; one
that is slow ends when the first has everything.
"""

from collections.abc import Callable, Mapping
from functools import partial

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from reg.checkpoints import CHECKPOINTS, State, finished_cell
from reg.console import first_process


def place() -> tuple[int, int]:
    """Which process this is, from 0, and of how many."""
    for environment in (TorchElasticEnvironment, SLURMEnvironment):
        if environment.detect():
            started = environment()
            return started.global_rank(), started.world_size()
    return 0, 1


def finish_share(key: str, cells: Mapping[str, Callable[[], State]]) -> None:
    """Finish every n-th cell, n being the number of processes; nothing where there is one.

    The first process then goes on from the other end with what is missing. Any other ends when it
    finds `.checkpoints/<key>/` gone: the first has gathered all cells, and what was written now
    would never be removed.
    """
    rank, count = place()
    if count == 1:
        return
    folder, names = CHECKPOINTS / key, list(cells)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names[rank::count] + (names[::-1] if rank == 0 else []):
        if not (folder / f"{name}.pt").exists():
            finished_cell(key, name, partial(_if_wanted, key, cells[name]))


def _if_wanted(key: str, compute: Callable[[], State]) -> State:
    state = compute()
    if not (CHECKPOINTS / key).exists():
        raise SystemExit(0)
    return state


def leave_it_to_the_first_process() -> None:
    """End every other process of a stage: what follows is gathered and written once."""
    if not first_process():
        raise SystemExit(0)
