"""What a trained pair (D, G) is: how far G∘D obeys the MAP condition, is G a gradient, is D a prox.

Two pairs are compared, named by the arm that trained G: `fixed` is (D original, G fixed),
`updated` is (D updated, G updated). Everything is measured at single points, so Lipschitz
constants are local ones: the spectral norm of the Jacobian there.

The result is one long table with the columns quantity, pair, image, at, sigma, sigma_0, value:

- `at` is the point x at which the map is taken: `clean`, the image itself; `noisy`, the image with
  white noise of deviation `sigma_0`; or a task, the last PnP-GD iterate in it, and for alignments
  the last one of PnP-ADMM.
- `sigma` and `sigma_0` are in /255. `sigma` is the level given to D, or at a task the σ of σ²φ;
  0 where there is none. `sigma_0` is 0 where no noise was added.

| quantity | at | meaning |
|---|---|---|
| map_residual | noisy | ‖σ²G(D_σ(z)) − (z − D_σ(z))‖ / ‖z − D_σ(z)‖ (norms, not squared) |
| alignment_original, alignment_updated | task | cos ∠(G(D_s(z)), z − D_s(z)) where PnP-ADMM ends |
| asymmetry_G | clean, noisy | ‖J − Jᵀ‖_F / ‖J + Jᵀ‖_F of G's Jacobian; 0 if G is a gradient |
| asymmetry_D | noisy, σ = σ₀ | the same of D_σ; a prox has 0 |
| norm_G | clean, task | L = ‖J_G‖₂ |
| norm_D | noisy, σ = σ₀ | ‖J_D‖₂; above 1, D expands |
| norm_I-D | noisy, σ = σ₀ | ‖I − J_D‖₂; at most 1 where I − D is nonexpansive |
| norm_2D-I | noisy, σ = σ₀ | ‖2J_D − I‖₂; at most 1 where D, and so I − D, is firmly nonexpansive |
| curvature | task | the tuned c of PnP-GD's step μ = 1/(σ²c) |
| curvature_bound | task | what c must exceed: `iterations.curvature_bound`, 0.72 L |
| plain_step | task | 1.4/(‖A‖² + σ²c): μ of the plain step, from the c in use |
| plain_step_bound | task | 2/(‖A‖² + σ²L): the plain step needs μ below it |

Alignments are those of the pair's G with the D that they name; z is what PnP-ADMM gave that D last.
Where PnP-ADMM has converged, its iterate is x = D_s(z), and z − x = (s²/σ²)Aᵀ(y − Ax): what D
removes is what the data ask for. If D and G obey the MAP condition there, s²G(x) = z − x, then x is
a stationary point of PnP-GD, too. That the two are parallel, an alignment of 1, is what is left of
the condition when each method has a σ of its own.

Both bounds are those of gradient descent, the first with momentum, on a convex function with an
L-Lipschitz gradient (Nesterov, 2004, section 2.1.5), here with L at the iterate. They would suffice
near it if J_G were symmetric with no negative eigenvalue, and are not necessary: the direction of
the largest curvature of φ may be one that A sees well.
Firm nonexpansiveness of D is what makes PnP-ADMM converge for every convex data term (Eckstein &
Bertsekas, 1992).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import pandas as pd
import torch
from torch import Tensor

from reg.checkpoints import State, finished_cell
from reg.console import progress
from reg.evaluation import Row, batches
from reg.iterations import DenoiserFunction, Gradient, curvature_bound
from reg.methods import Networks, Parameters, canonical, iterate, plain_step, schedules
from reg.networks import Precision, inference
from reg.problems import Problem, make_problem

COLUMNS = ["quantity", "pair", "image", "at", "sigma", "sigma_0", "value"]
PAIRS = {"fixed": "original", "updated": "updated"}  # arm of G → which D
Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Jacobian:
    """A linear map J: images → images by its products v ↦ Jv and u ↦ Jᵀu, image by image."""

    times: Linear
    transposed_times: Linear

    def combined(self, identity: float, factor: float) -> "Jacobian":
        """identity·I + factor·J."""
        return Jacobian(
            lambda v: identity * v + factor * self.times(v),
            lambda u: identity * u + factor * self.transposed_times(u),
        )


def jacobian(function: Gradient, x: Tensor) -> Jacobian:
    """The Jacobian of a map (N,C,H,W) → (N,C,H,W) that acts on each image by itself, at x.

    u ↦ Jᵀu is linear, so that its own transpose is J: a product costs a pass over a graph
    recorded once, without a new evaluation of the function. Works under `torch.no_grad`.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = function(x)
        u = torch.zeros_like(y, requires_grad=True)
        (pulled_back,) = torch.autograd.grad(y, x, u, create_graph=True)

    def times(v: Tensor) -> Tensor:
        return torch.autograd.grad(pulled_back, u, v, retain_graph=True)[0]

    def transposed_times(v: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, v, retain_graph=True)[0]

    return Jacobian(times, transposed_times)


def asymmetry(J: Jacobian, x: Tensor, probes: int, seed: int) -> Tensor:
    """‖J − Jᵀ‖_F / ‖J + Jᵀ‖_F of each of N images, (N,), by Hutchinson's estimator.

    E‖Mv‖² = ‖M‖_F² for random signs v (Hutchinson, 1990). 0 for a symmetric J, 1 for one without
    relation to its transpose, infinite for an antisymmetric one. `x` gives the shape; all images
    see the same probes.
    """
    generator = torch.Generator().manual_seed(seed)
    difference, total = x.new_zeros(len(x)), x.new_zeros(len(x))
    for _ in range(probes):
        signs = torch.randint(0, 2, x.shape[1:], generator=generator) * 2 - 1
        v = signs.to(x).expand_as(x)
        a, b = J.times(v), J.transposed_times(v)
        difference += norm(a - b) ** 2
        total += norm(a + b) ** 2
    return (difference / total).sqrt()


def spectral_norm(J: Jacobian, x: Tensor, iterations: int, seed: int) -> Tensor:
    """‖J‖₂ of each of N images, (N,), by power iteration on JᵀJ from a seeded Gaussian vector.

    Power iteration proper looks at the last iterate alone; maximising ‖Jv‖ over the span of all
    of them (Lanczos) needs several times fewer. Never above the norm, but for rounding. `x` gives
    the shape; an image whose J is not finite has NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(x.shape[1:], generator=generator).to(x).expand_as(x).flatten(1)
    basis, images = x.new_zeros(len(x), v.shape[1], 0), []
    for _ in range(min(iterations, v.shape[1])):
        # Householder's QR gives an orthogonal direction even where v has none left.
        basis = torch.linalg.qr(torch.cat([basis, v[..., None]], dim=2)).Q
        images.append(J.times(basis[..., -1].reshape(x.shape)))
        v = J.transposed_times(images[-1]).flatten(1)
    found = torch.stack([image.flatten(1) for image in images], dim=2)
    gram = found.mT @ found
    finite = gram.isfinite().all(dim=2).all(dim=1)
    largest: Tensor = torch.linalg.eigvalsh(gram.masked_fill(~finite[:, None, None], 0))[:, -1]
    return largest.clamp_min(0).sqrt().masked_fill(~finite, torch.nan)


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each of N images: (N,C,H,W) → (N,)."""
    out: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3))
    return out


def map_residual(
    denoiser: DenoiserFunction, regularizer: Gradient, z: Tensor, sigma: float
) -> Tensor:
    """‖σ²G(D_σ(z)) − (z − D_σ(z))‖ / ‖z − D_σ(z)‖ of each image, (N,): 0 for an exact MAP pair."""
    denoised = denoiser(z, sigma)
    removed = z - denoised
    return norm(sigma**2 * regularizer(denoised) - removed) / norm(removed)


def alignment(denoiser: DenoiserFunction, regularizer: Gradient, z: Tensor, sigma: float) -> Tensor:
    """cos ∠(G(D_σ(z)), z − D_σ(z)) of each image, (N,): 1 for an exact MAP pair, however scaled."""
    denoised = denoiser(z, sigma)
    a, b = regularizer(denoised), z - denoised
    return (a * b).sum(dim=(1, 2, 3)) / (norm(a) * norm(b))


# --- the stage's table -------------------------------------------------------------------------


@dataclass(frozen=True)
class Effort:
    """How many Hutchinson probes and power iterations, and the seed of both."""

    probes: int
    power_iterations: int
    seed: int


Measured = tuple[str, str, float, float, Tensor]  # quantity, at, sigma, sigma_0, (N,) values


def diagnose(
    images: Mapping[str, Tensor],
    networks: Networks,
    chosen: Mapping[str, Mapping[str, Parameters]],
    *,
    sigmas: Sequence[float],
    iterations: int,
    effort: Effort,
    precision: Precision,
    key: str,
) -> pd.DataFrame:
    """Measure both pairs on every image; the table that the module describes.

    `images` are (1,3,H,W) by name, `sigmas` in /255, `chosen` the tuned parameters by task and
    method. Iterates are taken after `iterations` of PnP-GD; where one has diverged, so that it
    has no Jacobian, the value is NaN. Noise depends on the seed, σ₀ and the image's name alone.
    Finished pairs are kept in `.checkpoints/<key>/`.
    """
    parts = [(pair, names, batch) for pair in PAIRS for names, batch in batches(images)]
    rows: list[Row] = []
    with inference(precision, networks.device), progress("pairs", len(parts)) as shown:
        for pair, names, images_of_batch in parts:
            batch = images_of_batch.to(networks.device)

            def measure(pair: str = pair, names: list[str] = names, batch: Tensor = batch) -> State:
                D, G = networks.denoisers[PAIRS[pair]], networks.regularizers[pair]
                noisy = {
                    sigma: make_problem(f"denoise-{sigma:g}", batch, names, effort.seed).y
                    for sigma in sigmas
                }
                gd = canonical(f"pnp-gd@{pair}")
                measured = [
                    *residuals(D, G, noisy),
                    *of_regularizer(G, batch, noisy, effort),
                    *of_denoiser(D, noisy, effort),
                ]
                for task, tuned in chosen.items():
                    if gd not in tuned:
                        continue
                    problem = make_problem(task, batch, names, effort.seed)
                    x = _last(iterate(gd, problem, networks, tuned[gd]), iterations)
                    measured += of_step(G, problem, x, tuned[gd], effort)
                    measured += of_limits(pair, problem, networks, tuned, iterations)
                return {"rows": [[*about, values.cpu()] for *about, values in measured]}

            measured = finished_cell(key, f"{pair}_{names[0]}", measure)["rows"]
            rows += [
                [quantity, pair, name, at, sigma, sigma_0, value]
                for quantity, at, sigma, sigma_0, values in measured
                for name, value in zip(names, values.tolist(), strict=True)
            ]
            shown.step(pair)
    return pd.DataFrame(rows, columns=COLUMNS)


def _last(iterates: Iterator[Tensor], iterations: int) -> Tensor:
    return next(islice(iterates, iterations - 1, None))


def last_input(
    method: str, problem: Problem, networks: Networks, parameters: Parameters, iterations: int
) -> tuple[Tensor, float]:
    """What a method with a denoiser gave it at the last of its iterations, and the level."""
    given: list[tuple[Tensor, float]] = []

    def noting(denoiser: DenoiserFunction) -> DenoiserFunction:
        def denoise(z: Tensor, sigma: float) -> Tensor:
            given[:] = [(z, sigma)]
            return denoiser(z, sigma)

        return denoise

    noted = {arm: noting(denoiser) for arm, denoiser in networks.denoisers.items()}
    _last(iterate(method, problem, replace(networks, denoisers=noted), parameters), iterations)
    return given[0]


def of_limits(
    pair: str,
    problem: Problem,
    networks: Networks,
    tuned: Mapping[str, Parameters],
    iterations: int,
) -> Iterator[Measured]:
    """Alignments of a pair's G with the original D and with its own, where PnP-ADMM is tuned."""
    for arm in dict.fromkeys(("original", PAIRS[pair])):
        admm = canonical(f"pnp-admm@{arm}")
        if admm in tuned:
            z, s = last_input(admm, problem, networks, tuned[admm], iterations)
            found = alignment(networks.denoisers[arm], networks.regularizers[pair], z, s)
            yield f"alignment_{arm}", problem.task, tuned[admm]["sigma"], 0.0, found


def residuals(
    D: DenoiserFunction, G: Gradient, noisy: Mapping[float, Tensor]
) -> Iterator[Measured]:
    """The MAP residual for every σ of D and every σ₀ of the noise."""
    for sigma_0, z in noisy.items():
        for sigma in noisy:
            yield "map_residual", "noisy", sigma, sigma_0, map_residual(D, G, z, sigma / 255)


def of_regularizer(
    G: Gradient, clean: Tensor, noisy: Mapping[float, Tensor], effort: Effort
) -> Iterator[Measured]:
    """Asymmetry of G's Jacobian at clean and noisy images, and its norm at clean ones."""
    J = jacobian(G, clean)
    yield "asymmetry_G", "clean", 0.0, 0.0, asymmetry(J, clean, effort.probes, effort.seed)
    size = spectral_norm(J, clean, effort.power_iterations, effort.seed)
    yield "norm_G", "clean", 0.0, 0.0, size
    for sigma_0, z in noisy.items():
        found = asymmetry(jacobian(G, z), z, effort.probes, effort.seed)
        yield "asymmetry_G", "noisy", 0.0, sigma_0, found


def of_denoiser(
    D: DenoiserFunction, noisy: Mapping[float, Tensor], effort: Effort
) -> Iterator[Measured]:
    """Asymmetry of D_σ's Jacobian, and norms of those of D, I − D and 2D − I, at σ = σ₀."""
    for sigma, z in noisy.items():
        J = jacobian(lambda x, sigma=sigma: D(x, sigma / 255), z)  # type: ignore[misc]
        yield "asymmetry_D", "noisy", sigma, sigma, asymmetry(J, z, effort.probes, effort.seed)
        for name, identity, factor in (("D", 0, 1), ("I-D", 1, -1), ("2D-I", -1, 2)):
            size = spectral_norm(
                J.combined(identity, factor), z, effort.power_iterations, effort.seed
            )
            yield f"norm_{name}", "noisy", sigma, sigma, size


def of_step(
    G: Gradient, problem: Problem, x: Tensor, parameters: Parameters, effort: Effort
) -> Iterator[Measured]:
    """G's norm at an iterate of PnP-GD, the bounds that follow, and curvature and μ in use."""
    task, sigma, curvature = problem.task, parameters["sigma"], parameters["curvature"]
    L = spectral_norm(jacobian(G, x), x, effort.power_iterations, effort.seed)
    A_norm = problem.operator.norm(*x.shape[-2:])
    yield "norm_G", task, sigma, 0.0, L
    yield "curvature", task, sigma, 0.0, torch.full_like(L, curvature)
    yield "curvature_bound", task, sigma, 0.0, curvature_bound(L)
    # Without noise the plain step takes another σ.
    sigma_plain = schedules(task, parameters)["pnp-gd-plain"]["sigma"] / 255
    step = plain_step(problem, sigma_plain, curvature)
    yield "plain_step", task, sigma, 0.0, torch.full_like(L, step)
    yield "plain_step_bound", task, sigma, 0.0, 2 / (A_norm**2 + sigma_plain**2 * L)
