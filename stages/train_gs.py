"""Stage `train_gs`: the gradient-step denoiser D = Id − ∇g, from the weights of `pretrain`."""

from pathlib import Path

from reg.checkpoints import fingerprint, hand_over
from reg.datasets import load_images, load_training_arrays
from reg.evaluation import denoising_validation, write_table
from reg.gradient_step import (
    GradientStepDenoiser,
    GradientStepObjective,
    save_gradient_step,
    start_from,
)
from reg.networks import load_denoiser
from reg.params import Params
from reg.patches import Patches
from reg.processes import leave_it_to_the_first_process
from reg.stage import run
from reg.training import train


def work(params: Params) -> Path:
    """Write models/<profile>/train_gs/denoiser.safetensors and its training log."""
    recipe, manifest = params.active.train_gs, params.folder("data", "prepare", "manifest.csv")
    pretrained = params.folder("models", "pretrain", "denoiser.safetensors")
    models, results = params.folder("models", "train_gs"), params.folder("results", "train_gs")
    key = fingerprint("train_gs", params.seed, recipe.record(), files=[manifest, pretrained])

    start = load_denoiser(pretrained)
    denoiser = GradientStepDenoiser(start.network.channels, start.network.blocks)
    start_from(denoiser, start)
    images = load_training_arrays(manifest, params.data.memory_mb, params.data.cache)
    log = train(
        GradientStepObjective(denoiser),
        Patches(images, recipe.crop, recipe.batch, params.seed),
        recipe,
        title="train_gs",
        seed=params.seed,
        checkpoint=key,
        validate=denoising_validation(
            denoiser, load_images(manifest, "validation"), params.seed, recipe.precision
        ),
        log=results / "log.csv",
    )
    leave_it_to_the_first_process()
    save_gradient_step(denoiser, models / "denoiser.safetensors", recipe.record())
    write_table(log, results / "log.csv")
    hand_over(key)
    return models


if __name__ == "__main__":
    run("train_gs", work)
