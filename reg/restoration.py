"""Restore a photograph of one's own: its borders, its size, and parameters that nobody tuned.

`restore` is also `reg.restore`. What a photograph shows goes on beyond its borders, so blur and
down-sampling are inverted on a larger domain, of which only the photograph was measured
(`Measured`). The operator sees all of it; the networks see it in exact tiles (`Tiled`).
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import islice, product
from math import ceil, isfinite, log, nan, sqrt
from operator import index
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import psutil
import torch
from scipy.fft import next_fast_len  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn import functional as F

from reg.checkpoints import write_whole
from reg.cpu import AnyNetwork, fuse, keep_freed_memory
from reg.errors import InputError
from reg.methods import Networks, arm_folder, begin, iterate
from reg.networks import (
    STRIDE,
    best_device,
    for_inference,
    inference,
    load_denoiser,
    load_regularizer,
)
from reg.operators import (
    GAUSSIAN_KERNELS,
    Blur,
    DataTerm,
    Denoising,
    Downsampling,
    Inpainting,
    Operator,
    gaussian_kernel,
    gaussian_kernel_from,
    read_kernel,
)
from reg.photos import read_photo
from reg.problems import Problem, Task, fill_holes, parse_task
from reg.unrolled import load_unrolled

Array = npt.NDArray[Any]
Kind = Literal["deblur", "sr", "inpaint", "denoise"]
Method = Literal["pnp-gd", "admm", "unrolled", "denoiser"]
Parameters = Mapping[str, float]
Notify = Callable[[int, int], None]  # iterations or tiles done, of how many at most

IN_METHODS = {"pnp-gd": "pnp-gd", "admm": "pnp-admm"}  # their names in `reg.methods`
# Below the folder of the networks; the unrolled ones are named by their tasks. G lies in
# `methods.arm_folder`, that of the first training seed.
DENOISER = "pretrain/denoiser.safetensors"
REGULARIZER = "regularizer.safetensors"
UNROLLED = "finetune_unrolled/reg"
# At most. At a noise of 2.55/255 twice as many gain less than 0.1 dB; without noise, 150 gain up to
# 0.8 dB behind a wide kernel.
ITERATIONS = 40
TOLERANCE = 1e-4  # the relative change at which an image has settled

# For weights that bring no chosen.json: what `tune` chose for an earlier `demo`. Noise levels /255.
DEFAULTS: Mapping[str, Mapping[str, Parameters]] = {
    "deblur-k5-2.55": {
        "pnp-gd": {"sigma": 1.275, "curvature": 3200.0},
        "pnp-admm": {"sigma": 2.55, "level": 80.0},
    },
    "sr-x2-2.55": {
        "pnp-gd": {"sigma": 2.55, "curvature": 1600.0},
        "pnp-admm": {"sigma": 5.1, "level": 40.0},
    },
    "inpaint-20": {
        "pnp-gd": {"sigma": 0.0625, "curvature": 800.0},
        "pnp-admm": {"sigma": 4.0, "level": 40.0},
    },
}

# The least noise by which σ is scaled, /255: no kernel is known more exactly than that, and with a
# weaker prior 40 iterations are too few.
LEAST_NOISE = 1.0
SR_POWER = 0.75
SIGMA_MOST = 50.0  # /255: the most noise that the networks were trained with
# The relative difference up to which an unrolled network takes a kernel for its own. Of another
# kernel, even one as wide, it may leave a worse image than it was given; so may it with more noise
# than it was trained with, or with more or fewer holes: by this factor and this share.
SAME_KERNEL, MORE_NOISE, OTHER_SHARE = 0.15, 2.0, 0.1
VARIANCE = 0.05  # of the values of a photograph, in [0,1]
POINT = torch.ones(1, 1, dtype=torch.float64)  # the kernel of no blur
TILE = 1024  # pixels a side of what a network 16 channels wide computes at once
BYTES_PER_PIXEL = 250  # of the restored image, measured on 12 megapixels
# Where Linux says what a container may use and uses, in either version of its control groups.
CONTAINER = Path("/sys/fs/cgroup")
LIMITS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
NEGLIGIBLE = 1e-6  # of the peak of a Gaussian kernel
REACH = 3  # low-resolution pixels that the filter of `Downsampling` reaches beyond the image


# --- the command's one function --------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Degradation:
    """What is assumed to have happened to a photograph: a blur, a reduction, holes, or noise alone.

    ``kernel`` is (kh,kw) of sum 1, ``mask`` (H,W), true where a pixel is known. Raises InputError
    unless there is what the task needs, and nothing else.
    """

    task: Kind
    kernel: Tensor | None = None
    factor: int | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.task not in get_args(Kind):
            raise InputError(f"task '{self.task}': must be one of {', '.join(get_args(Kind))}")
        needs = {"deblur": "kernel", "sr": "factor", "inpaint": "mask"}
        for task, name in needs.items():
            given = getattr(self, name) is not None
            if given and task != self.task:
                raise InputError(f"{name}: task {self.task} has none; remove it, or choose {task}")
            if not given and task == self.task:
                raise InputError(f"task {task}: needs a {name}; give it by --{name}")
        if self.factor is not None and self.factor not in (2, 3, 4):
            raise InputError(f"factor {self.factor}: must be 2, 3 or 4")

    @classmethod
    def of(
        cls,
        task: Kind,
        kernel: Array | Tensor | str | Path | None,
        factor: int | None,
        mask: Array | Tensor | str | Path | None,
    ) -> Self:
        """From what `restore` takes; see `to_kernel` and `to_mask`."""
        return cls(
            task,
            None if kernel is None else to_kernel(kernel),
            None if factor is None else _whole("factor", factor, "2, 3 or 4"),
            None if mask is None else to_mask(mask),
        )

    def check_whole(self, height: int, width: int) -> None:
        """InputError if a scene of this size cannot be degraded, or not in this memory."""
        if self.factor is not None and min(height, width) < self.factor:
            raise InputError(f"image of {width}×{height} pixels: too small to reduce")
        self.check_size(height, width)
        check_memory(height, width)

    def check_size(self, height: int, width: int) -> None:
        """InputError if mask or kernel do not suit a photograph of this size."""
        if self.mask is not None and tuple(self.mask.shape) != (height, width):
            raise InputError(
                f"mask of {self.mask.shape[1]}×{self.mask.shape[0]} pixels: the image has "
                f"{width}×{height}, must agree"
            )
        if self.kernel is not None and max(self.kernel.shape) > min(height, width):
            raise InputError(
                f"kernel of {max(self.kernel.shape)} pixels a side: larger than the image of "
                f"{width}×{height}; crop the kernel, or choose a smaller STD"
            )


def restore(
    image: Array,
    task: Kind,
    *,
    kernel: Array | Tensor | str | Path | None = None,
    factor: int | None = None,
    mask: Array | Tensor | str | Path | None = None,
    sigma: float | Literal["auto"] | None = None,
    method: Method | None = None,
    weights: str | Path | None = None,
    iterations: int | None = None,
    notify: Notify | None = None,
) -> Array:
    """Restore a photograph: min_x ½‖Ax − y‖² + σ²φ(x), φ given by ReG (`pnp-gd`) or a denoiser.

    ``image`` is (H,W) or (H,W,C) with C = 1 gray, 2 gray and alpha, 3 RGB or 4 RGBA, of uint8,
    uint16, or floats in [0,1]. Returns an array of the same kind, ``factor`` times as large for
    ``sr``. Alpha is kept (enlarged for ``sr``), and so are known pixels in noise-free inpainting.

    - ``deblur``: ``kernel`` is an array, `gaussian:STD[,STD,ANGLE]` or the path of a kernel;
    - ``sr``: by a ``factor`` of 2, 3 or 4, of an image reduced by antialiased bicubic filtering;
    - ``inpaint``: ``mask`` (H,W), or the path of one, is true, or 1, where a pixel is known;
    - ``denoise``: by the denoiser itself, in one pass, unless another ``method`` is asked for.

    ``method`` is ``pnp-gd``, ``admm``, or ``unrolled``: a few steps trained for one task, so there
    must be a network for this factor or kernel; of several, that of the nearest noise or mask.

    ``sigma`` is the noise level in /255, the others' units being [0,1]; "auto" estimates it
    (Donoho & Johnstone 1994, by skimage). Default: auto, and 0 for ``inpaint``.
    ``weights`` is a folder; see `find_weights`. ``notify(done, total)`` is called after each
    iteration or tile. Small images make the process keep the memory that it frees, which is faster
    (`cpu.keep_freed_memory`). Raises InputError for what cannot be used.
    """
    how = Restoration.of(
        task,
        kernel=kernel,
        factor=factor,
        mask=mask,
        sigma=sigma,
        method=method,
        weights=weights,
        iterations=iterations,
    )
    return how.run(image, notify).image


@dataclass(frozen=True, eq=False)
class Restored:
    """What came of a photograph: an array, and how it came about.

    ``sigma`` is the noise level in /255, given or estimated; ``iterations`` is how many were done,
    None by a method that does not iterate.
    """

    image: Array
    sigma: float
    iterations: int | None


@dataclass(frozen=True, eq=False)
class Restoration:
    """How photographs are restored: all that `restore` takes but the photograph.

    ``sigma`` is the noise level in /255, or auto; ``folder`` is that of the networks.
    """

    degradation: Degradation
    method: Method
    sigma: float | Literal["auto"]
    folder: Path
    iterations: int  # at most

    @classmethod
    def of(
        cls,
        task: Kind,
        *,
        kernel: Array | Tensor | str | Path | None = None,
        factor: int | None = None,
        mask: Array | Tensor | str | Path | None = None,
        sigma: float | str | None = None,
        method: Method | None = None,
        weights: str | Path | None = None,
        iterations: int | None = None,
    ) -> Self:
        """From what `restore` takes. InputError for what suits no photograph, before any work."""
        degradation = Degradation.of(task, kernel, factor, mask)
        method = method or ("denoiser" if task == "denoise" else "pnp-gd")
        if method not in get_args(Method) or (method == "denoiser" and task != "denoise"):
            raise InputError(
                f"method '{method}': must be pnp-gd, admm or unrolled, or denoiser for denoise"
            )
        if iterations is not None and method == "unrolled":
            raise InputError("iterations: an unrolled network has as many as it was trained with")
        if iterations is not None and method == "denoiser":
            raise InputError(
                "iterations: a denoiser takes one pass; choose pnp-gd or admm for more"
            )
        steps = ITERATIONS
        if iterations is not None:
            steps = _whole("iterations", iterations, "a whole number, at least 1")
        if steps < 1:
            raise InputError(f"iterations {steps}: must be a whole number, at least 1")
        how = cls(degradation, method, sigma_of(sigma, task), find_weights(weights), steps)
        # Without noise if it is not known yet: what has no network then has none for any noise.
        how.network(0.0 if how.sigma == "auto" else how.sigma / 255)
        return how

    @property
    def factor(self) -> int:
        """How many times as large the restored photograph is."""
        return self.degradation.factor or 1

    def check_size(self, height: int, width: int) -> None:
        """InputError if a photograph of this size cannot be restored, or not in this memory."""
        self.degradation.check_size(height, width)
        check_memory(height, width, self.factor)

    def check(self, image: Array) -> None:
        """InputError if this photograph cannot be restored: its size, or its noise."""
        self.check_size(*image.shape[:2])
        # Which unrolled network that is depends on the noise; of a known one `of` has looked it up.
        if self.method == "unrolled" and self.sigma == "auto":
            self.network(noise_level(to_tensor(image)[0], self.degradation.task, self.sigma))

    def network(self, noise: float) -> Callable[..., Tensor]:
        """The network for a noise level in [0,1] units; InputError if there is none."""
        file = network_file(self.folder, self.method, self.degradation, noise)
        with _within_memory():
            return load(file, file.stat().st_mtime_ns if file.exists() else 0)

    def run(self, image: Array, notify: Notify | None = None) -> Restored:
        """Restore one photograph; see `restore`."""
        image = _to_numpy("image", image)
        y, alpha = to_tensor(image)
        height, width = y.shape[-2:]
        self.check_size(height, width)
        degradation, done = self.degradation, None
        noise = noise_level(y, degradation.task, self.sigma)
        network = self.network(noise)
        if height * width * self.factor**2 <= TILE**2:  # else it would be too much
            keep_freed_memory()
        with _within_memory(), inference("auto", best_device()):
            y = y.to(best_device())
            if self.method == "denoiser":
                x = network(y, noise, notify=notify)
            elif self.method == "unrolled":
                x = _unroll(degradation, y, noise, network)
            else:
                tuned, steps = parameters_of(self.folder), self.iterations
                x, done = _solve(degradation, y, noise, self.method, network, tuned, steps, notify)
        if not bool(x.isfinite().all()):
            raise InputError(
                f"{degradation.task} by {self.method}: diverged; raise sigma, or choose another "
                "method"
            )
        if degradation.mask is not None and noise == 0:
            x = torch.where(degradation.mask.to(y.device), y, x)
        return Restored(to_array(x.cpu(), alpha, image), 255 * noise, done)


@contextmanager
def _within_memory() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise InputError(
            f"the memory of {best_device()} is full; crop or reduce the image, or hide the GPU by "
            "CUDA_VISIBLE_DEVICES="
        ) from None
    except (MemoryError, RuntimeError) as error:  # RuntimeError: torch's, on a CPU
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        raise InputError("the memory is full; crop or reduce the image") from None


def _solve(
    degradation: Degradation,
    y: Tensor,
    noise: float,
    method: Method,
    network: Callable[..., Tensor],
    tuned: Mapping[str, Mapping[str, Parameters]],
    iterations: int,
    notify: Notify | None,
) -> tuple[Tensor, int]:
    problem, inner = pose(degradation, y, noise)
    name = IN_METHODS[method]
    parameters = scaled(degradation, noise, name, tuned)
    networks = Networks({"original": network}, {"updated": network}, device=y.device)
    iterates = iterate(name, problem, networks, parameters, TOLERANCE)
    restored, done = y, 0
    for done, x in enumerate(islice(iterates, iterations), 1):
        restored = x[inner]
        if notify is not None:
            notify(done, iterations)
    return restored, done


def _unroll(
    degradation: Degradation, y: Tensor, noise: float, unrolled: Callable[..., Tensor]
) -> Tensor:
    problem, inner = pose(degradation, y, noise)
    return unrolled(problem)[inner]


def pose(
    degradation: Degradation, y: Tensor, noise: float
) -> tuple[Problem, tuple[Any, slice, slice]]:
    """The problem to be solved for y (1,3,H,W), and where in its solution the photograph is.

    Iterations start from y with its border repeated, enlarged by bicubic interpolation for ``sr``,
    and with holes filled (`problems.fill_holes`).
    """
    height, width = y.shape[-2:]
    if degradation.mask is not None:
        known = degradation.mask[None, None].to(y.device)
        operator: Operator = Inpainting(known)
        y = operator.A(y)
        start, reach, factor = fill_holes(y, known), 0, 1
    elif degradation.task == "denoise":
        operator, start, reach, factor = Denoising(), y, 0, 1
    else:
        reach, factor = REACH, degradation.factor or 1
        if degradation.kernel is not None:
            reach = max(degradation.kernel.shape) // 2
            inner: Operator = Blur(degradation.kernel)
        else:
            inner = Downsampling(factor)
        tall, wide = (next_fast_len(side + 2 * reach, real=True) for side in (height, width))
        operator = Measured(inner, reach, (height, width), (tall, wide))
        start = F.pad(y, operator.beyond, mode="replicate")
        if factor > 1:
            start = F.interpolate(start, scale_factor=factor, mode="bicubic", align_corners=False)
    rows_inside = slice(factor * reach, factor * (reach + height))
    columns_inside = slice(factor * reach, factor * (reach + width))
    nowhere = y.new_empty(0)  # the truth, which nothing here measures
    problem = Problem(degradation.task, operator, y, noise, start, nowhere)
    return problem, (..., rows_inside, columns_inside)


# --- unknown borders -------------------------------------------------------------------------


class Measured(Operator):
    """``M A``: an operator on a larger domain of which ``M`` keeps the photograph's measurements.

    The photograph of ``size`` lies ``reach`` pixels from the top and the left of the domain. With
    ``reach`` pixels or more on every side, as many as the filter of A reaches, no measurement
    depends on how A continues beyond the domain, so nothing is circular any more. (The model is
    that of Almeida & Figueiredo, "Deconvolving images with unknown boundaries using the
    alternating direction method of multipliers", IEEE TIP 2013.)

    ``prox_l2`` of measurements solves (γAᵀMᵀMA + 1) x = z + γAᵀMᵀy by conjugate gradients,
    preconditioned by the closed form of A without M: the two systems differ only at the border. It
    begins at z or, if that is nearer, at its last solution, for in PnP-ADMM little changes between
    calls; it ends when the residual is ``tolerance`` times that at z, or after ``steps``. What is
    left is an error at the border, which later calls reduce.

    The metric of a spectral step is that of A without M, in closed form: as AᵀMᵀMA ≼ AᵀA, a step
    that is stable for A is so for MA, with the same stationary points.
    """

    def __init__(
        self,
        operator: Operator,
        reach: int,
        size: tuple[int, int],
        domain: tuple[int, int],
        tolerance: float = 1e-3,
        steps: int = 3,
    ) -> None:
        self.operator, self.tolerance, self.steps = operator, tolerance, steps
        self.domain = domain
        (height, width), (tall, wide) = size, domain
        self._inner = (..., slice(reach, reach + height), slice(reach, reach + width))
        self.beyond = (reach, wide - width - reach, reach, tall - height - reach)
        self._last: Tensor | None = None

    def A(self, x: Tensor) -> Tensor:
        return _by_channel(lambda channel: self.operator.A(channel)[self._inner], x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return _by_channel(lambda one: self.operator.A_adjoint(F.pad(one, self.beyond)), y)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float | Tensor) -> Tensor:
        x, residual = z, gamma * self.A_adjoint(y - self.A(z))
        enough = self.tolerance * residual.norm()
        if self._last is not None:
            left = z - self._last + gamma * self.A_adjoint(y - self.A(self._last))
            if left.norm() < residual.norm():
                x, residual = self._last, left
            del left
        direction = change = self.precondition(residual, gamma)
        product = (residual * change).sum()
        for step in range(self.steps):
            if not residual.norm() > enough:
                break
            if step > 0:
                change = self.precondition(residual, gamma)
                before, product = product, (residual * change).sum()
                direction = change + (product / before) * direction
            image = direction + gamma * self.A_adjoint(self.A(direction))
            length = product / (direction * image).sum()
            x, residual = x + length * direction, residual - length * image
        self._last = x
        return x

    def precondition(self, r: Tensor, gamma: float | Tensor) -> Tensor:
        """(γAᵀA + 1)⁻¹r, without M."""

        nothing = r.new_zeros(len(r), 1, *self.domain)
        return _by_channel(lambda one: self.operator.prox_l2(one, nothing, gamma), r)

    def norm(self, height: int, width: int) -> float:
        """An upper bound: the norm on the domain without M."""
        return self.operator.norm(height, width)

    def data_term(self, y: Tensor) -> DataTerm:
        return MeasuredDataTerm(self, y)


class MeasuredDataTerm(DataTerm):
    """The data term of a photograph with unknown borders."""

    operator: Measured

    def spectral_step(self, x: Tensor, slope: Tensor, step: float) -> Tensor:
        return x - step * self.operator.precondition(self.gradient(x) + slope, step)


def _by_channel(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f(x), in large images of one channel after the other: a third of the spectra at once."""
    if x.shape[-2] * x.shape[-1] <= TILE**2:
        return f(x)
    return torch.cat([f(x[:, c : c + 1]) for c in range(x.shape[1])], dim=1)


# --- large images ----------------------------------------------------------------------------


def receptive_radius(blocks: int) -> int:
    """How far, in pixels, a DRUNet looks: what lies beyond changes no output.

    Two 3×3 convolutions a block, at steps of 1, 2, 4 and 8 pixels down and 4, 2 and 1 up, head and
    tail, and the 8×8 pixels that meet in one at the bottom.
    """
    return 2 * blocks * (1 + 2 + 4 + 8 + 4 + 2 + 1) + 2 + STRIDE - 1


class Tiled(nn.Module):
    """The same map, computed in tiles of `tile`² pixels that see `radius` pixels around them.

    Tiles begin at multiples of 8 pixels, where the network's grid of 8 does, and at the image's
    sides they end where it does. So the result is that of the whole image, up to the rounding of
    convolutions, if `radius` is at least `receptive_radius`.
    """

    def __init__(self, network: Callable[..., Tensor], radius: int, tile: int) -> None:
        super().__init__()
        self.network = network
        self.around = STRIDE * ceil(radius / STRIDE)
        self.tile = STRIDE * ceil(tile / STRIDE)

    def forward(self, x: Tensor, *arguments: Any, notify: Notify | None = None) -> Tensor:
        height, width = x.shape[-2:]
        around, tile = self.around, self.tile
        if max(height, width) <= tile + around:
            return self.network(x, *arguments)
        out = torch.empty_like(x)
        corners = list(product(range(0, height, tile), range(0, width, tile)))
        for done, (top, left) in enumerate(corners, 1):
            above, before = max(top - around, 0), max(left - around, 0)
            seen = x[..., above : top + tile + around, before : left + tile + around]
            rows = slice(top - above, top - above + tile)
            columns = slice(left - before, left - before + tile)
            here = (..., slice(top, top + tile), slice(left, left + tile))
            out[here] = self.network(seen, *arguments)[..., rows, columns]
            if notify is not None:
                notify(done, len(corners))
        return out


def check_memory(height: int, width: int, factor: int = 1) -> None:
    """InputError if the restored image would not fit: being killed leaves no line at all."""
    needed = BYTES_PER_PIXEL * factor**2 * height * width
    free = _free_memory()
    if needed > free:
        raise InputError(
            f"image of {width}×{height} pixels: needs some {needed / 1e9:.0f} GB of "
            f"memory, {free / 1e9:.0f} GB are free; crop or reduce it"
        )


def _free_memory() -> int:
    """Bytes that this process may still use: those of the machine, or of its container."""
    free = psutil.virtual_memory().available
    for files in LIMITS:
        # No such version, a container without a limit ("max"), or another system.
        with suppress(OSError, ValueError):
            most, used, kept = ((CONTAINER / file).read_text() for file in files)
            reclaimable = int(kept.split()[kept.split().index("inactive_file") + 1])
            free = min(free, int(most) - int(used) + reclaimable)
    return free


# --- weights and parameters ------------------------------------------------------------------


def find_weights(given: str | Path | None = None) -> Path:
    """The folder of the networks: `given`, weights/released/, or models/<profile>/.

    It holds `DENOISER`, G and what is in `UNROLLED`, or those of them that are used, as
    models/<profile>/ does. weights/released/ is looked for in the working folder and in the
    checkout of this package; the profile is that of params.yaml. Raises InputError if there is
    none.
    """
    if given is not None:
        folder = Path(given)
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of weights; correct --weights")
        return folder
    for released in (Path(), Path(__file__).parents[1]):
        folder = released / "weights" / "released"
        if any(folder.glob("**/*.safetensors")):
            return folder
    # Not before: any project may have a params.yaml of its own.
    if Path("params.yaml").exists():
        from reg.params import read_params  # its libraries take a while

        with suppress(InputError):  # that of another project
            folder = read_params().folder("models")
            if any(folder.glob("**/*.safetensors")):
                return folder
    raise InputError(
        "no weights in weights/released or models: run `make reproduce`, which trains them, or "
        "name a folder by --weights"
    )


def network_file(folder: Path, method: Method, degradation: Degradation, noise: float) -> Path:
    """The file that a method needs; InputError if there is no unrolled network for the task."""
    if method != "unrolled":
        regularizer = arm_folder(folder, "updated") / REGULARIZER
        return regularizer if method == "pnp-gd" else folder / DENOISER
    files = {path.stem: path for path in sorted((folder / UNROLLED).glob("*.safetensors"))}
    fitting = [name for name in files if _was_trained_for(name, degradation, noise)]
    if not fitting:
        known = "; ".join(map(_trained_for, files)) or "no task"
        raise InputError(
            f"method unrolled: {folder} has no network for {_asked_of(degradation, noise)}, but "
            f"for {known}; choose pnp-gd or admm"
        )
    return files[nearest(degradation, noise, fitting)]


def _was_trained_for(name: str, degradation: Degradation, noise: float) -> bool:
    """Whether a few steps trained for a task suit a degradation and its noise."""
    task = parse_task(name)
    if task.kind != degradation.task or task.factor != (degradation.factor or 1):
        return False
    if noise > _most_noise(task):
        return False
    if degradation.mask is not None:
        return abs(_share_known(degradation.mask) - task.percent / 100) <= OTHER_SHARE
    if degradation.kernel is None:
        return True
    known, kernel = gaussian_kernel(task.kernel).to(degradation.kernel), degradation.kernel
    sides = [max(pair) for pair in zip(known.shape, kernel.shape, strict=True)]
    known, kernel = _centred(known, sides), _centred(kernel, sides)
    return bool((kernel - known).norm() <= SAME_KERNEL * known.norm())


def _most_noise(task: Task) -> float:
    return MORE_NOISE * max(task.sigma_n, LEAST_NOISE / 255)


def _share_known(mask: Tensor) -> float:
    return mask.float().mean().item()


def _asked_of(degradation: Degradation, noise: float) -> str:
    """`sr ×3 at sigma 2.5`: what an unrolled network would have to suit."""
    what: str = degradation.task
    if degradation.factor is not None:
        what += f" ×{degradation.factor}"
    if degradation.kernel is not None:
        what += " by this kernel"
    if degradation.mask is not None:
        what += f" with {_share_known(degradation.mask):.0%} known"
    return f"{what} at sigma {255 * noise:.3g}"


def _trained_for(name: str) -> str:
    """`sr ×2 at sigma up to 5.1`: what an unrolled network suits, in the words of the options."""
    task = parse_task(name)
    what: str = task.kind
    if task.kind == "sr":
        what += f" ×{task.factor}"
    if task.kind == "deblur":
        stds, angle = GAUSSIAN_KERNELS[task.kernel]
        what += f" by gaussian:{stds[0]:.3g},{stds[1]:.3g},{angle:g}"
    if task.kind == "inpaint":
        low, high = (task.percent / 100 + sign * OTHER_SHARE for sign in (-1, 1))
        what += f" with {max(low, 0):.0%} to {min(high, 1):.0%} known"
    return f"{what} at sigma up to {255 * _most_noise(task):.3g}"


def _centred(kernel: Tensor, sides: Sequence[int]) -> Tensor:
    """A kernel with zeros around, of so many rows and columns."""
    (above, below), (before, behind) = (
        (side // 2 - own // 2, side - own - side // 2 + own // 2)
        for side, own in zip(sides, kernel.shape, strict=True)
    )
    return F.pad(kernel, (before, behind, above, below))


@cache
def load(path: Path, written: int) -> Callable[..., Tensor]:
    """D, G or an unrolled network, by the file's name, ready for images of any size.

    It is read once; `written`, the time when it was, tells a file that was trained anew.
    """
    if path.name == Path(DENOISER).name:
        return _ready(load_denoiser(path))
    if path.name == REGULARIZER:
        return _ready(load_regularizer(path))
    unrolled = for_inference(load_unrolled(path), best_device())
    unrolled.regularizer = _ready(unrolled.regularizer)  # type: ignore[assignment]
    return unrolled


def _ready(network: AnyNetwork) -> Tiled:
    radius, width = receptive_radius(network.network.blocks), network.network.channels[0]
    tile = round(TILE * sqrt(16 / max(width, 16)))  # wider networks hold more of each pixel
    return Tiled(fuse(for_inference(network, best_device())), radius, tile)


def parameters_of(folder: Path) -> Mapping[str, Mapping[str, Parameters]]:
    """What `tune` chose for these networks, by task and method; {} where it did not run.

    It is in <folder>/chosen.json, or, for models/<profile>, in results/<profile>/tune/chosen.json.
    Raises InputError if that cannot be read.
    """
    files = [folder / "chosen.json"]
    profile = folder.resolve()
    if profile.parent.name == "models":
        files.append(profile.parents[1] / "results" / profile.name / "tune" / "chosen.json")
    for path in files:
        try:
            tuned = json.loads(path.read_text(encoding="utf-8"))
            return {
                task: {
                    method: {name: float(value) for name, value in parameters.items()}
                    for method, parameters in methods.items()
                }
                for task, methods in tuned.items()
            }
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); run `make reproduce`") from None
    return {}


def nearest(degradation: Degradation, noise: float, names: Sequence[str]) -> str:
    """Of tasks of one kind the one most like a degradation, by name.

    First its kernel should be about as wide, its factor or share of known pixels close, and then
    its noise.
    """

    def distance(name: str) -> float:
        task = parse_task(name)
        near = abs(log(noise / task.sigma_n)) if noise and task.sigma_n else 0.0
        if degradation.kernel is not None:
            width = log(_spread(degradation.kernel) / _spread(gaussian_kernel(task.kernel)))
            near += 4 * abs(width)
        if degradation.factor is not None:
            near += 100 * abs(degradation.factor - task.factor)
        if degradation.mask is not None:
            near += abs(100 * _share_known(degradation.mask) - task.percent)
        return near

    return min(names, key=distance)


def scaled(
    degradation: Degradation,
    noise: float,
    method: str,
    tuned: Mapping[str, Mapping[str, Parameters]],
) -> dict[str, float]:
    """The parameters tuned for the `nearest` task, or those of `DEFAULTS`, carried over.

    σ, the weight of the prior, follows the noise, σ/σ_tuned = (σ_n/σ_n,tuned)^p with σ_n ≥ 1/255
    and p = 1, but 3/4 in super-resolution; in inpainting, tuned without noise, it is at least the
    noise. Of another kernel it is also proportional to the cube root of the `resolved` share: what
    a kernel leaves of the scene, noise comes with; but that raises it to no more than
    `SIGMA_MOST`. (Fitted to the best σ of PnP-GD and PnP-ADMM on validation images: Gaussians,
    lines and discs of 11 widths, factors 2 to 4, noise from 2.55 to 50. A line or a disc would
    else be left 2 to 4 dB short, ×2 at 25 by 1.)
    Denoising is the deblurring of no blur. The curvature of G and the level s of the denoiser
    belong to the networks and stay as they are.
    """
    if degradation.task == "denoise":
        degradation = Degradation("deblur", POINT)

    def suiting(known: Mapping[str, Mapping[str, Parameters]]) -> list[str]:
        tasks = [name for name, methods in known.items() if method in methods]
        return [name for name in tasks if parse_task(name).kind == degradation.task]

    known = tuned if suiting(tuned) else DEFAULTS
    chosen = nearest(degradation, noise, suiting(known))
    parameters, task = dict(known[chosen][method]), parse_task(chosen)
    needed = begin(method, chosen)
    if not all(parameters.get(name, 0.0) > 0 for name in needed):
        raise InputError(
            f"chosen.json: {method} of {chosen} needs {' and '.join(needed)}, each above 0; run "
            "`make reproduce`"
        )
    level, sigma = max(noise, LEAST_NOISE / 255), parameters["sigma"]
    if task.sigma_n:
        sigma *= (level / task.sigma_n) ** (SR_POWER if task.kind == "sr" else 1.0)
    else:
        sigma = max(sigma, 255 * noise)
    if degradation.kernel is not None:
        of_tuned = resolved(gaussian_kernel(task.kernel), level)
        other = sigma * (resolved(degradation.kernel, level) / of_tuned) ** (1 / 3)
        sigma = min(other, max(sigma, SIGMA_MOST))
    return {**parameters, "sigma": sigma}


def resolved(kernel: Tensor, noise: float, side: int = 256) -> float:
    """The share of a photograph's frequencies that a blur leaves above the noise, in (0, 1).

    The mean gain of Wiener's filter, |K|²S/(|K|²S + σ_n²), with the power S ∝ 1/f² of natural
    images (Field 1987) and the `VARIANCE` of photographs; σ_n > 0 in [0,1] units.
    """
    side = max(side, *kernel.shape)
    squares = torch.fft.fftfreq(side, dtype=torch.float64).square()
    squares = squares + squares[:, None]
    squares[0, 0] = squares[0, 1]
    power = VARIANCE / (squares * squares.reciprocal().mean())
    gain = torch.fft.fft2(kernel.double(), s=(side, side)).abs().square()
    signal = gain * power / noise**2
    return float((signal / (1 + signal)).mean())


def _spread(kernel: Tensor) -> float:
    """The standard deviation of a kernel as a distribution, pixels; at least a tenth."""
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in kernel.shape)
    y, x = (kernel.sum(1) * rows).sum(), (kernel.sum(0) * columns).sum()
    squares = (rows - y).square()[:, None] + (columns - x).square()
    return max(sqrt(max(float((kernel * squares).sum()), 0.0)), 0.1)


def to_sigma(given: float | str, allowed: str = "a noise level from 0 to 255") -> float:
    """A noise level in /255; InputError, which says what is `allowed`, for anything else."""
    try:
        sigma = nan if isinstance(given, str) else float(given)
    except (TypeError, ValueError):
        sigma = nan
    if not 0 <= sigma <= 255:
        raise InputError(f"sigma {given}: must be {allowed}")
    return sigma


def sigma_of(given: float | str | None, task: Kind) -> float | Literal["auto"]:
    """A noise level in /255 or auto; the default is auto, and 0 for ``inpaint``.

    InputError for anything else, and for auto where the noise cannot be estimated.
    """
    if given is None:  # the estimator would take the sides of holes for noise
        given = 0.0 if task == "inpaint" else "auto"
    if given != "auto":
        return to_sigma(given, "auto, or a noise level from 0 to 255")
    if task == "inpaint":
        raise InputError("sigma auto: cannot be estimated beside holes; give a number, in /255")
    return "auto"


def noise_level(y: Tensor, task: Kind, sigma: float | Literal["auto"] | None) -> float:
    """The standard deviation of the noise in y, in units of [0,1]: given in /255, or estimated."""
    known = sigma_of(sigma, task)
    if known != "auto":
        return known / 255
    # Not above: it takes a while, and most calls know their noise.
    from skimage.restoration import estimate_sigma

    try:
        array = y[0].permute(1, 2, 0).double().cpu().numpy()
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an image without any detail
            found = float(estimate_sigma(array, channel_axis=-1, average_sigmas=True))
    except ValueError:
        raise InputError("sigma auto: the image is too small; give a number, in /255") from None
    return found if isfinite(found) else 0.0


# --- arrays ----------------------------------------------------------------------------------


def to_kernel(given: Array | Tensor | str | Path) -> Tensor:
    """A blur kernel (kh,kw) of sum 1, from an array, a path, or `gaussian:STD[,STD,ANGLE]`.

    Standard deviations are in pixels, along and across the axis at ANGLE degrees (from x
    rightwards towards y downwards); sides are as long as such a kernel matters. Raises InputError
    for anything else.
    """
    if isinstance(given, str) and given.startswith("gaussian:"):
        try:
            numbers = [float(number) for number in given.removeprefix("gaussian:").split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 3) or not all(isfinite(number) for number in numbers):
            raise InputError(f"kernel '{given}': must be gaussian:STD or gaussian:STD,STD,ANGLE")
        stds = (numbers[0], numbers[1] if len(numbers) == 3 else numbers[0])
        if not all(0.1 <= std <= 100 for std in stds):
            raise InputError(f"kernel '{given}': standard deviations must be from 0.1 to 100")
        # 25 pixels, as the paper's, unless that would cut a wide one.
        size = max(25, 2 * ceil(3 * max(stds)) + 1)
        angle = numbers[2] if len(numbers) == 3 else 0.0
        return _trimmed(gaussian_kernel_from(stds, angle, size))
    if isinstance(given, str | Path):
        try:
            if not Path(given).is_file():
                raise InputError(
                    f"kernel '{given}': no such file; give psf.png, psf.npy or gaussian:STD"
                )
            return read_kernel(Path(given))
        except InputError:
            raise
        # What a name too long for a file, or a damaged file, makes of the readers.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{given}: cannot be read as a blur kernel ({reason})") from None
    try:
        if torch.as_tensor(given).is_complex():
            raise TypeError
        kernel = torch.as_tensor(given, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise InputError("kernel: must be a 2-D array, a file or gaussian:STD") from None
    usable = kernel.ndim == 2 and bool((kernel.isfinite() & (kernel >= 0)).all())
    if not usable or kernel.sum() == 0:
        raise InputError("kernel: must be 2-D, finite, ≥ 0 and not zero everywhere")
    return kernel / kernel.sum()


def _trimmed(kernel: Tensor) -> Tensor:
    """A Gaussian kernel without the rows and columns in which nothing matters."""
    centre = len(kernel) // 2
    matters = kernel >= NEGLIGIBLE * kernel.max()
    reaches = [int((matters.any(dim).nonzero() - centre).abs().max()) for dim in (1, 0)]
    rows, columns = (slice(centre - reach, centre + reach + 1) for reach in reaches)
    return kernel[rows, columns] / kernel[rows, columns].sum()


def to_mask(given: Array | Tensor | str | Path) -> Tensor:
    """A mask (H,W) of truth values, from an array or a path, for which see `read_mask`.

    InputError unless it has two values and known pixels.
    """
    if isinstance(given, str | Path):
        given = read_mask(Path(given))
    mask = _to_numpy("mask", given)
    if mask.ndim == 3 and (mask[..., :1] == mask[..., :3]).all():
        mask = mask[..., 0]
    most = np.iinfo(mask.dtype).max if mask.dtype.kind in "iu" and mask.max(initial=0) > 1 else 1
    if mask.ndim != 2 or not ((mask == 0) | (mask == most)).all():
        raise InputError(
            "mask: must be black (hole) and white (known), nothing between; threshold it"
        )
    if not mask.any():
        raise InputError("mask: has no white, so no known pixel; white is known, black a hole")
    return torch.from_numpy(mask != 0)


def read_mask(path: Path) -> Array:
    """A mask (H,W) from a black and white image: true, white, is known; false, black, a hole."""
    pixels = read_photo(path).pixels
    try:
        colours = pixels.shape[2] - (pixels.shape[2] + 1) % 2  # without alpha
        mask = pixels[..., :colours]
        return to_mask(mask[..., 0] if colours == 1 else mask).numpy()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def to_tensor(image: Array) -> tuple[Tensor, Tensor | None]:
    """An array as `restore` takes it → (1,3,H,W) in [0,1], and alpha (1,1,H,W) if it has one."""
    pixels = _to_numpy("image", image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or 0 in pixels.shape:
        raise InputError(f"image of shape {np.shape(image)}: must be (H,W) or (H,W,C), C = 1 to 4")
    if pixels.dtype not in (np.uint8, np.uint16) and pixels.dtype.kind != "f":
        raise InputError(f"image of {pixels.dtype}: must be uint8, uint16, or floats in [0,1]")
    if pixels.dtype.kind == "f" and not (np.isfinite(pixels) & (abs(pixels) <= 2)).all():
        raise InputError("image of floats: values must be in [0,1]")
    values = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, 2, 0), np.float32))[None]
    values = values / _white(pixels.dtype)
    colours = 1 if pixels.shape[2] < 3 else 3
    alpha = values[:, -1:] if pixels.shape[2] in (2, 4) else None
    return values[:, :colours].repeat(1, 3 // colours, 1, 1), alpha


def to_array(x: Tensor, alpha: Tensor | None, like: Array) -> Array:
    """The inverse of `to_tensor`, of the shape and type of ``like``; alpha follows x in size."""
    channels = 1 if like.ndim == 2 else like.shape[2]
    values = [x.mean(dim=1, keepdim=True) if channels < 3 else x]
    if alpha is not None:
        if alpha.shape[-2:] != x.shape[-2:]:
            reduced = alpha.shape[-1] > x.shape[-1]
            way = {"mode": "area"} if reduced else {"mode": "bicubic", "align_corners": False}
            alpha = F.interpolate(alpha, tuple(x.shape[-2:]), **way)
        values.append(alpha)
    scaled = torch.cat(values, dim=1)[0].clamp(0, 1).mul(_white(like.dtype)).permute(1, 2, 0)
    array = (scaled.round() if like.dtype.kind == "u" else scaled).numpy().astype(like.dtype)
    if alpha is not None and like.shape[:2] == array.shape[:2]:
        array[..., -1] = like[..., -1]  # to its last digit
    return np.ascontiguousarray(array[..., 0] if like.ndim == 2 else array)


def _to_numpy(name: str, given: object) -> Array:
    try:
        return np.asarray(given)
    # Of ragged lists, and of tensors on a GPU or in a graph.
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name}: is no array, and cannot be made one; give an array") from None


def _whole(name: str, given: int, allowed: str) -> int:
    """An integer of any type; 2.0 is none."""
    try:
        return index(given)
    except TypeError:
        raise InputError(f"{name} {given}: must be {allowed}") from None


def _white(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else 1


# --- test inputs -----------------------------------------------------------------------------


def degrade(
    image: Array,
    task: Kind,
    *,
    kernel: Array | Tensor | str | Path | None = None,
    factor: int | None = None,
    mask: Array | Tensor | str | Path | None = None,
    sigma: float = 0.0,
    seed: int = 0,
) -> Array:
    """What `restore` undoes: y = Ax + n, n white Gaussian of deviation `sigma`/255, seeded.

    Arguments and result as those of `restore`. The scene is continued by its mirror image, nothing
    is circular, and holes are black. Values are clipped and rounded to those that ``image`` has.
    For ``sr``, rows and columns beyond a multiple of the factor are left out.
    """
    degradation = Degradation.of(task, kernel, factor, mask)
    level, factor = to_sigma(sigma) / 255, degradation.factor
    image = _to_numpy("image", image)
    x, alpha = to_tensor(image)
    degradation.check_whole(*x.shape[-2:])
    if factor is not None:
        height, width = (side // factor * factor for side in x.shape[-2:])
        x = x[..., :height, :width]
        alpha = None if alpha is None else alpha[..., :height, :width]
    if degradation.mask is not None:
        y = Inpainting(degradation.mask[None, None]).A(x)
    elif task == "denoise":
        y = x
    else:
        y = _measure(degradation, x)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((1, _colours(image), *y.shape[-2:]), generator=generator)
    y = y + level * noise
    if degradation.mask is not None:
        y = y * degradation.mask
    return to_array(y, alpha, image)


def _measure(degradation: Degradation, x: Tensor) -> Tensor:
    """Blur or reduce x continued by its mirror image, and keep what x measures."""
    factor = degradation.factor or 1
    kernel = degradation.kernel
    reach = REACH if kernel is None else max(kernel.shape) // 2
    operator: Operator = Downsampling(factor) if kernel is None else Blur(kernel)
    beyond = [(0, 0), (0, 0), *[(factor * reach,) * 2] * 2]
    y = operator.A(torch.from_numpy(np.pad(x.numpy(), beyond, mode="symmetric")))
    return y[..., reach : y.shape[-2] - reach, reach : y.shape[-1] - reach]


def random_mask(height: int, width: int, percent: float, seed: int) -> Array:
    """A mask (H,W) in which each pixel is known with probability `percent`/100.

    InputError if that is no percentage above 0, or no pixel is known.
    """
    if not 0 < percent <= 100:
        raise InputError(f"known {percent:g}: must be a percentage from above 0 to 100")
    mask = np.random.default_rng(seed).random((height, width)) < percent / 100
    if not mask.any():
        raise InputError(f"known {percent:g}: leaves no known pixel of {width}×{height}; raise it")
    return mask


# --- before and after ------------------------------------------------------------------------


def measure(before: Array, after: Array, truth: Array) -> tuple[float, float]:
    """PSNR in dB of a photograph and of its restoration, enlarged to the restored size.

    ``truth`` is as `trimmed` takes it.
    """
    from reg.metrics import psnr

    reference = to_tensor(trimmed(truth, before, max(after.shape[0] // before.shape[0], 1)))[0]
    return (
        psnr(_enlarged(before, after), reference).item(),
        psnr(to_tensor(after)[0], reference).item(),
    )


def trimmed(truth: Array, before: Array, factor: int = 1) -> Array:
    """``truth`` without the rows and columns beyond a multiple of the factor, as `degrade` does.

    InputError unless it is then ``factor`` times as large as the photograph, and if one of them is
    gray and the other is not.
    """
    if _colours(truth) < _colours(before):
        raise InputError("truth: is gray, the photograph has colour; give a truth in colour")
    if _colours(truth) > _colours(before):
        raise InputError("truth: has colour, the photograph is gray; give a gray truth")
    height, width = (factor * side for side in before.shape[:2])
    spare = truth.shape[0] - height, truth.shape[1] - width
    if not all(0 <= rest < factor for rest in spare):
        raise InputError(
            f"truth of {truth.shape[1]}×{truth.shape[0]} pixels: the restored image has "
            f"{width}×{height}, must agree"
        )
    return truth[:height, :width]


def _colours(image: Array) -> int:
    return 1 if image.ndim == 2 or image.shape[2] < 3 else 3


def _enlarged(before: Array, after: Array) -> Tensor:
    x = to_tensor(before)[0]
    if before.shape[:2] == after.shape[:2]:
        return x
    return F.interpolate(x, after.shape[:2], mode="bicubic", align_corners=False).clamp(0, 1)


def draw_comparison(before: Array, after: Array, truth: Array | None, path: Path) -> None:
    """Before, after and truth side by side, whole and the part richest in detail; a PNG.

    Images more than three times as long as wide get margins instead of an endless sheet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {"before": _enlarged(before, after), "after": to_tensor(after)[0]}
    if truth is not None:
        levels = measure(before, after, truth)
        titles = (f"{name}, {level:.2f} dB" for name, level in zip(shown, levels, strict=True))
        shown = dict(zip(titles, shown.values(), strict=True)) | {"truth": to_tensor(truth)[0]}
    height, width = after.shape[:2]
    rows, columns = _richest(to_tensor(after)[0])
    stride = max(1, max(height, width) // 2000)
    ratio = min(max(height / width, 1 / 3), 3)
    figure = Figure(figsize=(3.2 * len(shown), 3.2 * (ratio + 1) + 0.3), dpi=150)
    axes = figure.subplots(2, len(shown), squeeze=False, height_ratios=[ratio, 1])
    for (whole, detail), (title, image) in zip(axes.T, shown.items(), strict=True):
        pixels = image[0].permute(1, 2, 0).clamp(0, 1).numpy()
        whole.imshow(pixels[::stride, ::stride])
        whole.set_title(title)
        detail.imshow(pixels[rows, columns], interpolation="nearest")
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    FigureCanvasAgg(figure)
    content = BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_whole(path, content.getvalue())


def _richest(x: Tensor, side: int = 128) -> tuple[slice, slice]:
    """Rows and columns of the square in which neighbours differ most."""
    side = min(side, *x.shape[-2:])
    detail = F.pad(x.mean(1).diff(dim=-1).abs(), (0, 1))
    sums = F.avg_pool2d(F.avg_pool2d(detail, (side, 1), 1), (1, side), 1)[0]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return slice(top, top + side), slice(left, left + side)
