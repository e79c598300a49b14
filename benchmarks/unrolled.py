"""Memory and time of unrolled networks, as ratios: `python -m benchmarks.unrolled`.

What a training step with K = 8 adds to the memory of its process against K = 2, with and without
computing the inside of a step anew; and the time of an unrolled network against the 1,500
iterations by Adam that the official code runs for an image. Adds its rows to
reports/benchmarks/benchmarks.json (see `benchmarks.rows`).
"""

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context

import torch

from benchmarks.iterations import SIDE, SMALL, ours, problem_of, random_regularizer
from benchmarks.rows import Row, row, save
from reg.cpu import keep_freed_memory
from reg.iterations import pnp_gd
from reg.networks import inference
from reg.training import seeded
from reg.unrolled import Unrolled, UnrolledObjective

BATCH, CROP = 8, 128
STEPS = 4  # of the network that is timed, as in the demo
ITERATIONS, TIMED = 1500, 30  # of Adam; one takes as long as another, so that some are enough


def added_memory(steps: int, recompute: bool) -> int:
    """By how much two training steps raise the peak memory of this process."""
    unrolled = Unrolled(random_regularizer(SMALL), steps, 1.0, 0.02, recompute=recompute)
    objective = UnrolledObjective(unrolled, "deblur-k5-2.55", 0)
    clean = torch.rand(BATCH, 3, CROP, CROP, generator=seeded(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for iteration in (1, 2):
        generators = [seeded(iteration, k) for k in range(BATCH)]
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective(clean, iteration, generators)["loss"].mean()
        loss.backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def memory(recompute: bool) -> float:
    """Added memory of K = 8 against K = 2, each in a fresh process."""
    found = []
    for steps in (8, 2):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found.append(process.submit(added_memory, steps, recompute).result())
    print(f"  K 8 and 2, recompute {recompute}: {[kb // 1024 for kb in found]} MB")
    return found[0] / found[1]


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    with inference("auto"):
        work()
    return time.perf_counter() - began


def speed() -> Row:
    """Adam's iterations over the unrolled network's steps, one image of 256²."""
    problem, regularizer = problem_of(SIDE), ours(SMALL)
    unrolled = Unrolled(regularizer, STEPS, 1.0, 0.02).eval()

    def adam() -> None:
        for _ in islice(
            pnp_gd(problem, regularizer, sigma=0.01, step=0.004, descent="adam"), TIMED
        ):
            pass

    def both() -> float:
        return ITERATIONS / TIMED * seconds(adam) / seconds(lambda: unrolled(problem))

    both()
    return row("PnP-GD, 1,500 by Adam / unrolled, K 4, time", [both() for _ in range(9)], "≥ 20")


def main() -> None:
    """Measure all rows and write them."""
    keep_freed_memory()
    name = "memory of a training step, K 8 / K 2"
    rows = [
        row(f"{name}, recomputing", [memory(True) for _ in range(3)], "≤ 1.6"),
        row(f"{name}, keeping all", [memory(False) for _ in range(3)], "none"),
        speed(),
    ]
    save(rows)


if __name__ == "__main__":
    main()
