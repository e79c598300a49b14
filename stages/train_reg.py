"""Stage `train_reg`: the regularizer G, with the denoiser updated jointly or kept fixed."""

import sys
from pathlib import Path

from reg.checkpoints import fingerprint, forget
from reg.datasets import load_images, load_training_arrays
from reg.evaluation import denoising_validation, write_table
from reg.losses import RegObjective
from reg.networks import (
    Regularizer,
    initialise,
    load_denoiser,
    save_network,
    start_from_denoiser,
)
from reg.params import Params
from reg.patches import Patches
from reg.stage import run
from reg.training import seeded, train


def work(params: Params, arm: str) -> Path:
    """Write models/<profile>/train_reg/<arm>/{denoiser,regularizer}.safetensors and the log."""
    recipe, manifest = params.active.train_reg, params.folder("data", "prepare", "manifest.csv")
    pretrained = params.folder("models", "pretrain", "denoiser.safetensors")
    models, results = (params.folder(kind, "train_reg", arm) for kind in ("models", "results"))

    denoiser = load_denoiser(pretrained)
    network = denoiser.network
    regularizer = Regularizer(network.channels, network.blocks, recipe.form, recipe.scale)
    if recipe.start == "denoiser":
        start_from_denoiser(regularizer, denoiser)
    else:
        initialise(regularizer, seeded(params.seed))

    # With D fixed the loss is L_G alone, so λ is no part of what decides the result.
    unused = {"lambda_"} if arm == "fixed" else set()
    training = recipe.model_dump(mode="json", by_alias=True, exclude=unused) | {"arm": arm}
    key = fingerprint(arm, params.seed, training, files=[manifest, pretrained])
    validation = load_images(manifest, "validation")
    log = train(
        RegObjective(denoiser, regularizer, recipe.lambda_, update_denoiser=arm == "updated"),
        Patches(load_training_arrays(manifest), recipe.crop, recipe.batch, params.seed),
        recipe,
        title=f"train_reg {arm}",
        seed=params.seed,
        checkpoint=key,
        validate=denoising_validation(denoiser, validation, params.seed, recipe.precision),
    )
    save_network(denoiser, models / "denoiser.safetensors", training)
    save_network(regularizer, models / "regularizer.safetensors", training)
    write_table(log, results / "log.csv")
    forget(key)
    return models


if __name__ == "__main__":
    arm = sys.argv[1]
    run(f"train_reg@{arm}", lambda params: work(params, arm))
