from collections.abc import Callable
from math import cos, radians, sin
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from reg.errors import InputError
from reg.operators import (
    GAUSSIAN_KERNELS,
    Blur,
    Denoising,
    Downsampling,
    Filter,
    Inpainting,
    Operator,
    downsampling_filter,
    gaussian_kernel,
    gaussian_kernel_from,
    read_kernel,
)

few = settings(max_examples=8, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)
cells = st.integers(1, 9)  # sides in units of the operator's factor: odd, even, non-square, tiny


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def signed_kernel(height: int, width: int) -> Callable[[int, int], Operator]:
    return lambda h, w: Blur(rand(height, width, seed=height + 31 * width))


# Each: the multiple that sides must have, and the operator for images of a given size.
OPERATORS: dict[str, tuple[int, Callable[[int, int], Operator]]] = {
    "blur-k5": (1, lambda h, w: Blur(gaussian_kernel("k5"))),
    "blur-3x5": (1, signed_kernel(3, 5)),
    "blur-4x2": (1, signed_kernel(4, 2)),
    "sr-bicubic-2": (2, lambda h, w: Downsampling(2)),
    "sr-bicubic-3": (3, lambda h, w: Downsampling(3)),
    "sr-bicubic-4": (4, lambda h, w: Downsampling(4)),
    "sr-gaussian-2": (2, lambda h, w: Downsampling(2, "gaussian")),
    "sr-gaussian-3": (3, lambda h, w: Downsampling(3, "gaussian")),
    "inpainting": (1, lambda h, w: Inpainting(rand(2, 1, h, w, seed=5) < 0.3)),
    "denoising": (1, lambda h, w: Denoising()),
}
every_operator = pytest.mark.parametrize("name", OPERATORS)


def build(name: str, rows: int, columns: int) -> tuple[Operator, int, int]:
    factor, make = OPERATORS[name]
    height, width = factor * rows, factor * columns
    return make(height, width), height, width


def conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
    x = torch.zeros_like(b)
    r, p = b, b
    for _ in range(400):
        if r.norm() <= 1e-13 * b.norm():
            break
        q = apply(p)
        step = r.square().sum() / (p * q).sum()
        x, previous, r = x + step * p, r, r - step * q
        p = r + r.square().sum() / previous.square().sum() * p
    return x


def dense(operator: Operator, height: int, width: int) -> Tensor:
    """The matrix of A for one image, a column for each of its pixels."""
    basis = torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)
    return torch.cat([operator.A(e[None]).reshape(1, -1) for e in basis]).T


@every_operator
@few
@given(rows=cells, columns=cells, seed=seeds)
def test_adjoint(name: str, rows: int, columns: int, seed: int) -> None:
    operator, height, width = build(name, rows, columns)
    x = rand(2, 3, height, width, seed=seed)
    Ax = operator.A(x)
    y = rand(*Ax.shape, seed=seed + 1)
    Aty = operator.A_adjoint(y)
    assert Aty.shape == x.shape
    scale = float(Ax.norm() * y.norm() + x.norm() * Aty.norm())
    assert abs(float((Ax * y).sum() - (x * Aty).sum())) <= 1e-12 * scale


@every_operator
@few
@given(rows=cells, columns=cells, seed=seeds, exponent=st.floats(-3, 4))
def test_prox_solves_the_normal_equations(
    name: str, rows: int, columns: int, seed: int, exponent: float
) -> None:
    operator, height, width = build(name, rows, columns)
    z = rand(2, 3, height, width, seed=seed)
    y = rand(*operator.A(z).shape, seed=seed + 1)
    gamma = 10.0**exponent
    expected = conjugate_gradients(
        lambda x: x + gamma * operator.A_adjoint(operator.A(x)), z + gamma * operator.A_adjoint(y)
    )
    torch.testing.assert_close(operator.prox_l2(z, y, gamma), expected, rtol=1e-8, atol=1e-8)


@every_operator
@few
@given(rows=cells, columns=cells, seed=seeds, exponent=st.floats(-3, 4))
def test_data_term_is_that_of_the_operator(
    name: str, rows: int, columns: int, seed: int, exponent: float
) -> None:
    operator, height, width = build(name, rows, columns)
    x = rand(2, 3, height, width, seed=seed)
    y = rand(*operator.A(x).shape, seed=seed + 1)
    f, gamma = operator.data_term(y), 10.0**exponent
    residual = operator.A(x) - y
    torch.testing.assert_close(f.value(x), 0.5 * residual.square().sum(dim=(1, 2, 3)))
    gradient = operator.A_adjoint(residual)
    torch.testing.assert_close(f.gradient(x), gradient, rtol=1e-9, atol=1e-9)
    expected = operator.prox_l2(x, y, gamma)
    torch.testing.assert_close(f.prox(x, gamma), expected, rtol=1e-8, atol=1e-8)
    both = torch.tensor([gamma, 2 * gamma], dtype=torch.float64).reshape(2, 1, 1, 1)
    expected = operator.prox_l2(x, y, both)
    torch.testing.assert_close(f.prox(x, both), expected, rtol=1e-8, atol=1e-8)
    # x − (AᵀA + 1/μ)⁻¹(∇f(x) + s)
    slope = rand(*x.shape, seed=seed + 2)
    moved = x - gamma * operator.prox_l2(gradient + slope, torch.zeros_like(y), gamma)
    scale = max(1.0, gamma) * 1e-9
    torch.testing.assert_close(f.spectral_step(x, slope, gamma), moved, rtol=1e-8, atol=scale)


@every_operator
def test_data_term_keeps_its_digits_in_float32_when_gamma_is_large(name: str) -> None:
    operator, height, width = build(name, 8, 7)
    truth = rand(2, 3, height, width)
    z, y = truth + 0.1 * rand(2, 3, height, width, seed=1), operator.A(truth)
    exact = operator.data_term(y).prox(z, 1e4)
    rounded = operator.data_term(y.float()).prox(z.float(), 1e4)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=1e-4)


@every_operator
def test_prox_takes_one_gamma_per_image(name: str) -> None:
    operator, height, width = build(name, 5, 4)
    z = rand(2, 3, height, width)
    y = operator.A(rand(2, 3, height, width, seed=1))
    gamma = torch.tensor([0.3, 20.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    both = operator.prox_l2(z, y, gamma)
    torch.testing.assert_close(both[0], operator.prox_l2(z, y, 0.3)[0])
    torch.testing.assert_close(both[1], operator.prox_l2(z, y, 20.0)[1])


@every_operator
def test_prox_keeps_its_digits_in_float32_when_gamma_is_large(name: str) -> None:
    operator, height, width = build(name, 8, 7)
    truth = rand(2, 3, height, width)
    z, y = truth + 0.1 * rand(2, 3, height, width, seed=1), operator.A(truth)
    exact = operator.prox_l2(z, y, 1e4)
    rounded = operator.prox_l2(z.float(), y.float(), 1e4)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=1e-4)


@every_operator
@few
@given(rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_norm_is_the_largest_singular_value(name: str, rows: int, columns: int) -> None:
    operator, height, width = build(name, rows, columns)
    if name == "inpainting":  # a batch of two matrices; one known pixel makes the norm 1
        operator = Inpainting(rand(1, 1, height, width, seed=5) < 0.3)
    matrix = dense(operator, height, width)
    expected = float(torch.linalg.matrix_norm(matrix, 2))
    assert operator.norm(height, width) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@every_operator
def test_norm_against_power_iteration(name: str) -> None:
    operator, height, width = build(name, 13, 10)
    x = rand(2, 3, height, width)
    for _ in range(300):
        x = operator.A_adjoint(operator.A(x))
        x = x / x.norm()
    estimate = float(operator.A(x).norm())
    norm = operator.norm(height, width)
    assert estimate <= norm * (1 + 1e-12)
    assert estimate == pytest.approx(norm, rel=1e-3)


@every_operator
def test_batches_equal_loops_and_sizes_may_alternate(name: str) -> None:
    operator, height, width = build(name, 7, 5)
    x, z = rand(2, 3, height, width), rand(2, 3, height, width, seed=1)
    y = operator.A(x)
    for i in range(2):
        one = operator
        if isinstance(operator, Inpainting):
            one = Inpainting(operator.mask[i : i + 1])
        else:
            factor = OPERATORS[name][0]
            one.A(rand(1, 3, 5 * factor, 2 * factor))
        one_x, one_y, one_z = x[i : i + 1], y[i : i + 1], z[i : i + 1]
        torch.testing.assert_close(one.A(one_x), one_y)
        torch.testing.assert_close(one.A_adjoint(one_y), operator.A_adjoint(y)[i : i + 1])
        torch.testing.assert_close(
            one.prox_l2(one_z, one_y, 3.0), operator.prox_l2(z, y, 3.0)[i : i + 1]
        )


@every_operator
def test_gradients_flow_through_everything(name: str) -> None:
    operator, height, width = build(name, 3, 2)
    with torch.inference_mode():  # what is computed once here must serve autograd below
        operator.prox_l2(
            rand(2, 1, height, width), operator.A(rand(2, 1, height, width)), gamma=1.0
        )
    x = rand(2, 1, height, width).requires_grad_()
    y = operator.A(rand(2, 1, height, width, seed=1)).detach().requires_grad_()
    gamma = torch.tensor([[[[0.5]]], [[[2.0]]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(operator.A, (x,))
    assert torch.autograd.gradcheck(operator.A_adjoint, (y,))
    assert torch.autograd.gradcheck(operator.prox_l2, (x, y, gamma))
    assert torch.autograd.gradcheck(lambda x, y: operator.data_term(y).gradient(x), (x, y))
    assert torch.autograd.gradcheck(lambda x, y, g: operator.data_term(y).prox(x, g), (x, y, gamma))


@every_operator
def test_precision_follows_the_images(name: str) -> None:
    operator, height, width = build(name, 9, 6)
    x = rand(2, 3, height, width)
    y = operator.A(x)
    assert operator.A(x.float()).dtype == torch.float32
    torch.testing.assert_close(operator.A(x.float()).double(), y, rtol=0, atol=1e-5)
    torch.testing.assert_close(operator.A(x), y, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_operator
def test_devices_agree(name: str) -> None:
    operator, height, width = build(name, 9, 6)
    x, z = rand(2, 3, height, width), rand(2, 3, height, width, seed=1)
    y = operator.A(x)
    torch.testing.assert_close(operator.A(x.cuda()).cpu(), y)
    torch.testing.assert_close(operator.A_adjoint(y.cuda()).cpu(), operator.A_adjoint(y))
    prox = operator.prox_l2(z.cuda(), y.cuda(), 3.0).cpu()
    torch.testing.assert_close(prox, operator.prox_l2(z, y, 3.0))


# Blur


@pytest.mark.parametrize("size", [(3, 5), (4, 2), (1, 1), (25, 25)])
def test_blur_is_the_circular_convolution_of_its_definition(size: tuple[int, int]) -> None:
    kernel, x = rand(*size), rand(1, 1, 7, 6, seed=1)
    expected = torch.zeros_like(x)
    for row in range(size[0]):
        for column in range(size[1]):
            shift = (row - size[0] // 2, column - size[1] // 2)
            expected += kernel[row, column] * x.roll(shift, dims=(-2, -1))
    torch.testing.assert_close(Blur(kernel).A(x), expected)


def test_blur_convolves_and_does_not_correlate() -> None:
    kernel = torch.zeros(3, 5)
    kernel[2, 4] = 1.0  # one row below and two columns right of the centre
    x = torch.zeros(1, 1, 8, 9, dtype=torch.float64)
    x[0, 0, 3, 4] = 1.0
    assert divmod(int(Blur(kernel).A(x).argmax()), 9) == (4, 6)


@pytest.mark.parametrize("kernel", [torch.zeros(3), torch.zeros(0, 3), torch.tensor([[torch.nan]])])
def test_blur_refuses_what_is_no_kernel(kernel: Tensor) -> None:
    with pytest.raises(InputError, match="kernel of shape"):
        Blur(kernel)


# Kernels


def moments(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a kernel over (x, y), from its centre."""
    height, width = kernel.shape
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) - height // 2,
        torch.arange(width, dtype=torch.float64) - width // 2,
        indexing="ij",
    )
    points = torch.stack([x.flatten(), y.flatten()])
    weights = kernel.flatten()
    mean = points @ weights
    centred = points - mean[:, None]
    return mean, (centred * weights) @ centred.T


# Eigenvalues of the covariance, and the angle of the major axis.
PUBLISHED = {
    "k0": (0.49, 0.49, 0.0),
    "k1": (1.44, 1.44, 0.0),
    "k2": (2.56, 2.56, 0.0),
    "k3": (4.0, 4.0, 0.0),
    "k4": (2.0, 7.0, 0.0),
    "k5": (1.5, 9.0, 144.0),
    "k6": (1.5, 8.0, 45.0),
    "k7": (5.0, 7.0, 52.2),
}


@pytest.mark.parametrize("name", GAUSSIAN_KERNELS)
def test_gaussian_kernels_have_the_published_moments(name: str) -> None:
    minor, major, angle = PUBLISHED[name]
    kernel = gaussian_kernel(name)
    assert kernel.shape == (25, 25)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-14)
    mean, covariance = moments(kernel)
    torch.testing.assert_close(mean, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    values, vectors = torch.linalg.eigh(covariance)
    # The window of ±12 pixels cuts less than four standard deviations: a loss of up to 0.5 %.
    assert values.tolist() == pytest.approx([minor, major], rel=5e-3)
    if minor != major:
        axis = torch.tensor([cos(radians(angle)), sin(radians(angle))], dtype=torch.float64)
        assert abs(float(vectors[:, 1] @ axis)) == pytest.approx(1, abs=1e-4)


def test_angles_turn_from_rightwards_to_downwards() -> None:
    kernel = gaussian_kernel_from((3.0, 1.0), 45.0, size=9)
    assert kernel[6, 6] > 10 * kernel[2, 6]  # below right, above right


@pytest.mark.parametrize(
    ("stds", "size"), [((1.0, 0.0), 9), ((-1.0, 1.0), 9), ((1.0, float("nan")), 9), ((1.0, 1.0), 8)]
)
def test_gaussian_kernel_from_refuses(stds: tuple[float, float], size: int) -> None:
    with pytest.raises(InputError, match="positive"):
        gaussian_kernel_from(stds, 0.0, size)


def test_gaussian_kernel_lists_the_names() -> None:
    with pytest.raises(InputError, match=r"'k8'.*k0, k1.*k7"):
        gaussian_kernel("k8")


def test_read_kernel_scales_arrays_and_grey_images(tmp_path: Path) -> None:
    array = np.array([[0, 1, 2], [0, 3, 2]], dtype=np.uint8)
    np.save(tmp_path / "motion.npy", array)
    Image.fromarray(array * 10).save(tmp_path / "motion.png")
    Image.fromarray(array.astype(np.uint16) * 5000).save(tmp_path / "deep.png")
    expected = torch.tensor([[0, 1, 2], [0, 3, 2]], dtype=torch.float64) / 8
    for name in ("motion.npy", "motion.png", "deep.png"):
        torch.testing.assert_close(read_kernel(tmp_path / name), expected)


@pytest.mark.parametrize(
    "array",
    [
        np.full((3, 3), np.nan),
        np.array([[1.0, np.inf]]),
        np.array([[1.0, -0.1]]),
        np.zeros((3, 3)),
        np.zeros((0, 3)),
        np.ones(3),
        np.ones((3, 3, 3)),
        np.array([["a"]]),
        np.array([[1j]]),
    ],
)
def test_read_kernel_refuses_arrays_and_names_the_file(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(InputError, match=r"bad\.npy: a blur kernel must be"):
        read_kernel(tmp_path / "bad.npy")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_read_kernel_takes_gray_of_any_mode(tmp_path: Path, mode: str) -> None:
    array = np.array([[0, 10, 20], [0, 30, 20]], dtype=np.uint8)
    image = Image.fromarray(array)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(array * 5))  # which says nothing of the blur
    image.save(tmp_path / "gray.PNG")
    expected = torch.from_numpy(array / array.sum())
    torch.testing.assert_close(read_kernel(tmp_path / "gray.PNG"), expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_read_kernel_refuses_colour_images(tmp_path: Path, mode: str) -> None:
    colours = np.arange(27, dtype=np.uint8).reshape(3, 3, 3) * 9
    image = Image.fromarray(colours)
    image = image.quantize(9) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "colour.png")
    with pytest.raises(InputError, match=r"colour\.png: a blur kernel must be a grey image"):
        read_kernel(tmp_path / "colour.png")


@pytest.mark.parametrize(
    "name", ["broken.png", "broken.npy", "absent.png", "absent.npy", "cut.png"]
)
def test_read_kernel_refuses_unreadable_files(tmp_path: Path, name: str) -> None:
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"neither")
    if name == "cut.png":
        Image.fromarray(np.arange(10_000, dtype=np.uint16).reshape(100, 100)).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:200])
    with pytest.raises(InputError, match=rf"{name}: cannot be read as a blur kernel") as error:
        read_kernel(tmp_path / name)
    assert "Errno" not in str(error.value)


# Down-sampling


@pytest.mark.parametrize("filter", ["bicubic", "gaussian"])
@pytest.mark.parametrize(("factor", "taps"), [(2, 8), (3, 11), (4, 16)])
def test_downsampling_filters(factor: int, taps: int, filter: Filter) -> None:
    weights = downsampling_filter(factor, filter)
    assert weights.shape == (taps,)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-15)
    torch.testing.assert_close(weights, weights.flip(0), rtol=0, atol=0)
    if filter == "gaussian":
        variance = moments(torch.outer(weights, weights))[1][0, 0]
        assert float(variance) == pytest.approx((0.5 * factor) ** 2, rel=0.01)


def test_bicubic_filter_by_hand() -> None:
    # Keys' kernel with a = −3/4 at distances 1/4, 3/4, 5/4 and 7/4, halved.
    right = torch.tensor([225, 67, -27, -9], dtype=torch.float64) / 256
    expected = torch.cat([right.flip(0), right]) / 2
    torch.testing.assert_close(downsampling_filter(2, "bicubic"), expected)


def test_bicubic_filter_of_factor_3_vanishes_at_one_low_resolution_pixel() -> None:
    weights = downsampling_filter(3, "bicubic")
    assert (weights == 0).nonzero().flatten().tolist() == [2, 8]


@pytest.mark.parametrize("filter", ["bicubic", "gaussian"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_downsampling_samples_at_the_centres_of_the_low_resolution_pixels(
    factor: int, filter: Filter
) -> None:
    weights = downsampling_filter(factor, filter)
    rows, columns = 4, 5
    x = rand(1, 1, factor * rows, factor * columns)
    # Offsets from a low-resolution pixel's centre c = f·i + (f − 1)/2 to the taps around it.
    offsets = torch.arange(len(weights), dtype=torch.float64) - (len(weights) - 1) / 2
    expected = torch.zeros(1, 1, rows, columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            taps_i = (factor * i + (factor - 1) / 2 + offsets).long() % (factor * rows)
            taps_j = (factor * j + (factor - 1) / 2 + offsets).long() % (factor * columns)
            expected[0, 0, i, j] = weights @ x[0, 0, taps_i][:, taps_j] @ weights
    torch.testing.assert_close(Downsampling(factor, filter).A(x), expected)


@pytest.mark.parametrize("filter", ["bicubic", "gaussian"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_downsampling_keeps_constants_and_does_not_shift_ramps(factor: int, filter: Filter) -> None:
    operator = Downsampling(factor, filter)
    ones = torch.ones(1, 1, 12 * factor, 8 * factor, dtype=torch.float64)
    torch.testing.assert_close(operator.A(ones), ones[..., :12, :8])
    ramp = ones * torch.arange(12 * factor, dtype=torch.float64)[:, None]
    centres = factor * torch.arange(12, dtype=torch.float64) + (factor - 1) / 2
    interior = slice(2, -2)  # where the filter does not reach around the border
    torch.testing.assert_close(operator.A(ramp)[0, 0, interior, 0], centres[interior])


@pytest.mark.parametrize("size", [(7, 8), (8, 7)])
def test_downsampling_refuses_other_sizes(size: tuple[int, int]) -> None:
    operator = Downsampling(2)
    with pytest.raises(InputError, match=f"{size[1]}×{size[0]} pixels: crop .* factor 2"):
        operator.A(torch.zeros(1, 3, *size))
    with pytest.raises(InputError, match="multiples"):
        operator.norm(*size)


def test_downsampling_refuses_other_factors_and_filters() -> None:
    with pytest.raises(InputError, match="factor 5: must be 2, 3 or 4"):
        Downsampling(5)
    with pytest.raises(InputError, match="'box': must be one of bicubic, gaussian"):
        Downsampling(2, "box")  # type: ignore[arg-type]


# Inpainting


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float64])
def test_masks_keep_known_pixels(dtype: torch.dtype) -> None:
    x = rand(2, 3, 4, 5)
    known = rand(1, 1, 4, 5, seed=1) > 0
    expected = torch.where(known, x, torch.zeros_like(x))
    torch.testing.assert_close(Inpainting(known.to(dtype)).A(x), expected, rtol=0, atol=0)


def test_norm_of_an_empty_mask_is_zero() -> None:
    assert Inpainting(torch.zeros(1, 1, 4, 5)).norm(4, 5) == 0


def test_masks_of_other_values_or_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="entries 0"):
        Inpainting(torch.full((1, 1, 4, 4), 0.5))
    with pytest.raises(InputError, match="mask of 5×4 pixels: the image has 4×5"):
        Inpainting(torch.ones(1, 1, 4, 5)).A(torch.zeros(1, 3, 5, 4))
