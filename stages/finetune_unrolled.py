"""Stage `finetune_unrolled`: K unrolled gradient steps around one G, from one of four starts."""

import sys
from pathlib import Path
from typing import cast

import pandas as pd

from reg.checkpoints import fingerprint, forget
from reg.datasets import load_images, load_training_arrays
from reg.evaluation import measure_restoration, write_table
from reg.finetuning import (
    Bench,
    Restore,
    Start,
    Training,
    begin,
    choose_rate,
    finetune,
    measure_steps,
)
from reg.methods import arm_folder
from reg.networks import Denoiser, Regularizer, load_denoiser, load_regularizer
from reg.params import Params
from reg.processes import leave_it_to_the_first_process
from reg.stage import run
from reg.unrolled import EndToEnd, Unrolled, save_unrolled


def prepare(params: Params, start: Start) -> Bench:
    """Everything that the trainings of a start have in common."""
    recipe, reg = params.active.finetune_unrolled, params.active.train_reg
    manifest, models = params.folder("data", "prepare", "manifest.csv"), params.folder("models")
    if start == "reg":
        path = arm_folder(models, "updated") / "regularizer.safetensors"
        weights: Denoiser | Regularizer = load_regularizer(path)
    else:
        path = models / "pretrain" / "denoiser.safetensors"
        weights = load_denoiser(path)

    def build(training: Training) -> Restore:
        regularizer = begin(weights, start, reg.form, reg.scale, params.seed + training.seed)
        if start == "end-to-end":
            return EndToEnd(regularizer.network)
        return Unrolled(
            regularizer,
            training.steps,
            step=1.0,
            sigma=recipe.sigma / 255,
            learn_steps=recipe.learn_steps,
            recompute=recipe.recompute,
        )

    return Bench(
        title=start,
        recipe=recipe,
        build=build,
        images=load_training_arrays(manifest, params.data.memory_mb, params.data.cache),
        validation=load_images(manifest, "validation"),
        supervision=recipe.supervision,
        seed=params.seed,
        key=fingerprint(
            start, params.seed, recipe.record(), reg.form, reg.scale, files=[manifest, path]
        ),
    )


def trainings(params: Params, start: Start, task: str, rate: float) -> list[Training]:
    """The trainings of a start for one task: every seed, and ReG's with other numbers of steps."""
    recipe = params.active.finetune_unrolled
    plan = [(steps_of(params, start), seed) for seed in recipe.seeds]
    if start == "reg":
        plan += [(steps, recipe.seeds[0]) for steps in recipe.sweep_steps if steps != recipe.steps]
    return [Training(task, steps, seed, recipe.iterations, rate) for steps, seed in plan]


def steps_of(params: Params, start: Start) -> int:
    """K; a network that is trained end to end has one step."""
    return 1 if start == "end-to-end" else params.active.finetune_unrolled.steps


def work(params: Params, start: Start) -> Path:
    """Write the networks of the first seed, every log, and the tables of the test images."""
    recipe, bench = params.active.finetune_unrolled, prepare(params, start)
    models, results = (
        params.folder(kind, "finetune_unrolled", start) for kind in ("models", "results")
    )
    trials, logs = [], []
    trained: dict[Training, Restore] = {}
    for task in recipe.tasks:
        short = Training(
            task, steps_of(params, start), recipe.seeds[0], recipe.trial_iterations, 0.0
        )
        rates = [factor * recipe.learning_rate for factor in recipe.rate_factors]
        rate, tried = choose_rate(bench, short, rates)
        trials.append(tried)
        for training in trainings(params, start, task, rate):
            first = results / "log.csv" if not trained else None
            trained[training], log = finetune(bench, training, first)
            logs.append(log.assign(task=task, steps=training.steps, seed=training.seed))
    leave_it_to_the_first_process()

    write_table(logs[0].drop(columns=["task", "steps", "seed"]), results / "log.csv")
    write_table(pd.concat(logs), results / "logs.csv")
    write_table(pd.concat(trials), results / "trials.csv")
    tests = load_images(params.folder("data", "prepare", "manifest.csv"), "test")
    tables, counts = [], []
    for training, restore in trained.items():
        first_seed, task = training.seed == recipe.seeds[0], training.task
        main = training.steps == steps_of(params, start)
        if main:
            tables.append(
                measure_restoration(
                    restore,
                    f"unrolled-{start}",
                    task,
                    tests,
                    iteration=recipe.iterations,
                    seed=params.seed,
                    precision=recipe.precision,
                    training_seed=training.seed,
                    pictures=results / "images" / task if first_seed else None,
                )
            )
        if main and first_seed:
            save_unrolled(restore, models / f"{task}.safetensors", recipe.record())
        if first_seed and isinstance(restore, Unrolled):
            steps = range(2 * restore.steps + 1) if main else [restore.steps]
            counts.append(
                measure_steps(
                    restore, task, tests, counts=steps, seed=params.seed, precision=recipe.precision
                )
            )
    write_table(pd.concat(tables), results / "table.csv")
    if counts:
        write_table(pd.concat(counts), results / "steps.csv")
    forget(bench.key)
    return results / "table.csv"


if __name__ == "__main__":
    start = cast(Start, sys.argv[1])
    run(f"finetune_unrolled@{start}", lambda params: work(params, start))
