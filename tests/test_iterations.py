import gc
import weakref
from collections.abc import Callable, Iterator
from itertools import islice, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reg.iterations import (
    data_gradient,
    image_gradient,
    image_gradient_adjoint,
    noise_levels,
    pnp_admm,
    pnp_gd,
    pnp_hqs,
    pnp_pgd,
    red_gd,
    total_variation,
)
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
def test_data_gradient_is_the_gradient(name: str) -> None:
    p = problem(name)
    x = p.start.clone().requires_grad_()
    loss = 0.5 * (p.operator.A(x) - p.y).square().sum()
    (expected,) = torch.autograd.grad(loss, x)
    close(data_gradient(p, p.start), expected)


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
    # x − (AᵀA + 1/μ)⁻¹(Aᵀ(Ax − y) + σ²G(x)) = prox_{μf}(x − μσ²G(x)), for any G.
    p = problem(name, seed)
    x = p.start
    for moved in islice(pnp_gd(p, bent, sigma=sigma, step=step, descent="spectral"), 3):
        expected = p.operator.prox_l2(x - step * sigma**2 * bent(x), p.y, step)
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
        x.grad = data_gradient(p, x) + SIGMA**2 * bent(x)
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
    gradient, bound = data_gradient(p, x), sigma**2 * C
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
    gradient, bound = data_gradient(p, x), C * s**2 / step
    active = x != 0
    close(gradient[active], -bound * x[active].sign(), atol=1e-6)
    assert gradient[~active].abs().max() <= bound + 1e-6


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

    x = after(total_variation(p, weight=weight, step=0.3), 3000)
    least = objective(x)
    for k in range(20):
        for size in (1e-3, 1e-2, 0.1, 1.0):
            assert objective(x + size * rand(*x.shape, seed=1000 + k)) > least
    for other in (p.truth, p.start, p.operator.A_adjoint(p.y)):
        for share in (1e-3, 1e-2, 0.1, 1.0):
            assert objective((1 - share) * x + share * other) > least
    longer = after(total_variation(p, weight=weight, step=0.1), 6000)
    assert objective(longer) == pytest.approx(least, rel=1e-6)


# --- what every generator keeps to ---------------------------------------------------------

Make = Callable[[Problem, Callable[..., Tensor], Callable[..., Tensor]], Iterator[Tensor]]

METHODS: dict[str, Make] = {
    "gd": lambda p, g, d: pnp_gd(p, g, sigma=SIGMA, step=0.3),
    "gd-adam": lambda p, g, d: pnp_gd(p, g, sigma=SIGMA, step=0.3, descent="adam"),
    "gd-spectral": lambda p, g, d: pnp_gd(p, g, sigma=SIGMA, step=0.3, descent="spectral"),
    "gd-accelerated": lambda p, g, d: pnp_gd(p, g, sigma=SIGMA, step=0.3, descent="accelerated"),
    "red": lambda p, g, d: red_gd(p, d, weight=1.0, sigma=0.5, step=0.3),
    "admm": lambda p, g, d: pnp_admm(p, d, sigma=SIGMA, levels=noise_levels(1.0, 0.5, 10)),
    "hqs": lambda p, g, d: pnp_hqs(p, d, sigma=SIGMA, levels=noise_levels(1.0, 0.5, 10)),
    "pgd": lambda p, g, d: pnp_pgd(p, d, sigma=0.5, step=0.3),
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
    next(iterates)
    once = len(calls)
    assert once <= 1  # one network call an iteration
    next(iterates)
    assert len(calls) == 2 * once


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
    assert sum(reference() is not None for reference in yielded) <= 3


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
