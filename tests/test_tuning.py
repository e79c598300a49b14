import json
import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reg.iterations import settle
from reg.methods import METHODS, Networks, begin, below, iterate
from reg.metrics import psnr
from reg.problems import make_problem
from reg.tuning import Score, Trial, best_trial, compass_search, stable_curvature, tune

few = settings(max_examples=15)
BEGIN = {"sigma": 2.55, "step": 0.1}
parameter = st.floats(-3, 3)  # logarithm to base 2, relative to the beginning


def parabola(sigma: float, step: float, mixed: float = 0.0) -> Score:
    """Smooth in the logarithms, with its maximum of 30 at the given multiples of BEGIN."""

    def score(parameters: Mapping[str, float]) -> float:
        a = math.log2(parameters["sigma"] / BEGIN["sigma"] / sigma)
        b = math.log2(parameters["step"] / BEGIN["step"] / step)
        return 30 - a**2 - 2 * b**2 - mixed * a * b

    return score


def run(score: Score, budget: int, begin: Mapping[str, float] = BEGIN) -> list[Trial]:
    return list(compass_search(begin, score, budget, {}))


def point(parameters: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(parameters.items()))


@few
@given(a=parameter, b=parameter, mixed=st.floats(-2, 2))
def test_a_smooth_optimum_is_found_within_the_budget(a: float, b: float, mixed: float) -> None:
    trials = run(parabola(2**a, 2**b, mixed), budget=60)
    best = best_trial(trials)
    # The last ratio tried is 4^(1/8) = 1.19, a quarter of an octave.
    assert abs(math.log2(best["sigma"] / BEGIN["sigma"]) - a) < 0.3
    assert abs(math.log2(best["step"] / BEGIN["step"]) - b) < 0.3
    assert max(score for _, score in trials) > 29.8


@few
@given(a=parameter, b=parameter)
def test_a_search_that_ends_early_ends_at_a_local_optimum(a: float, b: float) -> None:
    score = parabola(2**a, 2**b)
    trials = run(score, budget=1000)
    assert len(trials) < 100
    best = best_trial(trials)
    for name in best:
        for factor in (1.19, 1 / 1.19):
            assert score({**best, name: best[name] * factor}) < score(best)


@few
@given(a=parameter, b=parameter, budget=st.integers(1, 40))
def test_the_budget_is_kept_and_no_point_is_tried_twice(a: float, b: float, budget: int) -> None:
    calls: list[tuple[tuple[str, float], ...]] = []
    score = parabola(2**a, 2**b)

    def counted(parameters: Mapping[str, float]) -> float:
        calls.append(point(parameters))
        return score(parameters)

    trials = run(counted, budget)
    assert 1 <= len(trials) <= budget
    assert calls == [point(parameters) for parameters, _ in trials]
    assert len(set(calls)) == len(calls)
    assert [value for _, value in trials] == [score(parameters) for parameters, _ in trials]


def test_a_large_budget_is_used_in_part_and_a_small_one_whole() -> None:
    score = parabola(8.0, 0.125)
    whole = run(score, budget=1000)
    for budget in (1, 2, 5, len(whole)):
        assert run(score, budget) == whole[:budget]


@few
@given(a=parameter, b=parameter)
def test_trials_begin_at_the_beginning_and_stay_positive(a: float, b: float) -> None:
    trials = run(parabola(2**a, 2**b), budget=30)
    assert trials[0][0] == BEGIN
    for parameters, _ in trials:
        assert list(parameters) == list(BEGIN)
        assert all(value > 0 for value in parameters.values())


def test_the_search_is_deterministic_and_leaves_the_beginning_alone() -> None:
    begin = {"step": 1 / 3, "sigma": math.pi}
    first = run(parabola(3, 0.2), 30, begin)
    assert run(parabola(3, 0.2), 30, begin) == first
    assert begin == {"step": 1 / 3, "sigma": math.pi}


def test_a_table_prints_what_was_run() -> None:
    for parameters, _ in run(parabola(3, 0.2), 30, {"sigma": math.pi, "step": 1 / 3}):
        assert all(value == float(f"{value:.4g}") for value in parameters.values())


def test_trials_are_yielded_as_they_are_made() -> None:
    calls: list[float] = []

    def score(parameters: Mapping[str, float]) -> float:
        calls.append(parameters["sigma"])
        return 0.0

    search = compass_search(BEGIN, score, 10, {})
    assert calls == []
    for k in range(1, 4):
        next(search)
        assert len(calls) == k


def test_the_ratio_stays_as_long_as_it_helps() -> None:
    farther = run(lambda parameters: parameters["sigma"], 4, {"sigma": 1.0})
    assert [parameters["sigma"] for parameters, _ in farther] == [1.0, 4.0, 16.0, 64.0]


def test_flat_scores_keep_the_beginning() -> None:
    trials = run(lambda _: 7.0, budget=1000)
    assert best_trial(trials) == BEGIN
    assert len(trials) == 1 + 4 * 4  # four ratios, 4 to 1.19, without success


def test_scores_that_are_not_numbers_are_the_worst() -> None:
    optimum = parabola(4, 0.25)

    def broken(parameters: Mapping[str, float]) -> float:
        # Divergence at every larger step, and where it begins.
        return math.nan if parameters["step"] >= BEGIN["step"] else optimum(parameters)

    trials = run(broken, budget=60)
    assert math.isnan(trials[0][1])
    best = best_trial(trials)
    assert abs(math.log2(best["sigma"] / BEGIN["sigma"]) - 2) < 0.3
    assert abs(math.log2(best["step"] / BEGIN["step"]) + 2) < 0.3
    nowhere = run(lambda _: math.nan, budget=1000)
    assert len(nowhere) < 100
    assert best_trial(nowhere) == BEGIN


@few
@given(a=parameter, b=parameter, limit=st.floats(1.01, 20))
def test_no_point_at_or_beyond_a_limit_is_tried(a: float, b: float, limit: float) -> None:
    most = limit * BEGIN["step"]
    trials = list(compass_search(BEGIN, parabola(2**a, 2**b), 60, {"step": (0, most)}))
    assert all(parameters["step"] < most for parameters, _ in trials)
    best = best_trial(trials)
    assert abs(math.log2(best["sigma"] / BEGIN["sigma"]) - a) < 0.3
    step = math.log2(best["step"] / BEGIN["step"])
    assert abs(step - b) < 0.3 or (b > step > math.log2(limit) - 0.3)


def test_one_parameter_and_three() -> None:
    def score(parameters: Mapping[str, float]) -> float:
        return -sum(math.log2(value / 5) ** 2 for value in parameters.values())

    for names in ("a", "abc"):
        best = best_trial(run(score, 100, dict.fromkeys(names, 1.0)))
        assert all(abs(math.log2(value / 5)) < 0.3 for value in best.values())


def test_best_trial() -> None:
    a, b, c = {"x": 1.0}, {"x": 2.0}, {"x": 3.0}
    assert best_trial([(a, 1.0), (b, 3.0), (c, 2.0)]) == b
    assert best_trial([(a, 1.0), (b, 3.0), (c, 3.0)]) == b  # the first of equals
    assert best_trial([(a, math.nan), (b, -5.0), (c, math.nan)]) == b
    assert best_trial([(a, 1.0), (b, math.nan)]) == a


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_infinite_scores_end_too(bad: float) -> None:
    trials = run(lambda parameters: bad if parameters["step"] > 1 else 1.0, budget=200)
    assert len(trials) < 200


# --- on problems ---------------------------------------------------------------------------


class Shrinking:
    """D_s(z) = z/(1 + s²) and its exact gradient G(x) = x; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def denoiser(self, z: Tensor, s: float) -> Tensor:
        self.calls += 1
        return z / (1 + s**2)

    def regularizer(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x

    def networks(self) -> Networks:
        return Networks({"original": self.denoiser}, {"updated": self.regularizer})


def noise_images() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(1, 3, *size, generator=generator)
        for name, size in (("b", (16, 16)), ("a", (16, 16)), ("wide", (8, 24)))
    }


PAIRS = [("deblur-k0-2.55", "pnp-gd"), ("inpaint-50", "pnp-admm")]


def tuned(
    shrinking: Shrinking, tolerance: float, iterations: int = 3, key: str = "key"
) -> tuple[list[list[Any]], dict[str, dict[str, dict[str, float]]]]:
    table, chosen = tune(
        PAIRS,
        noise_images(),
        {0: shrinking.networks()},
        trials=6,
        iterations=iterations,
        tolerance=tolerance,
        seed=7,
        precision="fp32",
        key=key,
    )
    assert list(table.columns) == ["task", "method", "parameters", "psnr"]
    return table.to_numpy().tolist(), chosen


@pytest.mark.parametrize("tolerance", [0.0, 0.02])
def test_tune_keeps_all_trials_and_chooses_the_best(
    tolerance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, again = Shrinking(), Shrinking()
    rows, chosen = tuned(first, tolerance)
    for task, method in PAIRS:
        found = [
            (json.loads(cell), value) for t, m, cell, value in rows if (t, m) == (task, method)
        ]
        assert len(found) == 6
        assert set(found[0][0]) == set(begin(method, task))
        assert chosen[task][method] == best_trial(found)
        for parameters, value in found[:2]:
            expected = mean_psnr(task, method, parameters, 3, tolerance)
            assert value == pytest.approx(expected, abs=1e-3)
    assert tuned(again, tolerance) == (rows, chosen)  # finished pairs are kept
    assert again.calls == 0 < first.calls


def test_a_trial_ends_where_its_images_have_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short, long = Shrinking(), Shrinking()
    rough, _ = tuned(short, 1e-2, iterations=200, key="rough")
    fine, _ = tuned(long, 1e-6, iterations=200, key="fine")
    assert short.calls < long.calls / 2
    assert long.calls < 200 * 2 * 6 * 2  # iterations, batches, trials, pairs
    assert rough[0][:3] == fine[0][:3]


def test_a_method_that_ends_by_itself_is_scored_by_its_last_iterate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table, _ = tune(
        [("inpaint-50", "pnp-hqs")],
        noise_images(),
        {0: Shrinking().networks()},
        trials=1,
        iterations=1000,
        tolerance=0.0,
        seed=7,
        precision="fp32",
        key="key",
    )
    parameters = begin("pnp-hqs", "inpaint-50")
    expected = mean_psnr("inpaint-50", "pnp-hqs", parameters, 24, 0.0)
    assert table["psnr"].tolist() == pytest.approx([expected], abs=1e-3)


def test_what_uses_reg_is_tuned_on_all_training_seeds_and_the_rest_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tame, wild = Shrinking(), Shrinking()

    def steep(x: Tensor) -> Tensor:
        return 300 * wild.regularizer(x)

    networks = {
        3: tame.networks(),
        8: Networks({"original": wild.denoiser}, {"updated": steep}),
    }

    def scores(method: str, networks: Mapping[int, Networks], key: str) -> pd.DataFrame:
        table, _ = tune(
            [("deblur-k0-2.55", method)],
            noise_images(),
            networks,
            trials=4,
            iterations=6,
            tolerance=0.0,
            seed=7,
            precision="fp32",
            key=key,
        )
        return table.set_index("parameters")["psnr"]

    # whose search begins alike whatever the networks
    both = scores("pnp-gd-adam", networks, "both")
    alone = [scores("pnp-gd-adam", {seed: one}, f"{seed}") for seed, one in networks.items()]
    start = both.index[0]
    assert both[start] == pytest.approx((alone[0][start] + alone[1][start]) / 2, abs=1e-4)
    assert abs(alone[0][start] - alone[1][start]) > 0.1

    calls = wild.calls
    assert scores("pnp-admm", networks, "admm").equals(
        scores("pnp-admm", {3: networks[3]}, "admm alone")
    )
    assert wild.calls == calls


def test_the_step_of_pnp_pgd_stays_where_a_gradient_step_is_stable() -> None:
    assert below("pnp-pgd") == {"relative_step": 2.0}
    assert all(below(method) == {} for method in METHODS if method != "pnp-pgd")


def test_the_step_of_pnp_gd_stays_where_it_is_stable_with_every_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    networks = {
        seed: Networks({}, {"updated": lambda x, L=slope: L * x})  # type: ignore[misc]
        for seed, slope in enumerate((100.0, 600.0, 300.0))
    }
    problems = [
        make_problem("deblur-k0-2.55", image, [name], 7) for name, image in noise_images().items()
    ]
    least = stable_curvature("pnp-gd", problems, list(networks.values()))
    assert least == pytest.approx(600 * 2.6 / 3.6, rel=1e-4)  # L(1 + 2β)/(2(1 + β)), β = 0.8

    def curvatures(slope: float) -> list[float]:
        table, _ = tune(
            [("deblur-k0-2.55", "pnp-gd")],
            noise_images(),
            {0: Networks({}, {"updated": lambda x: slope * x})},
            trials=12,
            iterations=2,
            tolerance=0.0,
            seed=7,
            precision="fp32",
            key=f"{slope}",
        )
        return [json.loads(parameters)["curvature"] for parameters in table["parameters"]]

    for slope in (100.0, 3600.0):
        found = curvatures(slope)
        assert found[0] == pytest.approx(1.1 * slope * 2.6 / 3.6, rel=1e-3)
        assert min(found) > slope * 2.6 / 3.6
        assert max(found) >= 3.9 * found[0]


# iterations until a network is turned as before
PERIOD = {"pnp-gd": 8, "pnp-admm": 1, "pnp-hqs": 8}


def mean_psnr(
    task: str, method: str, parameters: Mapping[str, float], iterations: int, tolerance: float
) -> float:
    """Each image on its own, by hand."""
    levels = []
    for name, image in noise_images().items():
        problem = make_problem(task, image, [name], 7)
        iterates = iterate(method, problem, Shrinking().networks(), parameters)
        xs = list(islice(settle(iterates, problem.start, tolerance, PERIOD[method]), iterations))
        levels.append(psnr(xs[-1], image).item())
    return sum(levels) / len(levels)
