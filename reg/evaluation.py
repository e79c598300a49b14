"""Measure iterates; run methods × tasks × images into one long table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from reg.metrics import mean_squared_difference, psnr, ssim
from reg.problems import Problem

COLUMNS = ["task", "method", "image", "iteration", "metric", "value"]
Row = list[Any]


def trace(
    iterates: Iterable[Tensor], problem: Problem, iterations: int
) -> tuple[dict[str, Tensor], Tensor]:
    """PSNR and mean squared difference of the first iterates, per iteration and image.

    Returns {"psnr": (iterations, N) in dB, "msd": (iterations, N)} and the last iterate. The
    difference of the first iterate is to the start. Iterates that are no longer finite end the
    run: what follows counts as 0 dB, and the last finite iterate is returned.
    """
    levels, differences = [], []
    previous = problem.start
    for x in islice(iterates, iterations):
        if not bool(torch.isfinite(x).all()):
            break
        levels.append(psnr(x, problem.truth))
        differences.append(mean_squared_difference(x, previous))
        previous = x
    missing = iterations - len(levels)
    count = len(problem.truth)
    levels += [torch.zeros(count)] * missing
    differences += [torch.full((count,), torch.inf)] * missing
    return {"psnr": torch.stack(levels), "msd": torch.stack(differences)}, previous


def curve_rows(
    problem: Problem, method: str, names: Sequence[str], curves: Mapping[str, Tensor]
) -> Iterator[Row]:
    """Every iteration of a trace as rows of the long table."""
    for metric, values in curves.items():
        for iteration, per_image in enumerate(values.tolist(), start=1):
            for name, value in zip(names, per_image, strict=True):
                yield [problem.task, method, name, iteration, metric, value]


def final_rows(
    problem: Problem,
    method: str,
    names: Sequence[str],
    x: Tensor,
    iteration: int,
    best: Tensor | None = None,
) -> Iterator[Row]:
    """PSNR and SSIM of an iterate; `best` adds the oracle over iterations as `psnr_best`."""
    measured: dict[str, Sequence[float]] = {
        "psnr": psnr(x, problem.truth).tolist(),
        "ssim": ssim(x, problem.truth),
    }
    if best is not None:
        measured["psnr_best"] = best.tolist()
    for metric, values in measured.items():
        for name, value in zip(names, values, strict=True):
            yield [problem.task, method, name, iteration, metric, value]


def long_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table with the columns task, method, image, iteration, metric, value."""
    return pd.DataFrame(list(rows), columns=COLUMNS)
