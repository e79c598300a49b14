"""Fine-tune unrolled networks from different starts: equal data, budgets and trials."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import pandas as pd
from torch import Tensor

from reg.checkpoints import CHECKPOINTS, forget, load_state, save_state
from reg.console import first_process, say
from reg.evaluation import batches, restoration_validation
from reg.images import Pixels
from reg.metrics import psnr
from reg.networks import (
    Denoiser,
    Form,
    Precision,
    Regularizer,
    inference,
    initialise,
    start_from_denoiser,
)
from reg.patches import Patches
from reg.problems import make_problem
from reg.training import Recipe, seeded, train
from reg.unrolled import EndToEnd, Unrolled, UnrolledObjective

Start = Literal["reg", "denoiser", "random", "end-to-end"]
Restore = Unrolled | EndToEnd


@dataclass(frozen=True)
class Training:
    """One training of a start: its task, number K of steps, seed, budget and learning rate."""

    task: str
    steps: int
    seed: int
    iterations: int
    learning_rate: float

    @property
    def name(self) -> str:
        """What tells it from the others of its start."""
        return (
            f"{self.task}, K {self.steps}, seed {self.seed}, {self.iterations} iterations, "
            f"rate {self.learning_rate:g}"
        )


@dataclass(frozen=True)
class Bench:
    """What all trainings of a start share: recipe, images, and how a network begins.

    `build` makes the untrained network of a training. Noise and masks of the validation images
    are those of `seed`; `key` is that of the unfinished work.
    """

    title: str
    recipe: Recipe
    build: Callable[[Training], Restore]
    images: Sequence[Pixels]
    validation: Mapping[str, Tensor]
    supervision: float
    seed: int
    key: str


def begin(
    weights: Denoiser | Regularizer, start: Start, form: Form, scale: float, seed: int
) -> Regularizer:
    """The G with which an unrolled network begins, always of the same size.

    - ``reg``: `weights`, the trained G, as it is;
    - ``denoiser``: G = s·(x − N(x)), N being `weights`, the pre-trained D: the form in which D's
      own weights are a regularizing gradient, that of RED;
    - ``random``, and ``end-to-end`` for its N: `form` and `scale` s, of D's size, weights drawn
      from `seed`.
    """
    if isinstance(weights, Regularizer):
        return deepcopy(weights)
    size = weights.network
    if start == "denoiser":
        regularizer = Regularizer(size.channels, size.blocks, "residual", scale)
        start_from_denoiser(regularizer, weights)
    else:
        regularizer = Regularizer(size.channels, size.blocks, form, scale)
        initialise(regularizer, seeded(seed))
    return regularizer


def finetune(
    bench: Bench, training: Training, log: Path | None = None
) -> tuple[Restore, pd.DataFrame]:
    """The trained network and its log: iteration, loss, validation PSNR, learning rate.

    The log begins before training, at iteration 0. A training that was finished before is read
    from `.checkpoints/<key>/`, an interrupted one goes on. `log` is where it is shown live.
    """
    restore, path = bench.build(training), CHECKPOINTS / bench.key / f"{training.name}.pt"
    state = load_state(path)
    if state is None:
        whole = f"{bench.key}/{training.name}"
        recipe = bench.recipe.model_copy(
            update={
                "iterations": training.iterations,
                "learning_rate": training.learning_rate,
                "validate_every": min(bench.recipe.validate_every, training.iterations),
            }
        )
        rows = train(
            UnrolledObjective(restore, training.task, training.seed, bench.supervision),
            Patches(bench.images, recipe.crop, recipe.batch, training.seed),
            recipe,
            title=f"{bench.title} {training.name}",
            seed=training.seed,
            checkpoint=whole,
            validate=restoration_validation(
                restore, training.task, bench.validation, bench.seed, recipe.precision
            ),
            log=log,
            measure_start=True,
        )
        state = {"restore": restore.state_dict(), "log": rows.to_dict("list")}
        if first_process():
            save_state(path, state)
            forget(whole)
    restore.load_state_dict(state["restore"])
    return restore, pd.DataFrame(state["log"])


def choose_rate(
    bench: Bench, short: Training, rates: Sequence[float]
) -> tuple[float, pd.DataFrame]:
    """The learning rate with which a `short` training ends at the highest validation PSNR.

    Also the table task, learning_rate, psnr of all trials. Every start gets the same ones.
    """
    levels = {}
    for rate in rates:
        _, log = finetune(bench, replace(short, learning_rate=rate))
        levels[rate] = float(log["psnr"].iloc[-1])
    trials = pd.DataFrame(
        {"task": short.task, "learning_rate": levels.keys(), "psnr": levels.values()}
    )
    # Not a number where the network diverged.
    best = max(levels, key=lambda rate: levels[rate] if levels[rate] > 0 else 0.0)
    say(f"  {bench.title}: learning rate {best:g} for {short.task}")
    return best, trials


def measure_steps(
    restore: Unrolled,
    task: str,
    images: Mapping[str, Tensor],
    *,
    counts: Sequence[int],
    seed: int,
    precision: Precision,
) -> pd.DataFrame:
    """PSNR per image of a network run for each count of steps: task, trained, steps, image, psnr.

    `trained` is the K that the network was trained with; 0 steps are the start.
    """
    rows: list[list[object]] = []
    for names, batch in batches(images):
        problem = make_problem(task, batch, names, seed)
        with inference(precision):
            iterates = [problem.start, *islice(restore.iterates(problem), max(counts))]
        for count in counts:
            levels = psnr(iterates[count], batch).tolist()
            rows += [
                [task, restore.steps, count, name, level]
                for name, level in zip(names, levels, strict=True)
            ]
    return pd.DataFrame(rows, columns=["task", "trained", "steps", "image", "psnr"])
