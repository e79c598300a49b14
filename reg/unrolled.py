"""Unrolled gradient descent: K steps of PnP-GD around one shared G, trained end to end."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reg.losses import Generators, per_crop
from reg.networks import DRUNet, Regularizer, fill, read_weights, write_weights
from reg.problems import Problem, make_problem

# Of the table of PSNR in dB by number of steps K, `trained` with and run for.
STEPS_COLUMNS = ["task", "trained", "steps", "image", "psnr"]
GAIN = 10.0  # of the logarithms of μ_k and σ_k over the weights that are learnt


class Unrolled(nn.Module):
    """x_{k+1} = x_k − μ_k(Aᵀ(Ax_k − y) + σ_k²G(x_k)), k < K, around one shared G.

    μ_k and σ_k, one pair per step, are learnt through a tenth of their logarithms: so they stay
    positive, and an optimiser whose steps are the same for every weight moves them by per cents
    while it moves the weights of G by thousandths. With `learn_steps=False` they keep their
    initial values. With constant μ, σ and ReG's weights
    the network is K steps of `iterations.pnp_gd` from `Problem.degraded`.

    With `recompute` a training keeps the images x_k alone and computes the inside of a step anew
    when its gradient is due (activation checkpointing: Chen et al., 2016), so that memory grows
    with one step instead of with K.
    """

    def __init__(
        self,
        regularizer: Regularizer,
        steps: int,
        step: float,
        sigma: float,
        *,
        learn_steps: bool = True,
        recompute: bool = False,
    ) -> None:
        """`steps` is K; `step` and `sigma` (in [0,1] units) are the initial μ_k and σ_k."""
        super().__init__()
        self.regularizer = regularizer
        self.log_step = nn.Parameter(torch.full((steps,), math.log(step) / GAIN), learn_steps)
        self.log_sigma = nn.Parameter(torch.full((steps,), math.log(sigma) / GAIN), learn_steps)
        self.recompute = recompute

    @property
    def steps(self) -> int:
        """K, the number of steps that the network has."""
        return len(self.log_step)

    def forward(self, problem: Problem, steps: int | None = None) -> Tensor:
        """Restore the images of a problem by K steps, or by as many as asked for: (N,3,H,W)."""
        count = self.steps if steps is None else steps
        x: Tensor
        (x,) = deque(chain([problem.degraded], islice(self.iterates(problem), count)), maxlen=1)
        return x

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """x₁, x₂, … without end: beyond K the last μ and σ are used again."""
        x, k = problem.degraded, 0
        while True:
            step, sigma = (GAIN * self.log_step[k]).exp(), (GAIN * self.log_sigma[k]).exp()
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(
                    self._step, problem, x, step, sigma, use_reentrant=False,
                    preserve_rng_state=False,
                )  # fmt: skip
            else:
                x = self._step(problem, x, step, sigma)
            yield x
            k = min(k + 1, self.steps - 1)

    def _step(self, problem: Problem, x: Tensor, step: Tensor, sigma: Tensor) -> Tensor:
        gradient: Tensor = problem.data_term.gradient(x) + sigma**2 * self.regularizer(x)
        return x - step * gradient


class EndToEnd(nn.Module):
    """x = N(x₀): a DRUNet that makes the restored image of the degraded one in one pass.

    What one would train without any use of A, as a rival of `Unrolled` around a G of its size.
    """

    steps = 1

    def __init__(self, network: DRUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, problem: Problem) -> Tensor:
        """Restore the images of a problem: (N,3,H,W)."""
        out: Tensor = self.network(problem.degraded)
        return out

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """x₁, the restored image, alone."""
        yield self(problem)


class UnrolledObjective(nn.Module):
    """L = mean |x_K − x| + w·mean_{k<K} mean |x_k − x| over crops degraded by one task.

    Noise and masks are drawn anew for every crop. `supervision` is w, the weight of deep
    supervision: with 0 the last iterate alone counts.
    """

    def __init__(
        self, restore: Unrolled | EndToEnd, task: str, seed: int, supervision: float = 0.0
    ) -> None:
        super().__init__()
        self.restore, self.task, self.seed = restore, task, seed
        self.supervision = supervision
        # Compiled, it would be traced anew for the names of every batch.
        self.make_problem = torch.compiler.disable(make_problem)  # type: ignore[no-untyped-call]

    def forward(self, clean: Tensor, iteration: int, generators: Generators) -> dict[str, Tensor]:
        # A generator's seed is the crop's own, wherever in a batch the crop is.
        names = [f"crop {one.initial_seed()}" for one in generators]
        problem = self.make_problem(self.task, clean, names, self.seed)
        iterates = islice(self.restore.iterates(problem), self.restore.steps)
        *before, loss = (per_crop((x - clean).abs()) for x in iterates)
        if self.supervision and before:
            loss = loss + self.supervision * torch.stack(before).mean(dim=0)
        return {"loss": loss}


def save_unrolled(restore: Unrolled | EndToEnd, path: Path, training: Mapping[str, Any]) -> None:
    """Write the network, with K and the training parameters, as safetensors."""
    if isinstance(restore, EndToEnd):
        network, kind = restore.network, {"kind": "end-to-end"}
    else:
        regularizer, network = restore.regularizer, restore.regularizer.network
        kind = {"kind": "unrolled", "form": regularizer.form}
    about: dict[str, Any] = {
        **kind,
        "channels": list(network.channels),
        "blocks": network.blocks,
        "steps": restore.steps,
        "training": dict(training),
    }
    if isinstance(restore, Unrolled):
        about["scale"] = restore.regularizer.scale
    write_weights(path, restore.state_dict(), about)


def load_unrolled(path: Path) -> Unrolled:
    """Read an `Unrolled` that `save_unrolled` wrote; InputError if the file holds none."""
    about, tensors = read_weights(path, "unrolled")
    regularizer = Regularizer(about["channels"], about["blocks"], about["form"], about["scale"])
    unrolled = Unrolled(regularizer, about["steps"], step=1.0, sigma=1.0)
    fill(unrolled, tensors, path)
    return unrolled
