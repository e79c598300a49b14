"""Speed and memory of one iteration, as ratios: `python -m benchmarks.iterations`.

Adds its rows to reports/benchmarks/benchmarks.json (see `benchmarks.rows`).
"""

import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from benchmarks.rows import Row, ratios, row, save
from reg.cpu import fuse, keep_freed_memory
from reg.equivariance import equivariant
from reg.evaluation import trace
from reg.iterations import Descent, noise_levels, pnp_admm, pnp_gd
from reg.networks import Denoiser, Regularizer, for_inference, inference, initialise
from reg.operators import Blur
from reg.problems import Problem, make_problem
from reg.training import seeded

SIDE = 256
SMALL, FULL = ((16, 32, 64, 128), 2), ((64, 128, 256, 512), 4)
Size = tuple[tuple[int, int, int, int], int]


def problem_of(side: int) -> Problem:
    """One noise image, deblurred: what the pixels show does not matter for time."""
    image = torch.rand(1, 3, side, side, generator=seeded(0))
    return make_problem("deblur-k5-2.55", image, ["noise"], 0)


def random_regularizer(size: Size) -> Regularizer:
    regularizer = Regularizer(*size)
    initialise(regularizer, seeded(1))
    return regularizer


def ours(size: Size) -> Regularizer:
    """G as `reg.methods.load_networks` makes it ready."""
    return fuse(for_inference(random_regularizer(size)))


def iterate(make: Callable[[], object], count: int) -> Callable[[], None]:
    """Take `count` iterates of a fresh generator, without measuring them."""

    def work() -> None:
        with inference("auto"):
            for _ in islice(make(), count):  # type: ignore[call-overload]
                pass

    return work


def forward(network: Callable[[], Tensor], count: int) -> Callable[[], None]:
    """`count` bare forward passes."""

    def work() -> None:
        with inference("auto"):
            for _ in range(count):
                network()

    return work


# --- an iteration against a forward pass ---------------------------------------------------


def overheads(problem: Problem) -> list[Row]:
    """What an iteration, and measuring it, cost besides the network's forward pass."""
    regularizer, image = ours(SMALL), problem.truth
    denoiser = Denoiser(*SMALL)
    initialise(denoiser, seeded(2))
    denoiser = fuse(for_inference(denoiser))
    rows = []
    descents: tuple[Descent, ...] = ("plain", "adam", "spectral", "accelerated")
    for name in descents:
        G = equivariant(regularizer)  # as `methods` runs it
        gd = iterate(partial(pnp_gd, problem, G, sigma=0.01, step=0.5, descent=name), 10)
        found = ratios(gd, forward(lambda: regularizer(image), 10), 15)
        rows.append(row(f"PnP-GD iteration ({name}) / forward of G, 1.06 M", found, "≤ 1.15"))
    admm = iterate(
        lambda: pnp_admm(problem, denoiser, sigma=0.01, levels=noise_levels(0.1, 0.1, 1)), 10
    )
    found = ratios(admm, forward(lambda: denoiser(image, 0.1), 10), 15)
    rows.append(row("PnP-ADMM iteration / forward of D, 1.06 M", found, "≤ 1.2"))

    found = ratios(
        lambda: measured(problem, regularizer, 10),
        iterate(partial(pnp_gd, problem, G, sigma=0.01, step=0.004, descent="adam"), 10),
        15,
    )
    rows.append(row("PnP-GD measured at every iteration / not measured, 1.06 M", found, "≤ 1.05"))
    return rows


# --- a whole evaluation --------------------------------------------------------------------


def spatial_gradient(problem: Problem) -> Callable[[Tensor], None]:
    """∇½‖Ax − y‖² into x.grad as the published code has it: autograd through a convolution."""
    assert isinstance(problem.operator, Blur)
    kernel = problem.operator.kernel.flip(0, 1).to(problem.y)[None, None]
    reach = kernel.shape[-1] // 2

    def work(x: Tensor) -> None:
        colours = F.pad(x, 4 * (reach,), mode="circular").flatten(0, 1)[:, None]
        residual = F.conv2d(colours, kernel).view_as(problem.y) - problem.y
        (0.5 * residual.square().sum()).backward()  # type: ignore[no-untyped-call]

    return work


def fourier_gradient(problem: Problem) -> Callable[[Tensor], None]:
    """The same by our operator, two transforms forth and two back."""

    def work(x: Tensor) -> None:
        operator = problem.operator
        with torch.no_grad():
            x.grad = operator.A_adjoint(operator.A(x) - problem.y)

    return work


DATA_TERMS = {"spatial": spatial_gradient, "fourier": fourier_gradient}


def official_way(
    problem: Problem, data_gradient: Callable[[Tensor], None], regularizer: Regularizer, count: int
) -> None:
    """The published protocol: Adam in float32, PSNR and SSIM in numpy at every iteration.

    SSIM has its Gaussian window. (The published code takes OpenCV for it, which needs twice the
    time of scikit-image's.)
    """
    x = problem.start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([x], lr=0.004)
    G = equivariant(regularizer)
    truth = problem.truth[0].permute(1, 2, 0).numpy().astype(np.float64)
    for _ in range(count):
        optimiser.zero_grad()
        data_gradient(x)
        assert x.grad is not None
        with torch.no_grad():
            x.grad += 1e-4 * G(x)
        image = x.detach()[0].permute(1, 2, 0).numpy().astype(np.float64)
        peak_signal_noise_ratio(truth, image, data_range=1.0)
        structural_similarity(
            truth, image, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )  # fmt: skip
        optimiser.step()


def serve_official(connection: Connection, size: Size) -> None:
    """Run `count` iterations the official way whenever asked; answer with the seconds.

    In a process of its own, so that the allocator is as Python starts it.
    """
    problem, regularizer = problem_of(SIDE), random_regularizer(size).eval()
    gradients = {name: make(problem) for name, make in DATA_TERMS.items()}
    while asked := connection.recv():
        name, count = asked
        began = time.perf_counter()
        official_way(problem, gradients[name], regularizer, count)
        connection.send(time.perf_counter() - began)


def measured(problem: Problem, regularizer: Regularizer, count: int) -> None:
    """The same iterations through `evaluation.trace`."""
    with inference("auto"):
        G = equivariant(regularizer)
        iterates = pnp_gd(problem, G, sigma=0.01, step=0.004, descent="adam")
        trace(iterates, problem, count)


def evaluations(problem: Problem) -> list[Row]:
    """The official way against ours, per iteration, both sizes of the network.

    Also with our operator in both, so that what network and metrics gain can be told from it.
    """
    rows = []
    context = multiprocessing.get_context("spawn")
    for label, data_term, size, count, repetitions, target in (
        ("official way / ours, 1.06 M", "spatial", SMALL, 20, 11, "≥ 8"),
        ("official way / ours, 32.6 M", "spatial", FULL, 2, 5, "≥ 2.8"),
        ("official way with our operator / ours, 1.06 M", "fourier", SMALL, 20, 11, "report"),
    ):
        here, there = context.Pipe()
        process = context.Process(target=serve_official, args=(there, size), daemon=True)
        process.start()
        regularizer = ours(size)
        found = []
        for _ in range(repetitions + 1):
            here.send((data_term, count))
            official = here.recv()
            began = time.perf_counter()
            measured(problem, regularizer, count)
            found.append(official / (time.perf_counter() - began))
        here.send(None)
        process.join()
        rows.append(row(f"evaluation, {label}", found[1:], target))
    return rows


# --- memory --------------------------------------------------------------------------------


def serve_memory(connection: Connection, count: int) -> None:
    """The peak memory of a process that evaluates `count` iterations."""
    keep_freed_memory()
    measured(problem_of(SIDE), ours(SMALL), count)
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak_memory(count: int) -> int:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve_memory, args=(there, count), daemon=True)
    process.start()
    peak = int(here.recv())
    process.join()
    return peak


def memory() -> Row:
    """Peak memory of many iterations against few."""
    found = [peak_memory(300) / peak_memory(10) for _ in range(3)]
    return row("peak memory of 300 iterations / of 10", found, "≤ 1.02")


def main() -> None:
    """Measure all rows and write them."""
    keep_freed_memory()
    problem = problem_of(SIDE)
    save([*overheads(problem), *evaluations(problem), memory()])


if __name__ == "__main__":
    main()
