import math

import pytest
import torch
from torch import Tensor, nn

from reg.losses import (
    SIGMA_MAX,
    DenoisingObjective,
    RegObjective,
    add_noise,
    by_band,
    draw_sigma,
)
from reg.networks import Denoiser, Regularizer


def generators(count: int = 4, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + k) for k in range(count)]


def crops(count: int = 4, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(99))


def value(term: Tensor) -> Tensor:
    """What a term is logged as."""
    return term[0].sum() / term[1].sum() if term.ndim == 2 else term.mean()


class Scaling(nn.Module):
    """D_σ(z) = a·z for every σ, which keeps what it was given."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))
        self.z = self.sigma = torch.empty(0)

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        self.z, self.sigma = z, sigma
        return self.a * z


class Slope(nn.Module):
    """G(x) = b·x, the gradient of φ(x) = b/2 ‖x‖²."""

    def __init__(self, b: float) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor) -> Tensor:
        return self.b * x


class Prox(nn.Module):
    """The exact MAP denoiser of φ(x) = 1/2 ‖x‖²: D_σ(z) = z / (1 + σ²)."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))
        self.sigma = torch.empty(0)

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        self.sigma = sigma
        return self.factor * z / (1 + sigma.view(-1, 1, 1, 1) ** 2)


def objective(
    d: nn.Module, g: nn.Module, lambda_: float = 0.5, update_denoiser: bool = True
) -> RegObjective:
    return RegObjective(d, g, lambda_, update_denoiser)  # type: ignore[arg-type]


def square(sigma: Tensor) -> Tensor:
    return sigma.view(-1, 1, 1, 1) ** 2


# --- noise ---------------------------------------------------------------------------------


def test_sigma_is_uniform_up_to_fifty() -> None:
    sigma = draw_sigma(generators(5000))
    assert sigma.shape == (5000,)
    assert math.isclose(50 / 255, SIGMA_MAX)
    assert sigma.min() >= 0
    assert sigma.max() <= 50 / 255
    quantiles = torch.quantile(255 * sigma, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]))
    expected = torch.tensor([5.0, 12.5, 25.0, 37.5, 45.0])
    torch.testing.assert_close(quantiles, expected, rtol=0, atol=1.5)


def test_noise_is_standard_normal_times_sigma() -> None:
    clean, sigma = crops(3, 64), torch.tensor([0.0, 0.05, 0.2])
    noise = add_noise(clean, sigma, generators(3)) - clean
    assert torch.equal(noise[0], torch.zeros_like(noise[0]))
    for k in (1, 2):
        standard = noise[k] / sigma[k]
        assert abs(float(standard.mean())) < 0.03
        assert abs(float(standard.std()) - 1) < 0.03
        assert abs(float(standard.pow(4).mean()) - 3) < 0.3
    assert abs(float((noise[1] * noise[2]).mean())) < 0.03 * 0.05 * 0.2  # independent images


def test_all_randomness_comes_from_the_generators() -> None:
    def values(seed: int) -> dict[str, float]:
        terms = objective(Scaling(0.8), Slope(2.0))(crops(), 1, generators(4, seed))
        terms["denoising"] = DenoisingObjective(Scaling(0.8))(  # type: ignore[arg-type]
            crops(), 1, generators(4, seed)
        )["loss"]
        return {name: value(term).item() for name, term in terms.items() if " " not in name}

    before = torch.get_rng_state()
    first, again, other = values(1), values(1), values(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again
    assert all(first[name] != other[name] for name in first)


@pytest.mark.parametrize("iteration", [1, 2])
@pytest.mark.parametrize("update_denoiser", [True, False])
def test_a_crop_sees_the_same_however_the_batch_is_split(
    iteration: int, update_denoiser: bool
) -> None:
    # Two draws of σ and one of noise: none of them may depend on the crop's neighbours.
    o = objective(Scaling(0.8), Slope(2.0), update_denoiser=update_denoiser)
    whole = o(crops(), iteration, generators())
    one, rest = (
        o(crops()[part], iteration, generators()[part]) for part in (slice(1), slice(1, None))
    )
    for name, term in whole.items():
        torch.testing.assert_close(term, torch.cat([one[name], rest[name]], dim=-1))


# --- L_D -----------------------------------------------------------------------------------


def test_denoising_loss_is_the_mean_absolute_error() -> None:
    d, clean = Scaling(0.8), crops()
    loss = DenoisingObjective(d)(clean, 1, generators())["loss"].mean()  # type: ignore[arg-type]
    torch.testing.assert_close(loss, (0.8 * d.z - clean).abs().mean())
    loss.backward()
    expected = (torch.sign(0.8 * d.z - clean) * d.z).mean()
    torch.testing.assert_close(d.a.grad, expected)


@pytest.mark.parametrize("iteration", [1, 2])
def test_the_denoiser_is_told_the_noise_level(iteration: int) -> None:
    d, clean = Scaling(1.0), crops(16, 64)
    DenoisingObjective(d)(clean, iteration, generators(16))  # type: ignore[arg-type]
    measured = (d.z - clean).std(dim=(1, 2, 3))
    torch.testing.assert_close(measured, d.sigma, rtol=0.05, atol=0)


# --- L_G and the joint loss ----------------------------------------------------------------


@pytest.mark.parametrize("iteration", [1, 2, 3, 1000, 1001])
@pytest.mark.parametrize("lambda_", [0.004, 1.0])
def test_joint_loss_and_its_gradients_in_closed_form(iteration: int, lambda_: float) -> None:
    a, b = 0.8, 3.0
    d, g, clean = Scaling(a), Slope(b), crops()
    per_crop = objective(d, g, lambda_)(clean, iteration, generators(4, iteration))
    per_crop["loss"].mean().backward()
    terms = {name: value(term) for name, term in per_crop.items()}

    # σ²G(D) − (z − D) = (σ²ab − 1 + a)·z
    z, s2 = d.z, square(d.sigma)
    error = s2 * a * b - 1 + a
    loss_g = (error * z).square().mean()
    loss = lambda_ * loss_g
    slope_a = lambda_ * (2 * z.square() * error * (s2 * b + 1)).mean()
    slope_b = lambda_ * (2 * z.square() * error * s2 * a).mean()
    if iteration % 2 == 1:
        loss_d = (a * z - clean).abs().mean()
        loss = loss + loss_d
        slope_a = slope_a + (torch.sign(a * z - clean) * z).mean()
        torch.testing.assert_close(terms["loss_D"], loss_d)
    torch.testing.assert_close(terms["loss_G"], loss_g)
    torch.testing.assert_close(terms["map_residual"], loss_g / ((1 - a) * z).square().mean())
    torch.testing.assert_close(terms["loss"], loss)
    torch.testing.assert_close(d.a.grad, slope_a)
    torch.testing.assert_close(g.b.grad, slope_b)


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


@pytest.mark.parametrize(
    ("iteration", "update_denoiser", "matched"),
    [(1, True, True), (7, True, True), (2, True, False), (1, False, False), (2, False, False)],
)
def test_sigma_is_the_noise_level_at_odd_joint_iterations_only(
    iteration: int, update_denoiser: bool, matched: bool
) -> None:
    d, clean = Scaling(0.8), crops(400, 16)
    objective(d, Slope(1.0), 1.0, update_denoiser)(clean, iteration, generators(400))
    sigma_0 = (d.z - clean).std(dim=(1, 2, 3))
    if matched:
        torch.testing.assert_close(sigma_0, d.sigma, rtol=0.15, atol=0)
    else:
        assert abs(correlation(sigma_0, d.sigma)) < 0.2  # 4 standard deviations
    for drawn in (sigma_0, d.sigma):  # each of them spans the whole range
        assert drawn.min() < 5 / 255
        assert drawn.max() > 45 / 255


def test_at_even_iterations_the_denoising_error_does_not_count() -> None:
    clean = crops()
    terms = objective(Scaling(0.8), Slope(2.0), lambda_=0.3)(clean, 2, generators())
    torch.testing.assert_close(terms["loss"], 0.3 * terms["loss_G"])
    odd = objective(Scaling(0.8), Slope(2.0), lambda_=0.3)(clean, 1, generators())
    torch.testing.assert_close(odd["loss"], odd["loss_D"] + 0.3 * odd["loss_G"])


def test_logged_terms_carry_no_gradient() -> None:
    terms = objective(Scaling(0.8), Slope(2.0))(crops(), 1, generators())
    assert terms["loss"].requires_grad
    assert set(terms) >= {"loss", "loss_D", "loss_G", "map_residual", "loss_D 0-10"}
    assert not any(term.requires_grad for name, term in terms.items() if name != "loss")
    assert all(term.shape[-1] == 4 for term in terms.values())


def test_bands_part_the_noise_levels_and_their_losses() -> None:
    sigma = torch.tensor([0.0, 9.9, 10.1, 25.0, 49.9, 50.0]) / 255
    values = torch.arange(1.0, 7.0)
    terms = by_band("loss", values, sigma)
    assert list(terms) == [f"loss {low}-{low + 10}" for low in (0, 10, 20, 30, 40)]
    counts = [term[1].sum().item() for term in terms.values()]
    assert counts == [2, 1, 1, 0, 2]
    means = [value(term).item() for term in terms.values()]
    assert means == pytest.approx([1.5, 3, 4, math.nan, 5.5], nan_ok=True)
    assert by_band("loss", values, sigma.clamp(max=SIGMA_MAX))["loss 40-50"][1, -1] == 1


def test_losses_are_logged_in_the_band_of_the_noise() -> None:
    # At even iterations σ is another: with D = 1·z the error of D is that of σ₀ alone.
    d, clean = Scaling(1.0), crops(200)
    terms = objective(d, Slope(0.0))(clean, 1, generators(200))
    errors = [value(terms[f"loss_D {low}-{low + 10}"]).item() for low in (0, 10, 20, 30, 40)]
    expected = [(2 / math.pi) ** 0.5 * (low + 5) / 255 for low in (0, 10, 20, 30, 40)]
    assert errors == pytest.approx(expected, rel=0.3)
    even = objective(Scaling(0.0), Slope(0.0))(torch.zeros_like(clean), 2, generators(200))
    levels = [value(even[f"loss_G {low}-{low + 10}"]).item() for low in (10, 20, 30, 40)]
    assert levels == pytest.approx([((low + 5) / 255) ** 2 for low in (10, 20, 30, 40)], rel=0.3)
    assert not any(name.startswith("loss_D") for name in even)


@pytest.mark.parametrize("iteration", [1, 2])
def test_a_fixed_denoiser_gets_no_gradient_and_lambda_does_not_matter(iteration: int) -> None:
    def run(lambda_: float) -> tuple[Scaling, Tensor, float]:
        d, g = Scaling(0.8), Slope(3.0)
        terms = objective(d, g, lambda_, update_denoiser=False)(crops(), iteration, generators())
        terms["loss"].mean().backward()
        torch.testing.assert_close(terms["loss"].detach(), terms["loss_G"])
        assert g.b.grad is not None
        return d, g.b.grad, terms["loss"].mean().item()

    d, small_gradient, small = run(0.004)
    _, large_gradient, large = run(10.0)
    assert d.a.grad is None
    assert not any(weight.requires_grad for weight in d.parameters())
    assert small == large
    assert torch.equal(small_gradient, large_gradient)
    assert small_gradient.abs() > 0


def test_lambda_zero_trains_the_denoiser_alone() -> None:
    joint, alone, g = Scaling(0.8), Scaling(0.8), Slope(3.0)
    objective(joint, g, lambda_=0.0)(crops(), 1, generators())["loss"].mean().backward()
    DenoisingObjective(alone)(crops(), 1, generators())["loss"].mean().backward()  # type: ignore[arg-type]
    assert float(g.b.grad or 0) == 0
    torch.testing.assert_close(joint.a.grad, alone.a.grad)
    joint.a.grad = None
    objective(joint, g, lambda_=0.0)(crops(), 2, generators())["loss"].mean().backward()
    assert float(joint.a.grad or 0) == 0


# --- the equation σ²G(D_σ(z)) = z − D_σ(z) -------------------------------------------------


@pytest.mark.parametrize("iteration", [1, 2])
@pytest.mark.parametrize("update_denoiser", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_an_exact_map_pair_has_no_error_at_any_sigma(
    iteration: int, update_denoiser: bool, seed: int
) -> None:
    d, clean = Prox(), crops(8)
    terms = objective(d, Slope(1.0), 1.0, update_denoiser)(clean, iteration, generators(8, seed))
    assert len(d.sigma.unique()) == 8
    assert float(value(terms["loss_G"])) < 1e-14  # float32 rounding of values about 1
    wrong = objective(Prox(), Slope(1.1), 1.0, update_denoiser)(
        clean, iteration, generators(8, seed)
    )
    assert float(value(wrong["loss_G"])) > 1e-7


@pytest.mark.parametrize("seed", range(4))
def test_map_residual_is_free_of_the_scale_of_sigma(seed: int) -> None:
    # With G = (1 + ε)∇φ the residual is ε² at every σ, while L_G is that times ‖z − D‖².
    d = Prox()
    terms = objective(d, Slope(1.1))(crops(1), 2, generators(1, seed))
    assert float(value(terms["map_residual"])) == pytest.approx(0.01, rel=0.05)
    nothing = objective(Prox(), Slope(0.0))(crops(1), 2, generators(1, seed))
    assert float(value(nothing["map_residual"])) == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(
        value(terms["loss_G"]),
        value(terms["map_residual"]) * value(nothing["loss_G"]),
        rtol=1e-4,
        atol=0,
    )


# --- networks ------------------------------------------------------------------------------


def test_both_networks_learn_from_the_coupling_term() -> None:
    # No detach between G and D: at even iterations D learns from L_G alone.
    d, g = Denoiser((4, 4, 4, 4), 1), Regularizer((4, 4, 4, 4), 1)
    RegObjective(d, g, 1.0, update_denoiser=True)(crops(2), 2, generators(2))[
        "loss"
    ].mean().backward()
    for network in (d, g):
        assert all(
            weight.grad is not None and float(weight.grad.abs().sum()) > 0
            for weight in network.parameters()
        )


def test_a_fixed_network_keeps_its_weights_out_of_training() -> None:
    d, g = Denoiser((4, 4, 4, 4), 1), Regularizer((4, 4, 4, 4), 1)
    fixed = RegObjective(d, g, 1.0, update_denoiser=False)
    fixed(crops(2), 1, generators(2))["loss"].mean().backward()
    assert all(weight.grad is None for weight in d.parameters())
    trained = {id(weight) for weight in fixed.parameters() if weight.requires_grad}
    assert trained == {id(weight) for weight in g.parameters()}
