"""One loop for every training, with exact resume."""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from reg.checkpoints import CHECKPOINTS, load_state, save_state
from reg.console import progress, say
from reg.errors import InputError
from reg.networks import Precision, resolve_precision
from reg.patches import Patches

KEPT_CHECKPOINTS = 2
SKIPPED_IN_A_ROW = 20

logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

Validation = Callable[[], Mapping[str, float]]


class Recipe(BaseModel):
    """How long, on what and how fast a network is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    iterations: int = Field(gt=0)
    batch: int = Field(gt=0)
    crop: int = Field(ge=16, multiple_of=8)
    learning_rate: float = Field(gt=0)
    schedule: Literal["cosine", "halving"] = "cosine"
    halve_every: int = Field(default=100_000, gt=0)
    warmup: int = Field(default=0, ge=0)
    clip_gradient: float | None = Field(default=None, gt=0)
    validate_every: int = Field(gt=0)
    precision: Precision = "auto"

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 1."""
        warm = min(1.0, iteration / (self.warmup + 1))
        if self.schedule == "halving":
            return warm * self.learning_rate * 0.5 ** ((iteration - 1) // self.halve_every)
        return (
            warm
            * self.learning_rate
            * 0.5
            * (1 + math.cos(math.pi * (iteration - 1) / self.iterations))
        )


def seeded(*entropy: int) -> torch.Generator:
    """A generator that is a pure function of the given integers."""
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def train(
    objective: nn.Module,
    patches: Patches,
    recipe: Recipe,
    *,
    title: str,
    seed: int,
    checkpoint: str,
    validate: Validation = dict,
) -> pd.DataFrame:
    """Minimise `objective` by Adam over crops of `patches`; returns the log.

    Every random draw is a function of (seed, iteration), so the state of a run is its weights,
    Adam's moments and the log: checkpoints in `.checkpoints/<checkpoint>/` resume it exactly.
    The caller removes them by `checkpoints.forget` once the results are written.

    The log has the columns iteration, metric, value: the objective's terms averaged since the
    last validation, and what `validate` returns. Raises InputError if the loss or the gradients
    are not finite 20 times in a row; single such steps are skipped and said.
    """
    precision = resolve_precision(recipe.precision, "cuda" if torch.cuda.is_available() else "cpu")
    fabric = Fabric(precision="bf16-mixed" if precision == "bf16" else "32-true")
    fabric.launch()
    objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainable = [weight for weight in objective.parameters() if weight.requires_grad]
    optimiser = torch.optim.Adam(trainable, lr=recipe.learning_rate, fused=True)
    model, optimiser = fabric.setup(objective, optimiser)

    folder = CHECKPOINTS / checkpoint
    done, rows = _resume(folder, objective, optimiser)
    if done:
        say(f"  {title}: resumed after iteration {done}")
    share = slice(fabric.global_rank, None, fabric.world_size)
    sums: dict[str, list[Tensor]] = {}
    skipped = 0
    with progress(title, recipe.iterations, done) as shown:
        for iteration in range(done + 1, recipe.iterations + 1):
            rate = recipe.rate(iteration)
            for group in optimiser.param_groups:
                group["lr"] = rate
            clean = patches.batch(iteration).to(fabric.device, memory_format=torch.channels_last)[
                share
            ]
            terms = model(clean, iteration, seeded(seed, iteration, fabric.global_rank))
            fabric.backward(terms["loss"])
            norm = nn.utils.clip_grad_norm_(trainable, recipe.clip_gradient or math.inf)
            if bool(torch.isfinite(norm) & torch.isfinite(terms["loss"])):
                optimiser.step()
                skipped = 0
                for name, term in terms.items():
                    sums.setdefault(name, []).append(term.detach())
            else:
                skipped += 1
                say(f"  {title}: skipped iteration {iteration}, its loss or gradient is not finite")
                if skipped >= SKIPPED_IN_A_ROW:
                    raise InputError(
                        f"{title}: the loss or its gradient is not finite {skipped} times in a row "
                        f"at iteration {iteration}; lower `learning_rate` or set `precision: fp32`"
                    )
            optimiser.zero_grad(set_to_none=True)

            note = ""
            if iteration % recipe.validate_every == 0 or iteration == recipe.iterations:
                measured = {name: torch.stack(terms).mean().item() for name, terms in sums.items()}
                sums = {}
                with torch.no_grad():
                    objective.eval()
                    measured |= dict(validate())
                    objective.train()
                measured["learning_rate"] = rate
                rows += [[iteration, name, value] for name, value in measured.items()]
                note = "  ".join(
                    f"{name} {value:.4g}" for name, value in measured.items() if "rate" not in name
                )
                if fabric.is_global_zero:
                    _save(folder, iteration, objective, optimiser, rows)
            shown.step(note)
    objective.cpu()
    return pd.DataFrame(rows, columns=["iteration", "metric", "value"])


def _save(
    folder: Path,
    iteration: int,
    objective: nn.Module,
    optimiser: torch.optim.Optimizer,
    rows: list[list[Any]],
) -> None:
    state = {
        "iteration": iteration,
        "objective": objective.state_dict(),
        "optimiser": optimiser.state_dict(),
        "rows": rows,
    }
    save_state(folder / f"{iteration:09d}.pt", state)
    for old in sorted(folder.glob("*.pt"))[:-KEPT_CHECKPOINTS]:
        old.unlink()


def _resume(
    folder: Path, objective: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[int, list[list[Any]]]:
    """Load the newest whole checkpoint: how many iterations are done, and the log so far."""
    for path in sorted(folder.glob("*.pt"), reverse=True):
        state = load_state(path)
        if state is None:
            say(f"  {path}: damaged, trying the one before")
            continue
        objective.load_state_dict(state["objective"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["iteration"]), list(state["rows"])
    return 0, []


def no_log(validate: Validation) -> pd.DataFrame:
    """The log of a network that was imported: what it measures, at iteration 0."""
    rows = [[0, name, value] for name, value in validate().items()]
    return pd.DataFrame(rows, columns=["iteration", "metric", "value"])
