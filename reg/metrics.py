"""Image quality, per image of a batch."""

import torch
from skimage.metrics import structural_similarity
from torch import Tensor


def psnr(x: Tensor, truth: Tensor, clip: bool = True) -> Tensor:
    """10·log₁₀(1/MSE) in dB of x clipped to [0,1], RGB, no border: (N,3,H,W) → (N,).

    The official code measures without clipping; `clip=False` does so.
    """
    error = ((x.clamp(0, 1) if clip else x) - truth).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error.clamp_min(1e-12))


def ssim(x: Tensor, truth: Tensor) -> list[float]:
    """SSIM of x clipped to [0,1], Gaussian window of std 1.5, mean over RGB (Wang et al., 2004)."""
    return [
        float(
            structural_similarity(
                one.clamp(0, 1).double().cpu().numpy(),
                other.double().cpu().numpy(),
                data_range=1.0,
                channel_axis=0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )
        for one, other in zip(x, truth, strict=True)
    ]


def mean_squared_difference(x: Tensor, previous: Tensor) -> Tensor:
    """‖x − x_previous‖² / (number of values), per image: (N,)."""
    return (x - previous).square().mean(dim=(1, 2, 3))
