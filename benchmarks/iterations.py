"""Speed of one iteration, as ratios within one run: `python -m benchmarks.iterations`.

Times are medians over interleaved repetitions, so that a machine whose speed drifts slows both
sides alike; `low` and `high` are the quartiles of the ratio. Writes
reports/benchmarks/benchmarks.json, a list of rows name, ratio, low, high, target, machine.
"""

import json
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from reg.evaluation import trace
from reg.iterations import noise_levels, pnp_admm, pnp_gd
from reg.networks import Denoiser, Regularizer, for_inference, inference, initialise
from reg.problems import Problem, make_problem
from reg.provenance import machine
from reg.training import seeded

OUTPUT = Path("reports/benchmarks/benchmarks.json")
SIDE = 256
SMALL, FULL = ((16, 32, 64, 128), 2), ((64, 128, 256, 512), 4)


def ratios(a: Callable[[], object], b: Callable[[], object], repetitions: int) -> list[float]:
    """Times of a over times of b, in turn, after one warm-up of each."""
    a(), b()
    found = []
    for _ in range(repetitions):
        times = []
        for work in (a, b):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        found.append(times[0] / times[1])
    return found


def row(name: str, found: list[float], target: str) -> dict[str, object]:
    """One line of the result; quartiles around the median."""
    low, ratio, high = (round(float(q), 3) for q in np.quantile(found, (0.25, 0.5, 0.75)))
    print(f"{name}: {ratio} [{low}, {high}], target {target}")
    return {"name": name, "ratio": ratio, "low": low, "high": high, "target": target}


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


def official_way(problem: Problem, regularizer: Regularizer, count: int) -> None:
    """The published protocol: Adam in float32, PSNR and SSIM in numpy at every iteration."""
    x = problem.start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([x], lr=0.004)
    truth = problem.truth[0].permute(1, 2, 0).numpy()
    for _ in range(count):
        with torch.no_grad():
            residual = problem.operator.A(x) - problem.y
            x.grad = problem.operator.A_adjoint(residual) + 1e-4 * regularizer(x)
        image = x.detach()[0].permute(1, 2, 0).numpy()
        peak_signal_noise_ratio(truth, image, data_range=1.0)
        structural_similarity(truth, image, data_range=1.0, channel_axis=2)
        optimiser.step()


def our_way(problem: Problem, regularizer: Regularizer, count: int) -> None:
    """The same iterations through `evaluation.trace`."""
    with inference("auto"):
        iterates = pnp_gd(problem, regularizer, sigma=0.01, step=0.004, descent="adam")
        trace(iterates, problem, count)


def main() -> None:
    """Measure all rows and write them."""
    image = torch.rand(1, 3, SIDE, SIDE, generator=seeded(0))
    problem = make_problem("deblur-k5-2.55", image, ["noise"], 0)
    rows = []

    regularizer, denoiser = Regularizer(*SMALL), Denoiser(*SMALL)
    initialise(regularizer, seeded(1))
    initialise(denoiser, seeded(2))
    for_inference(regularizer)
    for_inference(denoiser)
    for name, descent in (("plain", "plain"), ("Adam", "adam"), ("spectral", "spectral")):
        gd = iterate(
            lambda d=descent: pnp_gd(problem, regularizer, sigma=0.01, step=0.5, descent=d), 10
        )
        found = ratios(gd, forward(lambda: regularizer(image), 10), 15)
        rows.append(row(f"PnP-GD iteration ({name}) / forward of G, 1.06 M", found, "≤ 1.15"))
    admm = iterate(
        lambda: pnp_admm(problem, denoiser, sigma=0.01, levels=noise_levels(0.1, 0.1, 1)), 10
    )
    found = ratios(admm, forward(lambda: denoiser(image, 0.1), 10), 15)
    rows.append(row("PnP-ADMM iteration / forward of D, 1.06 M", found, "≤ 1.2"))

    for label, size, count, repetitions, target in (
        ("1.06 M", SMALL, 10, 9, "≥ 8"),
        ("32.6 M", FULL, 2, 5, "≥ 2.8"),
    ):
        contiguous, ours = Regularizer(*size).eval(), Regularizer(*size)
        initialise(contiguous, seeded(1))
        ours.load_state_dict(contiguous.state_dict())
        for_inference(ours)
        found = ratios(
            lambda n=count, g=contiguous: official_way(problem, g, n),
            lambda n=count, g=ours: our_way(problem, g, n),
            repetitions,
        )
        rows.append(row(f"evaluation, official way / ours, {label}", found, target))

    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    where = machine()
    text = json.dumps([{**r, "machine": where} for r in rows], indent=2, ensure_ascii=False)
    OUTPUT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
