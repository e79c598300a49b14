"""Restoration tasks by name, and the measurements they make of images."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reg.errors import InputError
from reg.operators import (
    GAUSSIAN_KERNELS,
    Blur,
    DataTerm,
    Denoising,
    Downsampling,
    Inpainting,
    Operator,
    gaussian_kernel,
)

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_GRAMMAR = re.compile(
    rf"deblur-(?P<kernel>{'|'.join(GAUSSIAN_KERNELS)})-(?P<deblur>{_NUMBER})"
    rf"|sr-x(?P<factor>[234])-(?P<sr>{_NUMBER})"
    rf"|inpaint-(?P<inpaint>{_NUMBER})"
    rf"|denoise-(?P<denoise>{_NUMBER})"
)


@dataclass(frozen=True)
class Task:
    """What a task name says: a kernel to deblur, a factor, or the percentage of known pixels.

    ``sigma_n`` is the standard deviation of the noise, in the units of the images ([0,1]).
    """

    name: str
    kind: Literal["deblur", "sr", "inpaint", "denoise"]
    sigma_n: float = 0.0
    kernel: str = ""
    factor: int = 1
    percent: float = 100.0


@dataclass(frozen=True, eq=False)
class Problem:
    """Images to be restored: ``y = A truth + n``, n white Gaussian of deviation ``sigma_n``.

    ``truth`` and ``start``, where the iterations begin, are (N,C,H,W); ``sigma_n`` is in the
    units of the images ([0,1]).
    """

    task: str
    operator: Operator
    y: Tensor
    sigma_n: float
    start: Tensor
    truth: Tensor

    @cached_property
    def data_term(self) -> DataTerm:
        """f(x) = ½‖A x − y‖²."""
        return self.operator.data_term(self.y)

    @cached_property
    def degraded(self) -> Tensor:
        """The measurements as an image, where the official code begins: 0.5 in holes, else `start`.

        Unrolled networks begin there, too.
        """
        if not isinstance(self.operator, Inpainting):
            return self.start
        return torch.where(self.operator.mask, self.y, 0.5)


def parse_task(name: str) -> Task:
    """The task of a name such as ``deblur-k5-2.55``; the grammar is in the error message.

    Noise levels in names are for images in [0,255]. Raises InputError for any other name.
    """
    match = _GRAMMAR.fullmatch(name)
    if match is None or not 0 < float(match["inpaint"] or 100) <= 100:
        raise InputError(
            f"task '{name}': must be deblur-<k0…k7>-<sigma>, sr-x<2|3|4>-<sigma>, "
            "inpaint-<percent known> or denoise-<sigma>, with sigma in /255, as in deblur-k5-2.55"
        )
    if match["deblur"]:
        return Task(name, "deblur", float(match["deblur"]) / 255, kernel=match["kernel"])
    if match["sr"]:
        return Task(name, "sr", float(match["sr"]) / 255, factor=int(match["factor"]))
    if match["inpaint"]:
        return Task(name, "inpaint", percent=float(match["inpaint"]))
    return Task(name, "denoise", float(match["denoise"]) / 255)


def task_label(task: Task) -> str:
    """A short label for figures, noise level in /255: ``Deblurring k5, σₙ 2.55``."""
    noise = f"σₙ {255 * task.sigma_n:.6g}"
    match task.kind:
        case "deblur":
            return f"Deblurring {task.kernel}, {noise}"
        case "sr":
            return f"Super-resolution ×{task.factor}, {noise}"
        case "inpaint":
            return f"Inpainting {task.percent:g} %"
        case "denoise":
            return f"Denoising, {noise}"


def make_problem(task: str, images: Tensor, names: Sequence[str], seed: int) -> Problem:
    """Degrade images (N,C,H,W) in [0,1] and give the iterations their start.

    Noise and mask of an image depend on (seed, task, name) alone, not on its batch or device.
    The start is y for deblurring and denoising, its bicubic enlargement (a = −0.75, aligned
    by pixel areas) for super-resolution, and y with its holes filled for inpainting (`fill_holes`).

    Raises InputError for an unknown task, sides that are not multiples of the factor, and
    unless there is one name per image.
    """
    parsed = parse_task(task)
    if images.ndim != 4 or len(names) != len(images):
        raise InputError(
            f"task '{task}': {len(names)} names for images of shape {tuple(images.shape)}, "
            "must be one name for each image of a batch (N,C,H,W)"
        )
    generators = [_generator(seed, task, name) for name in names]
    operator = _operator(parsed, images, generators)
    y = operator.A(images)
    if parsed.sigma_n > 0:
        noise = [torch.randn(y.shape[1:], generator=generator) for generator in generators]
        y = y + parsed.sigma_n * torch.stack(noise).to(y)
    return Problem(task, operator, y, parsed.sigma_n, _start(parsed.factor, operator, y), images)


def _generator(seed: int, task: str, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}|{task}|{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def _operator(task: Task, images: Tensor, generators: Sequence[torch.Generator]) -> Operator:
    match task.kind:
        case "deblur":
            return Blur(gaussian_kernel(task.kernel))
        case "sr":
            return Downsampling(task.factor)
        case "inpaint":
            size = (1, *images.shape[-2:])
            known = [torch.rand(size, generator=generator) for generator in generators]
            return Inpainting((torch.stack(known) < task.percent / 100).to(images.device))
        case "denoise":
            return Denoising()


def _start(factor: int, operator: Operator, y: Tensor) -> Tensor:
    if factor > 1:
        return F.interpolate(y, scale_factor=factor, mode="bicubic", align_corners=False)
    return fill_holes(y, operator.mask) if isinstance(operator, Inpainting) else y


def fill_holes(y: Tensor, known: Tensor) -> Tensor:
    """y (N,C,H,W) where it is known, elsewhere what coarser scales say.

    `known` is of bool, (N or 1, 1 or C, H, W). The known pixels of each square of four are
    averaged, and so on until there is no hole; on the way back every hole takes the bilinear
    enlargement of the scale below (the pull–push of Gortler et al., "The Lumigraph", SIGGRAPH
    1996). 0.5 everywhere if nothing is known.
    """
    if bool(known.all()):
        return y
    if max(y.shape[-2:]) == 1:
        return torch.where(known, y, 0.5)
    share = _mean_of_four(known.to(y))
    mean = _mean_of_four(torch.where(known, y, 0.0)) / share.clamp_min(torch.finfo(y.dtype).eps)
    filled = F.interpolate(fill_holes(mean, share > 0), scale_factor=2, mode="bilinear")
    return torch.where(known, y, filled[..., : y.shape[-2], : y.shape[-1]])


def _mean_of_four(x: Tensor) -> Tensor:
    """Mean of each 2×2 square, of what there is of it at the right and the bottom."""
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
