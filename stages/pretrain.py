"""Stage `pretrain`: the bias-free DRUNet denoiser, trained or imported."""

from pathlib import Path

from reg.checkpoints import fingerprint, forget
from reg.datasets import load_images, load_training_arrays
from reg.evaluation import denoising_validation, write_table
from reg.losses import DenoisingObjective
from reg.networks import Denoiser, initialise, load_denoiser, save_network
from reg.params import Params
from reg.patches import Patches
from reg.stage import run
from reg.training import no_log, seeded, train


def start(params: Params) -> Denoiser:
    """The denoiser of the given weights file, else one with random weights."""
    recipe = params.active.pretrain
    if recipe.weights:
        return load_denoiser(Path(recipe.weights), recipe.channels, recipe.blocks)
    denoiser = Denoiser(recipe.channels, recipe.blocks)
    initialise(denoiser, seeded(params.seed))
    return denoiser


def work(params: Params) -> Path:
    """Write models/<profile>/pretrain/denoiser.safetensors and its training log."""
    recipe, manifest = params.active.pretrain, params.folder("data", "prepare", "manifest.csv")
    models, results = params.folder("models", "pretrain"), params.folder("results", "pretrain")
    key = fingerprint("pretrain", params.seed, recipe.model_dump(), files=[manifest])
    denoiser = start(params)
    validate = denoising_validation(
        denoiser, load_images(manifest, "validation"), params.seed, recipe.precision
    )
    if recipe.weights:
        log = no_log(validate)
    else:
        log = train(
            DenoisingObjective(denoiser),
            Patches(load_training_arrays(manifest), recipe.crop, recipe.batch, params.seed),
            recipe,
            title="pretrain",
            seed=params.seed,
            checkpoint=key,
            validate=validate,
        )
    save_network(denoiser, models / "denoiser.safetensors", recipe.model_dump(mode="json"))
    write_table(log, results / "log.csv")
    forget(key)
    return models


if __name__ == "__main__":
    run("pretrain", work)
