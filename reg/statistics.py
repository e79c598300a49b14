"""Paired comparison of two methods on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from reg.errors import InputError

LEVEL = 0.95
RESAMPLES = 10_000
FEW_IMAGES = 10  # below this a percentile interval is visibly too narrow


@dataclass(frozen=True)
class PairedDifference:
    """Mean of paired differences d_i = a_i - b_i over images, with its bootstrap interval.

    `low` and `high` bound the mean at the level asked for; they are infinite for a single
    image, because one difference says nothing about its spread. `effect_size` is Cohen's
    d_z = mean(d) / std(d), None where the spread is zero or unknown.
    """

    mean: float
    low: float
    high: float
    effect_size: float | None
    images: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), or None where one image allows no interval."""
        return (self.low, self.high) if self.images > 1 else None

    @property
    def caution(self) -> str:
        """What a reader must know about the interval when images are few; else empty."""
        if self.images == 1:
            return "one image only: no interval can be computed"
        if self.images < FEW_IMAGES:
            return (
                f"only {self.images} images: the bootstrap interval is too narrow at this size "
                "and speaks for these images rather than for photographs in general"
            )
        return ""

    def text(self, unit: str = "", decimals: int = 2) -> str:
        """`+0.42 dB [+0.10, +0.71]`, for sentences."""
        number = f"{self.mean:+.{decimals}f}{' ' + unit if unit else ''}"
        if self.interval is None:
            return f"{number} [no interval]"
        return f"{number} [{self.low:+.{decimals}f}, {self.high:+.{decimals}f}]"


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Mean of a - b over images and its percentile bootstrap interval.

    Images are drawn with replacement `resamples` times; the interval is the central `level`
    of the resampled means (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13).
    Differences are taken per image first, so that what is hard about an image cancels.

    Args:
        a, b: one finite number per image, shape (n,), in the same order of images.
        level: coverage aimed at, in (0, 1).
        resamples: number of bootstrap samples.
        seed: of the generator that draws images; the same seed gives the same interval.

    Raises:
        InputError: shapes differ, no image, or a value that is not finite.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise InputError(
            f"paired comparison needs one number per image on both sides, "
            f"not shapes {first.shape} and {second.shape}"
        )
    difference = first - second
    if not np.isfinite(difference).all():
        raise InputError("paired comparison needs finite numbers; a NaN or infinity was given")

    n = difference.size
    mean = float(difference.mean())
    if n == 1:
        return PairedDifference(mean, -np.inf, np.inf, None, 1)
    drawn = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(difference[drawn].mean(axis=1), tails)
    spread = float(difference.std(ddof=1))
    # equal differences leave a spread of rounding errors only, which is no spread
    flat = spread <= 1e-12 * max(1.0, float(np.abs(difference).max()))
    return PairedDifference(mean, float(low), float(high), None if flat else mean / spread, n)


def mean_over_tasks(per_task: Sequence[ArrayLike]) -> np.ndarray:
    """Mean over tasks for each image: (n,) arrays in the same order of images → (n,).

    Resampling these means resamples images with all their tasks, as the tasks of one image
    are not independent.
    """
    return np.asarray(np.mean(np.stack([np.asarray(p, dtype=float) for p in per_task]), axis=0))
