"""Stage `train_reg`: the regularizer G, with the denoiser updated jointly or kept fixed.

Each arm is trained once per training seed. Where weights/<profile>/train_reg/ holds G and its D,
they are the arm `updated`, of the first seed.
"""

from collections.abc import Sequence
from pathlib import Path

from reg.checkpoints import fingerprint, hand_over
from reg.console import first_process, say
from reg.datasets import load_images, load_training_arrays
from reg.errors import InputError
from reg.evaluation import denoising_validation, write_table
from reg.images import Pixels
from reg.losses import RegObjective
from reg.methods import ARMS
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
from reg.processes import leave_it_to_the_first_process
from reg.stage import part, run
from reg.training import no_log, seeded, train

FILES = ("denoiser.safetensors", "regularizer.safetensors")


def start(params: Params, weights: list[Path], seed: int) -> tuple[Denoiser, Regularizer]:
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
        initialise(regularizer, seeded(params.seed + seed))
    return denoiser, regularizer


def make_pair(
    params: Params, arm: str, seed: int, weights: list[Path], images: Sequence[Pixels]
) -> str:
    """Train or import D and G of one training seed; the key of the unfinished work."""
    recipe, manifest = params.active.train_reg, params.folder("data", "prepare", "manifest.csv")
    pretrained = params.folder("models", "pretrain", "denoiser.safetensors")
    models, results = (
        params.folder(kind, "train_reg", arm, str(seed)) for kind in ("models", "results")
    )
    denoiser, regularizer = start(params, weights, seed)

    # With D fixed the loss is L_G alone, so λ is no part of what decides the result.
    training = {**recipe.record(), "arm": arm}
    if arm == "fixed":
        del training["lambda"]
    key = fingerprint(
        f"train_reg-{arm}-{seed}", params.seed, training, files=[manifest, pretrained]
    )
    validate = denoising_validation(
        denoiser, load_images(manifest, "validation"), params.seed, recipe.precision
    )
    if weights:
        say(f"  D and G are imported from {weights[0].parent}, not trained")
        log = no_log(validate)
    else:
        log = train(
            RegObjective(denoiser, regularizer, recipe.lambda_, update_denoiser=arm == "updated"),
            Patches(images, recipe.crop, recipe.batch, params.seed + seed),
            recipe,
            title=f"train_reg {arm}, seed {seed}",
            seed=params.seed + seed,
            checkpoint=key,
            validate=validate,
            log=results / "log.csv",
        )
    if first_process():
        origin_d, origin_g = [imported_from(path) for path in weights] or [training, training]
        save_network(denoiser, models / FILES[0], origin_d)
        save_network(regularizer, models / FILES[1], origin_g)
        write_table(log, results / "log.csv")
    return key


def work(params: Params, arm: str) -> Path:
    """Write D and G of every training seed into models/<profile>/train_reg/<arm>/<seed>/.

    The training logs go to results/<profile>/train_reg/<arm>/<seed>/log.csv.
    """
    seeds = params.active.train_reg.seeds
    given = params.folder("weights", "train_reg")
    weights = given_weights(given, *FILES) if arm == "updated" else []
    if weights and len(seeds) > 1:
        raise InputError(
            f"{given}: holds one pair of networks, and train_reg.seeds asks for {len(seeds)}; "
            "list one seed there, or remove the weights"
        )
    manifest, data = params.folder("data", "prepare", "manifest.csv"), params.data
    images = [] if weights else load_training_arrays(manifest, data.memory_mb, data.cache)
    keys = [make_pair(params, arm, seed, weights, images) for seed in seeds]
    leave_it_to_the_first_process()
    # Not before: DVC deletes the outputs of an interrupted stage, and checkpoints bring them back.
    for key in keys:
        hand_over(key)
    return params.folder("models", "train_reg", arm)


if __name__ == "__main__":
    arm = part("train_reg", ARMS["regularizers"])
    run(f"train_reg@{arm}", lambda params: work(params, arm))
