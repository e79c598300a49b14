"""Measure iterates; run methods × tasks × images into one long table."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from reg.checkpoints import State, finished_cell, write_whole
from reg.console import first_process, progress
from reg.images import write_image
from reg.methods import Networks, iterate, posed
from reg.metrics import mean_squared_difference, psnr, ssim
from reg.networks import Precision, inference
from reg.problems import Problem, make_problem, parse_task
from reg.processes import finish_share

COLUMNS = ["task", "method", "seed", "image", "iteration", "metric", "value"]
# What a CPU takes at once: of small images more gain nothing, large ones no longer fit its caches,
# and a batch lasts until its last image has settled.
BATCH = 8
CPU_PIXELS = 2**18
ACCELERATOR_BATCH = 32
VALIDATION_SIGMAS = (15, 25, 50)  # /255
Row = list[Any]


@dataclass(frozen=True)
class Job:
    """One method for one task, with its parameters.

    `seed` is the training seed whose networks it uses, None the first one.
    """

    task: str
    method: str
    parameters: Mapping[str, float]
    seed: int | None = None


def evaluate(
    jobs: Sequence[Job],
    images: Mapping[str, Tensor],
    networks: Mapping[int, Networks],
    *,
    iterations: int,
    seed: int,
    precision: Precision,
    key: str,
    pictures: Path,
    keep: Collection[str] = (),
    keep_every: int = 1,
    tolerance: float | None = None,
) -> pd.DataFrame:
    """Run every job on every image; the long table of what was measured.

    `networks` are by training seed, the first one first; `seed` is that of noise and masks.
    With a `tolerance` each image stops where it has settled (`iterations.settle`), and the last
    iterates are measured: `psnr` and `ssim`, `psnr_unclipped`, the number of `iterations` taken and
    the oracle `psnr_oracle`. Without, PSNR and `msd` of every iterate, and SSIM of the last. Last
    iterates of the tasks in `keep`, of the first training seed and of every `keep_every`-th image,
    are written to `pictures`/<task>/<method>/<image>.png, the truth beside them. Finished cells are
    kept in `.checkpoints/<key>/`. Of several processes (`reg.processes`) the first returns the
    table, the others an empty one.
    """
    first = next(iter(networks))
    shown = every_nth(images, keep_every)

    def cell(job: Job, names: list[str], batch: Tensor) -> tuple[str, Callable[[], State]]:
        training_seed = first if job.seed is None else job.seed
        kept = shown if job.task in keep and training_seed == first else {}

        def compute() -> State:
            state, last = run_job(
                job, names, batch, networks[training_seed], iterations, tolerance, seed, precision
            )
            pictured = {n: x.clone() for n, x in zip(names, last, strict=True) if n in kept}
            return {**state, "pictures": pictured}

        given = ",".join(f"{name}={value:g}" for name, value in sorted(job.parameters.items()))
        # Batches differ in size between devices, and a run may go on on another one.
        of = (job.task, job.method, given, training_seed, names[0], len(names))
        return "_".join(map(str, of)), compute

    held = list(batches(images, networks[first].device))  # once for all jobs: each is a copy
    parts = [(job, *batch) for job in jobs for batch in held]
    cells = [cell(*part) for part in parts]
    finish_share(key, dict(cells))
    if not first_process():
        return long_table([])
    for task in dict.fromkeys(job.task for job in jobs if job.task in keep):
        for image_name, image in shown.items():
            write_image(pictures / task / "truth" / f"{image_name}.png", image)
    rows: list[Row] = []
    with progress("cells", len(parts)) as bar:
        for (job, names, _), (name, compute) in zip(parts, cells, strict=True):
            state = finished_cell(key, name, compute)
            of = (job.task, job.method, first if job.seed is None else job.seed, names)
            if tolerance is None:
                rows += curve_rows(*of, state["curves"])
            rows += final_rows(*of, iterations, state["measured"])
            for image_name, image in state["pictures"].items():
                write_image(pictures / job.task / job.method / f"{image_name}.png", image[None])
            bar.step(f"{job.task} {job.method} {state['curves']['psnr'][-1].mean():.2f} dB")
    return long_table(rows)


def run_job(
    job: Job,
    names: Sequence[str],
    batch: Tensor,
    networks: Networks,
    iterations: int,
    tolerance: float | None,
    seed: int,
    precision: Precision,
) -> tuple[State, Tensor]:
    """What `evaluate` measures of one job on a batch (N,3,H,W), and its last iterates.

    Returns {"curves": those of `trace`, "measured": a value per image for each metric}.
    """
    problem = posed(job.method, make_problem(job.task, batch.to(networks.device), names, seed))
    with inference(precision, networks.device):
        iterates = iterate(job.method, problem, networks, job.parameters, tolerance)
        on_device, last = trace(iterates, problem, iterations)
    curves, last = {name: curve.cpu() for name, curve in on_device.items()}, last.cpu()
    measured = {"ssim": ssim(last, batch)}
    if tolerance is not None:
        unclipped = psnr(last, batch, clip=False)
        measured = {
            "psnr": curves["psnr"][-1].tolist(),
            **measured,
            # 0 dB where an iterate diverged, as in `trace`
            "psnr_unclipped": unclipped.masked_fill(curves["msd"][-1].isinf(), 0.0).tolist(),
            "psnr_oracle": curves["psnr"].amax(dim=0).tolist(),
            "iterations": iterations_taken(curves["msd"]).tolist(),
        }
    return {"curves": curves, "measured": measured}, last


def every_nth(images: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    """Every n-th image in the order of names, the first one included."""
    return {name: images[name] for name in sorted(images)[::n]}


def measure_degraded(
    tasks: Sequence[str],
    images: Mapping[str, Tensor],
    *,
    training_seed: int,
    seed: int,
    key: str,
    pictures: Path,
    keep: Collection[str] = (),
    keep_every: int = 1,
) -> pd.DataFrame:
    """PSNR and SSIM of the degraded images, as method `start` at iteration 0.

    For inpainting also `psnr_filled` and `ssim_filled`, of the images with their holes filled,
    where methods begin. No training took part in them; they stand under `training_seed`, the first
    one. Finished cells and several processes are as in `evaluate`.
    """
    held = list(batches(images))
    parts = [(task, *batch) for task in tasks for batch in held]

    def cell(task: str, names: list[str], batch: Tensor) -> tuple[str, Callable[[], State]]:
        def compute() -> State:
            problem = make_problem(task, batch, names, seed)
            state = _quality("", problem.degraded, batch)
            if parse_task(task).kind == "inpaint":
                state |= _quality("_filled", problem.start, batch)
            return state

        return f"{task}_degraded_{names[0]}", compute

    cells = [cell(*part) for part in parts]
    finish_share(key, dict(cells))
    if not first_process():
        return long_table([])
    rows: list[Row] = []
    for (task, names, _), (name, compute) in zip(parts, cells, strict=True):
        measured = finished_cell(key, name, compute)
        rows += final_rows(task, "start", training_seed, names, 0, measured)
    for task in keep:
        for name, image in every_nth(images, keep_every).items():
            degraded = make_problem(task, image, [name], seed).degraded
            write_image(pictures / task / "start" / f"{name}.png", degraded)
    return long_table(rows)


def _quality(suffix: str, x: Tensor, truth: Tensor) -> State:
    return {f"psnr{suffix}": psnr(x, truth).tolist(), f"ssim{suffix}": ssim(x, truth)}


def iterations_taken(differences: Tensor) -> Tensor:
    """How many of the `msd` (iterations, N) of `trace` moved an image and left it finite: (N,)."""
    return ((differences > 0) & differences.isfinite()).sum(dim=0)


def trace(
    iterates: Iterable[Tensor], problem: Problem, iterations: int
) -> tuple[dict[str, Tensor], Tensor]:
    """PSNR and mean squared difference of the first iterates, per iteration and image.

    Returns {"psnr": (iterations, N) in dB, "msd": (iterations, N)}, of fewer iterations where the
    iterates end before, and the last iterate. The difference of the first iterate is to the start.
    An image whose iterate is no longer finite has diverged: 0 dB and an infinite difference from
    there on, black in the last iterate.
    """
    # Set aside at once: a small tensor kept at each iteration would lie in the memory of an image
    # that was freed, so that the next image needed new memory.
    levels, differences = problem.truth.new_empty(2, iterations, len(problem.truth))
    diverged = torch.zeros(len(problem.truth), dtype=torch.bool, device=problem.truth.device)
    last, taken = problem.start, 0
    for x in islice(iterates, iterations):
        level, difference = psnr(x, problem.truth), mean_squared_difference(x, last)
        diverged = diverged | ~torch.isfinite(x.mean(dim=(1, 2, 3)) + difference)
        levels[taken] = level.masked_fill(diverged, 0.0)
        differences[taken] = difference.masked_fill(diverged, torch.inf)
        last, taken = x, taken + 1
    curves = {"psnr": levels[:taken], "msd": differences[:taken]}
    return curves, last.masked_fill(diverged.view(-1, 1, 1, 1), 0.0)


def curve_rows(
    task: str,
    method: str,
    training_seed: int,
    names: Sequence[str],
    curves: Mapping[str, Tensor],
) -> Iterator[Row]:
    """Every iteration of a trace as rows of the long table."""
    for metric, values in curves.items():
        for iteration, per_image in enumerate(values.tolist(), start=1):
            for name, value in zip(names, per_image, strict=True):
                yield [task, method, training_seed, name, iteration, metric, value]


def final_rows(
    task: str,
    method: str,
    training_seed: int,
    names: Sequence[str],
    iteration: int,
    measured: Mapping[str, Sequence[float]],
) -> Iterator[Row]:
    """What was measured per image at one iteration, as rows of the long table."""
    for metric, values in measured.items():
        for name, value in zip(names, values, strict=True):
            yield [task, method, training_seed, name, iteration, metric, value]


def long_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table with the columns task, method, seed, image, iteration, metric, value.

    Its `seed` is the `training_seed` of the functions that make rows; theirs is that of the noise.
    """
    return pd.DataFrame(list(rows), columns=COLUMNS)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """CSV with six significant digits and LF line ends, the same bytes for the same table."""
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_whole(path, text.encode())


def batches(
    images: Mapping[str, Tensor], device: str | torch.device = "cpu"
) -> Iterator[tuple[list[str], Tensor]]:
    """Names and images of equal size, as many as a device takes at once, in the order of names."""
    sizes: dict[torch.Size, list[str]] = {}
    for name in sorted(images):
        sizes.setdefault(images[name].shape, []).append(name)
    for shape, names in sizes.items():
        most = most_at_once(device, shape[-2] * shape[-1])
        for first in range(0, len(names), most):
            chosen = names[first : first + most]
            yield chosen, torch.cat([images[name] for name in chosen])


def most_at_once(device: str | torch.device, pixels: int) -> int:
    """How many images of so many pixels a device takes at once."""
    if torch.device(device).type != "cpu":
        return ACCELERATOR_BATCH
    return min(BATCH, max(1, CPU_PIXELS // pixels))


def central_crops(images: Mapping[str, Tensor], size: int | None) -> dict[str, Tensor]:
    """The central `size`² pixels of each image, or all of it if the size is None or larger."""
    if size is None:
        return dict(images)
    crops = {}
    for name, image in images.items():
        top, left = (max(0, (side - size) // 2) for side in image.shape[-2:])
        crops[name] = image[..., top : top + size, left : left + size]
    return crops


def denoising_validation(
    denoiser: nn.Module, images: Mapping[str, Tensor], seed: int, precision: Precision
) -> Callable[[], dict[str, float]]:
    """A function that measures D's mean PSNR at σ 15, 25 and 50 on fixed noisy images."""
    problems = [
        (make_problem(f"denoise-{sigma}", batch, names, seed), sigma)
        for sigma in VALIDATION_SIGMAS
        for names, batch in batches(images)
    ]

    def validate() -> dict[str, float]:
        measured: dict[str, list[Tensor]] = {}
        device = device_of(denoiser)
        with inference(precision, device):
            for problem, sigma in problems:
                restored = denoiser(problem.y.to(device), problem.sigma_n).cpu()
                measured.setdefault(f"psnr{sigma}", []).append(psnr(restored, problem.truth))
        return {name: torch.cat(values).mean().item() for name, values in measured.items()}

    return validate


Restore = Callable[[Problem], Tensor]


def device_of(work: object) -> torch.device:
    """Where the weights of a network are; the CPU for anything without weights."""
    weights = work.parameters() if isinstance(work, nn.Module) else iter(())
    return next((weight.device for weight in weights), torch.device("cpu"))


def restoration_validation(
    restore: Restore,
    task: str,
    images: Mapping[str, Tensor],
    seed: int,
    precision: Precision,
    device: torch.device | None = None,
) -> Callable[[], dict[str, float]]:
    """A function that measures the mean PSNR of `restore` for a task on fixed images.

    They lie on `device`; None takes that of the weights of `restore`.
    """

    def validate() -> dict[str, float]:
        place = device_of(restore) if device is None else device
        problems = [
            make_problem(task, batch.to(place), names, seed) for names, batch in batches(images)
        ]
        with inference(precision, place):
            levels = [psnr(restore(problem), problem.truth).cpu() for problem in problems]
        return {"psnr": torch.cat(levels).mean().item()}

    return validate
