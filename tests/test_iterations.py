import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from itertools import count, islice, pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import reg
from reg.gradient_step import GradientStepDenoiser
from reg.iterations import (
    MOMENTUM,
    TRIED_STEPS,
    UNBOUNDED,
    DenoiserFunction,
    PotentialAndGradient,
    curvature_bound,
    gs_pnp,
    image_gradient,
    image_gradient_adjoint,
    noise_levels,
    pnp_admm,
    pnp_gd,
    pnp_hqs,
    pnp_pgd,
    red_gd,
    settle,
    total_variation,
)
from reg.networks import for_inference, initialise
from reg.operators import (
    Blur,
    Denoising,
    Downsampling,
    Inpainting,
    Operator,
    gaussian_kernel_from,
)
from reg.problems import Problem

few = settings(max_examples=8)
HEIGHT, WIDTH = 6, 8
C = 1.5  # φ(x) = C/2 ‖x‖²
SIGMA = 0.6


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OPERATORS: dict[str, Operator] = {
    "blur": Blur(gaussian_kernel_from((1.2, 0.6), 30.0, size=5)),
    "inpainting": Inpainting(rand(1, 1, HEIGHT, WIDTH, seed=8) < 0.2),
    "sr": Downsampling(2),
}
every_operator = pytest.mark.parametrize("name", OPERATORS)


def problem(name: str, seed: int = 1) -> Problem:
    """Two noisy colour images; the start is nowhere near a solution."""
    operator, truth = OPERATORS[name], rand(2, 3, HEIGHT, WIDTH, seed=seed)
    y = operator.A(truth)
    y = y + 0.1 * rand(*y.shape, seed=seed + 1)
    return Problem(name, operator, y, 0.1, 2 * rand(2, 3, HEIGHT, WIDTH, seed=seed + 2), truth)


def matrix(operator: Operator) -> Tensor:
    """A for one channel, a column for each pixel."""
    basis = torch.eye(HEIGHT * WIDTH, dtype=torch.float64).reshape(-1, 1, HEIGHT, WIDTH)
    return operator.A(basis).flatten(1).T


def minimiser(p: Problem, weight: float, scale: float = 1.0) -> Tensor:
    """(scale·AᵀA + weight)⁻¹Aᵀy by dense algebra."""
    A = matrix(p.operator)
    normal = scale * A.T @ A + weight * torch.eye(HEIGHT * WIDTH, dtype=torch.float64)
    b = A.T @ p.y.flatten(0, 1).flatten(1).T
    return torch.linalg.solve(normal, b).T.reshape(2, 3, HEIGHT, WIDTH)


def after(iterates: Iterator[Tensor], count: int) -> Tensor:
    return next(islice(iterates, count - 1, None))


def regularizer(x: Tensor) -> Tensor:
    return C * x


def denoiser(z: Tensor, s: float) -> Tensor:
    """prox_{s²φ}: the exact MAP denoiser that belongs to `regularizer`."""
    return z / (1 + C * s**2)


def close(x: Tensor, expected: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(x, expected, rtol=0, atol=atol)


# --- fixed points on a quadratic, where they are known -------------------------------------


@every_operator
def test_data_gradient_is_the_gradient_of_the_data_term(name: str) -> None:
    p = problem(name)
    x = p.start.clone().requires_grad_()
    value = p.data_term.value(x)
    assert value.shape == (2,)
    for k in range(2):
        close(value[k], 0.5 * (p.operator.A(x[k : k + 1]) - p.y[k]).square().sum())
    (expected,) = torch.autograd.grad(value.sum(), x)
    close(p.data_term.gradient(p.start), expected)


@every_operator
@pytest.mark.parametrize("descent", ["plain", "spectral", "accelerated"])
def test_pnp_gd_reaches_the_minimiser(name: str, descent: str) -> None:
    p = problem(name)
    lipschitz = (p.operator.norm(HEIGHT, WIDTH) ** 2 if descent == "plain" else 0) + SIGMA**2 * C
    iterates = pnp_gd(p, regularizer, sigma=SIGMA, step=1 / lipschitz, descent=descent)
    close(after(iterates, 150), minimiser(p, SIGMA**2 * C))


@every_operator
def test_pnp_gd_by_adam_reaches_the_minimiser(name: str) -> None:
    p = problem(name)
    iterates = pnp_gd(p, regularizer, sigma=SIGMA, step=0.02, descent="adam")
    # A constant rate ends in oscillations much smaller than it, and slowly.
    close(after(iterates, 1500), minimiser(p, SIGMA**2 * C), atol=0.005)


@every_operator
@pytest.mark.parametrize("descent", ["plain", "spectral", "accelerated"])
def test_red_reaches_the_minimiser(name: str, descent: str) -> None:
    # x − D_s(x) = Cs²/(1 + Cs²)·x
    p, s, weight = problem(name), 0.8, 1.3
    strength = weight * C * s**2 / (1 + C * s**2)
    lipschitz = (p.operator.norm(HEIGHT, WIDTH) ** 2 if descent == "plain" else 0) + strength
    iterates = red_gd(p, denoiser, weight=weight, sigma=s, step=1 / lipschitz, descent=descent)
    close(after(iterates, 150), minimiser(p, strength))


@every_operator
@pytest.mark.parametrize(
    "levels",
    [(0.5, 0.5, 1), (1.5, 0.5, 20), (0.2, 0.8, 10)],
    ids=["fixed", "decreasing", "increasing"],
)
def test_pnp_admm_reaches_the_minimiser_whatever_the_levels(
    name: str, levels: tuple[float, float, int]
) -> None:
    p = problem(name)
    iterates = pnp_admm(p, denoiser, sigma=SIGMA, levels=noise_levels(*levels))
    close(after(iterates, 400), minimiser(p, SIGMA**2 * C))


@every_operator
def test_pnp_hqs_reaches_the_minimiser_of_its_penalty(name: str) -> None:
    # Its fixed point minimises f(x) + σ²φ(z) + ρ/2 ‖x − z‖² with ρ = σ²/s² of the last level;
    # there (1 + Cs²)z = x, so ((1 + Cs²)AᵀA + Cσ²)z = Aᵀy.
    p, distances = problem(name), []
    for last in (0.8, 0.4, 0.2):
        iterates = pnp_hqs(p, denoiser, sigma=SIGMA, levels=noise_levels(2.0, last, 20))
        z = after(iterates, 600)
        close(z, minimiser(p, SIGMA**2 * C, scale=1 + C * last**2))
        distances.append(float((z - minimiser(p, SIGMA**2 * C)).norm()))
    # As s falls the penalty grows, and z tends to the minimiser of f + σ²φ like s².
    assert all(0 < finer < 0.4 * coarser for coarser, finer in pairwise(distances))


@every_operator
def test_pnp_pgd_reaches_the_minimiser_for_its_step(name: str) -> None:
    # D_s = prox_{s²φ} and a step μ of f: proximal gradient on f + (s²/μ)φ.
    p, s = problem(name), 0.7
    step = 1 / p.operator.norm(HEIGHT, WIDTH) ** 2
    iterates = pnp_pgd(p, denoiser, sigma=s, step=step)
    close(after(iterates, 200), minimiser(p, s**2 * C / step))


# --- how long a step may be ------------------------------------------------------------------


def uneven(largest: float) -> Callable[[Tensor], Tensor]:
    """G of φ(x) = ½ Σ c x² with c from a tenth of `largest` up to it, in an order of its own."""
    pixels = 3 * HEIGHT * WIDTH
    curvatures = torch.linspace(largest / 10, largest, pixels, dtype=torch.float64)
    order = torch.randperm(pixels, generator=torch.Generator().manual_seed(2))
    return lambda x: curvatures[order].view(1, 3, HEIGHT, WIDTH) * x


def last_changes(p: Problem, g: Callable[[Tensor], Tensor], c: float, descent: str) -> float:
    """How far apart the iterates 1500 and 1501 are, with the step 1/(σ²c)."""
    iterates = pnp_gd(p, g, sigma=SIGMA, step=1 / (SIGMA**2 * c), descent=descent)
    one, other = islice(iterates, 1499, 1501)
    return float((other - one).norm())


def test_the_bound_of_the_momentum_is_that_of_its_characteristic_polynomial() -> None:
    # λ² − (1 − h)((1 + β)λ − β) has its roots in the unit disc until h = L/c = L/bound.
    bound = float(curvature_bound(torch.tensor(3.0, dtype=torch.float64)))
    for h, stable in ((0.999 * 3 / bound, True), (1.001 * 3 / bound, False)):
        b = (1 - h) * (1 + MOMENTUM)
        companion = torch.tensor([[b, -(1 - h) * MOMENTUM], [1.0, 0.0]], dtype=torch.float64)
        assert bool(torch.linalg.eigvals(companion).abs().max() < 1) is stable


@pytest.mark.parametrize("largest", [0.5, 40.0])
def test_where_a_sees_nothing_the_bound_is_sharp(largest: float) -> None:
    # Most pixels are holes, so that the largest curvature is that of a hole.
    p, g = problem("inpainting"), uneven(largest)
    hole = ~OPERATORS["inpainting"].mask.expand(1, 3, HEIGHT, WIDTH)  # type: ignore[attr-defined]
    L = g(torch.ones(1, 3, HEIGHT, WIDTH, dtype=torch.float64))[hole].max()
    bound = float(curvature_bound(L))
    assert last_changes(p, g, 1.01 * bound, "accelerated") < 1e-9
    assert last_changes(p, g, 0.99 * bound, "accelerated") > 1e3
    assert last_changes(p, g, 1.01 * float(L) / 2, "spectral") < 1e-9
    assert last_changes(p, g, 0.99 * float(L) / 2, "spectral") > 1e3


@every_operator
def test_above_the_bound_momentum_converges_for_every_operator(name: str) -> None:
    g = uneven(40.0)
    bound = float(curvature_bound(torch.tensor(40.0, dtype=torch.float64)))
    for c in (1.01 * bound, 10 * bound):
        assert last_changes(problem(name), g, c, "accelerated") < 1e-9


def test_momentum_carries_information_into_holes_faster() -> None:
    # φ = ½‖∇x‖² fills holes by diffusion, which without momentum takes many more iterations.
    p = problem("inpainting")

    def g(x: Tensor) -> Tensor:
        return image_gradient_adjoint(image_gradient(x))

    errors = {}
    for descent in ("spectral", "accelerated"):
        iterates = list(islice(pnp_gd(p, g, sigma=1.0, step=1 / 8, descent=descent), 2000))
        errors[descent] = [float((x - iterates[-1]).norm()) for x in iterates]
    needed = {name: sum(error > 1e-3 for error in found) for name, found in errors.items()}
    assert needed["accelerated"] < needed["spectral"] / 2


# --- bounds --------------------------------------------------------------------------------

every_descent = pytest.mark.parametrize("descent", ["plain", "adam", "spectral", "accelerated"])


def bounded(
    p: Problem, g: Callable[[Tensor], Tensor], descent: str, bounds: tuple[float, float]
) -> Iterator[Tensor]:
    step = {"plain": 0.4, "adam": 0.02}.get(descent, 1.0)
    return pnp_gd(p, g, sigma=SIGMA, step=step, descent=descent, bounds=bounds)


@every_operator
@every_descent
def test_every_iterate_is_within_the_bounds(name: str, descent: str) -> None:
    p, low, high = problem(name), 0.3, 0.6
    for x in islice(bounded(p, bent, descent, (low, high)), 20):
        assert low <= x.min() < x.max() <= high


@every_operator
@every_descent
def test_bounds_that_nothing_reaches_change_nothing(name: str, descent: str) -> None:
    p = problem(name)
    found, free = (after(bounded(p, bent, descent, each), 20) for each in ((-20, 20), UNBOUNDED))
    assert torch.equal(found, free)


@every_operator
@pytest.mark.parametrize("method", ["admm", "hqs"])
def test_splitting_methods_clamp_what_the_denoiser_gives(name: str, method: str) -> None:
    # The same as a denoiser whose values are clamped.
    p, bounds = problem(name), (0.3, 0.6)

    def run(d: DenoiserFunction, bounds: tuple[float, float]) -> list[Tensor]:
        levels = noise_levels(1.0, 0.5, 5)
        iterates = {
            "admm": lambda: pnp_admm(p, d, sigma=SIGMA, levels=levels, bounds=bounds),
            "hqs": lambda: pnp_hqs(p, d, sigma=SIGMA, levels=levels, bounds=bounds),
        }[method]()
        return list(islice(iterates, 10))

    clamped = run(lambda z, s: denoiser(z, s).clamp(*bounds), UNBOUNDED)
    for x, wanted in zip(run(denoiser, bounds), clamped, strict=True):
        assert torch.equal(x, wanted)
    assert clamped[-1].min() == 0.3


@every_operator
def test_the_plain_step_minimises_over_the_box(name: str) -> None:
    # There the projected gradient vanishes: x = P(x − ∇F(x)).
    p, bounds = problem(name), (-0.1, 0.2)
    x = after(bounded(p, regularizer, "plain", bounds), 1500)
    slope = p.data_term.gradient(x) + SIGMA**2 * regularizer(x)
    close(x, (x - slope).clamp(*bounds))
    assert 0.05 < ((x == -0.1) | (x == 0.2)).double().mean() < 0.95  # bounds are reached


@pytest.mark.parametrize("descent", ["spectral", "accelerated"])
def test_with_a_mask_the_spectral_step_minimises_over_the_box(descent: str) -> None:
    # All is pixelwise, so that the minimiser over the box is the clamped one.
    p, bounds = problem("inpainting"), (0.1, 0.4)
    found = after(bounded(p, regularizer, descent, bounds), 300)
    close(found, minimiser(p, SIGMA**2 * C).clamp(*bounds))


@pytest.mark.parametrize("method", ["pnp-gd", "red"])
def test_bounds_hold_what_a_network_would_carry_away(method: str) -> None:
    # It denoises within [0,1], and pushes what has left it further out.
    def slope(x: Tensor) -> Tensor:
        return torch.where((x < 0) | (x > 1), -5 * x, x - 0.5)

    def last(bounds: tuple[float, float]) -> Tensor:
        how = {"step": 0.5, "descent": "accelerated", "bounds": bounds}
        if method == "pnp-gd":
            return after(pnp_gd(p, slope, sigma=1.0, **how), 200)
        return after(red_gd(p, lambda x, s: x - slope(x), weight=1.0, sigma=0.1, **how), 200)

    p = problem("inpainting")
    hole = ~p.operator.mask.expand_as(p.start)  # type: ignore[attr-defined]
    assert not last(UNBOUNDED)[hole].abs().max() < 1e9
    close(last((0, 1))[hole], torch.full_like(p.start[hole], 0.5))


# --- single steps --------------------------------------------------------------------------


def bent(x: Tensor) -> Tensor:
    """A nonlinear G: the gradient of Σ √(1 + x²)."""
    return x / (1 + x.square()).sqrt()


@every_operator
def test_first_steps_are_the_published_equations(name: str) -> None:
    p, mu, s = problem(name), 0.3, 0.4
    x, A, At = p.start, p.operator.A, p.operator.A_adjoint
    gradient = At(A(x) - p.y)
    close(next(pnp_gd(p, bent, sigma=SIGMA, step=mu)), x - mu * (gradient + SIGMA**2 * bent(x)))
    red = red_gd(p, denoiser, weight=2.0, sigma=s, step=mu)
    close(next(red), x - mu * (gradient + 2.0 * (x - denoiser(x, s))))
    close(next(pnp_pgd(p, denoiser, sigma=s, step=mu)), denoiser(x - mu * gradient, s))
    gamma = s**2 / SIGMA**2
    restored = denoiser(p.operator.prox_l2(x, p.y, gamma), s)
    close(next(pnp_hqs(p, denoiser, sigma=SIGMA, levels=iter([s]))), restored)
    close(next(pnp_admm(p, denoiser, sigma=SIGMA, levels=iter([s]))), restored)


@few
@given(
    name=st.sampled_from(sorted(OPERATORS)),
    step=st.floats(0.01, 100),
    sigma=st.floats(0, 2),
    seed=st.integers(0, 99),
)
def test_a_spectral_step_is_a_proximal_gradient_step(
    name: str, step: float, sigma: float, seed: int
) -> None:
    # x − (AᵀA + 1/μ)⁻¹(Aᵀ(Ax − y) + σ²G(x)) = prox_{μf}(x − μσ²G(x)), for any G. The inverse is
    # taken as the prox of measurements that are 0: prox_l2(g, 0, μ) = (μAᵀA + 1)⁻¹g.
    p = problem(name, seed)
    x, A, nothing = p.start, p.operator, torch.zeros_like(p.y)
    for moved in islice(pnp_gd(p, bent, sigma=sigma, step=step, descent="spectral"), 3):
        gradient = A.A_adjoint(A.A(x) - p.y) + sigma**2 * bent(x)
        expected = x - step * A.prox_l2(gradient, nothing, step)
        torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-9)
        x = moved


@every_operator
def test_spectral_red_with_step_one_over_weight_is_its_fixed_point_strategy(name: str) -> None:
    # Romano, Elad & Milanfar: (AᵀA + w)x_{k+1} = Aᵀy + w·D(x_k).
    p, weight = problem(name), 0.7
    x = p.start
    method = red_gd(p, denoiser, weight=weight, sigma=0.4, step=1 / weight, descent="spectral")
    A = p.operator
    for moved in islice(method, 3):
        left = A.A_adjoint(A.A(moved)) + weight * moved
        close(left, A.A_adjoint(p.y) + weight * denoiser(x, 0.4))
        x = moved


@every_operator
def test_adam_is_the_adam_of_torch(name: str) -> None:
    p = problem(name)
    x = p.start.clone()
    optimiser = torch.optim.Adam([x], lr=0.01)
    for moved in islice(pnp_gd(p, bent, sigma=SIGMA, step=0.01, descent="adam"), 20):
        x.grad = p.data_term.gradient(x) + SIGMA**2 * bent(x)
        optimiser.step()
        close(moved, x)


# --- optimality without linearity ----------------------------------------------------------


def soft(z: Tensor, s: float) -> Tensor:
    """prox_{s²φ} of φ(x) = C‖x‖₁."""
    return z.sign() * (z.abs() - C * s**2).clamp_min(0)


@every_operator
@pytest.mark.parametrize("levels", [(0.5, 0.5, 1), (1.5, 0.4, 20)], ids=["fixed", "decreasing"])
def test_admm_ends_where_the_optimality_condition_holds(
    name: str, levels: tuple[float, float, int]
) -> None:
    # 0 ∈ ∇f(x) + σ²C ∂‖x‖₁
    p, sigma = problem(name), 0.2
    iterates = pnp_admm(p, soft, sigma=sigma, levels=noise_levels(*levels))
    x = after(iterates, 1500)
    gradient, bound = p.data_term.gradient(x), sigma**2 * C
    active = x != 0
    assert 0.05 < active.double().mean() < 0.95  # both cases occur
    close(gradient[active], -bound * x[active].sign(), atol=1e-6)
    assert gradient[~active].abs().max() <= bound + 1e-6


@every_operator
def test_admm_stays_at_its_fixed_point_when_the_level_changes(name: str) -> None:
    # The multiplier ρu is continuous: with u itself kept, each change would throw z off.
    p = problem(name)
    levels = iter([0.5] * 400 + [1.0, 0.3, 0.3, 0.9])
    z = list(pnp_admm(p, denoiser, sigma=SIGMA, levels=levels))
    assert len(z) == 404
    for k in range(399, 404):
        close(z[k], minimiser(p, SIGMA**2 * C))


@every_operator
def test_proximal_gradient_ends_where_the_optimality_condition_holds(name: str) -> None:
    p, s = problem(name), 0.3
    step = 1 / p.operator.norm(HEIGHT, WIDTH) ** 2
    x = after(pnp_pgd(p, soft, sigma=s, step=step), 3000)
    gradient, bound = p.data_term.gradient(x), C * s**2 / step
    active = x != 0
    close(gradient[active], -bound * x[active].sign(), atol=1e-6)
    assert gradient[~active].abs().max() <= bound + 1e-6


# --- gradient-step PnP -----------------------------------------------------------------------


def quadratic(c: float) -> PotentialAndGradient:
    """g(x) = c/2 ‖x‖² of each image and its gradient."""
    return lambda x, sigma: (c / 2 * x.square().sum(dim=(1, 2, 3)), c * x)


def quartic(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """g(x) = Σ x⁴/4: the larger an image, the shorter its steps must be."""
    return x.pow(4).sum(dim=(1, 2, 3)) / 4, x**3


def network_potential(steepness: float = 1.0, seed: int = 4) -> PotentialAndGradient:
    """A smooth, nonconvex g: that of a gradient-step denoiser with random weights."""
    network = GradientStepDenoiser((4, 4, 4, 4), 1).double()
    initialise(network, torch.Generator().manual_seed(seed))
    for_inference(network)

    @torch.no_grad()
    def potential(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        value, gradient = network.potential_and_gradient(x, sigma)
        return steepness * value, steepness * gradient

    return potential


def counted(potential: PotentialAndGradient) -> tuple[PotentialAndGradient, list[float]]:
    calls: list[float] = []

    def counting(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        calls.append(sigma)
        return potential(x, sigma)

    return counting, calls


@every_operator
@pytest.mark.parametrize("c", [0.3, 1.5, 100.0], ids=["long", "right", "far too long"])
def test_gs_pnp_reaches_the_minimiser_of_its_objective(name: str, c: float) -> None:
    # With c = 100 the first step, 1/w, is fifty times as long as one that descends.
    p, weight = problem(name), 0.4
    close(
        after(gs_pnp(p, quadratic(c), weight=weight, sigma=0.1), 500),
        minimiser(p, weight * c),
        atol=1e-5,
    )


@every_operator
def test_the_first_step_of_gs_pnp_is_the_denoiser_then_the_data(name: str) -> None:
    # At τ = 1/w: x − τw∇g(x) = D(x), then prox_{τf}.
    p, weight = problem(name), 2.0
    x = next(gs_pnp(p, quadratic(0.3), weight=weight, sigma=0.1))
    close(x, p.operator.prox_l2(p.start - 0.3 * p.start, p.y, 1 / weight))


@every_operator
@pytest.mark.parametrize("steepness", [1.0, 300.0])
def test_gs_pnp_descends_a_nonconvex_objective_at_every_step(name: str, steepness: float) -> None:
    p, weight, sigma = problem(name), 0.2, 0.1
    potential = network_potential(steepness)

    def objective(x: Tensor) -> Tensor:
        return p.data_term.value(x) + weight * potential(x, sigma)[0]

    def slope(x: Tensor) -> float:
        return float((p.data_term.gradient(x) + weight * potential(x, sigma)[1]).norm())

    xs = [p.start, *islice(gs_pnp(p, potential, weight=weight, sigma=sigma), 120)]
    for x, new in pairwise(xs):
        # The step is never longer than 1/w, so that the decrease is at least this.
        moved = (new - x).square().sum(dim=(1, 2, 3))
        decrease = objective(x) - objective(new)
        assert bool((decrease >= 0.1 * weight * moved - 1e-9).all())
    assert bool((objective(xs[-1]) < 0.9 * objective(p.start)).all())
    assert slope(xs[-1]) < 0.02 * slope(p.start)


@pytest.mark.parametrize(("c", "halved"), [(1.75, False), (1.85, True)])
def test_a_step_of_gs_pnp_must_bring_a_tenth_of_what_it_costs(c: float, halved: bool) -> None:
    # Holes alone, g = c/2 ‖x‖²: a step τ = a/(wc) brings wc(a − a²/2)‖x‖², which is (0.1/τ)(a‖x‖)²
    # or more where a ≤ 1.8; the first one has a = c.
    holes = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    start = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    p = Problem("", Inpainting(holes), 0 * start, 0.0, start, start)
    x = next(gs_pnp(p, quadratic(c), weight=0.7, sigma=0.1))
    close(x, (1 - (c / 2 if halved else c)) * start)


@every_operator
def test_a_step_is_halved_for_each_image_by_itself(name: str) -> None:
    # The second image is 30 times as large: its steps must be some thousand times shorter.
    p, weight = problem(name), 0.2
    scale = torch.tensor([1.0, 30.0], dtype=torch.float64).view(2, 1, 1, 1)
    p = Problem(p.task, p.operator, scale * p.y, 0.1, scale * p.start, scale * p.truth)
    together = list(islice(gs_pnp(p, quartic, weight=weight, sigma=0.1), 30))
    for k in range(2):
        one = slice(k, k + 1)
        alone = Problem(p.task, p.operator, p.y[one], 0.1, p.start[one], p.truth[one])
        iterates = gs_pnp(alone, quartic, weight=weight, sigma=0.1)
        for x, both in zip(islice(iterates, 30), together, strict=True):
            close(x, both[one])


def test_gs_pnp_costs_one_evaluation_per_iteration() -> None:
    p, (potential, calls) = problem("blur"), counted(quadratic(1.5))
    iterates, costs = gs_pnp(p, potential, weight=0.5, sigma=0.1), [0]
    for _ in range(200):
        x = next(iterates)
        costs.append(len(calls))
    per_iteration = [later - earlier for earlier, later in pairwise(costs)]
    assert per_iteration[0] == 2  # at the start, and at the first candidate
    assert set(per_iteration[1:20]) == {1}
    assert max(per_iteration) <= TRIED_STEPS
    # Differences that rounding makes do not start a search for a shorter step.
    assert max(per_iteration[-50:]) == 1
    close(next(iterates), x)
    assert set(calls) == {0.1}


def test_gs_pnp_stays_where_it_does_not_move() -> None:
    # D(x) = 0 for g = ½‖x‖²: the first step reaches the minimiser, the second stays there.
    p, (potential, calls) = problem("blur"), counted(quadratic(1.0))
    xs = list(islice(gs_pnp(p, potential, weight=0.5, sigma=0.1), 60))
    close(xs[0], minimiser(p, 0.5))
    assert torch.equal(xs[-1], xs[0])
    assert len(calls) <= 3 + TRIED_STEPS


def test_an_image_settles_while_another_goes_on() -> None:
    p = problem("blur")
    start = p.start.clone()
    start[0] = minimiser(p, 0.75)[0]
    p = Problem(p.task, p.operator, p.y, 0.1, start, p.truth)
    xs = list(islice(gs_pnp(p, quadratic(1.5), weight=0.5, sigma=0.1), 40))
    close(xs[-1][0], start[0])
    steps = [float((a - b)[1].norm()) for a, b in pairwise(xs[:10])]
    assert min(steps) > 1e-4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_where_the_potential_is_not_finite_gs_pnp_does_not_go(bad: float) -> None:
    # A barrier: the first step would cross it.
    p, (value, _) = problem("blur"), quadratic(30.0)(problem("blur").start, 0.0)
    start = value.max() + 1

    def potential(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        value, gradient = quadratic(30.0)(x, sigma)
        return value.masked_fill(value > start, bad), gradient

    x = after(gs_pnp(p, potential, weight=0.5, sigma=0.1), 300)
    close(x, minimiser(p, 15.0), atol=1e-5)


# --- settle --------------------------------------------------------------------------------


def shrinking(
    factors: tuple[float, ...], start: Tensor, iterations: int = 10**6
) -> Iterator[Tensor]:
    """x_k = 1 + q^k(start − 1), with a q for each image."""
    q = torch.tensor(factors, dtype=start.dtype).view(-1, 1, 1, 1)
    for k in range(1, iterations + 1):
        yield 1 + q**k * (start - 1)


FACTORS = (0.5, 0.9, 0.2)


def starts() -> Tensor:
    return 10 + rand(3, 3, 4, 4)


def test_an_image_is_held_from_where_it_moves_less_than_the_tolerance() -> None:
    start, tolerance = starts(), 1e-3
    xs = list(settle(shrinking(FACTORS, start), start, tolerance))
    free = [start, *islice(shrinking(FACTORS, start), len(xs))]
    ends = []
    for k in range(3):
        small = [
            float((free[i][k] - free[i - 1][k]).norm() / free[i][k].norm()) <= tolerance
            for i in range(1, len(free))
        ]
        ends.append(small.index(True) + 1)
        for i, x in enumerate(xs, start=1):
            assert torch.equal(x[k], free[min(i, ends[k])][k])
    assert len(set(ends)) == 3
    assert len(xs) == max(ends)  # nothing is computed after the last has settled


def test_an_image_settles_where_it_would_alone() -> None:
    start = starts()
    together = list(settle(shrinking(FACTORS, start), start, 1e-4))
    for k, factor in enumerate(FACTORS):
        one = start[k : k + 1]
        alone = list(settle(shrinking((factor,), one), one, 1e-4))
        assert len(alone) <= len(together)
        for x, both in zip(alone, together, strict=False):
            assert torch.equal(x[0], both[k])
        assert torch.equal(alone[-1][0], together[-1][k])


def test_a_tolerance_of_zero_stops_at_exact_fixed_points_alone() -> None:
    start = torch.ones(2, 3, 2, 2)
    after = [0.5, 0.25, 0.25, 0.125]
    iterates = [torch.stack([torch.full((3, 2, 2), a), k + start[1]]) for k, a in enumerate(after)]
    xs = list(settle(iter(iterates), start, 0.0))
    assert [float(x[0, 0, 0, 0]) for x in xs] == [0.5, 0.25, 0.25]
    # The second image does not move at first: it is held at its start.
    assert all(torch.equal(x[1], start[1]) for x in xs)


def test_both_held_at_zero_tolerance_end_it() -> None:
    start = torch.ones(2, 3, 2, 2)
    assert len(list(settle(iter([start / 2] * 9), start, 0.0))) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_an_image_that_is_no_longer_finite_is_held(bad: float, tolerance: float) -> None:
    start = starts()[:2]
    pairs = [(0.1, 0.1), (0.01, bad), (0.1, 0.1), (0.01, 0.2), (0.01, 0.1)]
    iterates = [start + torch.tensor(pair).view(2, 1, 1, 1) for pair in pairs]
    xs = list(settle(iterates, start, tolerance))
    assert len(xs) == 5
    close(xs[0], iterates[0])
    for x in xs[1:]:
        assert not bool(x[1].isfinite().any())
    close(xs[2][0], iterates[2][0])


def test_nothing_is_asked_for_once_all_are_held() -> None:
    start = starts()

    def bounded() -> Iterator[Tensor]:
        yield start + 1
        yield start + 1
        pytest.fail("an iterate that nobody needs")

    xs = list(settle(bounded(), start, 1e-6))
    assert len(xs) == 2


def circling(factor: float, start: Tensor) -> Iterator[Tensor]:
    """A cycle of three, approached by the factor at each iteration: an image that is turned."""
    for k in count(1):
        yield 1 + 0.1 * (k % 3) + factor**k * (start - 1)


def test_a_cycle_settles_by_its_period_alone() -> None:
    start, factor, tolerance = starts(), 0.9, 1e-3
    xs = list(settle(circling(factor, start), start, tolerance, period=3))
    free = [start, *islice(circling(factor, start), len(xs))]
    assert len(list(islice(settle(circling(factor, start), start, tolerance), 300))) == 300
    ends = []
    for image in range(len(start)):
        moved = [
            float((free[i][image] - free[i - 3][image]).norm() / free[i][image].norm())
            for i in range(3, len(free), 3)
        ]
        # as much in a period as its iterations may move by the tolerance
        ends.append(3 * ([m <= 3 * tolerance for m in moved].index(True) + 1))
        for i, x in enumerate(xs, start=1):
            assert torch.equal(x[image], free[min(i, ends[-1])][image])
    assert len(xs) == max(ends)


def test_what_does_not_circle_settles_by_a_period_about_as_soon() -> None:
    start = starts()
    soon = len(list(settle(shrinking((0.95, 0.9, 0.2), start), start, 1e-4)))
    later = len(list(settle(shrinking((0.95, 0.9, 0.2), start), start, 1e-4, period=8)))
    assert later % 8 == 0
    assert soon - 8 <= later <= soon + 16


def test_iterates_that_end_before_are_passed_on() -> None:
    start = starts()
    assert len(list(settle(shrinking(FACTORS, start, 7), start, 0.0))) == 7


# --- noise levels --------------------------------------------------------------------------


@given(first=st.floats(0.01, 1), last=st.floats(0.001, 1), iterations=st.integers(2, 40))
@few
def test_noise_levels_are_geometric_then_constant(
    first: float, last: float, iterations: int
) -> None:
    levels = list(islice(noise_levels(first, last, iterations), iterations + 5))
    assert levels[0] == pytest.approx(first)
    assert levels[iterations - 1 :] == pytest.approx([last] * 6)
    ratios = [b / a for a, b in pairwise(levels[:iterations])]
    assert ratios == pytest.approx([(last / first) ** (1 / (iterations - 1))] * len(ratios))


def test_one_noise_level() -> None:
    assert list(islice(noise_levels(0.2, 0.2, 1), 4)) == [0.2] * 4


@pytest.mark.parametrize("method", [pnp_hqs, pnp_admm])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_splitting_method_ends_with_its_levels(
    method: Callable[..., Iterator[Tensor]], count: int
) -> None:
    used: list[float] = []

    def noting(z: Tensor, s: float) -> Tensor:
        used.append(s)
        return denoiser(z, s)

    levels = list(islice(noise_levels(1.0, 0.3, 7), count))
    assert len(list(method(problem("sr"), noting, sigma=SIGMA, levels=iter(levels)))) == count
    assert used == levels


# --- total variation -----------------------------------------------------------------------


@few
@given(height=st.integers(1, 7), width=st.integers(1, 7), seed=st.integers(0, 99))
def test_image_gradient_adjointness(height: int, width: int, seed: int) -> None:
    x = rand(2, 3, height, width, seed=seed)
    p = rand(2, 2, 3, height, width, seed=seed + 100)
    inner = (image_gradient(x) * p).sum()
    torch.testing.assert_close(inner, (x * image_gradient_adjoint(p)).sum(), rtol=1e-9, atol=1e-9)


def test_image_gradient_of_a_ramp() -> None:
    rows = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 3, 4, 5)
    columns = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 3, 4, 5)
    gradient = image_gradient(2 * rows + 7 * columns)
    assert torch.all(gradient[0, ..., :-1, :] == 2)
    assert torch.all(gradient[1, ..., :, :-1] == 7)
    assert torch.all(gradient[0, ..., -1, :] == 0)
    assert torch.all(gradient[1, ..., :, -1] == 0)


def test_the_norm_of_the_image_gradient_is_at_most_the_root_of_eight() -> None:
    x = rand(1, 1, 12, 12)
    for _ in range(200):
        x = image_gradient_adjoint(image_gradient(x))
        norm = float(x.norm())
        x = x / norm
    assert 7 < norm <= 8


def tv(x: Tensor) -> Tensor:
    """Isotropic total variation, joint over the channels, of all images together."""
    dy = torch.diff(x, dim=-2, append=x[..., -1:, :])
    dx = torch.diff(x, dim=-1, append=x[..., :, -1:])
    return (dy.square() + dx.square()).sum(dim=1).sqrt().sum()


def steps_problem(low: Tensor, high: Tensor, transposed: bool) -> Problem:
    """Denoising of images with two flat halves, one pair of colours per image: (N,3) each."""
    y = torch.cat(
        [
            low.view(-1, 3, 1, 1).expand(-1, 3, 4, 5),
            high.view(-1, 3, 1, 1).expand(-1, 3, 4, 5),
        ],
        dim=-1,
    )
    y = (y.transpose(-1, -2) if transposed else y).contiguous()
    return Problem("denoise", Denoising(), y, 0.1, torch.zeros_like(y), y)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("step", [0.05, 0.5])
def test_tv_denoising_of_a_step_has_its_closed_form(transposed: bool, step: float) -> None:
    # Halves of m = 5 pixels' width: each moves by w/m towards the other in colour space, or
    # until they meet. (Per row: m·δ² + w·(|jump| − 2δ) is least at δ = w/m.)
    low = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5]], dtype=torch.float64)
    high = torch.tensor([[0.9, 0.8, 0.3], [0.55, 0.5, 0.5]], dtype=torch.float64)
    weight = 0.5
    p = steps_problem(low, high, transposed)
    jump = high - low
    size = jump.norm(dim=1, keepdim=True)
    moved = torch.minimum(torch.tensor(weight / 5), size / 2) * jump / size
    assert size[0] > 2 * weight / 5 > size[1]  # one image keeps an edge, the other becomes flat
    expected = steps_problem(low + moved, high - moved, transposed).y
    close(after(total_variation(p, weight=weight, step=step), 3000), expected, atol=1e-5)


@every_operator
def test_tv_reaches_a_minimum(name: str) -> None:
    p, weight = problem(name), 0.2

    def objective(x: Tensor) -> float:
        return float(0.5 * (p.operator.A(x) - p.y).square().sum() + weight * tv(x))

    x = after(total_variation(p, weight=weight, step=0.3), 1500)
    least = objective(x)
    for k in range(20):
        for size in (1e-3, 1e-2, 0.1, 1.0):
            assert objective(x + size * rand(*x.shape, seed=1000 + k)) > least
    for other in (p.truth, p.start, p.operator.A_adjoint(p.y)):
        for share in (1e-3, 1e-2, 0.1, 1.0):
            assert objective((1 - share) * x + share * other) > least
    longer = after(total_variation(p, weight=weight, step=0.1), 3000)
    assert objective(longer) == pytest.approx(least, rel=1e-6)


# --- what every generator keeps to ---------------------------------------------------------

Make = Callable[[Problem, Callable[..., Tensor], Callable[..., Tensor]], Iterator[Tensor]]


def integrated(g: Callable[..., Tensor]) -> PotentialAndGradient:
    """The potential of a linear, symmetric G, ½⟨x, Gx⟩, and G itself."""

    def potential(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        gradient = g(x)
        return (x * gradient).sum(dim=(1, 2, 3)) / 2, gradient

    return potential


METHODS: dict[str, Make] = {
    "gd": lambda p, g, d: pnp_gd(p, g, sigma=SIGMA, step=0.3),
    "gd-adam": lambda p, g, d: pnp_gd(p, g, sigma=SIGMA, step=0.3, descent="adam"),
    "gd-spectral": lambda p, g, d: pnp_gd(p, g, sigma=SIGMA, step=0.3, descent="spectral"),
    "gd-accelerated": lambda p, g, d: pnp_gd(p, g, sigma=SIGMA, step=0.3, descent="accelerated"),
    "red": lambda p, g, d: red_gd(p, d, weight=1.0, sigma=0.5, step=0.3),
    "admm": lambda p, g, d: pnp_admm(p, d, sigma=SIGMA, levels=noise_levels(1.0, 0.5, 10)),
    "hqs": lambda p, g, d: pnp_hqs(p, d, sigma=SIGMA, levels=noise_levels(1.0, 0.5, 10)),
    "pgd": lambda p, g, d: pnp_pgd(p, d, sigma=0.5, step=0.3),
    "gs": lambda p, g, d: gs_pnp(p, integrated(g), weight=SIGMA**2, sigma=0.5),
    "tv": lambda p, g, d: total_variation(p, weight=0.1, step=0.3),
}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS.keys())


@every_method
def test_nothing_is_computed_before_it_is_asked_for(make: Make) -> None:
    calls = []

    def counted_regularizer(x: Tensor) -> Tensor:
        calls.append("G")
        return regularizer(x)

    def counted_denoiser(z: Tensor, s: float) -> Tensor:
        calls.append("D")
        return denoiser(z, s)

    iterates = make(problem("blur"), counted_regularizer, counted_denoiser)
    assert calls == []
    totals = []
    for _ in range(3):
        next(iterates)
        totals.append(len(calls))
    first, once, again = (later - earlier for earlier, later in pairwise([0, *totals]))
    assert once == again <= 1  # one network call an iteration
    assert first in (once, once + 1)  # GS-PnP evaluates the start, too


@every_method
@every_operator
def test_iterates_are_not_changed_afterwards(make: Make, name: str) -> None:
    p = problem(name)
    y, start = p.y.clone(), p.start.clone()
    kept, copies = [], []
    for x in islice(make(p, regularizer, denoiser), 15):
        kept.append(x)
        copies.append(x.clone())
    assert all(torch.equal(x, copy) for x, copy in zip(kept, copies, strict=True))
    assert len({x.data_ptr() for x in kept}) == 15
    assert torch.equal(p.y, y)
    assert torch.equal(p.start, start)


@every_method
def test_few_images_are_held(make: Make) -> None:
    def images() -> int:
        gc.collect()
        return sum(type(thing) is Tensor for thing in gc.get_objects())

    iterates = make(problem("blur"), regularizer, denoiser)
    yielded, held = [], []
    for k, x in enumerate(islice(iterates, 40)):
        yielded.append(weakref.ref(x))
        if k in (12, 39):
            held.append(images())
    del x
    assert held[0] == held[1]
    assert len({id(reference()) for reference in yielded} - {id(None)}) <= 3


# All methods as they are evaluated, in a process of its own, whose peak no other test has raised.
# Each image is of 96 KiB.
PEAK_MEMORY = """
import resource
import sys
import torch
from reg.evaluation import trace
from reg.gradient_step import GradientStepDenoiser
from reg.iterations import *
from reg.methods import HQS_ITERATIONS
from reg.networks import for_inference
from reg.operators import Inpainting
from reg.problems import Problem

truth = torch.rand(1, 3, 64, 64, dtype=torch.float64)
A = Inpainting(torch.rand(1, 1, 64, 64) < 0.5)
p = Problem("inpaint", A, A.A(truth), 0.0, A.A(truth), truth)
network = for_inference(GradientStepDenoiser((2, 2, 2, 2), 1).double())

def G(x):
    return 1.5 * x

def D(z, s):
    return z / (1 + 1.5 * s**2)

def methods():
    for descent in ("plain", "adam", "spectral", "accelerated"):
        yield pnp_gd(p, G, sigma=0.5, step=0.3, descent=descent)
    yield red_gd(p, D, weight=1.0, sigma=0.5, step=0.3)
    yield pnp_admm(p, D, sigma=0.5, levels=noise_levels(1.0, 0.5, 10))
    yield pnp_hqs(p, D, sigma=0.5, levels=noise_levels(1.0, 0.5, 10))
    yield pnp_pgd(p, D, sigma=0.5, step=0.3)
    yield gs_pnp(p, network.potential_and_gradient, weight=0.2, sigma=0.1)
    yield total_variation(p, weight=0.1, step=0.3)

for iterations in (10, int(sys.argv[1])):
    with torch.no_grad():
        for iterates in methods():
            trace(iterates, p, iterations)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_does_not_depend_on_the_number_of_iterations() -> None:
    iterations = 200
    run = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY, str(iterations)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(reg.__file__).parents[1])},
    )
    few, many = (int(line) for line in run.stdout.split())  # KiB
    assert many - few < 96 * iterations / 4


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iterates_are_like_the_start(make: Make, dtype: torch.dtype) -> None:
    p = problem("sr")
    p = Problem(p.task, p.operator, p.y.to(dtype), 0.1, p.start.to(dtype), p.truth.to(dtype))
    for x in islice(make(p, regularizer, denoiser), 3):
        assert x.shape == p.start.shape
        assert x.dtype == dtype
        assert bool(x.isfinite().all())


@every_method
def test_images_of_a_batch_do_not_influence_each_other(make: Make) -> None:
    p = problem("sr")
    one = Problem(p.task, p.operator, p.y[1:], 0.1, p.start[1:], p.truth[1:])
    together = after(make(p, regularizer, denoiser), 12)
    close(after(make(one, regularizer, denoiser), 12), together[1:])


def test_exact_networks_make_all_methods_agree() -> None:
    # The pair of the paper: σ²G(D_σ(z)) = z − D_σ(z). Then ADMM by D and descent by G meet.
    z = rand(1, 3, 4, 4)
    for s in (0.1, 1.0):
        close(s**2 * regularizer(denoiser(z, s)), z - denoiser(z, s))
    p = problem("sr")
    by_denoiser = after(pnp_admm(p, denoiser, sigma=SIGMA, levels=noise_levels(0.5, 0.5, 1)), 400)
    by_gradient = after(pnp_gd(p, regularizer, sigma=SIGMA, step=1.0), 400)
    close(by_denoiser, by_gradient)
