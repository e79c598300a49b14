"""What makes networks fast on the CPU: fused convolutions, and memory that is kept.

Eager convolutions lay out their weights anew at every call and write each ReLU and each skip
addition to memory as a pass of its own. Here the weights are laid out once per precision, and ReLU
and addition happen while a convolution's result is still in cache: the operators to which
`torch.compile` lowers a frozen network, called without its minute of compilation.
"""

import ctypes
import sys
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reg.networks import STRIDE, Denoiser, DRUNet, Regularizer, ResBlock

AnyNetwork = TypeVar("AnyNetwork", Denoiser, Regularizer)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
PIXELS = 4  # that the last convolution computes at a time


def keep_freed_memory() -> None:
    """Let the allocator keep freed blocks for the next tensors, where it is glibc's.

    By default it returns every large block to the system, which hands it back page by page,
    zeroed: a third of the time of a network of a million weights on images of 256².
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Older versions of glibc refuse more than 32 MiB, and setting one threshold freezes the other.
    if mallopt and (mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)):
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def fuse(network: AnyNetwork) -> AnyNetwork:
    """Let a frozen D or G compute by fused convolutions, where they work on this machine.

    Its weights must not change afterwards: each is laid out once, when it is first used.
    """
    drunet = network.network
    if available() and isinstance(drunet, DRUNet) and _works(fused := FusedDRUNet(drunet)):
        network.network = fused  # type: ignore[assignment]
    return network


def _works(network: "FusedDRUNet") -> bool:
    """Whether a small image goes through, in both precisions: processors differ in what they do."""
    image = torch.zeros(1, network.network.in_channels, STRIDE, STRIDE)
    try:
        for dtype in (torch.float32, torch.bfloat16):
            with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                network(image)
    except RuntimeError:
        return False
    return True


def available() -> bool:
    """Whether this build of torch has oneDNN's fused convolutions."""
    return torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(torch.ops.mkldnn, name)
        for name in ("_convolution_pointwise", "_reorder_convolution_weight")
    )


def side_by_side(weight: Tensor) -> Tensor:
    """A 3×3 convolution's weights (c,C,3,3), shifted to each of 4 neighbouring pixels: (4c,C,3,6).

    oneDNN fills whole vector registers with channels of the result. The three of an image leave
    them nearly empty; of four pixels there are twelve.
    """
    return torch.cat([F.pad(weight, (k, PIXELS - 1 - k)) for k in range(PIXELS)])


def convolve_side_by_side(x: Tensor, wide: Tensor) -> Tensor:
    """The convolution whose weights `side_by_side` took: (N,C,H,W) → (N,c,H,W), 4 dividing W.

    Both are channels_last, in which four pixels of c channels lie in memory as one of 4c.
    """
    out = F.conv2d(x, wide, stride=(1, PIXELS), padding=1).permute(0, 2, 3, 1)
    return out.reshape(*out.shape[:2], x.shape[-1], -1).permute(0, 3, 1, 2)


class FusedDRUNet(nn.Module):
    """The function of a DRUNet with frozen weights, computed by fused convolutions.

    Where they do not apply (gradients wanted, other devices, float64) the network itself is
    called. Under bfloat16 autocast the first and last convolution and the outermost skip, which
    carry the image itself, stay in float32, as in `DRUNet`.
    """

    def __init__(self, network: DRUNet) -> None:
        super().__init__()
        self.network = network
        self._packed: dict[tuple[int, torch.dtype], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32:
            return cast(Tensor, self.network(x))
        half = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if half else torch.float32
        with torch.autocast("cpu", enabled=False):
            return self._forward(x, dtype)

    def _forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        net, (height, width) = self.network, x.shape[-2:]
        bottom, right = -height % STRIDE, -width % STRIDE
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        x1: Tensor = net.m_head(x.contiguous(memory_format=torch.channels_last))
        x2 = self._down(net.m_down1, x1.to(dtype))
        x3 = self._down(net.m_down2, x2)
        x4 = self._down(net.m_down3, x3)
        x = self._blocks(net.m_body, x4)
        x = self._up(net.m_up3, x + x4)
        x = self._up(net.m_up2, x + x3)
        x = self._up(net.m_up1, x + x2)
        # Of two precisions `x + x1` takes some 30 % longer.
        return self._tail(x.to(x1.dtype).add_(x1))[..., :height, :width]

    def _tail(self, x: Tensor) -> Tensor:
        layer = self.network.m_tail
        key = id(layer), layer.weight.dtype
        if key not in self._packed:
            wide = side_by_side(layer.weight)
            self._packed[key] = wide.contiguous(memory_format=torch.channels_last)
        return convolve_side_by_side(x, self._packed[key])

    def _down(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        *blocks, down = layers
        return self._convolution(down, self._blocks(blocks, x))

    def _up(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        up, *blocks = layers
        x = F.conv_transpose2d(x, self._weight(up, x.dtype), stride=2)
        return self._blocks(blocks, x)

    def _blocks(self, blocks: Any, x: Tensor) -> Tensor:
        for block in cast(list[ResBlock], blocks):
            first, last = block.res[0], block.res[2]
            x = self._convolution(last, self._convolution(first, x, "relu"), skip=x)
        return x

    def _convolution(
        self, layer: nn.Module, x: Tensor, after: str = "none", skip: Tensor | None = None
    ) -> Tensor:
        convolution = cast(nn.Conv2d, layer)
        weight = self._packed_weight(convolution, x)
        geometry = list(convolution.padding), list(convolution.stride), [1, 1], 1
        pointwise = torch.ops.mkldnn._convolution_pointwise
        if skip is None:
            out: Tensor = pointwise(x, weight, None, *geometry, after, [], "")
        else:
            out = pointwise.binary(x, skip, weight, None, *geometry, "add", 1.0, None, [], None)
        return out

    def _packed_weight(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """In the blocked layout that oneDNN wants, laid out at the first call."""
        key = id(layer), x.dtype
        if key not in self._packed:
            self._packed[key] = torch.ops.mkldnn._reorder_convolution_weight(
                layer.weight.to(x.dtype).contiguous(),
                list(layer.padding),
                list(layer.stride),
                [1, 1],
                1,
                list(x.shape),
            )
        return self._packed[key]

    def _weight(self, layer: nn.Module, dtype: torch.dtype) -> Tensor:
        key = id(layer), dtype
        if key not in self._packed:
            self._packed[key] = cast(nn.ConvTranspose2d, layer).weight.to(dtype)
        return self._packed[key]
