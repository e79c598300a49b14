"""Gradient-step denoiser: D_σ = Id − ∇g_σ, a denoiser that is a gradient step by construction.

Hurault, Leclaire & Papadakis, "Gradient step denoiser for convergent plug-and-play", ICLR 2022.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reg.losses import add_noise, by_band, draw_sigma, per_crop
from reg.networks import (
    Denoiser,
    DRUNet,
    ResBlock,
    fill,
    noise_level_map,
    read_weights,
    write_weights,
)

# Activations of a trained D are of the order of 0.1: on this scale their kinks become small.
SMOOTHNESS = 0.005


class GradientStepDenoiser(nn.Module):
    """D_σ(z) = z − ∇g_σ(z) with g_σ(z) = ½‖z − N_σ(z)‖², N_σ a DRUNet without kinks.

    The authors' proof asks for a g_σ with Lipschitz gradient, and they take ELU. Here ReLU becomes
    α·h(x/α), α = 0.005, with h(t) = t·min(max(t + 3, 0), 6)/6 ("hard swish"), which costs no more
    than ReLU, and is so close to it that the weights of a trained D can start it. Its derivative is
    piecewise linear and jumps by ½ at ±3, so ∇g_σ is Lipschitz only in pieces: that the objective
    falls is by backtracking, and the theorem on its limits does not hold to the letter. A bias-free
    network with these activations is α·N(z/α), N having h itself, which is how it is computed.

    z: (N,3,H,W), values about [0,1]; sigma: a float or a tensor of N values in the units of z.
    """

    def __init__(self, channels: Sequence[int] = (64, 128, 256, 512), blocks: int = 4) -> None:
        super().__init__()
        self.network = DRUNet(4, channels, blocks)
        for module in self.network.modules():
            if isinstance(module, ResBlock):
                module.res[1] = nn.Hardswish()

    def forward(self, z: Tensor, sigma: float | Tensor) -> Tensor:
        return z - self.potential_and_gradient(z, sigma)[1]

    def N(self, z: Tensor, sigma: float | Tensor) -> Tensor:
        """The trained network of g_σ: (N,3,H,W) → (N,3,H,W)."""
        scaled = torch.cat([z, noise_level_map(z, sigma)], dim=1) / SMOOTHNESS
        out: Tensor = SMOOTHNESS * self.network(scaled)
        return out

    def potential_and_gradient(self, z: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """g_σ(z) of each image, (N,), and ∇g_σ(z) = r − Jᵀr with r = z − N_σ(z), J = ∂N_σ/∂z.

        Differentiable where gradients are enabled: the training runs through ∇g_σ.
        """
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            if not z.requires_grad:
                z = z.detach().requires_grad_(True)
            residual = z - self.N(z, sigma)
            potential = 0.5 * residual.square().sum(dim=(1, 2, 3))
            (gradient,) = torch.autograd.grad(potential.sum(), z, create_graph=training)
        return (potential, gradient) if training else (potential.detach(), gradient)


def start_from(gradient_step: GradientStepDenoiser, denoiser: Denoiser) -> None:
    """Start N_σ from the weights of a trained D of the same size."""
    gradient_step.network.load_state_dict(denoiser.network.state_dict())


class GradientStepObjective(nn.Module):
    """L = mean (D_σ(x + σε) − x)² with σ ~ U[0,50]/255 (Hurault et al., section 5)."""

    def __init__(self, denoiser: GradientStepDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self, clean: Tensor, iteration: int, generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        sigma = draw_sigma(generators).to(clean.device)
        noisy = add_noise(clean, sigma, generators)
        loss = per_crop((self.denoiser(noisy, sigma) - clean).square())
        return {"loss": loss, **by_band("loss", loss, sigma)}


def save_gradient_step(
    denoiser: GradientStepDenoiser, path: Path, training: Mapping[str, Any]
) -> None:
    """Write safetensors that carry the architecture and the training parameters as metadata."""
    about = {
        "kind": "gradient_step",
        "channels": list(denoiser.network.channels),
        "blocks": denoiser.network.blocks,
        "training": dict(training),
    }
    write_weights(path, denoiser.network.state_dict(), about)


def load_gradient_step(path: Path) -> GradientStepDenoiser:
    """Read what `save_gradient_step` wrote; InputError if the file is none, or of another kind."""
    about, tensors = read_weights(path, "gradient_step")
    denoiser = GradientStepDenoiser(about["channels"], about["blocks"])
    fill(denoiser.network, tensors, path)
    return denoiser
