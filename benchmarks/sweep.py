"""What λ, the weight of L_G, does: `make sweep`, or `python -m benchmarks.sweep`.

For each λ, G and D are trained together by the recipe of the active profile, from its pre-trained
D, and measured on its validation images, never on test images:

- D: PSNR in dB at σ = 25/255, and, with G, the relative MAP residual there;
- PnP-GD with G: the mean PSNR of its last iterates in three tasks;
- PnP-ADMM with D: PSNR of iteration 80 in the same tasks, and the best of all iterations before
  (`psnr_oracle`, an oracle): what is lost from it is how far ADMM fails to hold what it reached.

Both parameters of both methods are tuned for each λ by equally many trials. Every finished λ is
kept in .checkpoints/, so that an interrupted run goes on after the last one. Writes
reports/<profile>/sweep/lambda.csv, which the stage `report` draws.
"""

from collections.abc import Mapping
from pathlib import Path

import click
import pandas as pd
import torch
from torch import Tensor

from benchmarks.recipes import CODE as RECIPES
from benchmarks.recipes import TASKS, judge, train_pair, tune_alike
from reg.checkpoints import State, fingerprint, finished_cell, forget
from reg.console import fail, say
from reg.cpu import fuse, keep_freed_memory
from reg.datasets import load_images, load_training_arrays
from reg.diagnostics import map_residual
from reg.errors import InputError
from reg.evaluation import batches, central_crops, trace, write_table
from reg.methods import Networks, iterate
from reg.networks import Denoiser, Regularizer, for_inference, inference, load_denoiser
from reg.params import Params, TrainReg, read_params
from reg.patches import Patches
from reg.problems import make_problem
from reg.report.findings import SWEEP_COLUMNS, SWEPT_ADMM
from reg.training import DivergenceError

LAMBDAS = (0.004, 0.04, 0.2, 1.0, 4.0, 16.0)
HELD = 80  # iterations of PnP-ADMM
NOISE = "denoise-25"
CODE = [Path(__file__), RECIPES]

Cell = list[str | float]  # method, task, metric, value


def recipe_of(params: Params, lambda_: float, iterations: int | None) -> TrainReg:
    """The profile's recipe with this λ, and with so many iterations where that is asked for."""
    own = params.active.train_reg
    length = iterations or own.iterations
    changed = {"lambda_": lambda_, "iterations": length, "validate_every": length}
    return own.model_copy(update=changed)


def measure(
    denoiser: Denoiser,
    regularizer: Regularizer,
    images: Mapping[str, Tensor],
    params: Params,
    trials: int,
    key: str,
) -> list[Cell]:
    """Everything that is measured of one λ, means over images."""
    judged = judge(denoiser, regularizer, images, params, trials, key)
    cells: list[Cell] = [["denoiser", NOISE, "psnr", judged["denoiser"]]]
    cells += [["pnp-gd", task, "psnr", judged[task]] for task in TASKS]
    D, G = fuse(for_inference(denoiser)), for_inference(regularizer)
    residuals = []
    for names, batch in batches(images):
        problem = make_problem(NOISE, batch, names, params.seed)
        with inference("fp32"):
            residuals.append(map_residual(D, G, problem.y, problem.sigma_n))
    cells.append(["denoiser", NOISE, "map_residual", torch.cat(residuals).mean().item()])
    networks = Networks(denoisers={"updated": D})
    _, chosen = tune_alike(SWEPT_ADMM, networks, images, params, trials, key)
    for task in TASKS:
        levels = psnr_of_admm(task, networks, chosen[task][SWEPT_ADMM], images, params)
        cells.append([SWEPT_ADMM, task, "psnr", levels[-1].mean().item()])
        cells.append([SWEPT_ADMM, task, "psnr_oracle", levels.amax(dim=0).mean().item()])
    return cells


def psnr_of_admm(
    task: str,
    networks: Networks,
    parameters: Mapping[str, float],
    images: Mapping[str, Tensor],
    params: Params,
) -> Tensor:
    """PSNR in dB by iteration and image, (HELD, N), of the crops on which methods are tuned."""
    section, levels = params.active.tune, []
    for names, batch in batches(central_crops(images, section.crop)):
        problem = make_problem(task, batch, names, params.seed)
        with inference(section.precision):
            curves, _ = trace(iterate(SWEPT_ADMM, problem, networks, parameters), problem, HELD)
        levels.append(curves["psnr"])
    return torch.cat(levels, dim=1)


def sweep(params: Params, iterations: int | None, trials: int) -> Path:
    """Train and measure every λ; write the table, and return where it lies."""
    manifest = params.folder("data", "prepare", "manifest.csv")
    pretrained = params.folder("models", "pretrain", "denoiser.safetensors")
    if not pretrained.exists():
        raise InputError(f"{pretrained}: no such file; run `dvc repro pretrain`, which makes it")
    images = load_images(manifest, "validation")
    arrays = load_training_arrays(manifest, params.data.memory_mb, params.data.cache)
    seed = params.seed + params.active.train_reg.seeds[0]
    section = params.active.tune.model_dump()
    keys, rows = [], []
    for lambda_ in LAMBDAS:
        recipe = recipe_of(params, lambda_, iterations)
        key = fingerprint(
            "sweep", params.seed, seed, section, recipe.record(), trials,
            files=[manifest, pretrained, *CODE],
        )  # fmt: skip

        def work(recipe: TrainReg = recipe, key: str = key) -> State:
            denoiser = load_denoiser(pretrained)
            patches = Patches(arrays, recipe.crop, recipe.batch, seed)
            title, unfinished = f"lambda {recipe.lambda_:g}", f"{key}-unfinished"
            try:
                regularizer = train_pair(recipe, denoiser, patches, title, unfinished)
            except DivergenceError as error:
                say(f"  {error}")
                return {"cells": [["denoiser", NOISE, "psnr", float("nan")]]}
            return {"cells": measure(denoiser, regularizer, images, params, trials, unfinished)}

        cells = finished_cell(key, "cells", work)["cells"]
        forget(f"{key}-unfinished")
        keys.append(key)
        rows += [[lambda_, recipe.iterations, *cell] for cell in cells]
        say(f"lambda {lambda_:g}: done")
    path = params.folder("reports", "sweep", "lambda.csv")
    write_table(pd.DataFrame(rows, columns=list(SWEEP_COLUMNS)), path)
    for key in keys:
        forget(key)
    return path


@click.command()
@click.option(
    "--iterations", type=click.IntRange(min=1), help="Of training; the profile's if not given."
)
@click.option(
    "--trials", type=click.IntRange(min=1), help="Per method and task; the profile's if not given."
)
def main(iterations: int | None, trials: int | None) -> None:
    """Train and measure ReG for six values of λ."""
    keep_freed_memory()
    try:
        params = read_params()
        say(f"{sweep(params, iterations, trials or params.active.tune.trials)}; now `dvc repro`")
    except InputError as error:
        fail(error)


if __name__ == "__main__":
    main()
