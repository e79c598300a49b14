import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import reg
from reg.errors import InputError
from reg.iterations import pnp_gd
from reg.networks import (
    Denoiser,
    DRUNet,
    Network,
    Regularizer,
    for_inference,
    inference,
    initialise,
    load_denoiser,
    load_regularizer,
    noise_level_map,
    read_metadata,
    resolve_precision,
    save_network,
    start_from_denoiser,
)
from reg.problems import make_problem

TINY = (4, 6, 8, 10)
few = settings(max_examples=12)
M = TypeVar("M", bound=nn.Module)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed))


def drawn(network: M, seed: int = 1) -> M:
    """Weights that depend on nothing of the package, large enough to make the network nonlinear."""
    with torch.no_grad():
        for k, weight in enumerate(network.parameters()):
            fan_in = weight[0].numel()
            noise = torch.randn(weight.shape, generator=generator(1000 * seed + k))
            weight.copy_(noise / fan_in**0.5)
    return network


def tiny_denoiser(seed: int = 1) -> Denoiser:
    return drawn(Denoiser(TINY, 1), seed)


def tiny_regularizer(seed: int = 2, **options: object) -> Regularizer:
    return drawn(Regularizer(TINY, 1, **options), seed)  # type: ignore[arg-type]


# --- architecture --------------------------------------------------------------------------


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_parameter_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        assert parameters(Denoiser()) == 32_640_960
        assert parameters(Regularizer()) == 32_640_384
        assert parameters(Denoiser((16, 32, 64, 128), 2)) == 1_063_920
        assert parameters(Regularizer((16, 32, 64, 128), 2)) == 1_063_920 - 16 * 9


def official_names() -> set[str]:
    names = {"m_head.weight", "m_tail.weight"}
    convolutions = [f"{block}.res.{layer}.weight" for block in range(5) for layer in (0, 2)]
    first, later = convolutions[:8], convolutions[2:]
    names |= {f"m_body.{name}" for name in first}
    for level in (1, 2, 3):
        names |= {f"m_down{level}.{name}" for name in [*first, "4.weight"]}
        names |= {f"m_up{level}.{name}" for name in [*later, "0.weight"]}
    return names


@pytest.mark.parametrize("network", [Denoiser, Regularizer])
def test_the_64_tensors_have_the_names_of_the_published_files(network: type[Network]) -> None:
    with torch.device("meta"):
        state = network().network.state_dict()
    assert len(state) == 64
    assert set(state) == official_names()


def drunet(x: Tensor, w: dict[str, Tensor], blocks: int) -> Tensor:
    """The published network, written from its weights' names; sides are multiples of 8."""

    def residual(x: Tensor, name: str, first: int) -> Tensor:
        for k in range(first, first + blocks):
            inner = F.conv2d(x, w[f"{name}.{k}.res.0.weight"], padding=1).relu()
            x = x + F.conv2d(inner, w[f"{name}.{k}.res.2.weight"], padding=1)
        return x

    levels = [F.conv2d(x, w["m_head.weight"], padding=1)]
    for k in (1, 2, 3):
        inner = residual(levels[-1], f"m_down{k}", 0)
        levels.append(F.conv2d(inner, w[f"m_down{k}.{blocks}.weight"], stride=2))
    x = residual(levels[3], "m_body", 0)
    for k in (3, 2, 1):
        wide = F.conv_transpose2d(x + levels[k], w[f"m_up{k}.0.weight"], stride=2)
        x = residual(wide, f"m_up{k}", 1)
    return F.conv2d(x + levels[0], w["m_tail.weight"], padding=1)


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_map_is_that_of_the_published_network(blocks: int) -> None:
    network, x = drawn(DRUNet(4, TINY, blocks)), image(2, 4, 24, 16) - 0.3
    with torch.no_grad():
        expected = drunet(x, dict(network.state_dict()), blocks)
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_a_network_sees_only_the_published_weights() -> None:
    # Nothing but convolution weights: no biases, no buffers, no state that a file would miss.
    with torch.device("meta"):
        for network in (Denoiser(TINY, 3), Regularizer(TINY, 3)):
            assert not list(network.buffers())
            assert all(name.endswith("weight") for name, _ in network.named_parameters())
            assert all(weight.ndim == 4 for weight in network.parameters())


# --- what the maps are ---------------------------------------------------------------------


@few
@given(t=st.floats(0.01, 50), seed=st.integers(0, 99))
def test_networks_are_positively_homogeneous(t: float, seed: int) -> None:
    x = image(2, 3, 16, 24, seed=seed) - 0.3
    sigma = torch.tensor([0.05, 0.2])
    network, denoiser = drawn(DRUNet(3, TINY, 1)), tiny_denoiser()
    with torch.no_grad():
        torch.testing.assert_close(network(t * x), t * network(x), rtol=1e-4, atol=1e-5 * t)
        torch.testing.assert_close(
            denoiser(t * x, t * sigma), t * denoiser(x, sigma), rtol=1e-4, atol=1e-5 * t
        )


def test_networks_are_not_linear() -> None:
    # Else homogeneity would say nothing.
    x, network = image(1, 3, 16, 16) - 0.5, drawn(DRUNet(3, TINY, 1))
    with torch.no_grad():
        assert not torch.allclose(network(-x), -network(x), rtol=0.1)


@few
@given(height=st.integers(1, 26), width=st.integers(1, 26))
def test_any_size_is_replicate_padded_and_cropped(height: int, width: int) -> None:
    x, network = image(1, 3, height, width, seed=height + 31 * width), drawn(DRUNet(3, TINY, 1))
    padded = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
    assert padded.shape[-2] % 8 == padded.shape[-1] % 8 == 0
    with torch.no_grad():
        out = network(x)
        assert out.shape == x.shape
        torch.testing.assert_close(out, network(padded)[..., :height, :width], rtol=1e-4, atol=1e-6)


def test_denoiser_takes_a_number_or_one_level_per_image() -> None:
    denoiser, z = tiny_denoiser(), image(3, 3, 16, 16)
    levels = torch.tensor([0.0, 0.1, 0.2])
    with torch.no_grad():
        together = denoiser(z, levels)
        one_by_one = torch.cat([denoiser(z[k : k + 1], float(levels[k])) for k in range(3)])
        same_level = denoiser(z, 0.1)
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(same_level[1], together[1], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(same_level[2], together[2], rtol=1e-2)  # it sees the level


def test_denoiser_sees_the_level_as_a_constant_fourth_channel() -> None:
    denoiser, z = tiny_denoiser(), image(1, 3, 16, 24)
    level = torch.full((1, 1, 16, 24), 0.07)
    with torch.no_grad():
        torch.testing.assert_close(denoiser(z, 0.07), denoiser.network(torch.cat([z, level], 1)))


def test_the_noise_level_map_has_one_value_per_image() -> None:
    z = image(2, 3, 5, 7).double()
    level = noise_level_map(z, torch.tensor([0.1, 0.2]))
    assert level.shape == (2, 1, 5, 7)
    assert level.dtype == torch.float64
    torch.testing.assert_close(level.mean(dim=(1, 2, 3)).float(), torch.tensor([0.1, 0.2]))
    assert level[0].unique().numel() == level[1].unique().numel() == 1
    assert torch.equal(noise_level_map(z, 0.25), torch.full((2, 1, 5, 7), 0.25).double())


def test_forms_of_the_regularizer() -> None:
    x = image(2, 3, 16, 16)
    plain = tiny_regularizer(form="plain", scale=20.0)
    residual = tiny_regularizer(form="residual", scale=100.0)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), 20.0 * plain.network(x))
        torch.testing.assert_close(residual(x), 100.0 * (x - residual.network(x)))


def test_the_regularizer_is_a_prior_as_deepinv_knows_them() -> None:
    regularizer, x = tiny_regularizer(scale=20.0), image(2, 3, 13, 18)
    assert not regularizer.explicit_prior
    for parameters_of_a_prior in ((), (None,), (0.1,), (torch.tensor([0.1, 0.2]),)):
        assert torch.equal(regularizer.grad(x, *parameters_of_a_prior), regularizer(x))


def test_the_denoiser_takes_levels_in_every_shape_that_deepinv_gives() -> None:
    denoiser, z = tiny_denoiser(), image(2, 3, 13, 18)
    levels = torch.tensor([0.1, 0.2])
    by_image = torch.cat([denoiser(z[:1], 0.1), denoiser(z[1:], 0.2)])
    for sigma in (levels, levels.view(2, 1), levels.view(2, 1, 1, 1)):
        torch.testing.assert_close(denoiser(z, sigma), by_image)
    assert torch.equal(denoiser(z, torch.tensor(0.1)), denoiser(z, 0.1))


def test_gradient_descent_of_deepinv_is_ours() -> None:
    deepinv = pytest.importorskip("deepinv")
    regularizer = tiny_regularizer(scale=20.0)
    problem = make_problem("deblur-k3-12.75", image(2, 3, 24, 32), ["a", "b"], seed=0)
    physics = deepinv.physics.LinearPhysics(
        A=problem.operator.A, A_adjoint=problem.operator.A_adjoint
    )
    with torch.no_grad():
        descent = deepinv.optim.GD(
            prior=regularizer,
            data_fidelity=deepinv.optim.L2(),
            lambda_reg=problem.sigma_n**2,
            stepsize=0.8,
            max_iter=20,
            early_stop=False,
        )
        theirs = descent(problem.y, physics, init=problem.start)
        ours = list(islice(pnp_gd(problem, regularizer, sigma=problem.sigma_n, step=0.8), 20))
    assert not torch.allclose(ours[-1], ours[-2], atol=1e-4)
    torch.testing.assert_close(theirs, ours[-1], rtol=1e-4, atol=1e-5)


def test_fold_scale_keeps_the_function() -> None:
    x, plain = image(2, 3, 13, 16), tiny_regularizer(form="plain", scale=20.0)
    with torch.no_grad():
        before = plain(x)
        plain.fold_scale()
        assert plain.scale == 1.0
        torch.testing.assert_close(plain(x), before, rtol=1e-4, atol=1e-4)


def test_fold_scale_refuses_the_residual_form() -> None:
    with pytest.raises(InputError, match="plain"):
        tiny_regularizer(form="residual", scale=20.0).fold_scale()


# --- starts --------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [Denoiser(TINY, 2), Regularizer(TINY, 2)])
def test_initialise_draws_every_weight_from_the_generator_alone(network: Network) -> None:
    def weights(seed: int) -> list[Tensor]:
        with torch.no_grad():
            for weight in network.parameters():
                weight.zero_()
        initialise(network, generator(seed))
        return [weight.detach().clone() for weight in network.parameters()]

    before = torch.get_rng_state()
    first, again, other = weights(3), weights(3), weights(4)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert bool(a.isfinite().all())
        assert a.abs().sum() > 0


@pytest.mark.parametrize("form", ["plain", "residual"])
def test_a_regularizer_started_from_a_denoiser_is_it_without_noise(form: str) -> None:
    denoiser, regularizer = tiny_denoiser(), tiny_regularizer(form=form)
    start_from_denoiser(regularizer, denoiser)
    x = image(2, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(regularizer.network(x), denoiser(x, 0.0), rtol=1e-4, atol=1e-6)


def test_start_from_denoiser_copies() -> None:
    denoiser, regularizer = tiny_denoiser(), tiny_regularizer()
    start_from_denoiser(regularizer, denoiser)
    kept = {name: value.clone() for name, value in denoiser.state_dict().items()}
    with torch.no_grad():
        for weight in regularizer.parameters():
            weight.add_(1.0)
    for name, value in denoiser.state_dict().items():
        assert torch.equal(value, kept[name])


@pytest.mark.parametrize(("channels", "blocks"), [((4, 6, 8, 12), 1), (TINY, 2)])
def test_start_from_denoiser_refuses_other_sizes(channels: tuple[int, ...], blocks: int) -> None:
    regularizer = Regularizer(channels, blocks)
    before = [weight.detach().clone() for weight in regularizer.parameters()]
    with pytest.raises(InputError, match="channels"):
        start_from_denoiser(regularizer, tiny_denoiser())
    for weight, kept in zip(regularizer.parameters(), before, strict=True):
        assert torch.equal(weight, kept)


# --- files ---------------------------------------------------------------------------------


def assert_same_weights(one: Network, other: Network) -> None:
    mine, theirs = one.network.state_dict(), other.network.state_dict()
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert mine[name].dtype == theirs[name].dtype == torch.float32
        assert torch.equal(mine[name], theirs[name]), name


def test_denoiser_round_trip_is_bit_exact(tmp_path: Path) -> None:
    denoiser = drawn(Denoiser((4, 5, 6, 7), 2))
    save_network(denoiser, tmp_path / "new" / "denoiser.safetensors", {"lambda": 0.004})
    loaded = load_denoiser(tmp_path / "new" / "denoiser.safetensors")
    assert (loaded.network.channels, loaded.network.blocks) == ((4, 5, 6, 7), 2)
    assert_same_weights(denoiser, loaded)


@pytest.mark.parametrize(("form", "scale"), [("plain", 20.0), ("residual", 0.1), ("plain", 1.0)])
def test_regularizer_round_trip_is_bit_exact(tmp_path: Path, form: str, scale: float) -> None:
    regularizer = drawn(Regularizer((4, 5, 6, 7), 2, form, scale))  # type: ignore[arg-type]
    path = tmp_path / "regularizer.safetensors"
    save_network(regularizer, path)
    loaded = load_regularizer(path)
    assert (loaded.network.channels, loaded.network.blocks) == ((4, 5, 6, 7), 2)
    assert (loaded.form, loaded.scale) == (form, scale)
    assert_same_weights(regularizer, loaded)
    x = image(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), regularizer(x))


def test_metadata_tells_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    training = {"lambda": 0.004, "arm": "updated", "schedule": {"iterations": 7, "list": [1, 2]}}
    save_network(tiny_regularizer(form="residual", scale=100.0), path, training)
    assert read_metadata(path) == {
        "kind": "regularizer",
        "channels": list(TINY),
        "blocks": 1,
        "form": "residual",
        "scale": 100.0,
        "training": training,
    }


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    save_network(tiny_regularizer(), one, {"a": 1, "b": [1, 2], "c": "x"})
    save_network(tiny_regularizer(), two, {"c": "x", "b": [1, 2], "a": 1})
    assert one.read_bytes() == two.read_bytes()
    assert sorted(tmp_path.iterdir()) == [one, two]  # no partial file is left


def test_saving_in_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from reg.networks import Regularizer, save_network\n"
        "g = Regularizer((4, 6, 8, 10), 1, 'plain', 20.0)\n"
        "with torch.no_grad():\n"
        "    for k, w in enumerate(g.parameters()):\n"
        "        w.fill_(k / 7)\n"
        "save_network(g, Path(sys.argv[1]), {'lambda': 0.004, 'arm': 'updated', 'seed': 3})\n"
    )
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    root = str(Path(reg.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", script, str(theirs)],
        check=True,
        env={**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": "12345"},
    )
    regularizer = Regularizer(TINY, 1, "plain", 20.0)
    with torch.no_grad():
        for k, weight in enumerate(regularizer.parameters()):
            weight.fill_(k / 7)
    save_network(regularizer, ours, {"lambda": 0.004, "arm": "updated", "seed": 3})
    assert ours.read_bytes() == theirs.read_bytes()


def test_bytes_do_not_depend_on_layout_or_on_gradients(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    denoiser = tiny_denoiser()
    save_network(denoiser, one)
    save_network(for_inference(denoiser), two)
    assert one.read_bytes() == two.read_bytes()


def test_saving_replaces_an_older_file(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_network(tiny_denoiser(1), path)
    save_network(tiny_denoiser(2), path)
    assert_same_weights(load_denoiser(path), tiny_denoiser(2))


LOADERS = [load_denoiser, load_regularizer]


def refused(path: Path, load: object) -> str:
    """Loading is refused by one line that names the file."""
    with pytest.raises(InputError) as caught:
        load(path)  # type: ignore[operator]
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_another_kind_is_refused(tmp_path: Path) -> None:
    save_network(tiny_denoiser(), tmp_path / "d")
    save_network(tiny_regularizer(), tmp_path / "g")
    for message in (
        refused(tmp_path / "d", load_regularizer),
        refused(tmp_path / "g", load_denoiser),
    ):
        assert "denoiser" in message
        assert "regularizer" in message


@pytest.mark.parametrize("load", LOADERS)
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, load: object) -> None:
    refused(tmp_path / "none.safetensors", load)


@pytest.mark.parametrize("load", LOADERS)
def test_a_folder_is_refused(tmp_path: Path, load: object) -> None:
    refused(tmp_path, load)


@pytest.mark.parametrize("kept", [0, 4, 8, 50, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "d.safetensors"
    save_network(tiny_denoiser(), path)
    whole = path.read_bytes()
    end = int(len(whole) * kept) if 0 < kept < 1 else int(kept)
    path.write_bytes(whole[:end])
    refused(path, load_denoiser)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    "content", [b"hello\n", b"\x89PNG\r\n\x1a\n" + bytes(99), bytes(8) + b"{}", b"\xff" * 64]
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, load: object, content: bytes) -> None:
    path = tmp_path / "d.safetensors"
    path.write_bytes(content)
    refused(path, load)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "pt"}, {"reg": "{"}, {"reg": "{}"}, {"reg": "[]"}, {"reg": "7"}],
    ids=str,
)
def test_foreign_safetensors_are_refused(
    tmp_path: Path, load: object, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"m_head.weight": torch.zeros(4, 4, 3, 3)}, path, metadata=metadata)
    refused(path, load)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "d.safetensors"
    denoiser = tiny_denoiser()
    tensors = dict(denoiser.network.state_dict())
    if fault == "missing":
        del tensors["m_body.0.res.2.weight"]
    elif fault == "unexpected":
        tensors["m_body.0.res.2.bias"] = torch.zeros(10)
    else:
        tensors["m_head.weight"] = torch.zeros(5, 4, 3, 3)
    about = {"kind": "denoiser", "channels": list(TINY), "blocks": 1, "training": {}}
    save_file(tensors, path, metadata={"reg": json.dumps(about)})
    name = "m_head.weight" if fault == "shape" else "m_body.0.res.2"
    assert name in refused(path, load_denoiser)


# --- precision -----------------------------------------------------------------------------


def test_inference_in_bf16_is_close_to_fp32() -> None:
    x = image(2, 3, 32, 40)
    denoiser, regularizer = tiny_denoiser(), tiny_regularizer(form="residual", scale=100.0)
    for network in (lambda: denoiser(x, 0.1), lambda: regularizer(x)):
        with inference("fp32"):
            exact = network()
        with inference("bf16"):
            rough = network()
        assert rough.dtype == exact.dtype == torch.float32
        error = float((rough - exact).norm() / exact.norm())
        assert 0 < error < 0.02  # another number, but a close one


def test_inference_needs_no_gradients_and_ends_with_its_block() -> None:
    x, denoiser = image(1, 3, 16, 16), tiny_denoiser()
    expected = denoiser(x, 0.1).detach()
    for precision in ("fp32", "bf16", "auto"):
        with inference(precision):  # type: ignore[arg-type]
            assert not denoiser(x, 0.1).requires_grad
        after = denoiser(x, 0.1)
        assert after.requires_grad
        assert torch.equal(after, expected)


def test_resolve_precision() -> None:
    assert resolve_precision("fp32") == "fp32"
    assert resolve_precision("bf16") == "bf16"
    assert resolve_precision("auto") in ("fp32", "bf16")


def test_for_inference_keeps_the_function() -> None:
    x, denoiser = image(1, 3, 19, 16), tiny_denoiser()
    with torch.no_grad():
        expected = denoiser(x, 0.1)
    fast = for_inference(denoiser)
    out = fast(x, 0.1)
    assert not out.requires_grad
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-6)
