"""Unrolled gradient descent: K steps of PnP-GD around one shared G, trained end to end."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reg.losses import Generators, per_crop
from reg.networks import Regularizer, fill, read_weights, write_weights
from reg.problems import Problem, make_problem


class Unrolled(nn.Module):
    """x_{k+1} = x_k − μ_k(Aᵀ(Ax_k − y) + σ_k²G(x_k)), k < K, with learnable μ_k and σ_k.

    Both are learnt through their logarithms, so they stay positive. With constant μ, σ and
    ReG's weights the network is K steps of `iterations.pnp_gd`.
    """

    def __init__(self, regularizer: Regularizer, steps: int, step: float, sigma: float) -> None:
        """`steps` is K; `step` and `sigma` (in [0,1] units) are the initial μ_k and σ_k."""
        super().__init__()
        self.regularizer = regularizer
        self.log_step = nn.Parameter(torch.full((steps,), math.log(step)))
        self.log_sigma = nn.Parameter(torch.full((steps,), math.log(sigma)))

    def forward(self, problem: Problem) -> Tensor:
        """Restore the images of a problem: (N,3,H,W)."""
        x = problem.start
        for step, sigma in zip(self.log_step.exp(), self.log_sigma.exp(), strict=True):
            residual = problem.operator.A(x) - problem.y
            gradient = problem.operator.A_adjoint(residual) + sigma**2 * self.regularizer(x)
            x = x - step * gradient
        return x


class UnrolledObjective(nn.Module):
    """mean |x_K − x| over crops degraded by one task, with fresh noise and masks each time."""

    def __init__(self, unrolled: Unrolled, task: str, seed: int) -> None:
        super().__init__()
        self.unrolled, self.task, self.seed = unrolled, task, seed

    def forward(self, clean: Tensor, iteration: int, generators: Generators) -> dict[str, Tensor]:
        # A generator's seed is the crop's own, wherever in a batch the crop is.
        names = [f"crop {one.initial_seed()}" for one in generators]
        problem = make_problem(self.task, clean, names, self.seed)
        return {"loss": per_crop((self.unrolled(problem) - clean).abs())}


def save_unrolled(unrolled: Unrolled, path: Path, training: Mapping[str, Any]) -> None:
    """Write the shared G, the steps and the training parameters as safetensors."""
    regularizer = unrolled.regularizer
    about = {
        "kind": "unrolled",
        "channels": list(regularizer.network.channels),
        "blocks": regularizer.network.blocks,
        "form": regularizer.form,
        "scale": regularizer.scale,
        "steps": len(unrolled.log_step),
        "training": dict(training),
    }
    write_weights(path, unrolled.state_dict(), about)


def load_unrolled(path: Path) -> Unrolled:
    """Read what `save_unrolled` wrote; InputError if the file is none, or of another kind."""
    about, tensors = read_weights(path, "unrolled")
    regularizer = Regularizer(about["channels"], about["blocks"], about["form"], about["scale"])
    unrolled = Unrolled(regularizer, about["steps"], step=1.0, sigma=1.0)
    fill(unrolled, tensors, path)
    return unrolled
