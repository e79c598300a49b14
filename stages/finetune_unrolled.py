"""Stage `finetune_unrolled`: K unrolled gradient steps around one G, from ReG or from random."""

import sys
from pathlib import Path

from reg.checkpoints import fingerprint, forget
from reg.datasets import load_images, load_training_arrays
from reg.evaluation import measure_restoration, restoration_validation, write_table
from reg.networks import Denoiser, Regularizer, initialise, load_denoiser, load_regularizer
from reg.params import Params
from reg.patches import Patches
from reg.stage import run
from reg.training import seeded, train
from reg.unrolled import Unrolled, UnrolledObjective, save_unrolled


def new_regularizer(denoiser: Denoiser, params: Params) -> Regularizer:
    """A regularizer of the denoiser's size and of train_reg's form, with random weights."""
    size, reg = denoiser.network, params.active.train_reg
    regularizer = Regularizer(size.channels, size.blocks, reg.form, reg.scale)
    initialise(regularizer, seeded(params.seed))
    return regularizer


def work(params: Params, start: str) -> Path:
    """Write the network, its training log and its table of test images."""
    recipe, manifest = (
        params.active.finetune_unrolled,
        params.folder("data", "prepare", "manifest.csv"),
    )
    models, results = (
        params.folder(kind, "finetune_unrolled", start) for kind in ("models", "results")
    )
    if start == "reg":
        weights = params.folder("models", "train_reg", "updated", "regularizer.safetensors")
        regularizer = load_regularizer(weights)
    else:
        weights = params.folder("models", "pretrain", "denoiser.safetensors")
        regularizer = new_regularizer(load_denoiser(weights), params)
    unrolled = Unrolled(regularizer, recipe.steps, step=1.0, sigma=recipe.sigma / 255)

    validate = restoration_validation(
        unrolled, recipe.task, load_images(manifest, "validation"), params.seed, recipe.precision
    )
    form = (regularizer.form, regularizer.scale)
    key = fingerprint(start, params.seed, recipe.record(), form, files=[manifest, weights])
    images = load_training_arrays(manifest, params.data.memory_mb, params.data.cache)
    log = train(
        UnrolledObjective(unrolled, recipe.task, params.seed),
        Patches(images, recipe.crop, recipe.batch, params.seed),
        recipe,
        title=f"finetune_unrolled {start}",
        seed=params.seed,
        checkpoint=key,
        validate=validate,
        log=results / "log.csv",
        measure_start=True,
    )
    save_unrolled(unrolled, models / "unrolled.safetensors", recipe.record())
    write_table(log, results / "log.csv")
    table = measure_restoration(
        unrolled,
        f"unrolled-{start}",
        recipe.task,
        load_images(manifest, "test"),
        iteration=recipe.iterations,
        seed=params.seed,
        precision=recipe.precision,
    )
    write_table(table, results / "table.csv")
    forget(key)
    return results / "table.csv"


if __name__ == "__main__":
    start = sys.argv[1]
    run(f"finetune_unrolled@{start}", lambda params: work(params, start))
