import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from reg.metrics import mean_squared_difference, psnr, ssim

few = settings(max_examples=15)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@few
@given(error=st.floats(1e-3, 0.5), sign=st.sampled_from([-1, 1]))
def test_psnr_of_a_constant_error(error: float, sign: int) -> None:
    truth = torch.full((1, 3, 8, 8), 0.5)
    assert psnr(truth + sign * error, truth).item() == pytest.approx(
        -20 * math.log10(error), abs=1e-3
    )


def test_psnr_is_of_the_mean_over_pixels_and_channels() -> None:
    truth = torch.full((1, 3, 4, 4), 0.5)
    x = truth.clone()
    x[0, 1, 2, 3] += 0.4
    assert psnr(x, truth).item() == pytest.approx(-10 * math.log10(0.4**2 / 48), abs=1e-4)


def test_psnr_is_per_image() -> None:
    truth = image(3, 3, 9, 7)
    x = truth + torch.tensor([0.01, 0.1, 0.2]).view(-1, 1, 1, 1) * (0.5 - truth).sign()
    measured = psnr(x, truth)
    assert measured.shape == (3,)
    torch.testing.assert_close(measured, torch.tensor([40.0, 20.0, 13.9794]), rtol=0, atol=1e-3)
    torch.testing.assert_close(measured[1:2], psnr(x[1:2], truth[1:2]))


def test_values_outside_the_range_are_clipped() -> None:
    truth = torch.ones(1, 3, 12, 12)
    truth[..., :6] = 0
    over = truth + torch.where(truth > 0, 0.7, -0.7)
    assert psnr(over, truth).item() >= 100
    assert ssim(over, truth)[0] == pytest.approx(1)
    under = truth + torch.where(truth > 0, -0.1, 0.1)
    assert psnr(under, truth).item() == pytest.approx(20, abs=1e-3)


def test_without_clipping_values_outside_the_range_count() -> None:
    truth = torch.ones(2, 3, 4, 4)
    x = truth + torch.tensor([0.1, 1.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(psnr(x, truth, clip=False), torch.tensor([20.0, 0.0]))
    assert psnr(x, truth).min() >= 100
    inside = image(2, 3, 4, 4)
    assert torch.equal(psnr(inside, truth, clip=False), psnr(inside, truth))
    # Clipping to the range of the truth never moves a value away from it.
    wild = 3 * image(2, 3, 4, 4, seed=1) - 1
    assert bool((psnr(wild, inside) > psnr(wild, inside, clip=False)).all())


def test_psnr_of_equal_images_is_finite() -> None:
    x = image(2, 3, 8, 8)
    assert bool(psnr(x, x).isfinite().all())
    assert psnr(x, x).min() >= 100


@few
@given(seed=st.integers(0, 1000), sigma=st.floats(0.005, 0.5))
def test_psnr_agrees_with_scikit_image(seed: int, sigma: float) -> None:
    truth = image(2, 3, 11, 17, seed=seed)
    x = truth + sigma * (image(2, 3, 11, 17, seed=seed + 1) - 0.5)
    expected = [
        peak_signal_noise_ratio(a.numpy(), b.clamp(0, 1).numpy(), data_range=1)
        for a, b in zip(truth, x, strict=True)
    ]
    assert psnr(x, truth).tolist() == pytest.approx(expected, abs=1e-3)


def test_measuring_changes_nothing() -> None:
    truth, x = image(1, 3, 16, 16), 3 * image(1, 3, 16, 16, seed=1) - 1
    kept = x.clone()
    psnr(x, truth)
    ssim(x, truth)
    assert torch.equal(x, kept)


def test_ssim_of_equal_images_is_one() -> None:
    x = image(2, 3, 16, 20)
    assert ssim(x, x) == pytest.approx([1, 1])


def test_ssim_of_flat_images_in_closed_form() -> None:
    # Without structure only the luminance term is left: (2ab + C₁)/(a² + b² + C₁), C₁ = 0.01².
    a = torch.tensor([0.2, 0.5, 0.0]).view(3, 1, 1, 1).expand(3, 3, 16, 16)
    b = torch.tensor([0.8, 0.6, 1.0]).view(3, 1, 1, 1).expand(3, 3, 16, 16)
    expected = (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)
    assert ssim(a, b) == pytest.approx(expected[:, 0, 0, 0].tolist(), abs=1e-5)


def test_ssim_falls_with_noise_and_is_symmetric() -> None:
    truth = (torch.arange(24.0) / 24).expand(1, 3, 24, 24).contiguous()
    noise = image(1, 3, 24, 24) - 0.5
    values = [ssim((truth + s * noise).clamp(0, 1), truth)[0] for s in (0.0, 0.1, 0.3, 1.0)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4
    x = (truth + 0.3 * noise).clamp(0, 1)
    assert ssim(x, truth) == pytest.approx(ssim(truth, x))


def test_mean_squared_difference() -> None:
    previous = image(3, 3, 5, 6)
    step = torch.tensor([0.0, 0.1, 2.0]).view(-1, 1, 1, 1)
    measured = mean_squared_difference(previous + step, previous)
    torch.testing.assert_close(measured, torch.tensor([0.0, 0.01, 4.0]))  # nothing is clipped


def test_ssim_is_that_of_its_definition() -> None:
    # Wang et al., 2004: a Gaussian window of 11 pixels and std 1.5, where it lies in the image.
    x, truth = image(1, 3, 24, 19), image(1, 3, 24, 19, seed=1)
    place = torch.arange(-5, 6, dtype=torch.float64)
    line = (-place.square() / (2 * 1.5**2)).exp()
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def blurred(of: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(of.transpose(0, 1), window)

    a, b = x.double(), truth.double()
    mean_a, mean_b = blurred(a), blurred(b)
    variances = blurred(a * a) - mean_a**2 + blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    expected = expected / (mean_a**2 + mean_b**2 + c1) / (variances + c2)
    assert ssim(x, truth) == [pytest.approx(expected.mean().item(), abs=1e-7)]
