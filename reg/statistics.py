"""Paired comparison of two methods on the same images, over training seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit  # type: ignore[import-untyped]

from reg.errors import InputError

LEVEL = 0.95
RESAMPLES = 10_000
FEW_IMAGES = 10  # below this an interval hardly speaks of other images
FEW_SEEDS = 5  # below this the spread between trainings is hardly known


@dataclass(frozen=True)
class PairedDifference:
    """Mean of paired differences d_si = a_si - b_si over seeds and images, and its interval.

    `low` and `high` bound the mean at the level asked for; they are infinite for a single
    image, because one difference says nothing about its spread. `effect_size` is Cohen's
    d_z = mean(d) / std(d) over images, d_i being the mean over seeds; None where the spread is
    zero or unknown.
    """

    mean: float
    low: float
    high: float
    effect_size: float | None
    images: int
    seeds: int = 1

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), or None where one image allows no interval."""
        return (self.low, self.high) if self.images > 1 else None

    @property
    def caution(self) -> str:
        """What a reader must know about the interval when images are few; else empty."""
        cautions = []
        if self.images == 1:
            cautions.append("one image only: no interval can be computed")
        elif self.images < FEW_IMAGES:
            cautions.append(
                f"only {self.images} images: the interval speaks for these rather than for "
                "photographs in general"
            )
        if self.seeds == 1:
            cautions.append("one training seed: how much trainings differ is not known")
        elif self.seeds < FEW_SEEDS:
            cautions.append(
                f"only {self.seeds} training seeds: how much trainings differ is known roughly"
            )
        return "; ".join(cautions)

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
    """Mean of a - b over training seeds and images, and its bootstrap interval.

    Images are drawn with replacement `resamples` times and, independently, training seeds, since
    every training restores every image (the two-way bootstrap: Owen, Annals of Applied Statistics
    1, 2007); the interval is the central `level` of the resampled means (Efron & Tibshirani, An
    Introduction to the Bootstrap, 1993, ch. 13), which of few images is too narrow, so either side
    is longer by what Student's t with n - 1 degrees of freedom and the factor √(n/(n-1)) ask
    (Hesterberg, The American Statistician 69, 2015). For few seeds nothing is longer: where they
    differ as much as images do, three of them cover 80 % instead of 95. Differences are taken per
    image first, so that what is hard about an image cancels.

    Args:
        a, b: finite numbers by seed and image, shape (seeds, n) or, of one seed, (n,), both in
            the same order of seeds and images.
        level: coverage aimed at, in (0, 1).
        resamples: number of bootstrap samples.
        seed: of the generator that draws images and seeds; the same gives the same interval.

    Raises:
        InputError: shapes differ, no image, or a value that is not finite.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim not in (1, 2) or first.size == 0:
        raise InputError(
            f"paired comparison needs one number per seed and image on both sides, "
            f"not shapes {first.shape} and {second.shape}"
        )
    difference = np.atleast_2d(first - second)
    if not np.isfinite(difference).all():
        raise InputError("paired comparison needs finite numbers; a NaN or infinity was given")

    seeds, n = difference.shape
    of_images = difference.mean(axis=0)
    mean = float(of_images.mean())
    if n == 1:
        return PairedDifference(mean, -np.inf, np.inf, None, 1, seeds)
    draw = np.random.default_rng(seed)
    images_drawn = draw.integers(0, n, size=(resamples, n))
    seeds_drawn = draw.integers(0, seeds, size=(resamples, seeds))
    share = (seeds_drawn[:, :, None] == np.arange(seeds)).mean(axis=1)  # of each seed in a sample
    samples = np.take_along_axis(share @ difference, images_drawn, axis=1).mean(axis=1)
    quantiles = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    upper = (1 + level) / 2
    longer = stdtrit(n - 1, upper) / ndtri(upper) * np.sqrt(n / (n - 1))
    low, high = mean + longer * (quantiles - mean)
    spread = float(of_images.std(ddof=1))
    # equal differences leave a spread of rounding errors only, which is no spread
    flat = spread <= 1e-12 * max(1.0, float(np.abs(of_images).max()))
    effect_size = None if flat else mean / spread
    return PairedDifference(mean, float(low), float(high), effect_size, n, seeds)


def mean_over_tasks(per_task: Sequence[ArrayLike]) -> np.ndarray:
    """Mean over tasks for each seed and image: equal shapes (seeds, n) → (seeds, n).

    Resampling these means resamples images with all their tasks, as the tasks of one image
    are not independent.
    """
    return np.asarray(np.mean(np.stack([np.asarray(p, dtype=float) for p in per_task]), axis=0))
