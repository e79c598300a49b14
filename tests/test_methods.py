from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reg.equivariance import equivariant
from reg.errors import InputError
from reg.gradient_step import GradientStepDenoiser, save_gradient_step
from reg.iterations import (
    Descent,
    curvature_bound,
    gs_pnp,
    noise_levels,
    pnp_admm,
    pnp_gd,
    pnp_pgd,
    red_gd,
)
from reg.methods import (
    ABLATION,
    ADAM_STEP,
    ARMS,
    METHODS,
    PLAIN_STEP,
    Networks,
    arm_folder,
    begin,
    canonical,
    iterate,
    load_networks,
    method_named,
    posed,
    retrained,
    schedules,
    training_seeds,
)
from reg.networks import Denoiser, Regularizer, initialise, save_network
from reg.problems import Problem, make_problem, parse_task
from reg.training import seeded

CHANNELS = (4, 4, 8, 8)
TASKS = ["deblur-k5-2.55", "sr-x3-2.55", "inpaint-20"]
every_method = pytest.mark.parametrize("method", sorted(METHODS))


def problem(task: str = "deblur-k5-2.55") -> Problem:
    truth = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    return make_problem(task, truth, ["a", "b"], 3)


def shrink(strength: float) -> Networks:
    """Closed-form stand-ins of two arms each, whose results differ."""

    def denoiser(z: Tensor, s: float) -> Tensor:
        return z / (1 + strength * s**2)

    def updated(z: Tensor, s: float) -> Tensor:
        return z / (1 + 2 * strength * s**2)

    def potential(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        share = strength * sigma**2 / (1 + strength * sigma**2)
        return share / 2 * x.square().sum(dim=(1, 2, 3)), share * x

    return Networks(
        {"original": denoiser, "updated": updated},
        {"updated": lambda x: strength * x, "fixed": lambda x: 3 * strength * x},
        {"gradient-step": potential},
    )


NETWORKS = shrink(20.0)


def after(method: str, p: Problem, parameters: dict[str, float], iterations: int = 5) -> Tensor:
    return next(islice(iterate(method, p, NETWORKS, parameters), iterations - 1, None))


# --- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("pnp-gd", "pnp-gd"),
        ("pnp-gd@updated", "pnp-gd"),
        ("pnp-gd@fixed", "pnp-gd@fixed"),
        ("red", "red"),
        ("red@original", "red"),
        ("red@updated", "red@updated"),
        ("pnp-admm@original", "pnp-admm"),
        ("pnp-admm@updated", "pnp-admm@updated"),
        ("pnp-admm-unbounded@original", "pnp-admm-unbounded"),
        ("gs-pnp@gradient-step", "gs-pnp"),
        ("tv", "tv"),
        ("pnp-gd+x8", "pnp-gd"),
        ("pnp-gd@updated+x1", "pnp-gd+x1"),
        ("pnp-gd-adam@fixed+x1", "pnp-gd-adam@fixed+x1"),
        ("red@original+x8", "red"),
        ("pnp-admm@original+x8", "pnp-admm+x8"),
        ("pnp-admm+x1", "pnp-admm"),
    ],
)
def test_the_usual_arm_is_left_out(method: str, name: str) -> None:
    assert canonical(method) == name
    assert canonical(name) == name


def test_the_ablation_compares_two_arms_of_each_method() -> None:
    kinds = Counter(method.partition("@")[0] for method in ABLATION)
    assert kinds == {"pnp-admm": 2, "pnp-admm-unbounded": 2, "pnp-gd": 2}
    assert len({canonical(method) for method in ABLATION}) == 6


@pytest.mark.parametrize(
    "method",
    [
        "",
        "pnp",
        "PnP-GD",
        "pnp-gd ",
        "pnp_gd",
        "@updated",
        "+x8",
        "pnp-gd+x4",
        "pnp-gd+x8@fixed",
        "red+x1+x8",
    ],
)
def test_an_unknown_method_is_refused(method: str) -> None:
    uses = [
        lambda: canonical(method),
        lambda: method_named(method),
        lambda: next(iterate(method, problem(), NETWORKS, {})),
        lambda: begin(method, "inpaint-20"),
    ]
    for use in uses:
        with pytest.raises(InputError) as caught:
            use()
        assert str(caught.value).startswith(f"method '{method}': must be one of ")
        assert "pnp-gd" in str(caught.value)


@pytest.mark.parametrize("method", ["pnp-gd@nowhere", "pnp-admm@nowhere", "red@nowhere"])
def test_an_unknown_arm_is_refused(method: str) -> None:
    with pytest.raises(InputError, match=f"method '{method}': must be one of .*@updated"):
        method_named(method)


@pytest.mark.parametrize("method", ["tv@updated", "gs-pnp@original"])
def test_an_arm_of_a_method_without_such_is_refused(method: str) -> None:
    with pytest.raises(InputError, match=f"method '{method}': must be one of (tv|gs-pnp@grad)"):
        method_named(method)


@pytest.mark.parametrize("method", ["tv+x8", "gs-pnp+x1", "gs-pnp@gradient-step+x8"])
def test_what_may_not_change_between_iterations_has_no_x8(method: str) -> None:
    kind = method.partition("+")[0].partition("@")[0]
    with pytest.raises(InputError, match=rf"{kind} has no \+x[18],.*; write {kind}$"):
        method_named(method)


@pytest.mark.parametrize(
    ("method", "there"),
    [
        ("pnp-gd@fixed", "updated"),
        ("pnp-admm@fixed", "original, updated"),
        ("pnp-admm@fixed+x8", "original, updated"),
        ("gs-pnp", "none"),
    ],
)
def test_a_network_that_was_not_trained_is_named_with_the_mend(method: str, there: str) -> None:
    one = {"updated": NETWORKS.regularizers["updated"]}
    networks = Networks(NETWORKS.denoisers, one)
    with pytest.raises(InputError, match=f": no network .* {there}; run the stage") as caught:
        iterate(method, problem(), networks, {})
    assert str(caught.value).startswith(f"method '{method}': ")


@pytest.mark.parametrize("method", ["pnp-gd@original", "pnp-admm@fixed-regularizer-only"])
def test_an_arm_that_has_no_network_of_the_kind_needed_is_refused(method: str) -> None:
    # There is no regularizer `original`, and no denoiser of an arm that trained G alone.
    networks = Networks(
        NETWORKS.denoisers, {**NETWORKS.regularizers, "fixed-regularizer-only": lambda x: x}
    )
    with pytest.raises(InputError, match=f"method '{method}'"):
        next(iterate(method, problem(), networks, begin(method, "inpaint-20")))


# --- what the names run --------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("method", "descent"), [("pnp-gd", "accelerated"), ("pnp-gd-spectral", "spectral")]
)
def test_pnp_gd_takes_noise_levels_of_255_and_the_curvature_of_g(
    task: str, method: str, descent: Descent
) -> None:
    p = problem(task)
    sigma, curvature = 12.0, 50.0
    for name, arm in [(method, "updated"), (f"{method}@fixed", "fixed")]:
        expected = pnp_gd(
            p,
            NETWORKS.regularizers[arm],
            sigma=sigma / 255,
            step=1 / ((sigma / 255) ** 2 * curvature),
            descent=descent,
            bounds=(0, 1),
        )
        found = after(name, p, {"sigma": sigma, "curvature": curvature})
        torch.testing.assert_close(found, next(islice(expected, 4, None)))


@pytest.mark.parametrize("method", METHODS)
def test_methods_begin_alike_but_for_the_published_one(method: str) -> None:
    p = problem("inpaint-20")
    start = p.degraded if method == "pnp-gd-published" else p.start
    assert torch.equal(posed(method, p).start, start)
    assert not torch.equal(p.degraded, p.start)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("method", "descent"),
    [("pnp-gd-adam", "adam"), ("pnp-gd-published", "adam"), ("pnp-gd-plain", "plain")],
)
def test_other_schedules_of_pnp_gd_take_a_step(task: str, method: str, descent: Descent) -> None:
    p, G = problem(task), NETWORKS.regularizers["updated"]
    found = after(method, p, {"sigma": 12.0, "step": 0.3})
    expected = pnp_gd(p, G, sigma=12 / 255, step=0.3, descent=descent)
    torch.testing.assert_close(found, next(islice(expected, 4, None)))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["pnp-gd", "pnp-gd-spectral"])
def test_pnp_gd_is_stable_where_the_curvature_exceeds_its_bound(task: str, method: str) -> None:
    # The step is 1/(σ²·curvature); G(x) = c·x.
    p, sigma, c = problem(task), 40.0, 20.0
    bound = float(curvature_bound(torch.tensor(c))) if method == "pnp-gd" else c / 2
    parameters = {"sigma": sigma, "curvature": 1.1 * bound}
    stable, longer = (after(method, p, parameters, count) for count in (400, 401))
    torch.testing.assert_close(stable, longer, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_the_plain_step_is_that_of_the_norm_of_A_and_the_curvature(task: str) -> None:
    p, G = problem(task), NETWORKS.regularizers["updated"]
    step = 1.4 / (p.operator.norm(24, 24) ** 2 + (12 / 255) ** 2 * 700)
    expected = pnp_gd(p, G, sigma=12 / 255, step=step)
    found = after("pnp-gd-plain", p, {"sigma": 12.0, "curvature": 700.0})
    torch.testing.assert_close(found, next(islice(expected, 4, None)))


@pytest.mark.parametrize("task", TASKS)
def test_pnp_pgd_takes_its_step_relative_to_the_norm_of_A(task: str) -> None:
    p, D = problem(task), NETWORKS.denoisers["original"]
    norm = p.operator.norm(24, 24)
    expected = pnp_pgd(p, D, sigma=12 / 255, step=1.2 / norm**2)
    found = after("pnp-pgd", p, {"sigma": 12.0, "relative_step": 1.2})
    torch.testing.assert_close(found, next(islice(expected, 4, None)))


PARAMETERS = {
    "pnp-gd": {"sigma": 3.0, "curvature": 50.0},
    "red": {"weight": 0.2, "sigma": 15.0},
    "pnp-admm": {"sigma": 3.0, "level": 20.0},
    "pnp-hqs": {"sigma": 3.0, "level": 20.0},
}


@pytest.mark.parametrize("method", PARAMETERS)
def test_methods_keep_their_iterates_within_the_range_of_images(method: str) -> None:
    def stretching(z: Tensor, *_: object) -> Tensor:
        return 3 * z - 1

    networks = Networks({"original": stretching}, {"updated": lambda x: -2e4 * stretching(x)})
    at_a_bound = 0
    for x in islice(iterate(method, problem(), networks, PARAMETERS[method]), 5):
        assert 0 <= x.min() < x.max() <= 1
        at_a_bound += int(((x == 0) | (x == 1)).sum())
    assert at_a_bound > 0


def test_unbounded_admm_is_admm_without_the_clamp() -> None:
    p, D = problem(), lambda z, s: 3 * z - 1
    found = list(islice(iterate("pnp-admm-unbounded", p, Networks({"original": D}),
                                PARAMETERS["pnp-admm"]), 3))  # fmt: skip
    levels = noise_levels(20 / 255, 20 / 255, 1)
    for x, wanted in zip(found, pnp_admm(p, D, sigma=3 / 255, levels=levels), strict=False):
        torch.testing.assert_close(x, wanted)
    assert found[-1].max() > 2


def test_x8_turns_the_network_of_the_named_arm() -> None:
    p = problem("deblur-k5-2.55")

    def slanted(z: Tensor, s: float) -> Tensor:
        return z * torch.linspace(0.5, 1, z.shape[-1]) / (1 + s**2)

    networks = Networks({"original": slanted, "updated": lambda z, s: z})
    parameters = {"sigma": 3.0, "level": 20.0}
    found = list(islice(iterate("pnp-admm+x8", p, networks, parameters), 10))
    expected = pnp_admm(
        p,
        equivariant(slanted),
        sigma=3 / 255,
        levels=noise_levels(20 / 255, 20 / 255, 1),
        bounds=(0, 1),
    )
    for x, wanted in zip(found, islice(expected, 10), strict=True):
        torch.testing.assert_close(x, wanted)
    plain = next(islice(iterate("pnp-admm", p, networks, parameters), 9, None))
    assert not torch.allclose(found[-1], plain, rtol=1e-3)


TURNING = {name for name in METHODS if name.startswith("pnp-gd")} | {"red", "pnp-hqs", "pnp-pgd"}
NETWORKED = [name for name in METHODS if METHODS[name].kind in ("regularizers", "denoisers")]


@pytest.mark.parametrize("method", NETWORKED)
def test_what_keeps_nothing_of_its_network_turns_it(method: str) -> None:
    p = problem("deblur-k5-2.55")

    def slanted(z: Tensor, s: float = 0.0) -> Tensor:
        return z * torch.linspace(0.5, 1, z.shape[-1]) / (1 + s**2)

    networks = Networks({"original": slanted}, {"updated": slanted})

    def last(name: str) -> Tensor:
        return next(islice(iterate(name, p, networks, begin(method, p.task)), 3, None))

    usual, other = ("+x8", "+x1") if method in TURNING else ("+x1", "+x8")
    assert torch.equal(last(method), last(method + usual))
    assert not torch.allclose(last(method), last(method + other), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("method", "period"), [("pnp-gd", 8), ("pnp-gd+x1", 1)])
def test_what_is_turned_settles_by_what_changes_between_equal_turns(
    method: str, period: int
) -> None:
    p = problem("deblur-k5-2.55")

    def slanted(x: Tensor) -> Tensor:
        return 100 * x * torch.linspace(0.5, 1, x.shape[-1])

    networks = Networks(regularizers={"updated": slanted})
    parameters, tolerance = {"sigma": 20.0, "curvature": 100.0}, 1e-5
    settled = list(islice(iterate(method, p, networks, parameters, tolerance), 400))
    free = list(islice(iterate(method, p, networks, parameters), 400))
    assert period <= len(settled) < 400
    assert len(settled) % period == 0
    last = free[len(settled) - 1]
    moved = (last - free[len(settled) - 1 - period]).norm() / last.norm()
    assert moved <= 1.1 * period * tolerance
    torch.testing.assert_close(settled[-1], last, rtol=0, atol=1e-3)
    # neighbours of a cycle stay apart
    apart = (free[-1] - free[-2]).norm() / free[-1].norm()
    assert bool(apart > tolerance) is (period > 1)


@pytest.mark.parametrize("task", TASKS)
def test_gs_pnp_takes_its_potential_with_weight_and_level(task: str) -> None:
    p = problem(task)
    potential = NETWORKS.potentials["gradient-step"]
    expected = gs_pnp(p, potential, weight=0.3, sigma=15 / 255)
    found = after("gs-pnp", p, {"weight": 0.3, "sigma": 15.0})
    torch.testing.assert_close(found, next(islice(expected, 4, None)))


def test_hqs_falls_from_49_to_its_level_in_24_iterations_and_ends() -> None:
    used: list[float] = []

    def noting(z: Tensor, s: float) -> Tensor:
        used.append(255 * s)
        return z / (1 + s**2)

    networks = Networks({"original": noting})
    xs = list(iterate("pnp-hqs", problem(), networks, {"sigma": 3.0, "level": 5.0}))
    assert len(xs) == len(used) == 24
    assert (used[0], used[-1]) == pytest.approx((49, 5))
    ratios = [b / a for a, b in pairwise(used)]
    assert ratios == pytest.approx([(5 / 49) ** (1 / 23)] * 23)


@pytest.mark.parametrize("task", TASKS)
def test_red_has_the_momentum_and_the_bounds_of_pnp_gd(task: str) -> None:
    p, weight, sigma = problem(task), 0.2, 15.0
    expected = red_gd(
        p,
        NETWORKS.denoisers["original"],
        weight=weight,
        sigma=sigma / 255,
        step=1 / (1.5 * weight),
        descent="accelerated",
        bounds=(0, 1),
    )
    found = after("red", p, {"weight": weight, "sigma": sigma})
    torch.testing.assert_close(found, next(islice(expected, 4, None)))


def admm(p: Problem, arm: str, *levels: float) -> Tensor:
    iterates = pnp_admm(
        p, NETWORKS.denoisers[arm], sigma=3 / 255, levels=iter([s / 255 for s in levels])
    )
    return list(iterates)[-1]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("method", "arm"), [("pnp-admm", "original"), ("pnp-admm@updated", "updated")]
)
def test_pnp_admm_keeps_its_level_without_more(task: str, method: str, arm: str) -> None:
    p = problem(task)
    found = after(method, p, {"sigma": 3.0, "level": 20.0})
    torch.testing.assert_close(found, admm(p, arm, 20, 20, 20, 20, 20))


def test_pnp_admm_falls_from_first_until_an_iteration() -> None:
    p = problem()
    parameters = {"sigma": 3.0, "level": 10.0, "first": 40.0, "until": 3.0}
    for iterations, levels in [(1, [40]), (3, [40, 20, 10]), (5, [40, 20, 10, 10, 10])]:
        found = after("pnp-admm", p, parameters, iterations)
        torch.testing.assert_close(found, admm(p, "original", *levels))


def test_the_schedule_of_the_convergence_stage_ends_at_its_level_at_iteration_25() -> None:
    used: list[float] = []

    def noting(z: Tensor, s: float) -> Tensor:
        used.append(255 * s)
        return z / (1 + s**2)

    parameters = {"sigma": 3.0, "level": 10.0, "first": 50.0, "until": 25.0}
    iterates = iterate("pnp-admm", problem(), Networks({"original": noting}, {}), parameters)
    list(islice(iterates, 30))
    expected = [255 * s for s in islice(noise_levels(50 / 255, 10 / 255, 25), 30)]
    assert used == pytest.approx(expected)
    assert used[0] == pytest.approx(50)
    assert used[23] > 10.5
    assert used[24:] == pytest.approx([10.0] * 6)


@every_method
@pytest.mark.parametrize("task", TASKS)
def test_tuning_begins_where_a_method_runs(method: str, task: str) -> None:
    parameters = begin(method, task)
    assert len(parameters) == 2  # the same number for all, as the same budget is
    assert all(value > 0 for value in parameters.values())
    x = after(method, problem(task), parameters, 3)
    assert x.shape == (2, 3, 24, 24)
    assert bool(x.isfinite().all())
    assert METHODS[method].begin(parse_task(task)) == parameters
    for arm in ARMS[METHODS[method].kind]:
        assert begin(f"{method}@{arm}", task) == parameters


@every_method
def test_nothing_is_drawn_at_random(method: str) -> None:
    p, parameters = problem("inpaint-20"), begin(method, "inpaint-20")
    assert torch.equal(after(method, p, parameters), after(method, p, parameters))


# --- schedules -----------------------------------------------------------------------------

PAPER_TASKS = ["deblur-k3-2.55", *TASKS, "sr-x2-2.55", "sr-x4-2.55", "inpaint-10"]


@settings(max_examples=60)
@given(
    sigma=st.floats(0.1, 100),
    L=st.floats(0.01, 1e5),
    margin=st.floats(1.0, 100),
    task=st.sampled_from(PAPER_TASKS),
)
def test_the_plain_step_is_below_its_bound_wherever_pnp_gd_is_stable(
    sigma: float, L: float, margin: float, task: str
) -> None:
    c = margin * float(curvature_bound(torch.tensor(L, dtype=torch.float64)))
    plain = schedules(task, {"sigma": sigma, "curvature": c})["pnp-gd-plain"]
    norm = problem(task).operator.norm(24, 24)
    weight = (plain["sigma"] / 255) ** 2
    assert PLAIN_STEP / (norm**2 + weight * plain["curvature"]) < 2 / (norm**2 + weight * L)


@pytest.mark.parametrize("task", [task for task in TASKS if parse_task(task).sigma_n])
def test_all_schedules_follow_one_gradient_to_the_same_fixed_point(task: str) -> None:
    # φ = 10‖x‖² in float64; Adam's constant rate leaves it oscillating about the fixed point.
    truth = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1)).double()
    p, networks = make_problem(task, truth, ["a", "b"], 3), shrink(20.0)
    tuned = {"sigma": 40.0, "curvature": 1.1 * float(curvature_bound(torch.tensor(20.0)))}
    last = {
        method: next(islice(iterate(method, p, networks, parameters), 1499, None))
        for method, parameters in schedules(task, tuned).items()
    }
    assert set(last) == {"pnp-gd", "pnp-gd-spectral", "pnp-gd-plain", "pnp-gd-adam"}
    residual = p.operator.A(last["pnp-gd"]) - p.y
    gradient = p.operator.A_adjoint(residual) + (40 / 255) ** 2 * 20.0 * last["pnp-gd"]
    assert gradient.abs().max() < 1e-9
    for method, x in last.items():
        tolerance = 0.01 if method == "pnp-gd-adam" else 1e-8
        torch.testing.assert_close(x, last["pnp-gd"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("task", TASKS)
def test_schedules_keep_what_was_tuned_and_adam_its_official_rate(task: str) -> None:
    tuned = {"sigma": 3.0, "curvature": 700.0}
    found = schedules(task, tuned)
    assert found["pnp-gd"] == found["pnp-gd-spectral"] == tuned
    # Without noise the tuned σ means little, and the official one is taken where it matters.
    sigma = 3.0 if parse_task(task).sigma_n else 1.0
    assert found["pnp-gd-adam"]["sigma"] == found["pnp-gd-plain"]["sigma"] == sigma
    assert found["pnp-gd-adam"]["step"] == ADAM_STEP[parse_task(task).kind]
    assert found["pnp-gd-plain"]["curvature"] == 700
    # Published code begins elsewhere in inpainting alone.
    inpainting = parse_task(task).kind == "inpaint"
    assert found.get("pnp-gd-published") == (found["pnp-gd-adam"] if inpainting else None)
    assert tuned == {"sigma": 3.0, "curvature": 700.0}


# --- networks on disk ----------------------------------------------------------------------


def denoiser(seed: int) -> Denoiser:
    network = Denoiser(CHANNELS, 1)
    initialise(network, seeded(seed))
    return network


def regularizer(seed: int) -> Regularizer:
    network = Regularizer(CHANNELS, 1, scale=20.0)
    initialise(network, seeded(seed))
    return network


@pytest.fixture
def models(tmp_path: Path) -> Path:
    save_network(denoiser(0), tmp_path / "pretrain" / "denoiser.safetensors")
    for k, arm in enumerate(("updated", "fixed"), start=1):
        folder = tmp_path / "train_reg" / arm / "0"
        save_network(denoiser(k), folder / "denoiser.safetensors")
        save_network(regularizer(10 + k), folder / "regularizer.safetensors")
    return tmp_path


def test_networks_are_loaded_by_their_arms(models: Path) -> None:
    (networks,) = load_networks(models).values()
    assert set(networks.denoisers) == {"original", "updated", "fixed"}
    assert set(networks.regularizers) == {"updated", "fixed"}
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for k, arm in enumerate(("original", "updated", "fixed")):
            torch.testing.assert_close(networks.denoisers[arm](x, 0.1), denoiser(k)(x, 0.1))
        for k, arm in enumerate(("updated", "fixed"), start=11):
            torch.testing.assert_close(networks.regularizers[arm](x), regularizer(k)(x))


def test_every_training_seed_has_its_networks_beside_those_trained_once(models: Path) -> None:
    for seed in (10, 2):
        save_network(denoiser(seed), models / f"train_reg/updated/{seed}/denoiser.safetensors")
        save_network(
            regularizer(seed), models / f"train_reg/updated/{seed}/regularizer.safetensors"
        )
    by_seed = load_networks(models)
    assert list(by_seed) == training_seeds(models) == [0, 2, 10]
    assert training_seeds(models, "fixed") == [0]
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for seed in (2, 10):
            assert by_seed[seed].denoisers.keys() == {"original", "updated"}
            assert by_seed[seed].denoisers["original"] is by_seed[0].denoisers["original"]
            found = by_seed[seed].denoisers["updated"](x, 0.1)
            torch.testing.assert_close(found, denoiser(seed)(x, 0.1))
            found = by_seed[seed].regularizers["updated"](x)
            torch.testing.assert_close(found, regularizer(seed)(x))
    with pytest.raises(InputError, match=r"'pnp-gd@fixed': no network fixed, must be of updated"):
        next(iterate("pnp-gd@fixed", problem(), by_seed[2], begin("pnp-gd", "deblur-k5-2.55")))


def test_the_folder_of_an_arm_is_that_of_the_first_seed_unless_told(tmp_path: Path) -> None:
    assert arm_folder(tmp_path, "updated") == tmp_path / "train_reg/updated/0"  # nothing trained
    for seed in (10, 2):
        save_network(regularizer(1), tmp_path / f"train_reg/updated/{seed}/regularizer.safetensors")
    assert arm_folder(tmp_path, "updated") == tmp_path / "train_reg/updated/2"
    assert arm_folder(tmp_path, "updated", 10) == tmp_path / "train_reg/updated/10"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        *((name, name.startswith("pnp-gd")) for name in METHODS),
        *(("pnp-gd@fixed", True), ("pnp-gd+x8", True), ("pnp-admm@updated", True)),
        *(("red@fixed+x8", True), ("pnp-admm@original", False), ("gs-pnp@gradient-step", False)),
    ],
)
def test_what_reg_training_has_no_part_in_is_not_retrained(method: str, expected: bool) -> None:
    assert retrained(method) is expected


def test_loaded_networks_are_frozen(models: Path) -> None:
    (networks,) = load_networks(models).values()
    for network in (*networks.denoisers.values(), *networks.regularizers.values()):
        assert isinstance(network, Denoiser | Regularizer)
        assert not any(weight.requires_grad for weight in network.parameters())


def test_the_potential_is_loaded_where_it_was_trained(models: Path) -> None:
    assert load_networks(models)[0].potentials == {}
    trained = GradientStepDenoiser(CHANNELS, 1)
    initialise(trained, seeded(7))
    save_gradient_step(trained, models / "train_gs" / "denoiser.safetensors", {})
    (networks,) = load_networks(models).values()
    assert set(networks.potentials) == {"gradient-step"}
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found, expected = (
            of(x, 0.1)
            for of in (networks.potentials["gradient-step"], trained.potential_and_gradient)
        )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_every_method_runs_on_loaded_networks(models: Path) -> None:
    save_gradient_step(
        GradientStepDenoiser(CHANNELS, 1), models / "train_gs" / "denoiser.safetensors", {}
    )
    (networks,) = load_networks(models).values()
    networked = [name for name, method in METHODS.items() if "ers" in method.kind]
    turned = [f"{name}{'+x1' if METHODS[name].turns else '+x8'}" for name in networked]
    assert len(turned) == 10
    with torch.no_grad():
        for method in (*METHODS, *turned):
            iterates = iterate(method, problem(), networks, begin(method, "deblur-k5-2.55"))
            x = next(islice(iterates, 1, None))
            assert x.shape == (2, 3, 24, 24)
            assert bool(x.isfinite().all())


def test_all_methods_of_the_ablation_run_on_loaded_networks(models: Path) -> None:
    (networks,) = load_networks(models).values()
    results = [
        next(iterate(method, problem("inpaint-20"), networks, begin(method, "inpaint-20")))
        for method in ABLATION
    ]
    assert all(bool(x.isfinite().all()) for x in results)
    assert not any(torch.equal(a, b) for k, a in enumerate(results) for b in results[:k])


def test_a_missing_denoiser_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pretrain/denoiser\.safetensors: no such weights file"):
        load_networks(tmp_path)


def test_a_file_of_the_wrong_kind_is_named(models: Path) -> None:
    save_network(denoiser(5), models / "train_reg" / "fixed" / "0" / "regularizer.safetensors")
    with pytest.raises(InputError, match=r"fixed/0/regularizer\.safetensors: holds a den"):
        load_networks(models)
