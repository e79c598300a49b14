import math
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reg.diagnostics import (
    COLUMNS,
    PAIRS,
    Effort,
    Jacobian,
    alignment,
    asymmetry,
    diagnose,
    jacobian,
    last_input,
    map_residual,
    spectral_norm,
)
from reg.iterations import Gradient
from reg.methods import Networks
from reg.networks import Denoiser, Regularizer, for_inference, initialise
from reg.problems import make_problem

SIDE = 4
KEYS = count()
PIXELS = 3 * SIDE**2
CHOSEN = {
    "deblur-k5-2.55": {"pnp-gd": {"sigma": 5.1, "curvature": 3.0}},
    "inpaint-20": {
        "pnp-gd": {"sigma": 4.0, "curvature": 2.0},
        "pnp-gd@fixed": {"sigma": 8.0, "curvature": 4.0},
        "pnp-admm": {"sigma": 1.0, "level": 20.0},
        "pnp-admm@updated": {"sigma": 2.0, "level": 10.0},
    },
}


def draw(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def images(count: int = 2) -> Tensor:
    return draw(count, 3, SIDE, SIDE)


def linear(M: Tensor) -> Callable[[Tensor], Tensor]:
    """x ↦ Mx of every image as a vector."""
    return lambda x: (x.flatten(1) @ M.T).view_as(x)


def by_matrix(M: Tensor) -> Jacobian:
    return Jacobian(linear(M), linear(M.T))


def rotations() -> Tensor:
    """K with Kᵀ = −K and KKᵀ = I: quarter turns of pairs of pixels."""
    return torch.block_diag(*[torch.tensor([[0.0, -1.0], [1.0, 0.0]])] * (PIXELS // 2)).double()


def orthogonal(seed: int) -> Tensor:
    return torch.linalg.qr(draw(PIXELS, PIXELS, seed=seed)).Q


# --- products ----------------------------------------------------------------------------------


def test_products_are_those_of_the_jacobian_of_each_image() -> None:
    M, x = draw(PIXELS, PIXELS, seed=1) / 10, images()

    def function(x: Tensor) -> Tensor:
        return torch.tanh(linear(M)(x)) + 0.3 * x**2

    J, v = jacobian(function, x), draw(2, 3, SIDE, SIDE, seed=2)
    for i in range(2):
        one = x[i : i + 1]
        exact = torch.autograd.functional.jacobian(function, one).reshape(PIXELS, PIXELS)
        torch.testing.assert_close(J.times(v)[i].flatten(), exact @ v[i].flatten())
        torch.testing.assert_close(J.transposed_times(v)[i].flatten(), exact.T @ v[i].flatten())
        mixed = 2 * torch.eye(PIXELS) - 3 * exact
        combined = J.combined(2, -3)
        torch.testing.assert_close(combined.times(v)[i].flatten(), mixed @ v[i].flatten())
        torch.testing.assert_close(
            combined.transposed_times(v)[i].flatten(), mixed.T @ v[i].flatten()
        )


def test_a_frozen_network_without_gradients_has_a_jacobian() -> None:
    denoiser = Denoiser((4, 4, 8, 8), 1).double()
    initialise(denoiser, torch.Generator().manual_seed(0))
    for_inference(denoiser)
    x, v, w = (draw(2, 3, 16, 24, seed=seed) for seed in range(3))
    with torch.no_grad():
        J = jacobian(lambda z: denoiser(z, 0.1), x)
        Jv = J.times(v)
        step = 1e-6  # the network is piecewise linear: exact unless the step crosses an edge
        difference = (denoiser(x + step * v, 0.1) - denoiser(x - step * v, 0.1)) / (2 * step)
    torch.testing.assert_close(Jv, difference, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close((Jv * w).sum(), (v * J.transposed_times(w)).sum())
    assert not Jv.requires_grad


# --- asymmetry ---------------------------------------------------------------------------------


@pytest.mark.parametrize("b", [0.0, 0.25, 1.0, 3.0])
def test_asymmetry_of_a_scaled_rotation_is_exact_with_one_probe(b: float) -> None:
    # J = 2I + bK: J − Jᵀ = 2bK, J + Jᵀ = 4I, and |Kv| = |v| for every probe.
    J = by_matrix(2 * torch.eye(PIXELS).double() + b * rotations())
    torch.testing.assert_close(
        asymmetry(J, images(), 1, 0), torch.full((2,), b / 2, dtype=torch.float64)
    )


def test_asymmetry_of_symmetric_and_antisymmetric_maps() -> None:
    M = draw(PIXELS, PIXELS, seed=1)
    assert asymmetry(by_matrix(M + M.T), images(), 3, 0).max() < 1e-14
    assert asymmetry(by_matrix(M - M.T), images(), 3, 0).min() > 1e14


def test_asymmetry_of_a_general_map_is_that_of_its_frobenius_norms() -> None:
    M = torch.eye(PIXELS) + draw(PIXELS, PIXELS, seed=1) / 5
    exact = torch.linalg.norm(M - M.T) / torch.linalg.norm(M + M.T)
    found = asymmetry(by_matrix(M), images(1), 2000, 0)
    assert found.item() == pytest.approx(exact.item(), rel=0.02)


def test_a_gradient_is_told_from_a_field_that_is_none() -> None:
    M, x = draw(PIXELS, PIXELS, seed=1) / 5, images()
    gradient = jacobian(lambda z: linear(M.T)(torch.tanh(linear(M)(z))), x)  # of Σ log cosh(Mz)
    other = jacobian(lambda z: torch.tanh(linear(M)(z)), x)
    assert asymmetry(gradient, x, 4, 0).max() < 1e-12
    assert asymmetry(other, x, 4, 0).min() > 0.5


# --- norms -------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), decay=st.floats(0.3, 0.95), scale=st.floats(1e-3, 1e3))
def test_spectral_norm_is_the_largest_singular_value(seed: int, decay: float, scale: float) -> None:
    values = scale * decay ** torch.arange(PIXELS).double()
    J = by_matrix(orthogonal(seed) @ torch.diag(values) @ orthogonal(seed + 1))
    found = [spectral_norm(J, images(1), n, seed).item() for n in (1, 3, 12, PIXELS)]
    assert found[-1] == pytest.approx(scale, rel=1e-9)
    assert found[-2] == pytest.approx(scale, rel=0.02)
    assert all(b >= a * (1 - 1e-12) for a, b in pairwise(found))


def test_norms_beyond_the_dimension_and_of_few_values_stay_exact() -> None:
    # JᵀJ has two different eigenvalues: what is left after two iterates is rounding error.
    values = torch.cat([torch.full((5,), 2.0), torch.ones(PIXELS - 5)]).double()
    J = by_matrix(orthogonal(0) @ torch.diag(values) @ orthogonal(1))
    assert spectral_norm(J, images(1), PIXELS + 20, 0).item() == pytest.approx(2, rel=1e-12)
    assert spectral_norm(by_matrix(torch.zeros(PIXELS, PIXELS).double()), images(), 3, 0).max() == 0


def test_images_of_a_batch_have_norms_and_asymmetries_of_their_own() -> None:
    x = torch.stack([torch.full((3, SIDE, SIDE), c) for c in (0.1, 1.0, 2.0)]).double()
    K = rotations()
    J = jacobian(lambda z: z**2 / 2 + linear(K)(z), x)  # Jacobian cI + K
    torch.testing.assert_close(asymmetry(J, x, 1, 0), 1 / x[:, 0, 0, 0])
    torch.testing.assert_close(spectral_norm(J, x, 5, 0), (x[:, 0, 0, 0] ** 2 + 1).sqrt())
    alone = jacobian(lambda z: z**2 / 2 + linear(K)(z), x[1:2])
    torch.testing.assert_close(spectral_norm(J, x, 5, 0)[1:2], spectral_norm(alone, x[:1], 5, 0))


def test_a_diverged_point_has_no_norm_and_spoils_no_other() -> None:
    x = images(2)
    x[0] = torch.inf
    found = spectral_norm(jacobian(lambda z: z**2 / 2, x), x, PIXELS, 0)
    assert found[0].isnan()
    assert found[1].item() == pytest.approx(x[1].abs().max().item())


def test_the_seed_decides_the_probes() -> None:
    J = by_matrix(draw(PIXELS, PIXELS, seed=1))
    for estimate in (asymmetry, spectral_norm):
        assert torch.equal(estimate(J, images(), 2, 3), estimate(J, images(), 2, 3))
        assert not torch.equal(estimate(J, images(), 2, 3), estimate(J, images(), 2, 4))


# --- the MAP residual ----------------------------------------------------------------------------


def test_an_exact_map_pair_has_no_residual() -> None:
    # φ(x) = a/2 ‖x‖²: G = a·x, and its MAP denoiser is z/(1 + aσ²).
    a, z = 30.0, images()

    def denoiser(z: Tensor, sigma: float) -> Tensor:
        return z / (1 + a * sigma**2)

    for sigma in (0.02, 0.2):
        assert map_residual(denoiser, lambda x: a * x, z, sigma).max() < 1e-12
        # linear in the error of G: twice the slope leaves all of z − D(z), none leaves it too
        for slope in (0.0, 2 * a):
            found = map_residual(denoiser, lambda x, s=slope: s * x, z, sigma)  # type: ignore[misc]
            torch.testing.assert_close(found, torch.ones(2).double())


# --- where PnP-ADMM ends -------------------------------------------------------------------------


def test_the_alignment_is_the_cosine_between_g_and_what_d_removes() -> None:
    z = torch.zeros(2, 3, 4, 4).double()
    z[:, 0] = 1.0

    def halve(z: Tensor, sigma: float) -> Tensor:
        return z / 2

    def turned(angle: float) -> Gradient:  # from the first channel to the second
        weights = torch.tensor([math.cos(angle), math.sin(angle), 0.0]).double().view(3, 1, 1)
        return lambda x: 7 * weights * x[:, :1]

    for angle in (0.0, 1.0, math.pi / 2, math.pi):
        found = alignment(halve, turned(angle), z, 0.1)
        torch.testing.assert_close(found, torch.full((2,), math.cos(angle)).double())


@pytest.mark.parametrize("task", ["deblur-k1-2.55", "sr-x2-2.55", "inpaint-20"])
def test_what_d_removes_where_admm_ends_is_what_the_data_ask_for(task: str) -> None:
    truth = 0.3 + 0.4 * torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    problem = make_problem(task, truth.double(), ["a", "b"], 0)
    parameters = {"sigma": 20.0, "level": 40.0}
    z, s = last_input("pnp-admm-unbounded", problem, quadratics(), parameters, 400)
    x = prox(4.0)(z, s)
    assert s == 40 / 255
    asked = -((40 / 20) ** 2) * problem.data_term.gradient(x)
    torch.testing.assert_close(z - x, asked, rtol=1e-9, atol=1e-12)
    # and, D being the prox that belongs to 4x, a stationary point of PnP-GD
    slope = problem.data_term.gradient(x) + (20 / 255) ** 2 * 4 * x
    assert slope.abs().max() < 1e-12


def test_alignments_are_measured_where_both_methods_are_tuned() -> None:
    found = table(quadratics())
    aligned = found[found["quantity"].str.startswith("alignment")]
    about = aligned[["quantity", "pair", "at", "sigma"]]
    assert set(about.itertuples(index=False, name=None)) == {
        ("alignment_original", "fixed", "inpaint-20", 1.0),
        ("alignment_original", "updated", "inpaint-20", 1.0),
        ("alignment_updated", "updated", "inpaint-20", 2.0),
    }
    # G is a multiple of what D removes, whatever multiple
    np.testing.assert_allclose(aligned["value"], 1.0, rtol=1e-5)


# --- the table -----------------------------------------------------------------------------------


def prox(a: float) -> Callable[[Tensor, float], Tensor]:
    return lambda z, sigma: z / (1 + a * sigma**2)


def quadratics() -> Networks:
    """Pairs of closed form: `updated` is exact with φ = 2‖x‖², G of `fixed` is half as steep."""
    return Networks(
        {"original": prox(4.0), "updated": prox(4.0)},
        {"fixed": lambda x: 2.0 * x, "updated": lambda x: 4.0 * x},
    )


def table(networks: Networks, seed: int = 0, names: str = "ab", key: str = "") -> pd.DataFrame:
    size = (1, 3, 24, 24)
    shown = {
        name: torch.rand(size, generator=torch.Generator().manual_seed(ord(name))) for name in names
    }
    return diagnose(
        shown,
        networks,
        CHOSEN,
        sigmas=[15, 50],
        iterations=3,
        effort=Effort(probes=2, power_iterations=3, seed=seed),
        precision="fp32",
        key=key or f"another {next(KEYS)}",
    )


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what is finished is kept below the working folder


def test_finished_pairs_are_kept() -> None:
    first = table(quadratics(), key="same")
    pd.testing.assert_frame_equal(table(Networks(), key="same"), first)


def test_the_table_of_pairs_with_closed_forms() -> None:
    found = table(quadratics())
    assert list(found.columns) == COLUMNS
    assert not found.duplicated(COLUMNS[:-1]).any()
    by = found.set_index(["quantity", "pair"]).sort_index()
    near = pytest.approx
    for pair, L in (("fixed", 2.0), ("updated", 4.0)):
        assert by.loc[("norm_G", pair), "value"].to_numpy() == near(L, rel=1e-5)
        assert by.loc[("map_residual", pair), "value"].to_numpy() == near(1 - L / 4, abs=1e-4)
        for letter in "GD":
            assert by.loc[(f"asymmetry_{letter}", pair), "value"].max() < 1e-6
        bound = by.loc[("curvature_bound", pair), "value"]
        assert bound.to_numpy() == near(L * 2.6 / 3.6, rel=1e-5)  # L(1 + 2β)/(2(1 + β)), β = 0.8
        norms = by.loc[("norm_D", pair)]
        D = 1 / (1 + 4 * (norms["sigma"] / 255) ** 2)
        assert norms["value"].to_numpy() == near(D.to_numpy(), rel=1e-5)
        assert by.loc[("norm_I-D", pair), "value"].to_numpy() == near(1 - D.to_numpy(), rel=1e-3)
        assert by.loc[("norm_2D-I", pair), "value"].to_numpy() == near(2 * D.to_numpy() - 1)
        assert set(by.loc[("norm_G", pair), "at"]) >= {"clean", "inpaint-20"}
        assert set(by.loc[("asymmetry_G", pair), "sigma_0"]) == {0, 15, 50}


def test_steps_are_those_that_were_tuned_for_the_pair() -> None:
    found = table(quadratics())
    steps = found[found["quantity"] == "curvature"].drop_duplicates(["pair", "at"])
    used = {(r.pair, r.at): (r.sigma, r.value) for r in steps.itertuples()}
    assert used == {
        ("fixed", "inpaint-20"): (8.0, 4.0),
        ("updated", "deblur-k5-2.55"): (5.1, 3.0),
        ("updated", "inpaint-20"): (4.0, 2.0),
    }
    plain = found[(found["quantity"] == "plain_step_bound") & (found["at"] == "inpaint-20")]
    bound = 2 / (1 + (1 / 255) ** 2 * 2.0)  # a mask has norm 1, and there is no noise
    assert plain.loc[plain["pair"] == "fixed", "value"].to_numpy() == pytest.approx(bound)
    used = found[(found["quantity"] == "plain_step") & (found["at"] == "inpaint-20")]
    step = 1.4 / (1 + (1 / 255) ** 2 * 4.0)  # of the curvature in use
    assert used.loc[used["pair"] == "fixed", "value"].to_numpy() == pytest.approx(step)


def test_the_grid_is_complete_and_the_pairs_see_the_same() -> None:
    found = table(quadratics())
    grid = found[found["quantity"] == "map_residual"]
    assert len(grid) == len(PAIRS) * 2 * 2 * 2  # images, σ, σ₀
    assert grid.groupby(["sigma", "sigma_0"]).size().tolist() == [4] * 4


def network_pairs() -> Networks:
    denoiser, regularizer = Denoiser((4, 4, 8, 8), 1), Regularizer((4, 4, 8, 8), 1)
    for seed, network in enumerate((denoiser, regularizer)):
        initialise(network, torch.Generator().manual_seed(seed))
        for_inference(network)
    return Networks(
        {"original": denoiser, "updated": denoiser}, {"fixed": regularizer, "updated": regularizer}
    )


def test_the_table_repeats_and_does_not_depend_on_the_batch() -> None:
    networks = network_pairs()
    first = table(networks)
    pd.testing.assert_frame_equal(first, table(networks))
    assert first["value"].isin([math.inf, -math.inf]).sum() == 0
    alone = table(networks, names="b")
    same = first[first["image"] == "b"].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, alone, rtol=1e-4)
    other = table(networks, seed=1)
    assert not other["value"].equals(first["value"])


def test_an_iterate_that_is_not_finite_leaves_a_gap() -> None:
    networks = quadratics()
    broken = Networks(
        networks.denoisers, {**networks.regularizers, "updated": lambda x: x * math.nan}
    )
    found = table(broken)
    of_updated = found[(found["pair"] == "updated") & (found["at"] == "inpaint-20")]
    values = of_updated.groupby("quantity")["value"]
    assert values.get_group("norm_G").isna().all()
    assert values.get_group("curvature").tolist() == [2.0, 2.0]
    rest = found[(found["pair"] == "fixed")]
    assert rest["value"].notna().all()
