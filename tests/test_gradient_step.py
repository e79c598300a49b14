from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reg.errors import InputError
from reg.gradient_step import (
    SMOOTHNESS,
    GradientStepDenoiser,
    GradientStepObjective,
    load_gradient_step,
    save_gradient_step,
    start_from,
)
from reg.losses import add_noise, draw_sigma
from reg.networks import (
    Denoiser,
    Regularizer,
    ResBlock,
    for_inference,
    inference,
    initialise,
    load_denoiser,
    read_metadata,
    save_network,
)

CHANNELS = (4, 4, 6, 8)
few = settings(max_examples=10)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=generator(seed), dtype=dtype)


def gradient_step(seed: int = 0, dtype: torch.dtype = torch.float64) -> GradientStepDenoiser:
    network = GradientStepDenoiser(CHANNELS, 1)
    initialise(network, generator(seed))
    return network.to(dtype)


def potential(network: GradientStepDenoiser, z: Tensor, sigma: float | Tensor) -> Tensor:
    """½‖z − N_σ(z)‖² of each image, as the paper has it."""
    N = network.N(z, sigma)
    return 0.5 * (z - N).square().flatten(1).sum(dim=1)


# --- the activation ------------------------------------------------------------------------


class Scaled(nn.Module):
    """α·h(x/α): the activation that the docstring speaks of."""

    def forward(self, x: Tensor) -> Tensor:
        return SMOOTHNESS * nn.functional.hardswish(x / SMOOTHNESS)


def test_scaling_the_input_scales_the_activations() -> None:
    network, z = gradient_step(), image(1, 4, 16, 24)
    expected = SMOOTHNESS * network.network(z / SMOOTHNESS)
    for module in network.network.modules():
        if isinstance(module, ResBlock):
            module.res[1] = Scaled()
    torch.testing.assert_close(network.network(z), expected)


def test_the_activation_is_relu_away_from_zero() -> None:
    x = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    away = (Scaled()(x) - x.relu()).abs()
    assert away.max() <= 0.3751 * SMOOTHNESS
    assert away[x.abs() > 3.01 * SMOOTHNESS].max() < 1e-12


def test_no_kink_is_left_in_the_network() -> None:
    kinds = {type(module) for module in gradient_step().modules()}
    assert nn.Hardswish in kinds
    assert nn.ReLU not in kinds


# --- potential and gradient ----------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 24), (11, 13)])
def test_the_potential_and_its_gradient_are_those_of_autograd(size: tuple[int, int]) -> None:
    network, z = gradient_step(), image(2, 3, *size)
    sigma = torch.tensor([0.05, 0.2], dtype=torch.float64)
    value, slope = network.potential_and_gradient(z, sigma)
    x = z.clone().requires_grad_()
    expected = potential(network, x, sigma)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), x)[0])


@few
@given(seed=st.integers(0, 1000), sigma=st.floats(0, 0.3))
def test_the_gradient_is_the_limit_of_finite_differences(seed: int, sigma: float) -> None:
    network, z = gradient_step(seed), image(1, 3, 16, 16, seed=seed)
    direction = torch.randn(z.shape, generator=generator(seed + 1), dtype=torch.float64)
    with torch.no_grad():
        _, slope = network.potential_and_gradient(z, sigma)
        step = 1e-6
        ahead = network.potential_and_gradient(z + step * direction, sigma)[0]
        behind = network.potential_and_gradient(z - step * direction, sigma)[0]
    expected = (slope * direction).sum()
    torch.testing.assert_close((ahead - behind)[0] / (2 * step), expected, rtol=1e-6, atol=1e-6)
    assert expected.abs() > 1e-4


def test_the_gradient_is_r_less_the_transposed_jacobian_of_r() -> None:
    network, z = gradient_step(), image(1, 3, 8, 8)

    def N(x: Tensor) -> Tensor:
        return network.N(x, 0.1)

    J = torch.autograd.functional.jacobian(N, z).reshape(192, 192)
    r = (z - N(z)).flatten()
    slope = network.potential_and_gradient(z, 0.1)[1]
    torch.testing.assert_close(slope.flatten(), r - J.T @ r)


def test_the_denoiser_is_the_gradient_step() -> None:
    network, z = gradient_step(), image(2, 3, 16, 16)
    torch.testing.assert_close(network(z, 0.1), z - network.potential_and_gradient(z, 0.1)[1])


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    network, z = gradient_step(), image(3, 3, 16, 16)
    levels = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    values, slopes = network.potential_and_gradient(z, levels)
    assert values.shape == (3,)
    for k in range(3):
        value, slope = network.potential_and_gradient(z[k : k + 1], float(levels[k]))
        torch.testing.assert_close(value, values[k : k + 1])
        torch.testing.assert_close(slope, slopes[k : k + 1])
    other = z.clone()
    other[0] = 1 - other[0]
    assert torch.equal(network.potential_and_gradient(other, levels)[1][1:], slopes[1:])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_inference_needs_and_leaves_no_graph(precision: str) -> None:
    network = for_inference(gradient_step(dtype=torch.float32))
    z = image(1, 3, 16, 16, dtype=torch.float32)
    expected = potential(network, z, 0.1)
    with inference(precision):  # type: ignore[arg-type]
        value, slope = network.potential_and_gradient(z, 0.1)
        denoised = network(z, 0.1)
    for out in (value, slope, denoised):
        assert not out.requires_grad
        assert out.grad_fn is None
        assert out.dtype == torch.float32
    assert not z.requires_grad
    torch.testing.assert_close(value, expected, rtol=2e-2 if precision == "bf16" else 1e-4, atol=0)


# --- training ------------------------------------------------------------------------------


def test_training_runs_through_the_gradient() -> None:
    # d/dθ of a loss of D = z − ∇g: autograd's against finite differences of the loss.
    network, z = gradient_step(), image(2, 3, 8, 8)
    target = image(2, 3, 8, 8, seed=5)

    def loss() -> Tensor:
        return (network(z, 0.1) - target).square().mean()

    weights = list(network.parameters())
    gradients = torch.autograd.grad(loss(), weights)
    directions = [
        torch.randn(w.shape, generator=generator(k), dtype=torch.float64)
        for k, w in enumerate(weights)
    ]
    step = 1e-7
    moved = []
    for sign in (1, -1):
        with torch.no_grad():
            for weight, direction in zip(weights, directions, strict=True):
                weight.add_(sign * step * direction)
        moved.append(loss().item())
        with torch.no_grad():
            for weight, direction in zip(weights, directions, strict=True):
                weight.sub_(sign * step * direction)
    expected = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
    assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(expected, rel=1e-5)
    assert all(g.abs().max() > 0 for g in gradients)


def test_gradients_of_the_weights_are_those_of_differentiating_twice() -> None:
    network, z = gradient_step(), image(2, 3, 8, 8)
    weights = list(network.parameters())
    found = torch.autograd.grad((network(z, 0.1) ** 2).sum(), weights)
    x = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(potential(network, x, 0.1).sum(), x, create_graph=True)
    expected = torch.autograd.grad(((x - slope) ** 2).sum(), weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def crop_generators(count: int, seed: int = 3) -> list[torch.Generator]:
    return [generator(100 * seed + k) for k in range(count)]


def test_the_objective_is_the_squared_error_of_each_crop() -> None:
    network, clean = gradient_step(dtype=torch.float32), image(4, 3, 16, 16, dtype=torch.float32)
    terms = GradientStepObjective(network)(clean, 1, crop_generators(4))
    again = crop_generators(4)
    sigma = draw_sigma(again)
    noisy = add_noise(clean, sigma, again)
    errors = (network(noisy, sigma) - clean).square().flatten(1).mean(dim=1)
    assert terms["loss"].shape == (4,)
    torch.testing.assert_close(terms["loss"], errors)
    assert terms["loss"].requires_grad
    assert not any(term.requires_grad for name, term in terms.items() if name != "loss")


def test_a_crop_sees_the_same_noise_however_the_batch_is_split() -> None:
    objective = GradientStepObjective(gradient_step(dtype=torch.float32))
    clean = image(4, 3, 16, 16, dtype=torch.float32)
    whole = objective(clean, 1, crop_generators(4))["loss"]
    parts = [
        objective(clean[part], 1, crop_generators(4)[part])["loss"]
        for part in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_training_lowers_the_loss() -> None:
    network, clean = gradient_step(dtype=torch.float32), image(4, 3, 16, 16, dtype=torch.float32)
    objective = GradientStepObjective(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = objective(clean, 1, crop_generators(4))["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# --- starts and files ----------------------------------------------------------------------


def test_the_start_is_the_trained_denoiser_but_for_the_activation() -> None:
    denoiser = Denoiser(CHANNELS, 1)
    initialise(denoiser, generator(3))
    network = gradient_step(dtype=torch.float32)
    start_from(network, denoiser)
    z = 100 * image(2, 3, 16, 16, dtype=torch.float32)
    with torch.no_grad():
        # At values ≫ α smooth and sharp activations do the same; near zero they differ.
        large = network.N(z, 10.0)
        torch.testing.assert_close(large, denoiser(z, 10.0), rtol=1e-3, atol=1e-2)
        small = network.N(1e-4 * z, 1e-3)
        assert not torch.allclose(small, denoiser(1e-4 * z, 1e-3), rtol=1e-2, atol=1e-5)
        for weight in network.parameters():
            weight.zero_()
    assert all(weight.abs().max() > 0 for weight in denoiser.parameters())  # it copies


def test_files_keep_the_network_and_say_what_it_is(tmp_path: Path) -> None:
    network, path = gradient_step(dtype=torch.float32), tmp_path / "new" / "denoiser.safetensors"
    save_gradient_step(network, path, {"iterations": 7})
    loaded = load_gradient_step(path)
    assert (loaded.network.channels, loaded.network.blocks) == (CHANNELS, 1)
    for name, weight in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    z = image(1, 3, 16, 16, dtype=torch.float32)
    assert torch.equal(loaded(z, 0.1), network(z, 0.1))
    assert read_metadata(path) == {
        "kind": "gradient_step",
        "channels": list(CHANNELS),
        "blocks": 1,
        "training": {"iterations": 7},
    }
    first = path.read_bytes()
    save_gradient_step(loaded, path, {"iterations": 7})
    assert path.read_bytes() == first


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "denoiser.safetensors"
    for network in (Denoiser(CHANNELS, 1), Regularizer(CHANNELS, 1)):
        save_network(network, path)
        with pytest.raises(InputError, match=r"denoiser\.safetensors: holds a .*gradient_step"):
            load_gradient_step(path)
    save_gradient_step(gradient_step(), path, {})
    with pytest.raises(InputError, match=r"denoiser\.safetensors: holds a gradient_step"):
        load_denoiser(path)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such weights file"):
        load_gradient_step(tmp_path / "none.safetensors")
    path = tmp_path / "cut.safetensors"
    save_gradient_step(gradient_step(), path, {})
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"cut\.safetensors: not a weights file"):
        load_gradient_step(path)
