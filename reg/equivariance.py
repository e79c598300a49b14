"""Dihedral equivariance ("×8") of any network that maps images to images."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

from torch import Tensor

SYMMETRIES = 8


def transform(x: Tensor, symmetry: int) -> Tensor:
    """One of the 8 flips and rotations (0 to 7) of images (N,C,H,W); 0 is the identity."""
    x = x.transpose(-2, -1) if symmetry & 1 else x
    axes = [axis for axis, bit in ((-2, 2), (-1, 4)) if symmetry & bit]
    return x.flip(axes) if axes else x


def transform_back(x: Tensor, symmetry: int) -> Tensor:
    """The inverse of `transform` with the same symmetry."""
    axes = [axis for axis, bit in ((-2, 2), (-1, 4)) if symmetry & bit]
    x = x.flip(axes) if axes else x
    return x.transpose(-2, -1) if symmetry & 1 else x


def equivariant(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """T⁻¹ ∘ network ∘ T with T one of the 8 symmetries of the square, another at each call.

    One transform a call in a fixed order, not an average, so an iteration costs what it did; over
    8 iterations the network treats all orientations alike (the "×8" of the official code of
    PnP-ReG and of DPIR). Further arguments, such as σ, are passed on.
    """
    turns = cycle(range(SYMMETRIES))

    def turned(x: Tensor, *arguments: Any) -> Tensor:
        symmetry = next(turns)
        return transform_back(network(transform(x, symmetry), *arguments), symmetry)

    return turned
