"""Stage `train_reg`: the regularizer G, with the denoiser updated jointly or kept fixed.

Where weights/<profile>/train_reg/ holds G and its D, they are the arm `updated`.
"""

import sys
from pathlib import Path

from reg.checkpoints import fingerprint, forget
from reg.console import say
from reg.datasets import load_images, load_training_arrays
from reg.evaluation import denoising_validation, write_table
from reg.losses import RegObjective
from reg.networks import (
    Denoiser,
    Regularizer,
    given_weights,
    imported_from,
    initialise,
    load_denoiser,
    load_regularizer,
    save_network,
    start_from_denoiser,
)
from reg.params import Params
from reg.patches import Patches
from reg.stage import run
from reg.training import no_log, seeded, train

FILES = ("denoiser.safetensors", "regularizer.safetensors")


def start(params: Params, weights: list[Path]) -> tuple[Denoiser, Regularizer]:
    """D and G: those of the given files, else the pre-trained D and a G as the recipe says."""
    recipe = params.active.train_reg
    denoiser = load_denoiser(params.folder("models", "pretrain", "denoiser.safetensors"))
    network = denoiser.network
    if weights:
        updated = load_denoiser(weights[0], network.channels, network.blocks)
        return updated, load_regularizer(weights[1])
    regularizer = Regularizer(network.channels, network.blocks, recipe.form, recipe.scale)
    if recipe.start == "denoiser":
        start_from_denoiser(regularizer, denoiser)
    else:
        initialise(regularizer, seeded(params.seed))
    return denoiser, regularizer


def work(params: Params, arm: str) -> Path:
    """Write models/<profile>/train_reg/<arm>/{denoiser,regularizer}.safetensors and the log."""
    recipe, manifest = params.active.train_reg, params.folder("data", "prepare", "manifest.csv")
    pretrained = params.folder("models", "pretrain", "denoiser.safetensors")
    models, results = (params.folder(kind, "train_reg", arm) for kind in ("models", "results"))

    given = params.folder("weights", "train_reg")
    weights = given_weights(given, *FILES) if arm == "updated" else []
    denoiser, regularizer = start(params, weights)

    # With D fixed the loss is L_G alone, so λ is no part of what decides the result.
    training = {**recipe.record(), "arm": arm}
    if arm == "fixed":
        del training["lambda"]
    key = fingerprint(arm, params.seed, training, files=[manifest, pretrained])
    validate = denoising_validation(
        denoiser, load_images(manifest, "validation"), params.seed, recipe.precision
    )
    if weights:
        say(f"  D and G are imported from {given}, not trained")
        log = no_log(validate)
    else:
        images = load_training_arrays(manifest, params.data.memory_mb, params.data.cache)
        log = train(
            RegObjective(denoiser, regularizer, recipe.lambda_, update_denoiser=arm == "updated"),
            Patches(images, recipe.crop, recipe.batch, params.seed),
            recipe,
            title=f"train_reg {arm}",
            seed=params.seed,
            checkpoint=key,
            validate=validate,
            log=results / "log.csv",
        )
    origin_d, origin_g = [imported_from(path) for path in weights] or [training, training]
    save_network(denoiser, models / FILES[0], origin_d)
    save_network(regularizer, models / FILES[1], origin_g)
    write_table(log, results / "log.csv")
    if not weights:
        forget(key)
    return models


if __name__ == "__main__":
    arm = sys.argv[1]
    run(f"train_reg@{arm}", lambda params: work(params, arm))
