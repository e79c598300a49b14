"""Choose the two parameters of a method on validation images, every method by the same budget."""

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, product

import pandas as pd
import torch
from torch import Tensor

from reg.checkpoints import State, finished_cell
from reg.console import first_process, progress
from reg.diagnostics import jacobian, spectral_norm
from reg.evaluation import batches
from reg.iterations import curvature_bound
from reg.methods import Networks, begin, below, iterate, network_of, retrained
from reg.metrics import psnr
from reg.networks import Precision, inference
from reg.problems import Problem, make_problem
from reg.processes import finish_share

Score = Callable[[Mapping[str, float]], float]
Trial = tuple[dict[str, float], float]

BEYOND = 1.1  # times the least stable curvature, at which the search of PnP-GD begins
FIRST_RATIO = 4.0
LAST_RATIO = 1.1


def tune(
    pairs: Sequence[tuple[str, str]],
    images: Mapping[str, Tensor],
    networks: Mapping[int, Networks],
    *,
    trials: int,
    iterations: int,
    tolerance: float,
    seed: int,
    precision: Precision,
    key: str,
) -> tuple[pd.DataFrame, dict[str, dict[str, dict[str, float]]]]:
    """Search the parameters of each (task, method): all trials, and chosen[task][method].

    A trial's score is the mean PSNR in dB over `images` of the last of `iterations` iterates, or
    of the one at which an image settled (`iterations.settle`). `networks` are by training seed; a
    method that uses ReG gets the mean over all of them, since a step that is stable with the
    network of one seed may not be with that of the next. The search of PnP-GD begins near the
    longest step that `stable_curvature` allows.
    Finished pairs are kept in `.checkpoints/<key>/`. Of several processes (`reg.processes`) the
    first returns what was found, the others nothing.
    """

    def search(task: str, method: str) -> State:
        of_seeds = list(networks.values())[: None if retrained(method) else 1]
        device = of_seeds[0].device
        problems = [
            make_problem(task, batch.to(device), names, seed) for names, batch in batches(images)
        ]
        limits = {name: (0.0, most) for name, most in below(method).items()}
        first = begin(method, task)
        if "curvature" in first:
            least = stable_curvature(method, problems, of_seeds)
            limits["curvature"] = least, math.inf
            if math.isfinite(least):
                first["curvature"] = BEYOND * least
        with inference(precision, device):
            score = partial(_mean_psnr, method, problems, of_seeds, iterations, tolerance)
            return {"trials": list(compass_search(first, score, trials, limits))}

    cells = {f"{task}_{method}": partial(search, task, method) for task, method in pairs}
    finish_share(key, cells)
    rows: list[list[object]] = []
    chosen: dict[str, dict[str, dict[str, float]]] = {}
    with progress("tune", len(pairs)) as shown:
        for task, method in pairs if first_process() else ():
            name = f"{task}_{method}"
            found: list[Trial] = finished_cell(key, name, cells[name])["trials"]
            rows += [[task, method, json.dumps(parameters), value] for parameters, value in found]
            chosen.setdefault(task, {})[method] = best_trial(found)
            shown.step(f"{task} {method} {max(value for _, value in found):.2f} dB")
    return pd.DataFrame(rows, columns=["task", "method", "parameters", "psnr"]), chosen


def stable_curvature(
    method: str, problems: Sequence[Problem], of_seeds: Sequence[Networks]
) -> float:
    """What c must exceed for PnP-GD's step to be stable near the true images, with every network.

    `iterations.curvature_bound` of the greatest spectral norm of G's Jacobian there. On few small
    images and for few iterations a longer step can score higher, and ruin larger images later.
    """
    largest = [
        spectral_norm(jacobian(network_of(method, networks), problem.truth), problem.truth, 10, 0)
        for networks, problem in product(of_seeds, problems)
    ]
    return float(curvature_bound(torch.cat(largest).max()))


def _mean_psnr(
    method: str,
    problems: Sequence[Problem],
    of_seeds: Sequence[Networks],
    iterations: int,
    tolerance: float,
    parameters: Mapping[str, float],
) -> float:
    levels = []
    for networks, problem in product(of_seeds, problems):
        iterates = iterate(method, problem, networks, parameters, tolerance)
        (last,) = deque(islice(iterates, iterations), maxlen=1)
        diverged = ~last.flatten(1).mean(dim=1).isfinite()
        # 0 dB as in `evaluation.trace`: clipped to [0,1], infinity would count as white.
        levels.append(psnr(last, problem.truth).masked_fill(diverged, 0.0).cpu())
    return torch.cat(levels).mean().item()


def compass_search(
    begin: Mapping[str, float],
    score: Score,
    budget: int,
    limits: Mapping[str, tuple[float, float]],
) -> Iterator[Trial]:
    """Maximise `score` over positive parameters by compass search on a logarithmic scale.

    From the best point so far each parameter in turn is multiplied and divided by a ratio, 4 at
    first; a better point becomes the new centre at once, and after a round without one the ratio
    becomes its square root. Yields every trial (parameters, score); ends after `budget` trials,
    or when the ratio is below 1.1. A score that is not a number counts as minus infinity. A point
    where a parameter does not lie between its two `limits` is not tried.
    (Kolda, Lewis & Torczon, SIAM Review 45, 2003.)
    """
    centre = _rounded(begin)
    tried: dict[str, float] = {}

    def try_out(parameters: dict[str, float]) -> float:
        value = score(parameters)
        tried[_key(parameters)] = value
        return value if value == value else float("-inf")

    best = try_out(centre)
    yield centre, tried[_key(centre)]
    ratio = FIRST_RATIO
    while ratio >= LAST_RATIO:
        improved = False
        for name in begin:
            for factor in (ratio, 1 / ratio):
                candidate = _rounded({**centre, name: centre[name] * factor})
                least, most = limits.get(name, (0.0, math.inf))
                if _key(candidate) in tried or not least < candidate[name] < most:
                    continue
                if len(tried) >= budget:
                    return
                value = try_out(candidate)
                yield candidate, tried[_key(candidate)]
                if value > best:
                    centre, best, improved = candidate, value, True
                    break
        if not improved:
            ratio **= 0.5


def best_trial(trials: list[Trial]) -> dict[str, float]:
    """The parameters of the highest score; the first one where scores are equal."""
    return max(trials, key=lambda trial: trial[1] if trial[1] == trial[1] else float("-inf"))[0]


def _rounded(parameters: Mapping[str, float]) -> dict[str, float]:
    """Four significant digits, so that what a table prints is exactly what was run."""
    return {name: float(f"{value:.4g}") for name, value in parameters.items()}


def _key(parameters: Mapping[str, float]) -> str:
    return json.dumps(parameters, sort_keys=True)
