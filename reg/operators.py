"""Degradation operators A of ``y = A x + n``: blur, blur and decimation, masks, identity.

All act on batches (N,C,H,W) of any float dtype on any device, with circular boundaries, are
linear and differentiable. Filtering goes through the FFT: for 25×25 kernels it is ten times as
fast as a depthwise convolution, and neither TF32 nor autocast can lower its precision.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import cos, isfinite, radians, sin, sqrt
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reg.errors import InputError

Filter = Literal["bicubic", "gaussian"]
Cache = dict[tuple[int, int, torch.dtype, torch.device], Tensor]

# Standard deviations (pixels) along and across the axis at the given angle (degrees).
GAUSSIAN_KERNELS: dict[str, tuple[tuple[float, float], float]] = {
    "k0": ((0.7, 0.7), 0.0),
    "k1": ((1.2, 1.2), 0.0),
    "k2": ((1.6, 1.6), 0.0),
    "k3": ((2.0, 2.0), 0.0),
    "k4": ((sqrt(7.0), sqrt(2.0)), 0.0),
    "k5": ((sqrt(9.0), sqrt(1.5)), 144.0),
    "k6": ((sqrt(8.0), sqrt(1.5)), 45.0),
    "k7": ((sqrt(7.0), sqrt(5.0)), 52.2),
}


class Operator(ABC):
    """A linear operator A with its adjoint, the prox of its data term and its spectral norm."""

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """``A x`` for a batch of images (N,C,H,W)."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """``Aᵀ y`` for a batch of measurements."""

    @abstractmethod
    def prox_l2(self, z: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        """``argmin_x γ/2 ‖A x − y‖² + 1/2 ‖x − z‖²`` in closed form.

        ``gamma`` ≥ 0 is a number or a tensor (N,1,1,1) with one value per image. Evaluated as
        ``z + γ Aᵀ (I + γ A Aᵀ)⁻¹ (y − A z)``, which loses no digits when γ is large.
        """

    @abstractmethod
    def norm(self, height: int, width: int) -> float:
        """The exact spectral norm of A on images of ``height`` × ``width`` pixels."""

    def data_term(self, y: Tensor) -> "DataTerm":
        """f(x) = ½‖A x − y‖² for a batch of measurements."""
        return DataTerm(self, y)


class DataTerm:
    """f(x) = ½‖A x − y‖² of measurements y (N,C,h,w), as the iterations use it.

    Operators that can compute once what depends on y alone return their own.
    """

    def __init__(self, operator: Operator, y: Tensor) -> None:
        self.operator, self.y = operator, y

    def value(self, x: Tensor) -> Tensor:
        """f(x) of each image: (N,)."""
        return 0.5 * (self.operator.A(x) - self.y).square().sum(dim=(1, 2, 3))

    def gradient(self, x: Tensor) -> Tensor:
        """∇f(x) = Aᵀ(A x − y)."""
        return self.operator.A_adjoint(self.operator.A(x) - self.y)

    def prox(self, z: Tensor, gamma: float | Tensor) -> Tensor:
        """prox_{γf}(z) = argmin_x γ f(x) + ½‖x − z‖²; γ as in `Operator.prox_l2`."""
        return self.operator.prox_l2(z, self.y, gamma)

    def spectral_step(self, x: Tensor, slope: Tensor, step: float) -> Tensor:
        """x − (AᵀA + 1/μ)⁻¹(∇f(x) + s): a step down f plus a term of slope s, in A's own metric.

        The same point is prox_{μf}(x − μs), which needs no gradient of f.
        """
        return self.prox(x - step * slope, step)


class Blur(Operator):
    """Circular convolution (not correlation): ``(A x)[i] = Σ_j k[j] x[i − (j − c)]``.

    The origin of the kernel (kh,kw) is its entry ``c = (kh//2, kw//2)``: the centre of an odd
    size, the later of the two middle entries of an even one. A kernel larger than the image
    wraps around. Raises InputError for a kernel that is not 2-D, is empty or is not finite.
    """

    def __init__(self, kernel: Tensor) -> None:
        shape = tuple(kernel.shape)
        if len(shape) != 2 or 0 in shape or not bool(kernel.isfinite().all()):
            raise InputError(f"kernel of shape {shape}: must be 2-D, not empty, and finite")
        self.kernel = kernel.detach().to("cpu", torch.float64, copy=True)
        self._spectra: Cache = {}

    def A(self, x: Tensor) -> Tensor:
        return _irfft2(torch.fft.rfft2(x) * self._spectrum(x), x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return _irfft2(torch.fft.rfft2(y) * self._spectrum(y).conj(), y)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        spectrum = self._spectrum(z)
        weight = gamma / (1 + gamma * spectrum.abs().square())
        residual = torch.fft.rfft2(y) - spectrum * torch.fft.rfft2(z)
        return z + _irfft2(weight * spectrum.conj() * residual, z)

    def norm(self, height: int, width: int) -> float:
        return float(_transfer(self.kernel, height, width).abs().max())

    def data_term(self, y: Tensor) -> DataTerm:
        return BlurDataTerm(self, y)

    def _spectrum(self, x: Tensor) -> Tensor:
        return _once(self._spectra, x, lambda: _transfer(self.kernel, *x.shape[-2:]))


class BlurDataTerm(DataTerm):
    """The data term of a blur: gradient and prox by one FFT forth and one back."""

    def __init__(self, operator: Blur, y: Tensor) -> None:
        super().__init__(operator, y)
        spectrum = operator._spectrum(y)
        self._power = spectrum.abs().square()
        self._back = spectrum.conj() * torch.fft.rfft2(y)  # the spectrum of Aᵀy

    def gradient(self, x: Tensor) -> Tensor:
        return _irfft2(torch.fft.rfft2(x).mul_(self._power).sub_(self._back), x)

    def prox(self, z: Tensor, gamma: float | Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(z) + gamma * self._back
        return _irfft2(spectrum.div_(1 + gamma * self._power), z)


class Downsampling(Operator):
    """Antialiasing filter, then decimation by ``factor``; pixels are aligned by their areas.

    Low-resolution pixel i is centred at ``factor·i + (factor − 1)/2`` of the high-resolution
    grid, so that images are neither shifted nor biased. See `downsampling_filter` for the
    filters. ``prox_l2`` is the closed form of Zhao et al., "Fast single image super-resolution
    using a new analytical solution for ℓ2–ℓ2 problems", IEEE TIP 2016: ``A Aᵀ`` is circulant
    on the low-resolution grid, and its spectrum is the mean of the aliases of ``|k̂|²``.

    Raises InputError for a factor other than 2, 3 or 4, an unknown filter, and images whose
    sides are not multiples of the factor.
    """

    def __init__(self, factor: int, filter: Filter = "bicubic") -> None:
        taps = downsampling_filter(factor, filter)
        self.factor, self.blur = factor, Blur(torch.outer(taps, taps))
        # With an even filter, `Blur` already looks half a pixel ahead of the sample.
        samples = slice((factor - 1) // 2, None, factor)
        self._samples = (..., samples, samples)
        self._spectra: Cache = {}

    def A(self, x: Tensor) -> Tensor:
        self._check_size(*x.shape[-2:])
        return self.blur.A(x)[self._samples].contiguous()

    def A_adjoint(self, y: Tensor) -> Tensor:
        height, width = y.shape[-2:]
        spread = y.new_zeros(*y.shape[:-2], self.factor * height, self.factor * width)
        spread[self._samples] = y
        return self.blur.A_adjoint(spread)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        folded = _once(self._spectra, y, lambda: self._fold(*y.shape[-2:]))
        residual = torch.fft.rfft2(y - self.A(z)) * (gamma / (1 + gamma * folded))
        return z + self.A_adjoint(_irfft2(residual, y))

    def norm(self, height: int, width: int) -> float:
        self._check_size(height, width)
        return sqrt(float(self._fold(height // self.factor, width // self.factor).max()))

    def _check_size(self, height: int, width: int) -> None:
        if height % self.factor or width % self.factor:
            raise InputError(
                f"image of {width}×{height} pixels: crop both sides to multiples of the "
                f"down-sampling factor {self.factor}"
            )

    def _fold(self, height: int, width: int) -> Tensor:
        """The spectrum of ``A Aᵀ`` on a low-resolution grid of ``height`` × ``width``."""
        s, size = self.factor, (self.factor * height, self.factor * width)
        power = _transfer(self.blur.kernel, *size).abs().square()
        # Decimating the autocorrelation averages the aliases of its spectrum.
        folded: Tensor = torch.fft.rfft2(torch.fft.irfft2(power, s=size)[::s, ::s])
        return folded.real


class Inpainting(Operator):
    """``A x = mask · x`` for a mask of zeros (holes) and ones (known pixels).

    ``mask`` (N,1,H,W), or what broadcasts to the images, has any type. Raises InputError for
    other values or a mask of another size than the images.
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.ndim < 2 or not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError("mask: must be (N,1,H,W) with entries 0 (hole) or 1 (known)")
        self.mask = mask.detach().bool()
        self._masks: Cache = {}

    def A(self, x: Tensor) -> Tensor:
        return self._mask(x) * x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._mask(y) * y

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        return z + (gamma / (1 + gamma)) * self._mask(z) * (y - z)

    def norm(self, height: int, width: int) -> float:
        return float(self.mask.any())

    def _mask(self, x: Tensor) -> Tensor:
        if self.mask.shape[-2:] != x.shape[-2:]:
            sizes = [f"{t.shape[-1]}×{t.shape[-2]}" for t in (self.mask, x)]
            raise InputError(f"mask of {sizes[0]} pixels: the image has {sizes[1]}, must agree")
        return _once(self._masks, x, lambda: self.mask)


class Denoising(Operator):
    """The identity."""

    def A(self, x: Tensor) -> Tensor:
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        return z + (gamma / (1 + gamma)) * (y - z)

    def norm(self, height: int, width: int) -> float:
        return 1.0


def gaussian_kernel(name: str) -> Tensor:
    """One of the paper's eight 25×25 Gaussian blur kernels, ``k0`` … ``k7``, float64."""
    if name not in GAUSSIAN_KERNELS:
        raise InputError(f"kernel '{name}': must be one of {', '.join(GAUSSIAN_KERNELS)}")
    return gaussian_kernel_from(*GAUSSIAN_KERNELS[name])


def gaussian_kernel_from(stds: tuple[float, float], angle: float, size: int = 25) -> Tensor:
    """Sampled Gaussian ``exp(−½ (u²/s₁² + v²/s₂²))`` of sum 1, (size,size) float64.

    ``stds = (s₁, s₂)`` in pixels, along and across the axis at ``angle`` degrees, which is
    measured from x (rightwards) towards y (downwards). Raises InputError unless the standard
    deviations are positive and ``size`` is odd.
    """
    if not all(isfinite(s) and s > 0 for s in stds):
        raise InputError(f"standard deviations {stds}: must be positive")
    if size < 1 or size % 2 == 0:
        raise InputError(f"kernel size {size}: must be odd and positive")
    x = torch.arange(size, dtype=torch.float64) - size // 2
    y, theta = x[:, None], radians(angle)
    along = x * cos(theta) + y * sin(theta)
    across = y * cos(theta) - x * sin(theta)
    kernel = torch.exp(-0.5 * ((along / stds[0]) ** 2 + (across / stds[1]) ** 2))
    return kernel / kernel.sum()


def read_kernel(path: Path) -> Tensor:
    """A blur kernel, such as a motion kernel, scaled to sum 1, (kh,kw) float64.

    From a ``.npy`` file or a grey image, which may be stored as RGB and with alpha. Raises
    InputError, naming the file, if it cannot be read or does not hold a 2-D array of finite
    numbers ≥ 0, not all zero.
    """
    try:
        array = _read_array(path)
    except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as a blur kernel ({reason})") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "buif":
        raise InputError(f"{path}: a blur kernel must be a grey image or a 2-D array of numbers")
    kernel = torch.from_numpy(array.astype(np.float64))
    if not bool((kernel.isfinite() & (kernel >= 0)).all()) or kernel.sum() == 0:
        raise InputError(f"{path}: a blur kernel must be finite, ≥ 0 and not zero everywhere")
    return kernel / kernel.sum()


def downsampling_filter(factor: int, filter: Filter) -> Tensor:
    """The symmetric 1-D filter of `Downsampling`, sum 1, float64: 8, 11 or 16 taps for ×2, ×3, ×4.

    With t the distance to the low-resolution pixel's centre in low-resolution pixels, |t| < 2:
    ``bicubic`` is Keys' cubic convolution kernel (IEEE TASSP 1981) with a = −0.75, stretched by
    the factor (for ×3 the taps at |t| = 1 are zero); ``gaussian`` has a standard deviation of
    0.5·factor high-resolution pixels, cut at four of them.
    """
    if factor not in (2, 3, 4):
        raise InputError(f"down-sampling factor {factor}: must be 2, 3 or 4")
    if filter not in get_args(Filter):
        raise InputError(f"filter '{filter}': must be one of {', '.join(get_args(Filter))}")
    taps = 4 * factor - factor % 2
    t = (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2).abs() / factor
    if filter == "bicubic":
        a = -0.75
        near = ((a + 2) * t - (a + 3)) * t**2 + 1
        far = a * (((t - 5) * t + 8) * t - 4)
        weights = torch.where(t <= 1, near, far)
    else:
        weights = torch.exp(-2 * t**2)
    return weights / weights.sum()


def _transfer(kernel: Tensor, height: int, width: int) -> Tensor:
    """`torch.fft.rfft2` of the kernel on an image grid, wrapped around, its origin at (0,0)."""
    rows, columns = (torch.arange(n) - n // 2 for n in kernel.shape)
    wrapped = kernel.new_zeros(height, width)
    indices = (rows[:, None] % height, columns[None, :] % width)
    wrapped.index_put_(indices, kernel, accumulate=True)
    spectrum: Tensor = torch.fft.rfft2(wrapped)
    return spectrum


def _once(cache: Cache, like: Tensor, build: Callable[[], Tensor]) -> Tensor:
    """``build()`` in the precision and on the device of ``like``, once for each image size."""
    key = (*like.shape[-2:], like.dtype, like.device)
    if key not in cache:
        # Kept tensors must serve autograd later even if first needed in inference mode.
        with torch.inference_mode(False):
            value = build()
            dtype = like.dtype.to_complex() if value.is_complex() else like.dtype
            cache[key] = value.to(like.device, dtype, copy=True)
    return cache[key]


def _irfft2(spectrum: Tensor, like: Tensor) -> Tensor:
    image: Tensor = torch.fft.irfft2(spectrum, s=like.shape[-2:])
    return image


def _read_array(path: Path) -> object:
    if path.suffix.lower() == ".npy":
        return np.load(path, allow_pickle=False)
    with Image.open(path) as image:
        if image.mode == "LA":
            return np.asarray(image.convert("L"))
        if image.mode not in ("RGB", "RGBA", "P", "PA"):  # the numbers of the last two are indices
            return np.asarray(image)
        channels = np.asarray(image.convert("RGB"))
    gray = (channels == channels[..., :1]).all()
    return channels[..., 0] if gray else channels
