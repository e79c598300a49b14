"""Training objectives: modules that turn clean crops into the terms of a loss.

Each is called as `objective(clean, iteration, generators)` with clean crops (N,3,h,w) in [0,1] and
one generator per crop, which the training loop seeds by (seed, iteration, place in the batch): a
crop sees the same noise however the batch is split over devices or steps of accumulation.

It returns named terms, each with one value per crop. The mean of `"loss"` (N,) is minimised; the
others carry no gradient and are logged: a term (N,) by its mean, a term (2,N) by the ratio of the
sums of its rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reg.networks import Denoiser, Regularizer

SIGMA_MAX = 50 / 255
BANDS = 5  # of equal width, in which losses are logged

Generators = Sequence[torch.Generator]


def draw_sigma(generators: Generators) -> Tensor:
    """σ ~ U[0, 50]/255, one per generator: (N,)."""
    return SIGMA_MAX * torch.cat([torch.rand(1, generator=one) for one in generators])


def add_noise(clean: Tensor, sigma: Tensor, generators: Generators) -> Tensor:
    """z = x + σ·ε with ε standard normal, each image's from its own generator: (N,3,h,w).

    On an accelerator ε comes from a generator there with the seed of the given one: drawn on the
    CPU it would take longer than the networks need. So every kind of device has its own noise.
    """
    device = clean.device
    noise = torch.empty(clean.shape, device=device)
    there = None if device.type == "cpu" else torch.Generator(device)
    for place, generator in zip(noise, generators, strict=True):
        if there is not None:
            generator = there.manual_seed(generator.initial_seed())
        torch.randn(place.shape, generator=generator, out=place)
    return clean + sigma.view(-1, 1, 1, 1).to(device) * noise


def by_band(name: str, values: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """`values` (N,) as one term for each band of σ (N,): [0,10), [10,20) … [40,50] /255."""
    width = round(255 * SIGMA_MAX) // BANDS
    band = (255 * sigma / width).long().clamp(max=BANDS - 1)
    terms = {}
    for k in range(BANDS):
        inside = (band == k).to(values)
        terms[f"{name} {k * width}-{(k + 1) * width}"] = torch.stack(
            [inside * values.detach(), inside]
        )
    return terms


def per_crop(error: Tensor) -> Tensor:
    """Mean over all but the first dimension: (N,3,h,w) → (N,)."""
    return error.flatten(1).mean(dim=1)


class DenoisingObjective(nn.Module):
    """L_D = mean |D_σ(x + σε) − x| with σ ~ U[0,50]/255 (the DRUNet recipe)."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, clean: Tensor, iteration: int, generators: Generators) -> dict[str, Tensor]:
        sigma = draw_sigma(generators).to(clean.device)
        noisy = add_noise(clean, sigma, generators)
        loss = per_crop((self.denoiser(noisy, sigma) - clean).abs())
        return {"loss": loss, **by_band("loss", loss, sigma)}


class RegObjective(nn.Module):
    """L = δ·L_D + λ·L_G: the joint objective of ReG (PnP-ReG, section 3).

    - L_D = mean |D_σ(z) − x|
    - L_G = mean (σ²G(D_σ(z)) − (z − D_σ(z)))²
    - z = x + σ₀ε. At odd iterations σ = σ₀ and δ = 1; at even ones σ and σ₀ are drawn
      independently and δ = 0, since D_σ(z) should not equal x there.

    With `update_denoiser=False` D is frozen, σ is always independent of σ₀ and L = L_G.
    Logged besides: `map_residual` = Σ‖σ²G(D) − (z−D)‖² / Σ‖z−D‖² over the crops, which is free of
    the scale of σ, and both losses in bands of σ₀.
    """

    def __init__(
        self, denoiser: Denoiser, regularizer: Regularizer, lambda_: float, update_denoiser: bool
    ) -> None:
        super().__init__()
        self.denoiser = denoiser.requires_grad_(update_denoiser)
        self.regularizer = regularizer
        self.lambda_ = lambda_
        self.update_denoiser = update_denoiser

    def forward(self, clean: Tensor, iteration: int, generators: Generators) -> dict[str, Tensor]:
        sigma_0 = draw_sigma(generators).to(clean.device)
        noisy = add_noise(clean, sigma_0, generators)
        matched = self.update_denoiser and iteration % 2 == 1
        sigma = sigma_0 if matched else draw_sigma(generators).to(clean.device)
        with torch.set_grad_enabled(self.update_denoiser):
            denoised = self.denoiser(noisy, sigma)
        gradient = self.regularizer(denoised)
        removed = noisy - denoised
        loss_g = per_crop((sigma.view(-1, 1, 1, 1) ** 2 * gradient - removed).square())
        terms = {
            "loss_G": loss_g.detach(),
            "map_residual": torch.stack([loss_g, per_crop(removed.square())]).detach(),
            **by_band("loss_G", loss_g, sigma_0),
        }
        if not self.update_denoiser:
            return {"loss": loss_g, **terms}
        loss = self.lambda_ * loss_g
        if matched:
            loss_d = per_crop((denoised - clean).abs())
            terms |= {"loss_D": loss_d.detach(), **by_band("loss_D", loss_d, sigma_0)}
            loss = loss + loss_d
        return {"loss": loss, **terms}
