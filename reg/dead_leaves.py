"""Dead leaves images: discs of all sizes that occlude one another.

The model has the scale invariance and the occlusion edges of photographs:
A. B. Lee, D. Mumford, J. Huang, "Occlusion models for natural images", IJCV 41, 2001. Networks
for restoration can be trained on it:
R. Achddou, Y. Gousseau, S. Ladjal, "Synthetic images as a regularity prior for image
restoration neural networks", SSVM 2021 (whose images also take their colours from photographs).
Drawing from front to back until nothing is left uncovered gives an exact sample of the model:
W. S. Kendall, E. Thönnes, "Perfect simulation in stochastic geometry", Pattern Recognition 32,
1999.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reg.errors import InputError
from reg.images import Pixels

Floats = npt.NDArray[np.float32]

SUPERSAMPLING = 2
UNCOVERED = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Discs:
    """Discs in front-to-back order; centre and radius in pixels, all of shape (K,)."""

    x: Floats
    y: Floats
    radius: Floats


def dead_leaves(
    size: int,
    colours: npt.NDArray[np.uint8],
    generator: np.random.Generator,
    r_min: float = 1.0,
    r_max: float | None = None,
) -> Pixels:
    """Dead leaves image of shape (size, size, 3), uint8.

    Discs of a Poisson process in the plane, with radius density proportional to r^-3 on
    [r_min, r_max] (in pixels; r_max is `size` by default) and each with a row drawn uniformly
    from `colours` of shape (M, 3), are laid behind one another until they cover the image. It is
    rendered at twice the size and averaged over 2x2 pixels, so that edges are antialiased.

    Raises InputError if a size or radius is not positive or there is no colour.
    """
    r_max = float(size) if r_max is None else r_max
    if size < 1:
        raise InputError(f"dead leaves of size {size}: the size must be at least 1")
    if not 0 < r_min < r_max:
        raise InputError(f"dead leaves with radii {r_min} to {r_max}: need 0 < r_min < r_max")
    if len(colours) == 0:
        raise InputError("dead leaves need at least one colour: give a training photograph")
    leaf = visible_leaves(
        SUPERSAMPLING * size, SUPERSAMPLING * r_min, SUPERSAMPLING * r_max, generator
    )
    colour_of_leaf = generator.integers(len(colours), size=int(leaf.max()) + 1)
    return _average(colours[colour_of_leaf[leaf]])


def visible_leaves(
    size: int, r_min: float, r_max: float, generator: np.random.Generator
) -> npt.NDArray[np.int32]:
    """Number of the front-most disc over each pixel centre, shape (size, size), no pixel left."""
    leaf = np.full((size, size), UNCOVERED, dtype=np.int32)
    batch = _discs_to_cover_once(size, r_min, r_max)
    drawn = 0
    # Painting costs a few microseconds per disc, testing pixel by pixel a few nanoseconds per
    # disc and pixel: the second is quicker once about a hundredth of the image is left.
    while np.count_nonzero(leaf == UNCOVERED) > 0.01 * leaf.size:
        _paint(leaf, sample_discs(batch, size, r_min, r_max, generator), drawn)
        drawn += batch

    rows, columns = np.nonzero(leaf == UNCOVERED)
    while rows.size:
        batch = int(np.clip(2**20 // rows.size, 64, 2**14))
        front = _front_most(rows, columns, sample_discs(batch, size, r_min, r_max, generator))
        covered = front >= 0
        leaf[rows[covered], columns[covered]] = drawn + front[covered]
        rows, columns = rows[~covered], columns[~covered]
        drawn += batch
    return leaf


def sample_discs(
    count: int, size: int, r_min: float, r_max: float, generator: np.random.Generator
) -> Discs:
    """Discs of the planar process whose centre lies within their radius of a square window.

    Among the discs that can touch [0, size]^2, the radius has a density proportional to
    r^-3 (size + 2r)^2, as large discs reach in from further away, and the centre is uniform in
    the window widened by r. Without this the image would be less covered at its borders.
    The density is a mixture of size^2 r^-3, 4 size r^-2 and 4 r^-1.
    """
    exponents = (3, 2, 1)
    weights = np.array([size**2, 4 * size, 4]) * [
        _integral(exponent, r_min, r_max) for exponent in exponents
    ]
    shares = generator.multinomial(count, weights / weights.sum())
    radius = np.concatenate(
        [
            sample_radii(int(share), exponent, r_min, r_max, generator)
            for share, exponent in zip(shares, exponents, strict=True)
        ]
    )
    generator.shuffle(radius)
    centres = generator.random((2, count)) * (size + 2 * radius) - radius
    x, y = centres.astype(np.float32)
    return Discs(x, y, radius.astype(np.float32))


def sample_radii(
    count: int, exponent: int, r_min: float, r_max: float, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Radii with density proportional to r^-exponent on [r_min, r_max], by inversion."""
    u = generator.random(count)
    if exponent == 1:
        return np.asarray(r_min * (r_max / r_min) ** u)
    low, high = r_min ** (1.0 - exponent), r_max ** (1.0 - exponent)
    return np.asarray((low + u * (high - low)) ** (1.0 / (1 - exponent)))


def _integral(exponent: int, r_min: float, r_max: float) -> float:
    """Integral of r^-exponent over [r_min, r_max]."""
    if exponent == 1:
        return float(np.log(r_max / r_min))
    return float((r_max ** (1 - exponent) - r_min ** (1 - exponent)) / (1 - exponent))


def _discs_to_cover_once(size: int, r_min: float, r_max: float) -> int:
    """Discs whose areas add up to the window's, so that a batch leaves about a share 1/e of it."""
    mean_area = np.pi * _integral(1, r_min, r_max) / _integral(3, r_min, r_max)
    return int(np.ceil(size**2 / mean_area))


def _paint(leaf: npt.NDArray[np.int32], discs: Discs, first: int) -> None:
    """Lay numbered discs under those already in `leaf`; the smallest number is in front."""
    size = len(leaf)
    centres = np.arange(size, dtype=np.float32) + np.float32(0.5)
    left = np.clip(np.floor(discs.x - discs.radius), 0, size).astype(int).tolist()
    right = np.clip(np.ceil(discs.x + discs.radius), 0, size).astype(int).tolist()
    top = np.clip(np.floor(discs.y - discs.radius), 0, size).astype(int).tolist()
    bottom = np.clip(np.ceil(discs.y + discs.radius), 0, size).astype(int).tolist()
    for k, (x, y, radius) in enumerate(zip(discs.x, discs.y, discs.radius, strict=True)):
        columns, rows = slice(left[k], right[k]), slice(top[k], bottom[k])
        inside = np.add.outer((centres[rows] - y) ** 2, (centres[columns] - x) ** 2) <= radius**2
        seen = leaf[rows, columns]
        np.minimum(seen, first + k, out=seen, where=inside)


def _front_most(
    rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], discs: Discs
) -> npt.NDArray[np.int64]:
    """Number of the first disc over each of the given pixels, -1 where there is none."""
    x, y = columns.astype(np.float32) + 0.5, rows.astype(np.float32) + 0.5
    distance = np.subtract.outer(x, discs.x) ** 2
    distance += np.subtract.outer(y, discs.y) ** 2
    inside = distance <= discs.radius**2
    first = inside.argmax(axis=1)
    return np.where(inside[np.arange(len(first)), first], first, -1)


def _average(image: Pixels) -> Pixels:
    """Mean over blocks of SUPERSAMPLING^2 pixels, rounded."""
    s = SUPERSAMPLING
    size = len(image) // s
    total = image.reshape(size, s, size, s, 3).sum(axis=(1, 3), dtype=np.uint16)
    return np.asarray((total + s * s // 2) // (s * s), dtype=np.uint8)
