"""What every stage does around its work: read the parameters, say what happens, account for it."""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from torch import Tensor

from reg.checkpoints import fingerprint, forget_handed_over
from reg.console import fail, say
from reg.cpu import keep_freed_memory
from reg.datasets import load_images
from reg.errors import InputError
from reg.evaluation import Job
from reg.methods import Networks, canonical, load_networks, retrained, schedules
from reg.networks import best_device, resolve_precision
from reg.params import Params, read_params
from reg.processes import end_others
from reg.provenance import account

TRAINED = ("pretrain", "train_reg", "train_gs")


def run(name: str, work: Callable[[Params], Path]) -> None:
    """Run a stage: say what begins, where the result lies, how long it took and its memory.

    An `InputError` ends it with one line and status 2. Time and peak memory are kept by
    `provenance.account`.
    """
    keep_freed_memory()
    try:
        params = read_params()
        say(f"[{name}] profile {params.profile}")
        forget_handed_over(name)
        output = work(params)
        # Since the process began, so that imports count.
        seconds = round(time.time() - psutil.Process().create_time(), 1)
        peak_memory_mb = _peak_memory()
        account(params, name, seconds, peak_memory_mb)
    except InputError as error:
        fail(error)
    except FileNotFoundError as error:
        fail(InputError(f"{error.filename}: no such file; run `dvc repro {name}`, which makes it"))
    say(f"[{name}] done in {seconds} s, peak memory {peak_memory_mb} MB: {output}")


def _peak_memory() -> int:
    """At most, in MB, of this process and of the copies that it started, which end here."""
    copies = end_others()
    own, of_copy = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return int(own + copies * of_copy) // 1024


def part(stage: str, known: Sequence[str]) -> str:
    """Which part of a stage the command line names, as `updated`; one line unless it is known."""
    given = sys.argv[1:]
    if len(given) != 1 or given[0] not in known:
        fail(InputError(f"{stage} {' '.join(given)}: must be followed by {' or '.join(known)}"))
    return given[0]


@dataclass(frozen=True)
class Inputs:
    """What a stage that runs methods reads, and the key of its unfinished work.

    `networks` are by training seed, the first one first.
    """

    images: dict[str, Tensor]
    networks: dict[int, Networks]
    tuned: dict[str, dict[str, dict[str, float]]]
    key: str

    @property
    def first(self) -> Networks:
        """The networks of the first training seed."""
        return next(iter(self.networks.values()))

    def job(self, task: str, method: str, **changed: float) -> Job:
        """A method for a task with the parameters that `tune` chose, some of them changed."""
        tuned = self.tuned.get(task, {}).get(canonical(method))
        if tuned is None:
            raise InputError(
                f"chosen.json: nothing was tuned for {method} on {task}; run `dvc repro tune`"
            )
        return Job(task, method, {**tuned, **changed})

    def jobs(self, task: str, method: str) -> list[Job]:
        """The same for every training seed; once where the method uses no network of ReG."""
        job = self.job(task, method)
        return [replace(job, seed=seed) for seed in self.networks] if retrained(method) else [job]

    def schedules(self, task: str) -> dict[str, Job]:
        """PnP-GD by each of its schedules for a task, with what `tune` chose for `pnp-gd`."""
        found = schedules(task, self.job(task, "pnp-gd").parameters)
        return {method: Job(task, method, parameters) for method, parameters in found.items()}


def inputs(params: Params, stage: str, role: str, tuned: bool = True) -> Inputs:
    """The images of a role, every trained network, and the parameters chosen by `tune`.

    Where the stage has `every`, of each set of images one in so many.
    """
    models, manifest = params.folder("models"), params.folder("data", "prepare", "manifest.csv")
    chosen = [params.folder("results", "tune", "chosen.json")] if tuned else []
    weights = [path for name in TRAINED for path in sorted(models.glob(f"{name}/**/*.safetensors"))]
    section = getattr(params.active, stage).model_dump()
    # Where `auto` means another precision, unfinished work of this one is not to be gone on with.
    section["precision"] = resolve_precision(section["precision"], best_device())
    return Inputs(
        load_images(manifest, role, section.get("every", 1)),
        load_networks(models),
        _read_chosen(chosen[0]) if tuned else {},
        fingerprint(stage, params.seed, section, files=[manifest, *chosen, *weights]),
    )


def _read_chosen(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    try:
        chosen: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); run `dvc repro tune`") from None
    return chosen
