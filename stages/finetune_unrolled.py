"""Stage `finetune_unrolled`: K unrolled gradient steps around one G, from one of four starts."""

from pathlib import Path
from typing import cast, get_args

from reg.checkpoints import fingerprint, hand_over
from reg.datasets import load_images, load_training_arrays
from reg.finetuning import (
    Bench,
    Plan,
    Start,
    begin,
    finetune_all,
    measure_all,
    starting_weights,
    untrained,
)
from reg.params import Params
from reg.stage import part, run
from reg.unrolled import save_unrolled


def work(params: Params, start: Start) -> Path:
    """Write the networks of the first seed, every log, and the tables of the test images."""
    recipe, reg, seed = params.active.finetune_unrolled, params.active.train_reg, params.seed
    manifest = params.folder("data", "prepare", "manifest.csv")
    models, results = (
        params.folder(kind, "finetune_unrolled", start) for kind in ("models", "results")
    )
    path, weights = starting_weights(params.folder("models"), start)
    plan = Plan(
        tasks=recipe.tasks,
        steps=1 if start == "end-to-end" else recipe.steps,
        seeds=recipe.seeds,
        sweep=recipe.sweep_steps if start == "reg" else (),
        iterations=recipe.iterations,
        rates=[factor * recipe.learning_rate for factor in recipe.rate_factors],
        trial_iterations=recipe.trial_iterations,
    )
    bench = Bench(
        title=start,
        recipe=recipe,
        build=lambda training: untrained(
            begin(weights, start, reg.form, reg.scale, seed + training.seed),
            start, training.steps, recipe.sigma / 255, recipe.learn_steps, recipe.recompute,
        ),
        images=load_training_arrays(manifest, params.data.memory_mb, params.data.cache),
        validation=load_images(manifest, "validation"),
        supervision=recipe.supervision,
        seed=seed,
        key=fingerprint(
            f"finetune_unrolled-{start}", seed, recipe.record(), reg.form, reg.scale,
            files=[manifest, path],
        ),
    )  # fmt: skip
    trained = finetune_all(bench, plan, results)
    for training, restore in trained.items():
        if plan.kept(training):
            save_unrolled(restore, models / f"{training.task}.safetensors", recipe.record())
    tests = load_images(manifest, "test", recipe.every)
    measure_all(
        trained, plan, tests, results, f"unrolled-{start}", seed, recipe.precision,
        recipe.keep_every,
    )  # fmt: skip
    hand_over(bench.key)
    return results / "table.csv"


if __name__ == "__main__":
    start = cast(Start, part("finetune_unrolled", get_args(Start)))
    run(f"finetune_unrolled@{start}", lambda params: work(params, start))
