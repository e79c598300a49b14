import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from reg import cpu
from reg.cpu import (
    FusedDRUNet,
    available,
    convolve_side_by_side,
    fuse,
    keep_freed_memory,
    side_by_side,
)
from reg.networks import (
    Denoiser,
    DRUNet,
    Regularizer,
    for_inference,
    inference,
    initialise,
)

CHANNELS = (8, 12, 16, 24)
ENDS = {"m_head.weight", "m_tail.weight"}  # in float32
few = settings(max_examples=10)
fused_convolutions = pytest.mark.skipif(
    not available(), reason="this build of torch has no fused convolutions"
)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    initialise(network, torch.Generator().manual_seed(seed))
    return for_inference(network)


def both(in_channels: int = 3, blocks: int = 2) -> tuple[DRUNet, FusedDRUNet]:
    network = DRUNet(in_channels, CHANNELS, blocks)
    drawn(network)
    return network, FusedDRUNet(network)


def counted_packing(monkeypatch: pytest.MonkeyPatch, fused: FusedDRUNet) -> list[nn.Module]:
    """Which layers are asked for packed weights."""
    asked: list[nn.Module] = []
    packed = fused._packed_weight

    def noting(layer: nn.Conv2d, x: Tensor) -> Tensor:
        asked.append(layer)
        return packed(layer, x)

    monkeypatch.setattr(fused, "_packed_weight", noting)
    return asked


# --- the same function ---------------------------------------------------------------------


@fused_convolutions
@pytest.mark.parametrize("in_channels", [3, 4])
@pytest.mark.parametrize("blocks", [1, 3])
def test_in_float32_the_function_is_that_of_the_network(in_channels: int, blocks: int) -> None:
    network, fused = both(in_channels, blocks)
    x = image(2, in_channels, 32, 48) - 0.3
    with inference("fp32"):
        expected = network(x)
        torch.testing.assert_close(fused(x), expected, rtol=1e-5, atol=1e-6)
    assert expected.abs().mean() > 0.01


@fused_convolutions
@few
@given(height=st.integers(1, 41), width=st.integers(1, 41), count=st.integers(1, 3))
def test_any_size_and_number_of_images(height: int, width: int, count: int) -> None:
    network, fused = both(blocks=1)
    x = image(count, 3, height, width, seed=height + 50 * width)
    with inference("fp32"):
        out = fused(x)
        assert out.shape == x.shape
        torch.testing.assert_close(out, network(x), rtol=1e-5, atol=1e-6)


@fused_convolutions
def test_one_after_another_sizes_batches_and_precisions_do_not_disturb_each_other() -> None:
    network, fused = both()
    shapes = [(1, 16, 16), (4, 40, 24), (1, 16, 16), (2, 9, 17)]
    for precision, tolerance in [("fp32", 1e-5), ("bf16", 0.03), ("fp32", 1e-5)]:
        for count, height, width in shapes:
            x = image(count, 3, height, width)
            with inference(precision):  # type: ignore[arg-type]
                found, expected = fused(x), network(x)
            assert (found - expected).norm() < tolerance * expected.norm()


@fused_convolutions
@pytest.mark.parametrize("contiguous", [True, False])
def test_any_layout_of_the_image_is_taken(contiguous: bool) -> None:
    network, fused = both()
    x = image(2, 3, 24, 32).transpose(-1, -2)
    x = x.contiguous() if contiguous else x
    kept = x.clone()
    with inference("fp32"):
        torch.testing.assert_close(fused(x), network(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(x, kept)


@fused_convolutions
def test_in_bf16_it_errs_as_much_as_the_network_does() -> None:
    network, fused = both()
    x = image(4, 3, 64, 64)
    with inference("fp32"):
        exact = network(x)
    with inference("bf16"):
        errors = [(f(x) - exact).norm() / exact.norm() for f in (network, fused)]
        assert fused(x).dtype == torch.float32
    assert errors[0] > 1e-4  # bfloat16 is at work in both
    assert errors[1] == pytest.approx(errors[0].item(), rel=0.25)


@fused_convolutions
def test_in_bf16_the_image_itself_stays_in_float32() -> None:
    # With silent inner levels what is left is tail(2·head(x)): no digit may be lost.
    network, fused = both()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.startswith("m_up1.0") or "res" in name:
                weight.zero_()
    x = image(1, 3, 16, 16)
    with inference("fp32"):
        expected = network(x)
    with inference("bf16"):
        torch.testing.assert_close(fused(x), expected, rtol=1e-5, atol=1e-6)


@fused_convolutions
def test_results_repeat_to_the_bit() -> None:
    x = image(2, 3, 24, 24)
    for precision in ("fp32", "bf16"):
        with inference(precision):  # type: ignore[arg-type]
            results = [both()[1](x) for _ in range(2)]
            again = both()[1]
            results += [again(x), again(x)]
        assert all(torch.equal(results[0], one) for one in results[1:])


@few
@given(height=st.integers(1, 9), quarter=st.integers(1, 6), channels=st.integers(1, 20))
def test_pixels_side_by_side_are_those_of_the_plain_convolution(
    height: int, quarter: int, channels: int
) -> None:
    x = image(2, channels, height, 4 * quarter).double() - 0.5
    weight = image(3, channels, 3, 3, seed=1).double() - 0.5
    for layout in (torch.contiguous_format, torch.channels_last):
        out = convolve_side_by_side(x.contiguous(memory_format=layout), side_by_side(weight))
        torch.testing.assert_close(out, F.conv2d(x, weight, padding=1), rtol=1e-12, atol=1e-12)


def test_pixels_side_by_side_need_no_copy() -> None:
    x = image(2, 16, 8, 16).contiguous(memory_format=torch.channels_last)
    wide = side_by_side(image(3, 16, 3, 3)).contiguous(memory_format=torch.channels_last)
    out = convolve_side_by_side(x, wide)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out._is_view()


# --- where they do not apply ---------------------------------------------------------------


@fused_convolutions
def test_with_gradients_the_network_itself_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    network, fused = both()
    asked = counted_packing(monkeypatch, fused)
    x = image(1, 3, 16, 16).requires_grad_()
    out, expected = fused(x), network(x)
    assert torch.equal(out, expected)
    (found,) = torch.autograd.grad(out.square().sum(), x)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    assert torch.equal(found, wanted)
    assert asked == []
    with torch.no_grad():
        fused(x)
    assert asked != []


def test_in_float64_the_network_itself_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    network, fused = both()
    network.double()
    asked = counted_packing(monkeypatch, fused)
    x = image(1, 3, 16, 16).double()
    with torch.no_grad():
        assert torch.equal(fused(x), network(x))
    assert asked == []


def test_on_another_device_the_network_itself_is_called() -> None:
    class Noting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_empty(7)

    fused = FusedDRUNet(Noting())  # type: ignore[arg-type]
    with torch.no_grad():
        assert fused(torch.empty(1, 3, 16, 16, device="meta")).shape == (7,)


# --- packing -------------------------------------------------------------------------------


@fused_convolutions
def test_weights_are_laid_out_once_for_each_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    network, fused = both(blocks=1)
    asked = counted_packing(monkeypatch, fused)
    inner = [name for name, _ in network.named_parameters() if name not in ENDS]
    kept: dict[object, Tensor] = {}
    for precision, layouts in [("fp32", 1), ("bf16", 2), ("fp32", 2), ("bf16", 2)]:
        for size in (16, 32):
            with inference(precision):  # type: ignore[arg-type]
                fused(image(1, 3, size, size))
        assert len(fused._packed) == layouts * len(inner) + 1  # the last layer's, in float32
        for key, weight in fused._packed.items():
            assert kept.setdefault(key, weight) is weight
    assert len(asked) > len(fused._packed)  # asked for at each call, made at the first


# --- fuse ----------------------------------------------------------------------------------


@fused_convolutions
@pytest.mark.parametrize("form", ["plain", "residual"])
def test_fused_networks_keep_their_function(form: str) -> None:
    denoiser = drawn(Denoiser(CHANNELS, 1))
    regularizer = drawn(Regularizer(CHANNELS, 1, form, 20.0), 1)  # type: ignore[arg-type]
    assert isinstance(denoiser, Denoiser)
    assert isinstance(regularizer, Regularizer)
    x, levels = image(2, 3, 20, 28), torch.tensor([0.05, 0.2])
    with inference("fp32"):
        wanted = denoiser(x, levels), regularizer(x)
        D, G = fuse(denoiser), fuse(regularizer)
        assert isinstance(D.network, FusedDRUNet)
        assert isinstance(G.network, FusedDRUNet)
        torch.testing.assert_close(D(x, levels), wanted[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(G(x), wanted[1], rtol=1e-5, atol=1e-4)


@fused_convolutions
def test_fusing_twice_is_fusing_once() -> None:
    once = fuse(drawn(Denoiser(CHANNELS, 1)))  # type: ignore[type-var]
    inner = once.network
    twice = fuse(once)
    assert twice is once
    assert twice.network is inner


def test_where_torch_lacks_them_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "available", lambda: False)
    denoiser = Denoiser(CHANNELS, 1)
    drawn(denoiser)
    assert fuse(denoiser) is denoiser
    assert isinstance(denoiser.network, DRUNet)


# --- memory --------------------------------------------------------------------------------


def test_keeping_freed_memory_twice_does_no_harm() -> None:
    x = image(2, 3, 64, 64)
    before = (x * 2).sum()
    for _ in range(2):
        keep_freed_memory()
        assert torch.equal((x * 2).sum(), before)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_another_system_is_left_alone(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("no library is asked for"))
    keep_freed_memory()


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("ctypes.CDLL", lambda name: asked.append(name) or object())
    monkeypatch.setattr("sys.platform", "linux")
    keep_freed_memory()
    assert asked == [None]
