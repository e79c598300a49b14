from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reg.errors import InputError
from reg.iterations import noise_levels, pnp_admm, pnp_gd, red_gd
from reg.methods import (
    ABLATION,
    METHODS,
    Networks,
    begin,
    canonical,
    iterate,
    load_networks,
    method_named,
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

    return Networks(
        {"original": denoiser, "updated": updated},
        {"updated": lambda x: strength * x, "fixed": lambda x: 3 * strength * x},
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
    ],
)
def test_the_usual_arm_is_left_out(method: str, name: str) -> None:
    assert canonical(method) == name
    assert canonical(name) == name


def test_the_ablation_compares_two_arms_of_two_methods() -> None:
    kinds = [method.partition("@")[0] for method in ABLATION]
    assert sorted(kinds) == ["pnp-admm", "pnp-admm", "pnp-gd", "pnp-gd"]
    assert len({canonical(method) for method in ABLATION}) == 4


@pytest.mark.parametrize("method", ["", "pnp", "PnP-GD", "pnp-gd ", "pnp_gd", "@updated"])
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
        next(iterate(method, problem(), NETWORKS, begin(method, "inpaint-20")))


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
def test_pnp_gd_takes_noise_levels_of_255_and_the_curvature_of_g(task: str) -> None:
    p = problem(task)
    sigma, curvature = 12.0, 50.0
    for method, arm in [("pnp-gd", "updated"), ("pnp-gd@fixed", "fixed")]:
        expected = pnp_gd(
            p,
            NETWORKS.regularizers[arm],
            sigma=sigma / 255,
            step=1 / ((sigma / 255) ** 2 * curvature),
            descent="spectral",
        )
        found = after(method, p, {"sigma": sigma, "curvature": curvature})
        torch.testing.assert_close(found, next(islice(expected, 4, None)))


@pytest.mark.parametrize("task", TASKS)
def test_pnp_gd_is_stable_up_to_twice_the_curvature(task: str) -> None:
    # The step is 1/(σ²·curvature): with G(x) = c·x it converges if the curvature exceeds c/2.
    p, sigma = problem(task), 40.0
    c = 20.0
    stable = after("pnp-gd", p, {"sigma": sigma, "curvature": 0.55 * c}, 400)
    longer = after("pnp-gd", p, {"sigma": sigma, "curvature": 0.55 * c}, 401)
    torch.testing.assert_close(stable, longer, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_red_is_the_fixed_point_strategy_with_its_weight(task: str) -> None:
    p, weight, sigma = problem(task), 0.2, 15.0
    expected = red_gd(
        p,
        NETWORKS.denoisers["original"],
        weight=weight,
        sigma=sigma / 255,
        step=1 / weight,
        descent="spectral",
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
    for arm in METHODS[method].arms:
        assert begin(f"{method}@{arm}", task) == parameters


@every_method
def test_nothing_is_drawn_at_random(method: str) -> None:
    p, parameters = problem("inpaint-20"), begin(method, "inpaint-20")
    assert torch.equal(after(method, p, parameters), after(method, p, parameters))


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
        folder = tmp_path / "train_reg" / arm
        save_network(denoiser(k), folder / "denoiser.safetensors")
        save_network(regularizer(10 + k), folder / "regularizer.safetensors")
    return tmp_path


def test_networks_are_loaded_by_their_arms(models: Path) -> None:
    networks = load_networks(models)
    assert set(networks.denoisers) == {"original", "updated", "fixed"}
    assert set(networks.regularizers) == {"updated", "fixed"}
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for k, arm in enumerate(("original", "updated", "fixed")):
            torch.testing.assert_close(networks.denoisers[arm](x, 0.1), denoiser(k)(x, 0.1))
        for k, arm in enumerate(("updated", "fixed"), start=11):
            torch.testing.assert_close(networks.regularizers[arm](x), regularizer(k)(x))


def test_loaded_networks_are_frozen(models: Path) -> None:
    networks = load_networks(models)
    for network in (*networks.denoisers.values(), *networks.regularizers.values()):
        assert isinstance(network, Denoiser | Regularizer)
        assert not any(weight.requires_grad for weight in network.parameters())


def test_all_methods_of_the_ablation_run_on_loaded_networks(models: Path) -> None:
    networks = load_networks(models)
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
    save_network(denoiser(5), models / "train_reg" / "fixed" / "regularizer.safetensors")
    with pytest.raises(InputError, match=r"train_reg/fixed/regularizer\.safetensors: holds a den"):
        load_networks(models)
