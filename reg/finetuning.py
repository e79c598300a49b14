"""Fine-tune unrolled networks from different starts: equal data, budgets and trials."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import pandas as pd
from torch import Tensor

from reg.checkpoints import CHECKPOINTS, forget, load_state, save_state
from reg.console import first_process, say
from reg.errors import InputError
from reg.evaluation import (
    Row,
    batches,
    every_nth,
    final_rows,
    long_table,
    restoration_validation,
    write_table,
)
from reg.images import Pixels, write_image
from reg.methods import arm_folder
from reg.metrics import psnr, ssim
from reg.networks import (
    Denoiser,
    Form,
    Precision,
    Regularizer,
    best_device,
    inference,
    initialise,
    load_denoiser,
    load_regularizer,
    start_from_denoiser,
)
from reg.patches import Patches
from reg.problems import Problem, make_problem
from reg.processes import leave_it_to_the_first_process
from reg.recipe import Recipe
from reg.training import DivergenceError, launch, seeded, train
from reg.unrolled import STEPS_COLUMNS, EndToEnd, Unrolled, UnrolledObjective

Start = Literal["reg", "denoiser", "random", "end-to-end"]
Restore = Unrolled | EndToEnd
RESIDUAL_SCALE = 200.0  # RED's 1/σ² at σ = 18/255


@dataclass(frozen=True)
class Training:
    """One training of a start: its task, number K of steps, seed, budget and learning rate.

    A `trial` only serves to choose the rate.
    """

    task: str
    steps: int
    seed: int
    iterations: int
    learning_rate: float
    trial: bool = False

    @property
    def name(self) -> str:
        """What tells it from the others of its start."""
        return (
            f"{self.task}, K {self.steps}, seed {self.seed}, {self.iterations} iterations, "
            f"rate {self.learning_rate:g}{', trial' if self.trial else ''}"
        )


@dataclass(frozen=True)
class Plan:
    """Which trainings a start gets for each of `tasks`.

    `steps` is the K of the networks that are compared, which are trained with every one of
    `seeds`; `sweep` has further K, for the first seed alone. The learning rate is the one of
    `rates` that is best after `trial_iterations`; a training that diverges takes the next lower.
    """

    tasks: Sequence[str]
    steps: int
    seeds: Sequence[int]
    sweep: Sequence[int]
    iterations: int
    rates: Sequence[float]
    trial_iterations: int

    def trial(self, task: str) -> Training:
        """The short training that is run at every rate."""
        return Training(task, self.steps, self.seeds[0], self.trial_iterations, 0.0, trial=True)

    def trainings(self, task: str, rate: float) -> list[Training]:
        """Those of a task: every seed, then the further numbers of steps."""
        kinds = [(self.steps, seed) for seed in self.seeds]
        kinds += [(steps, self.seeds[0]) for steps in self.sweep if steps != self.steps]
        return [Training(task, steps, seed, self.iterations, rate) for steps, seed in kinds]

    def compared(self, training: Training) -> bool:
        """Whether it has the number of steps that is compared between starts."""
        return training.steps == self.steps

    def kept(self, training: Training) -> bool:
        """Whether its network and pictures are kept: the first seed's of those compared."""
        return self.compared(training) and training.seed == self.seeds[0]

    def counts(self, training: Training) -> Collection[int]:
        """The numbers of steps for which `steps.csv` has an unrolled network."""
        if self.kept(training):
            return range(2 * training.steps + 1)
        return [] if self.compared(training) else [training.steps]


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


def starting_weights(models: Path, start: Start) -> tuple[Path, Denoiser | Regularizer]:
    """The file below `models` that a start is made of, and the network in it."""
    if start == "reg":
        path = arm_folder(models, "updated") / "regularizer.safetensors"
        return path, load_regularizer(path)
    path = models / "pretrain" / "denoiser.safetensors"
    return path, load_denoiser(path)


def begin(
    weights: Denoiser | Regularizer, start: Start, form: Form, scale: float, seed: int
) -> Regularizer:
    """The G with which an unrolled network begins, always of the same size.

    - ``reg``: `weights`, the trained G, as it is;
    - ``denoiser``: G = s·(x − N(x)), N being `weights`, the pre-trained D told no noise: the form
      in which D's own weights are a regularizing gradient, that of RED. Of a plain `form` the
      `scale` means another thing, and s is `RESIDUAL_SCALE`;
    - ``random``, and ``end-to-end`` for its N: `form` and `scale` s, of D's size, weights drawn
      from `seed`.
    """
    if isinstance(weights, Regularizer):
        return deepcopy(weights)
    size = weights.network
    if start == "denoiser":
        of_residual = scale if form == "residual" else RESIDUAL_SCALE
        regularizer = Regularizer(size.channels, size.blocks, "residual", of_residual)
        start_from_denoiser(regularizer, weights)
    else:
        regularizer = Regularizer(size.channels, size.blocks, form, scale)
        initialise(regularizer, seeded(seed))
    return regularizer


def untrained(
    regularizer: Regularizer,
    start: Start,
    steps: int,
    sigma: float,
    learn_steps: bool,
    recompute: bool,
) -> Restore:
    """The network that a training begins with, around the G of `begin`; σ in [0,1] units."""
    if start == "end-to-end":
        return EndToEnd(regularizer.network)
    return Unrolled(
        regularizer, steps, step=1.0, sigma=sigma, learn_steps=learn_steps, recompute=recompute
    )


def finetune(
    bench: Bench, training: Training, log: Path | None = None
) -> tuple[Restore, pd.DataFrame]:
    """The trained network and its log: iteration, loss, validation PSNR, learning rate.

    The log begins before training, at iteration 0. A training that was finished before is read
    from `.checkpoints/<key>/`, an interrupted one goes on. `log` is where it is shown live.
    """
    restore, path = bench.build(training), CHECKPOINTS / bench.key / f"{training.name}.pt"
    # The first process decides for all: on a network's file system others may see other files.
    fabric = launch(bench.recipe)
    state = fabric.broadcast(load_state(path) if fabric.is_global_zero else None)
    if state is None:
        whole = f"{bench.key}/{training.name}"
        recipe = bench.recipe.model_copy(
            update={
                "iterations": training.iterations,
                "learning_rate": training.learning_rate,
                "validate_every": min(bench.recipe.validate_every, training.iterations),
            }
        )
        seed = bench.seed + training.seed
        rows = train(
            UnrolledObjective(restore, training.task, seed, bench.supervision),
            Patches(bench.images, recipe.crop, recipe.batch, seed),
            recipe,
            title=f"{bench.title} {training.name}",
            seed=seed,
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
        try:
            _, log = finetune(bench, replace(short, learning_rate=rate))
            levels[rate] = float(log["psnr"].iloc[-1])
        except DivergenceError as error:  # of one rate of several: a result
            say(f"  {error}")
            levels[rate] = float("nan")
    if all(level != level for level in levels.values()):
        raise InputError(
            f"{bench.title} {short.task}: diverged at every rate of rate_factors × learning_rate; "
            "lower them"
        )
    trials = pd.DataFrame(
        {"task": short.task, "learning_rate": levels.keys(), "psnr": levels.values()}
    )
    best = max(levels, key=lambda rate: levels[rate] if levels[rate] > 0 else 0.0)
    say(f"  {bench.title}: learning rate {best:g} for {short.task}")
    return best, trials


def finetune_stably(
    bench: Bench, training: Training, rates: Sequence[float], log: Path | None = None
) -> tuple[Training, Restore, pd.DataFrame]:
    """`finetune`, at the next lower one of `rates` where a training diverges.

    What a short trial bears, a long training or one of more steps may not. Returns the training as
    it was run; DivergenceError if it diverges at the lowest rate, too.
    """
    lower = sorted(rate for rate in rates if rate < training.learning_rate)
    try:
        return training, *finetune(bench, training, log)
    except DivergenceError as error:
        if not lower:
            raise
        say(f"  {error}; goes on at the next lower rate, {lower[-1]:g}")
        return finetune_stably(bench, replace(training, learning_rate=lower[-1]), rates, log)


def finetune_all(bench: Bench, plan: Plan, results: Path) -> dict[Training, Restore]:
    """Every trained network of a plan; only the first process returns.

    `results` gets `log.csv` of the first training, which grows while it runs, `logs.csv` of all,
    and `trials.csv` of the learning rates.
    """
    trained: dict[Training, Restore] = {}
    trials, logs = [], []
    for task in plan.tasks:
        rate, tried = choose_rate(bench, plan.trial(task), plan.rates)
        trials.append(tried)
        for training in plan.trainings(task, rate):
            live = results / "log.csv" if not trained else None
            done, restore, log = finetune_stably(bench, training, plan.rates, live)
            trained[done] = restore
            logs.append(log.assign(task=task, steps=done.steps, seed=done.seed))
    leave_it_to_the_first_process()
    write_table(logs[0].drop(columns=["task", "steps", "seed"]), results / "log.csv")
    write_table(pd.concat(logs), results / "logs.csv")
    write_table(pd.concat(trials), results / "trials.csv")
    return trained


def measure_all(
    trained: Mapping[Training, Restore],
    plan: Plan,
    images: Mapping[str, Tensor],
    results: Path,
    method: str,
    seed: int,
    precision: Precision,
    keep_every: int = 1,
) -> None:
    """Write what the networks of a plan restore of `images`, each run once.

    `table.csv` has PSNR and SSIM of the compared networks, of every training seed, as a long
    table; `steps.csv` PSNR of unrolled ones by number of steps; `images/<task>/` what the kept
    ones restore of every `keep_every`-th image.
    """
    shown = every_nth(images, keep_every)
    rows: list[Row] = []
    levels: list[Row] = []
    for training, restore in trained.items():
        counts = plan.counts(training) if isinstance(restore, Unrolled) else []
        for problem, names, iterates in restored(
            restore, training.task, images, max([restore.steps, *counts]), seed, precision
        ):
            levels += steps_rows(problem, restore.steps, counts, names, iterates)
            if not plan.compared(training):
                continue
            x, truth = iterates[restore.steps], problem.truth
            measured = {"psnr": psnr(x, truth).tolist(), "ssim": ssim(x, truth)}
            rows += final_rows(
                problem.task, method, training.seed, names, plan.iterations, measured
            )
            if plan.kept(training):
                for name, image in zip(names, x, strict=True):
                    if name not in shown:
                        continue
                    write_image(results / "images" / training.task / f"{name}.png", image[None])
    write_table(long_table(rows), results / "table.csv")
    if levels:
        write_table(pd.DataFrame(levels, columns=STEPS_COLUMNS), results / "steps.csv")


def restored(
    restore: Restore,
    task: str,
    images: Mapping[str, Tensor],
    most: int,
    seed: int,
    precision: Precision,
) -> Iterator[tuple[Problem, list[str], list[Tensor]]]:
    """Problems, their images' names, and the iterates x₀ … x_most, batch by batch.

    The network moves to the best device there is; what is returned lies on its device.
    """
    device = best_device()
    restore.to(device)
    for names, batch in batches(images):
        problem = make_problem(task, batch.to(device), names, seed)
        with inference(precision, device):
            iterates = [problem.degraded, *islice(restore.iterates(problem), most)]
        yield problem, names, iterates


def steps_rows(
    problem: Problem,
    trained: int,
    counts: Collection[int],
    names: Sequence[str],
    iterates: Sequence[Tensor],
) -> Iterator[Row]:
    """PSNR per image after each count of steps, of a network that was trained with K = `trained`.

    `iterates` begin with the start, which has 0 steps.
    """
    for count in counts:
        levels = psnr(iterates[count], problem.truth).tolist()
        for name, level in zip(names, levels, strict=True):
            yield [problem.task, trained, count, name, level]
