"""Training objectives: modules that turn clean crops into the terms of a loss.

Each is called as `objective(clean, iteration, generator)` with clean crops (N,3,h,w) in [0,1] and
returns named scalars; `"loss"` is the one that is minimised, the others are logged. All
randomness comes from the generator, which the training loop seeds by (seed, iteration).
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from reg.networks import Denoiser, Regularizer

SIGMA_MAX = 50 / 255


class Objective(Protocol):
    """What `reg.training.train` minimises."""

    def __call__(
        self, clean: Tensor, iteration: int, generator: torch.Generator
    ) -> dict[str, Tensor]: ...


def draw_sigma(count: int, generator: torch.Generator) -> Tensor:
    """σ ~ U[0, 50]/255, one per image: (N,)."""
    return SIGMA_MAX * torch.rand(count, generator=generator)


def add_noise(clean: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """z = x + σ·ε with ε standard normal: (N,3,h,w)."""
    noise = torch.randn(clean.shape, generator=generator)
    return clean + (sigma.view(-1, 1, 1, 1) * noise).to(clean.device)


class DenoisingObjective(nn.Module):
    """L_D = mean |D_σ(x + σε) − x| with σ ~ U[0,50]/255 (the DRUNet recipe)."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self, clean: Tensor, iteration: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        sigma = draw_sigma(len(clean), generator)
        noisy = add_noise(clean, sigma, generator)
        return {"loss": (self.denoiser(noisy, sigma.to(clean.device)) - clean).abs().mean()}


class RegObjective(nn.Module):
    """L = δ·L_D + λ·L_G: the joint objective of ReG (PnP-ReG, section 3).

    - L_D = mean |D_σ(z) − x|
    - L_G = mean (σ²G(D_σ(z)) − (z − D_σ(z)))²
    - z = x + σ₀ε. At odd iterations σ = σ₀ and δ = 1; at even ones σ and σ₀ are drawn
      independently and δ = 0, since D_σ(z) should not equal x there.

    With `update_denoiser=False` D is frozen, σ is always independent of σ₀ and L = L_G.
    Logged besides: `map_residual` = ‖σ²G(D) − (z−D)‖² / ‖z−D‖², which is free of the scale of σ.
    """

    def __init__(
        self, denoiser: Denoiser, regularizer: Regularizer, lambda_: float, update_denoiser: bool
    ) -> None:
        super().__init__()
        self.denoiser = denoiser.requires_grad_(update_denoiser)
        self.regularizer = regularizer
        self.lambda_ = lambda_
        self.update_denoiser = update_denoiser

    def forward(
        self, clean: Tensor, iteration: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        sigma_0 = draw_sigma(len(clean), generator)
        noisy = add_noise(clean, sigma_0, generator)
        matched = self.update_denoiser and iteration % 2 == 1
        sigma = sigma_0 if matched else draw_sigma(len(clean), generator)
        sigma = sigma.to(clean.device)
        with torch.set_grad_enabled(self.update_denoiser):
            denoised = self.denoiser(noisy, sigma)
        gradient = self.regularizer(denoised)
        removed = noisy - denoised
        error = (sigma.view(-1, 1, 1, 1) ** 2 * gradient - removed).square().mean()
        with torch.no_grad():
            terms = {"loss_G": error.detach(), "map_residual": error / removed.square().mean()}
        if not self.update_denoiser:
            return {"loss": error, **terms}
        loss = self.lambda_ * error
        if matched:
            loss_d = (denoised - clean).abs().mean()
            loss, terms["loss_D"] = loss + loss_d, loss_d.detach()
        return {"loss": loss, **terms}
