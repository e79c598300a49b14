"""Endless stream of training crops that can be entered at any iteration."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reg.datasets import MappedImages
from reg.errors import InputError
from reg.images import Pixels

# An image is visited once per epoch for each such area, so that large and small images give
# crops in proportion to their pixels.
AREA_OF_ONE_VISIT = 256 * 256

# Order of visits and crops are drawn from separate streams of the same seed.
ORDER_STREAM, CROP_STREAM = 0, 1


Indices = npt.NDArray[np.intp]


class Patches:
    """Batches of augmented crops, each a pure function of (seed, iteration).

    An epoch visits image k exactly max(1, round(area_k / 256^2)) times, in an order drawn from
    (seed, epoch); position and one of the 8 flips and rotations are uniform, drawn from
    (seed, iteration). No batch depends on one before, so a run that enters at any iteration gets
    the crops of one that never stopped, at no cost but drawing the order of that epoch. While a
    batch is used, the system reads from disk what the next one needs of `MappedImages`.
    """

    def __init__(self, images: Sequence[Pixels], size: int, batch: int, seed: int) -> None:
        """`images` are uint8 of shape (H, W, 3); crops are (size, size).

        Raises InputError if there is no image or one is smaller than a crop.
        """
        if not images:
            raise InputError("no training image: name photographs or folders with the role train")
        for index, image in enumerate(images):
            height, width = image.shape[:2]
            if min(height, width) < size:
                raise InputError(
                    f"training image {index} has {width}x{height} pixels, less than a crop of "
                    f"{size}x{size}: make the crop smaller or remove the image"
                )
        self.images = images
        self.size = size
        self.batch_size = batch
        self.seed = seed
        shapes = np.array([image.shape[:2] for image in images])
        visits = np.maximum(1, np.rint(shapes.prod(axis=1) / AREA_OF_ONE_VISIT)).astype(int)
        self._entries = np.repeat(np.arange(len(images)), visits)
        self._margins = shapes - size + 1
        self._orders: dict[int, Indices] = {}

    @property
    def samples_per_epoch(self) -> int:
        """Number of crops after which every image has had its visits."""
        return len(self._entries)

    def batch(self, iteration: int, share: slice = slice(None)) -> Tensor:
        """Crops of one iteration: (batch, 3, size, size), float32 in [0, 1], channels last.

        Of the batch only a `share` of it is cut.
        """
        chosen, corners, symmetries = (drawn[share] for drawn in self._draw(iteration))
        crops = np.empty((len(chosen), self.size, self.size, 3), dtype=np.uint8)
        for b, (k, (y, x), symmetry) in enumerate(zip(chosen, corners, symmetries, strict=True)):
            crop = self.images[k][y : y + self.size, x : x + self.size]
            crops[b] = dihedral(crop, int(symmetry))
        if isinstance(self.images, MappedImages):
            chosen, corners, _ = (drawn[share] for drawn in self._draw(iteration + 1))
            for k, y in zip(chosen.tolist(), corners[:, 0].tolist(), strict=True):
                self.images.announce(k, y, y + self.size)
        return torch.from_numpy(crops).permute(0, 3, 1, 2).float().div_(255)

    def visited(self, iteration: int) -> Indices:
        """Indices of the images from which the crops of one iteration come, shape (batch,)."""
        samples = range(iteration * self.batch_size, (iteration + 1) * self.batch_size)
        n = self.samples_per_epoch
        return np.array([self._order(sample // n)[sample % n] for sample in samples])

    def _draw(self, iteration: int) -> tuple[Indices, Indices, Indices]:
        """Image, upper left corner (row, column) and symmetry of each crop of one iteration."""
        chosen = self.visited(iteration)
        generator = _generator(self.seed, CROP_STREAM, iteration)
        return (
            chosen,
            generator.integers(self._margins[chosen]),
            generator.integers(8, size=self.batch_size),
        )

    def _order(self, epoch: int) -> Indices:
        if epoch not in self._orders:
            # Two, because a batch may begin in one epoch and end in the next.
            self._orders = dict([*self._orders.items()][-1:])
            generator = _generator(self.seed, ORDER_STREAM, epoch)
            self._orders[epoch] = generator.permutation(self._entries)
        return self._orders[epoch]


def dihedral(crop: Pixels, symmetry: int) -> Pixels:
    """One of the 8 symmetries (0 to 7) of the square, applied to a crop (size, size, 3)."""
    if symmetry & 1:
        crop = crop.swapaxes(0, 1)
    if symmetry & 2:
        crop = crop[::-1]
    if symmetry & 4:
        crop = crop[:, ::-1]
    return crop


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
