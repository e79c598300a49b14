"""Reconstruction methods: each is a generator of iterates x₁, x₂, … and nothing more.

None measures, logs or stops; `reg.evaluation.trace` and `settle` do. All start from
`problem.start`, hold O(1) images, and yield tensors (N,3,H,W) that they will not change afterwards.

With f(x) = ½‖Ax − y‖², the methods seek min f(x) + σ²φ(x), φ being given by its gradient G, by a
denoiser D_s ≈ prox_{s²φ}, or explicitly.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Literal

import torch
from torch import Tensor

from reg.problems import Problem

Gradient = Callable[[Tensor], Tensor]
DenoiserFunction = Callable[[Tensor, float], Tensor]
PotentialAndGradient = Callable[[Tensor, float], tuple[Tensor, Tensor]]
Descent = Literal["plain", "adam", "spectral", "accelerated"]
MOMENTUM = 0.8  # of the accelerated descent
UNBOUNDED = (-math.inf, math.inf)

# Backtracking of GS-PnP: the decrease that a step must bring, how many steps are tried, and how far
# differences of F, relative to F, are rounded in the network's precision (measured).
SUFFICIENT_DECREASE = 0.1
TRIED_STEPS = 20
ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-4, torch.float16: 1e-4}


# --- where to stop ----------------------------------------------------------------------------


def settle(
    iterates: Iterable[Tensor], start: Tensor, tolerance: float, period: int = 1
) -> Iterator[Tensor]:
    """Hold each image from where ‖x − x_before‖ ≤ tolerance·period·‖x‖; end when all are held.

    x_before is the iterate `period` before, and this is looked at once in a period: where a network
    is turned from one iteration to the next, the limit is a cycle, whose neighbours stay apart.
    An image that is no longer finite is held as well. Each image stops on its own, so that what
    is found does not depend on which others were in its batch.
    """
    before = start
    settled = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    for taken, x in enumerate(iterates, 1):
        x = torch.where(settled.view(-1, 1, 1, 1), before, x)
        if taken % period == 0:
            change = (x - before).flatten(1).norm(dim=1)
            settled = settled | ~(change > tolerance * period * x.flatten(1).norm(dim=1))
            before = x
        yield x
        if bool(settled.all()):
            return


# --- gradient methods ----------------------------------------------------------------------


def pnp_gd(
    problem: Problem,
    regularizer: Gradient,
    *,
    sigma: float,
    step: float,
    descent: Descent = "plain",
    bounds: tuple[float, float] = UNBOUNDED,
) -> Iterator[Tensor]:
    """PnP gradient descent: x ← x − μ(Aᵀ(Ax − y) + σ²G(x)) (PnP-ReG, section 4).

    `descent` says how the gradient is followed, `bounds` where iterates are kept: see `descend`.
    """

    return descend(problem, lambda x: sigma**2 * regularizer(x), step, descent, bounds)


def red_gd(
    problem: Problem,
    denoiser: DenoiserFunction,
    *,
    weight: float,
    sigma: float,
    step: float,
    descent: Descent = "plain",
    bounds: tuple[float, float] = UNBOUNDED,
) -> Iterator[Tensor]:
    """RED: x ← x − μ(Aᵀ(Ax − y) + w(x − D_σ(x))) (Romano, Elad & Milanfar, 2017)."""

    return descend(problem, lambda x: weight * (x - denoiser(x, sigma)), step, descent, bounds)


def descend(
    problem: Problem,
    slope: Gradient,
    step: float,
    descent: Descent,
    bounds: tuple[float, float],
) -> Iterator[Tensor]:
    """Follow g = ∇f + s from the problem's start, s being the slope of a regularizer.

    - ``plain``: x ← x − μg(x), the equation of the paper;
    - ``adam``: the gradient goes through Adam with a constant rate μ, as in the official code;
    - ``spectral``: x ← x − (AᵀA + 1/μ)⁻¹g(x), the metric of the operator itself. The stationary
      points are the same, and where AᵀA is large the step is that of Newton, so μ need only
      respect the regularizer: μ < 2/Lip(s). It is computed as prox_{μf}(x − μs(x)), the same
      point, at the cost of a plain step;
    - ``accelerated``: the spectral step at v = x + 0.8(x − x_previous), Nesterov's momentum with a
      constant weight, which carries information into large holes in a tenth of the iterations;
      see `curvature_bound`.

    Every iterate is clamped to `bounds`. A bias-free network scales with its input, so that nothing
    it was trained on holds back a pixel that has left the range of images: it grows, and all of the
    image after it. A fixed point within the bounds is one of the descent without them. Where pixels
    are at a bound it minimises over the box for ``plain`` and for masks, whose metric is pixelwise;
    for blur the spectral metric is not, and clamping is near to the projection in it.
    """
    if descent == "plain":
        return _plain(problem, slope, step, bounds)
    if descent == "adam":
        return _adam(problem, slope, step, bounds)
    momentum = MOMENTUM if descent == "accelerated" else 0.0
    return _spectral(problem, slope, step, momentum, bounds)


def _plain(
    problem: Problem, slope: Gradient, step: float, bounds: tuple[float, float]
) -> Iterator[Tensor]:
    x, f = problem.start, problem.data_term
    while True:
        x = (x - step * (f.gradient(x) + slope(x))).clamp_(*bounds)
        yield x


def _adam(
    problem: Problem,
    slope: Gradient,
    step: float,
    bounds: tuple[float, float],
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> Iterator[Tensor]:
    x, f = problem.start, problem.data_term
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for k in count(1):
        g = f.gradient(x) + slope(x)
        mean.lerp_(g, 1 - beta1)
        square.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        scale = (square / (1 - beta2**k)).sqrt_().add_(epsilon)
        x = torch.addcdiv(x, mean, scale, value=-step / (1 - beta1**k)).clamp_(*bounds)
        yield x


def _spectral(
    problem: Problem,
    slope: Gradient,
    step: float,
    momentum: float,
    bounds: tuple[float, float],
) -> Iterator[Tensor]:
    x = previous = problem.start
    while True:
        v = torch.lerp(previous, x, 1 + momentum) if momentum else x
        previous, x = x, problem.data_term.spectral_step(v, slope(v), step).clamp_(*bounds)
        yield x


def curvature_bound(lipschitz: Tensor) -> Tensor:
    """What c must exceed for the accelerated step μ = 1/(σ²c) to be stable: L(1 + 2β)/(2(1 + β)).

    β is the momentum, and L the spectral norm of G's Jacobian, which is taken to be symmetric with
    no negative eigenvalue, as a convex φ makes it. Where A sees nothing, an error component follows
    e ← (1 − h)(e + β(e − e_previous)) with h ≤ L/c; the roots of
    λ² − (1 − h)((1 + β)λ − β) leave the unit circle at λ = −1, when h = 2(1 + β)/(1 + 2β).
    β = 0 gives the bound L/2 of the spectral step.
    """
    return lipschitz * (1 + 2 * MOMENTUM) / (2 * (1 + MOMENTUM))


# --- splitting methods ---------------------------------------------------------------------


def noise_levels(first: float, last: float, iterations: int) -> Iterator[float]:
    """s₁, s₂, …: geometric from `first` to `last` over `iterations`, then `last` for ever."""
    for k in range(iterations):
        yield first * (last / first) ** (k / max(iterations - 1, 1))
    while True:
        yield last


def pnp_admm(
    problem: Problem,
    denoiser: DenoiserFunction,
    *,
    sigma: float,
    levels: Iterator[float],
    bounds: tuple[float, float] = UNBOUNDED,
) -> Iterator[Tensor]:
    """PnP-ADMM: x = prox_{f/ρ}(z − u), z = D_s(x + u), u ← u + x − z with ρ = σ²/s².

    `levels` gives s = s_k; when it changes, the scaled dual u is rescaled with ρ, so that ρu, the
    multiplier, is continuous (Venkatakrishnan et al., 2013; Chan et al., 2017). Yields z, which is
    clamped to `bounds`, before u sees it.
    """
    z, u = problem.start, torch.zeros_like(problem.start)
    previous = None
    for s in levels:
        if previous is not None and s != previous:
            u = u * (s / previous) ** 2
        previous = s
        x = problem.data_term.prox(z - u, (s / sigma) ** 2)
        z = denoiser(x + u, s).clamp(*bounds)
        u = u + x - z
        yield z


def pnp_hqs(
    problem: Problem,
    denoiser: DenoiserFunction,
    *,
    sigma: float,
    levels: Iterator[float],
    bounds: tuple[float, float] = UNBOUNDED,
) -> Iterator[Tensor]:
    """PnP-HQS: x = prox_{f/ρ}(z), z = D_s(x) with ρ = σ²/s² (DPIR: Zhang et al., 2022).

    It ends with `levels`: HQS is run along a falling schedule, not to a fixed point. Yields z,
    clamped to `bounds`.
    """
    z = problem.start
    for s in levels:
        x = problem.data_term.prox(z, (s / sigma) ** 2)
        z = denoiser(x, s).clamp(*bounds)
        yield z


def pnp_pgd(
    problem: Problem, denoiser: DenoiserFunction, *, sigma: float, step: float
) -> Iterator[Tensor]:
    """PnP proximal gradient: x ← D_σ(x − μAᵀ(Ax − y))."""
    x = problem.start
    while True:
        x = denoiser(x - step * problem.data_term.gradient(x), sigma)
        yield x


# --- a convergent method ---------------------------------------------------------------------


def gs_pnp(
    problem: Problem, potential: PotentialAndGradient, *, weight: float, sigma: float
) -> Iterator[Tensor]:
    """GS-PnP: x ← prox_{τf}(x − τw∇g_σ(x)) descends F(x) = f(x) + w·g_σ(x) at every step.

    (Hurault, Leclaire & Papadakis, ICLR 2022.) τ begins at 1/w, where the inner step is the
    gradient-step denoiser itself, and is halved, image by image, until
    F(x) − F(x_new) ≥ (0.1/τ)‖x_new − x‖² up to the rounding of F, which matters where the network
    computes in bfloat16. An image that does not move, or for which no step of 20 does that, is
    stationary to the precision of the arithmetic: it stays as it is.

    `potential` gives g_σ(x), (N,), and ∇g_σ(x).
    """
    x = problem.start
    step = torch.full((len(x), 1, 1, 1), 1 / weight, dtype=x.dtype, device=x.device)
    settled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    half = torch.is_autocast_enabled(x.device.type)
    rounding = ROUNDING[torch.get_autocast_dtype(x.device.type) if half else x.dtype]
    value, slope = potential(x, sigma)
    objective = problem.data_term.value(x) + weight * value
    while True:
        for _ in range(0 if settled.all() else TRIED_STEPS):
            candidate = problem.data_term.prox(x - step * weight * slope, step)
            value, new_slope = potential(candidate, sigma)
            reached = problem.data_term.value(candidate) + weight * value
            moved = (candidate - x).square().sum(dim=(1, 2, 3))
            needed = SUFFICIENT_DECREASE * moved / step.flatten() - rounding * objective.abs()
            enough = objective - reached >= needed
            if bool((enough | settled).all()):
                break
            step = torch.where((enough | settled).view(-1, 1, 1, 1), step, step / 2)
        if not settled.all():
            settled = settled | ~enough | (moved == 0)
            still = settled.view(-1, 1, 1, 1)
            x = torch.where(still, x, candidate)
            slope = torch.where(still, slope, new_slope)
            objective = torch.where(settled, objective, reached)
        yield x


# --- total variation -----------------------------------------------------------------------


def image_gradient(x: Tensor) -> Tensor:
    """Forward differences, zero at the last row and column: (N,3,H,W) → (2,N,3,H,W)."""
    out = torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
    out[0, ..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
    out[1, ..., :, :-1] = x[..., :, 1:] - x[..., :, :-1]
    return out


def image_gradient_adjoint(p: Tensor) -> Tensor:
    """The adjoint of `image_gradient` (minus the divergence): (2,N,3,H,W) → (N,3,H,W)."""
    out = torch.zeros_like(p[0])
    out[..., :-1, :] -= p[0, ..., :-1, :]
    out[..., 1:, :] += p[0, ..., :-1, :]
    out[..., :, :-1] -= p[1, ..., :, :-1]
    out[..., :, 1:] += p[1, ..., :, :-1]
    return out


def total_variation(problem: Problem, *, weight: float, step: float) -> Iterator[Tensor]:
    """min f(x) + w·TV(x), isotropic and joint over the channels, by Chambolle & Pock (2011).

    The primal step is `step`, the dual one 1/(8·step), since ‖∇‖² ≤ 8.
    """
    x = problem.start
    p = torch.zeros_like(image_gradient(x))
    over = x
    while True:
        p = p + image_gradient(over) / (8 * step)
        p = p / (p.square().sum(dim=(0, 2), keepdim=True).sqrt() / weight).clamp_min(1)
        previous = x
        x = problem.data_term.prox(x - step * image_gradient_adjoint(p), step)
        over = 2 * x - previous
        yield x
