"""Stage `pretrain`: the bias-free DRUNet denoiser.

A file in weights/<profile>/pretrain/ is imported instead.
"""

from pathlib import Path

from reg.checkpoints import fingerprint, hand_over
from reg.console import say
from reg.datasets import load_images, load_training_arrays
from reg.evaluation import denoising_validation, write_table
from reg.losses import DenoisingObjective
from reg.networks import (
    Denoiser,
    given_weights,
    imported_from,
    initialise,
    load_denoiser,
    save_network,
)
from reg.params import Params
from reg.patches import Patches
from reg.processes import leave_it_to_the_first_process
from reg.stage import run
from reg.training import no_log, seeded, train


def start(params: Params, weights: list[Path]) -> Denoiser:
    """The denoiser of the given file, else one with random weights."""
    recipe = params.active.pretrain
    if weights:
        return load_denoiser(weights[0], recipe.channels, recipe.blocks)
    denoiser = Denoiser(recipe.channels, recipe.blocks)
    initialise(denoiser, seeded(params.seed))
    return denoiser


def work(params: Params) -> Path:
    """Write models/<profile>/pretrain/denoiser.safetensors and its training log."""
    recipe, manifest = params.active.pretrain, params.folder("data", "prepare", "manifest.csv")
    models, results = params.folder("models", "pretrain"), params.folder("results", "pretrain")
    key = fingerprint("pretrain", params.seed, recipe.record(), files=[manifest])
    weights = given_weights(params.folder("weights", "pretrain"), "denoiser.safetensors")
    denoiser = start(params, weights)
    validate = denoising_validation(
        denoiser, load_images(manifest, "validation"), params.seed, recipe.precision
    )
    training = recipe.record()
    if weights:
        say(f"  D is imported from {weights[0]}, not trained")
        training = imported_from(weights[0])
        log = no_log(validate)
    else:
        images = load_training_arrays(manifest, params.data.memory_mb, params.data.cache)
        log = train(
            DenoisingObjective(denoiser),
            Patches(images, recipe.crop, recipe.batch, params.seed),
            recipe,
            title="pretrain",
            seed=params.seed,
            checkpoint=key,
            validate=validate,
            log=results / "log.csv",
        )
    leave_it_to_the_first_process()
    save_network(denoiser, models / "denoiser.safetensors", training)
    write_table(log, results / "log.csv")
    if not weights:
        hand_over(key)
    return models


if __name__ == "__main__":
    run("pretrain", work)
