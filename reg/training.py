"""One loop for every training: any number of devices, exact resume."""

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.precision.amp import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.strategy import Strategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn

from reg.checkpoints import CHECKPOINTS, HANDED_OVER, State, load_state, save_state
from reg.console import LiveLog, Row, progress, say
from reg.errors import InputError
from reg.networks import best_device
from reg.patches import Patches
from reg.processes import launcher, place
from reg.recipe import Recipe

# For each other: a node that lacks the cache of decoded images makes it before it joins.
PATIENCE = timedelta(hours=3)
CHECKPOINT = "[0-9]*.pt"  # by the iteration: other files of unfinished work may lie beside them
KEPT_CHECKPOINTS = 2
SKIPPED_IN_A_ROW = 20

logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

Validation = Callable[[], Mapping[str, float]]
Sums = dict[str, Tensor]  # by term, in float64: numerator and denominator of its mean


class DivergenceError(InputError):
    """The loss or its gradient stays not finite, however often a step is skipped."""


def seeded(*entropy: int) -> torch.Generator:
    """A generator that is a pure function of the given integers."""
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def crop_generators(seed: int, iteration: int, count: int) -> list[torch.Generator]:
    """A generator for each crop of an iteration, a function of (seed, iteration, place)."""
    states = np.random.SeedSequence((seed, iteration)).generate_state(count, np.uint64)
    return [torch.Generator().manual_seed(int(state >> np.uint64(1))) for state in states]


@dataclass
class Record:
    """What a run has counted so far: plain values, part of its checkpoints."""

    iteration: int = 0
    skipped: int = 0  # iterations in a row, up to this one
    skipped_ever: int = 0
    sums: Sums = field(default_factory=dict)  # since the last validation
    rows: list[Row] = field(default_factory=list)


@dataclass
class Run:
    """A training under way."""

    recipe: Recipe
    title: str
    seed: int
    fabric: Fabric
    objective: nn.Module
    model: _FabricModule  # the objective as it runs on this device
    optimiser: torch.optim.Optimizer
    weights: list[Tensor]  # those that are trained
    updated: list[Tensor]  # the same, as the optimiser sees them
    average: list[Tensor]  # empty without `ema`
    record: Record = field(default_factory=Record)


class Bf16Autocast(MixedPrecision):
    """bfloat16 inside the networks alone.

    Fabric's own also rounds what enters: clean crops, which are targets, by up to 0.5/255.
    """

    def convert_input(self, data: Any) -> Any:
        return data


def launch(recipe: Recipe) -> Fabric:
    """Fabric on the recipe's devices, or as torchrun or srun started this process.

    Raises InputError if the devices are not there or the launcher's settings contradict.
    """
    devices: int | str = recipe.devices
    nodes = recipe.nodes
    plugins: list[Any] = []
    strategy: str | Strategy = "auto"
    started = launcher()
    if started == "torchrun":
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif started == "srun":
        devices = int(os.environ.get("SLURM_NTASKS_PER_NODE", "1"))
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
    elif SLURMEnvironment.detect():  # in a batch script, which Fabric takes for srun
        plugins = [LightningEnvironment()]
    device = best_device().type
    here = torch.cuda.device_count() if devices == "auto" and device == "cuda" else devices
    if recipe.nodes > 1 or place()[1] > 1 or here not in ("auto", 1):
        strategy = DDPStrategy(timeout=PATIENCE)
    if recipe.resolved_precision == "bf16":
        plugins.append(Bf16Autocast("bf16-mixed", device))
    else:
        torch.backends.cudnn.allow_tf32 = False
    try:
        fabric = Fabric(
            accelerator=device, strategy=strategy, devices=devices, num_nodes=nodes, plugins=plugins
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"devices = {devices}, nodes = {nodes}: {reason}") from None
    fabric.launch()
    return fabric


def train(
    objective: nn.Module,
    patches: Patches,
    recipe: Recipe,
    *,
    title: str,
    seed: int,
    checkpoint: str,
    validate: Validation = dict,
    log: Path | None = None,
    measure_start: bool = False,
) -> pd.DataFrame:
    """Minimise `objective` by Adam over crops of `patches`; returns the log.

    Every crop has its own generator, a function of (seed, iteration, place in the batch), so the
    state of a run is its weights, their average, Adam's moments and what was counted. Checkpoints
    in `.checkpoints/<checkpoint>/` resume it exactly; the caller hands them over, by
    `checkpoints.hand_over`, once the results are written. They come after each validation, and when
    SIGINT or SIGTERM ends the run, which it does by SystemExit after the iteration at hand.

    The log has one row per validation: iteration, means of the objective's terms since the last
    one, what `validate` returns, learning rate. The file `log` always holds the rows so far; with
    `measure_start` the first is what `validate` returns before training, as iteration 0.

    On several devices each takes an equal share of every batch. The process of the first one
    validates and writes; all return the same log (see `processes.leave_it_to_the_first_process`).

    Raises InputError if devices are missing or cannot share a batch evenly, or a checkpoint cannot
    be written; DivergenceError if the loss or its gradient is not finite 20 times in a row (single
    such steps are skipped and said).
    """
    folder, fabric = CHECKPOINTS / checkpoint, launch(recipe)
    if recipe.batch % fabric.world_size:
        raise InputError(
            f"{title}: batch = {recipe.batch} cannot be shared evenly by {fabric.world_size} "
            "devices; make it a multiple of their number"
        )
    with _alone(fabric, folder, title):
        run = _begin(fabric, objective, recipe, title, seed, folder)
        return _train(run, patches, folder, validate, log, measure_start)


def _train(
    run: Run,
    patches: Patches,
    folder: Path,
    validate: Validation,
    log: Path | None,
    measure_start: bool,
) -> pd.DataFrame:
    """`train`, once everything is on its device."""
    fabric, recipe, record, title = run.fabric, run.recipe, run.record, run.title
    if record.iteration:
        say(f"  {title}: resumed after iteration {record.iteration}")
    elif measure_start:
        record.rows = [{"iteration": 0, **_measure(run, validate)}]
    live = LiveLog(log, folder / "dvclive") if fabric.is_global_zero else LiveLog(None, None)
    live.show(record.rows)

    share, left = _share(run), range(record.iteration + 1, recipe.iterations + 1)
    stream = (patches.batch(k, share) for k in left)
    crops = next(stream, None)
    began, since = time.monotonic(), record.iteration
    with _stop_requests() as signals, progress(title, recipe.iterations, record.iteration) as shown:
        while crops is not None:
            loss, sums = _backward(run, crops)
            # An accelerator is still at work, so that the next crops cost no time.
            crops = next(stream, None)
            stop = _update(run, loss, sums, stop=bool(signals))

            note, iteration = "", record.iteration
            validating = iteration % recipe.validate_every == 0 or iteration == recipe.iterations
            if validating:
                speed = recipe.batch * (iteration - since) / (time.monotonic() - began)
                row: Row = {"iteration": iteration, **_means(_total(fabric, record.sums))}
                row |= {**_measure(run, validate), "learning_rate": recipe.rate(iteration)}
                record.rows, record.sums = [*record.rows, row], {}
                note = live.show(record.rows, {"crops_per_second": speed})
            if validating or stop:
                _save(run, folder)
                began, since = time.monotonic(), iteration
            shown.step(note)
            if stop:
                fabric.barrier()  # launchers kill the rest when one process has ended
                said = f"{title}: stopped after iteration {iteration} of {recipe.iterations}; "
                said += "it is kept, run the same command to go on"
                raise SystemExit(said if fabric.is_global_zero else 1)
        if signals:
            raise SystemExit(f"{title}: stopped when it was trained; run the same command to go on")
    _copy(run.average, run.weights)
    run.objective.cpu()
    return pd.DataFrame(fabric.broadcast(record.rows))


def no_log(validate: Validation) -> pd.DataFrame:
    """The log of a network that was imported: what it measures, at iteration 0."""
    return pd.DataFrame([{"iteration": 0, **validate()}])


def _begin(
    fabric: Fabric, objective: nn.Module, recipe: Recipe, title: str, seed: int, folder: Path
) -> Run:
    """Everything on its device, as the newest checkpoint has it."""
    objective.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights: list[Tensor] = [w for w in objective.parameters() if w.requires_grad]
    updated = [_in_order_of_memory(weight.detach(), weight) for weight in weights]
    betas = (0.9, recipe.beta2)
    optimiser = torch.optim.Adam(updated, lr=recipe.learning_rate, betas=betas, fused=True)
    # Called from C++ its kernels take 4 % less on a CPU; a GPU is at work meanwhile.
    in_cpp: dict[str, Any] = {"cpp_wrapper": fabric.device.type == "cpu"}
    forward = torch.compile(objective, options=in_cpp) if recipe.compile else objective
    model, optimiser = fabric.setup(forward, optimiser)  # type: ignore[arg-type]
    average = [weight.detach().clone() for weight in weights] if recipe.ema else []
    run = Run(recipe, title, seed, fabric, objective, model, optimiser, weights, updated, average)
    _resume(run, folder)
    _say_where(run, folder)
    return run


def _say_where(run: Run, folder: Path) -> None:
    """What a training runs on, unless it is one CPU, and what lies there of an earlier one."""
    device, count = run.fabric.device, run.fabric.world_size
    if device.type == "cuda" or count > 1:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        crops, precision = run.recipe.batch // count, run.recipe.resolved_precision
        say(f"  {run.title}: {count} × {name}, {precision}, {crops} crops each")
    if run.record.iteration:
        return
    any_hash = folder.name.rpartition("-")[0] + "-" + 16 * "[0-9a-f]"
    for other in sorted(folder.parent.glob(any_hash)):
        finished = (other / HANDED_OVER).exists()
        if other != folder and any(other.glob(CHECKPOINT)) and not finished:
            say(
                f"  {run.title}: {other} is of other code, data, parameters or precision; to go on "
                f"with it, stop this run and `rm -r {folder} && mv {other} {folder}`"
            )


def _in_order_of_memory(tensor: Tensor, weight: Tensor) -> Tensor:
    """A weight or its gradient with dimensions in the order in which memory holds the weight.

    On the CPU fused Adam copies every tensor of another order, which takes longer than its step,
    and pairs weights and gradients as they lie in memory, whatever their strides.
    """
    last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return tensor.permute(0, 2, 3, 1) if last else tensor


# --- one iteration -------------------------------------------------------------------------


def _share(run: Run) -> slice:
    """The places of this device's crops in every batch."""
    count = run.recipe.batch // run.fabric.world_size
    return slice(count * run.fabric.global_rank, count * (run.fabric.global_rank + 1))


def _backward(run: Run, crops: Tensor) -> tuple[Tensor, Sums]:
    """Gradients of the mean loss over the batch; that mean and the terms' sums, of our share.

    `crops` are those of this device.
    """
    fabric, iteration, count = run.fabric, run.record.iteration + 1, len(crops)
    clean = crops.to(fabric.device, memory_format=torch.channels_last)
    generators = crop_generators(run.seed, iteration, run.recipe.batch)[_share(run)]

    loss = torch.zeros((), device=fabric.device)
    sums: Sums = {}
    step = run.recipe.micro_batch or count
    for begin in range(0, count, step):
        part = slice(begin, begin + step)
        postponed = fabric.world_size > 1 and begin + step < count
        with fabric.no_backward_sync(run.model, enabled=postponed):
            terms = run.model(clean[part], iteration, generators[part])
            mean = terms["loss"].mean() * (len(clean[part]) / count)
            fabric.backward(mean)
        loss += mean.detach()
        _add(sums, _sums(terms, len(clean[part])))
    return loss, sums


def _sums(terms: Mapping[str, Tensor], count: int) -> Sums:
    """Numerator and denominator of each term's mean over `count` crops, as the objective says."""
    sums = {}
    for name, term in terms.items():
        if term.ndim == 2:
            sums[name] = term.detach().sum(dim=1)
        else:
            total = term.detach().expand(count).sum()
            sums[name] = torch.stack([total, torch.full_like(total, count)])
    return sums


def _add(sums: Sums, others: Sums) -> None:
    for name, pair in others.items():
        sums[name] = sums[name] + pair if name in sums else pair


def _update(run: Run, loss: Tensor, sums: Sums, stop: bool) -> bool:
    """Take the step unless it is not finite; whether any device was asked to stop."""
    iteration = run.record.iteration = run.record.iteration + 1
    norm = nn.utils.clip_grad_norm_(run.weights, run.recipe.clip_gradient or math.inf)
    # All devices must come to the same decisions.
    flags = torch.stack([~(torch.isfinite(norm) & torch.isfinite(loss)), norm.new_tensor(stop)])
    faults, stops = _sum_over_devices(run.fabric, flags.float()).tolist()
    if faults:
        _count_skipped(run)
    else:
        for group in run.optimiser.param_groups:
            group["lr"] = run.recipe.rate(iteration)
        for view, weight in zip(run.updated, run.weights, strict=True):
            grad = weight.grad
            view.grad = None if grad is None else _in_order_of_memory(grad, weight).contiguous()
        run.optimiser.step()
        _follow(run.average, run.weights, run.recipe.decay(iteration))
        pairs = torch.stack(list(sums.values())).cpu().double()
        _add(run.record.sums, dict(zip(sums, pairs, strict=True)))
        run.record.skipped = 0
    for tensor in (*run.updated, *run.weights):
        tensor.grad = None
    return bool(stops)


@torch.no_grad()
def _follow(average: list[Tensor], weights: list[Tensor], decay: float) -> None:
    """w̄ ← d·w̄ + (1−d)·w, where an average is kept."""
    if average:
        torch._foreach_lerp_(average, weights, 1 - decay)


def _count_skipped(run: Run) -> None:
    record = run.record
    record.skipped += 1
    record.skipped_ever += 1
    say(
        f"  {run.title}: skipped iteration {record.iteration}, its loss or gradient is not finite "
        f"({record.skipped_ever} so far)"
    )
    if record.skipped >= SKIPPED_IN_A_ROW:
        raise DivergenceError(
            f"{run.title}: the loss or its gradient is not finite {record.skipped} times in a row "
            f"at iteration {record.iteration}; lower `learning_rate` or set `precision: fp32`"
        )


# --- validation ----------------------------------------------------------------------------


def _total(fabric: Fabric, sums: Sums) -> Sums:
    """Sums over all devices."""
    if fabric.world_size == 1 or not sums:
        return sums
    total = _sum_over_devices(fabric, torch.stack(list(sums.values())))
    return dict(zip(sums, total.cpu(), strict=True))


def _sum_over_devices(fabric: Fabric, values: Tensor) -> Tensor:
    total: Tensor = fabric.all_reduce(values, reduce_op="sum")  # type: ignore[assignment]
    return total


def _means(sums: Sums) -> Row:
    """Means of the terms; of a band that no crop has met, not a number."""
    return {name: (pair[0] / pair[1]).item() for name, pair in sums.items()}


def _measure(run: Run, validate: Validation) -> Row:
    """What `validate` returns, with averaged weights if there are any.

    It runs on the first device; the others wait, however long it takes.
    """
    measured: Row = {}
    current = [weight.detach().clone() for weight in run.weights] if run.average else []
    _copy(run.average, run.weights)
    run.objective.eval()
    with torch.no_grad(), run.fabric.rank_zero_first():
        if run.fabric.is_global_zero:
            measured = dict(validate())
    run.objective.train()
    _copy(current, run.weights)
    return measured


@torch.no_grad()
def _copy(values: list[Tensor], weights: list[Tensor]) -> None:
    """Write values, if there are any, into the weights."""
    if values:
        torch._foreach_copy_(weights, values)


# --- interruption --------------------------------------------------------------------------


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that an iteration is not torn; a second SIGINT kills.

    A second SIGTERM does not: launchers send it when another process ends before the first one,
    which writes what is kept.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _alone(fabric: Fabric, folder: Path, title: str) -> Iterator[None]:
    """Of several runs that would write the same checkpoints, let one; InputError in the others.

    The first process holds the lock for all of its run. Where the file system has no locks nothing
    keeps runs apart.
    """
    with ExitStack() as held:
        fault = _lock(held, folder, title) if fabric.is_global_zero else None
        fault = fabric.broadcast(fault)
        if fault:
            raise InputError(fault)
        yield


def _lock(held: ExitStack, folder: Path, title: str) -> str | None:
    """Lock a folder of checkpoints until `held` is closed; what to say where that cannot be."""

    def leave_nothing() -> None:  # of a run that kept nothing
        if not any(folder.glob(CHECKPOINT)):
            with suppress(OSError):
                (folder / "lock").unlink()
                folder.rmdir()

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = held.enter_context((folder / "lock").open("a"))
    except OSError as error:
        return f"{folder}: {title} cannot keep checkpoints there ({error.strerror}); mend that"
    try:
        flock(lock, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return f"{folder}: {title} is under way in another process; wait for it, or stop it"
    except OSError:
        return None
    held.callback(leave_nothing)
    return None


def _save(run: Run, folder: Path) -> None:
    run.record.sums = _total(run.fabric, run.record.sums)
    if not run.fabric.is_global_zero:
        return
    state = {
        "objective": run.objective.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "average": run.average,
        "record": vars(run.record),
    }
    save_state(folder / f"{run.record.iteration:09d}.pt", state)
    for old in sorted(folder.glob(CHECKPOINT))[:-KEPT_CHECKPOINTS]:
        old.unlink(missing_ok=True)


def _resume(run: Run, folder: Path) -> None:
    """Load the newest whole checkpoint, if there is one, on every device."""
    state = run.fabric.broadcast(_newest(folder) if run.fabric.is_global_zero else None)
    if state is None:
        return
    run.objective.load_state_dict(state["objective"])
    run.optimiser.load_state_dict(state["optimiser"])
    _copy(state["average"], run.average)
    run.record = Record(**state["record"])
    if not run.fabric.is_global_zero:  # the first device carries what all have summed
        run.record.sums = {name: torch.zeros_like(pair) for name, pair in run.record.sums.items()}


def _newest(folder: Path) -> State | None:
    for path in sorted(folder.glob(CHECKPOINT), reverse=True):
        state = load_state(path)
        if state is not None:
            return state
        say(f"  {path}: damaged, trying the one before")
    return None
