"""Ways to train G, compared at equal compute: `python -m benchmarks.recipes`.

Compute is counted in pixels of crops that go forward and backward through D and G,
iterations·batch·crop²: seconds would differ from run to run, and a fixed D takes fewer. Every
variant starts from the pre-trained D of the active profile, sees its training images, and is judged
by PnP-GD alone: the mean PSNR in dB of its last iterates on the validation images, for three tasks,
with both parameters of the method tuned by equally many trials. Losses of different recipes do not
compare.

The recipe from which all variants differ is written here, not read from params.yaml: a profile
that adopts the best variant does not change what was compared.

Every trained variant is kept in .checkpoints/, so that an interrupted run goes on after the last
one; `--only NAME` trains one of them alone. When all are there, writes
reports/benchmarks/recipes.csv and the figure recipes.{pdf,png}.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from reg.checkpoints import State, fingerprint, finished_cell, forget
from reg.claims import task_name
from reg.console import fail, say
from reg.cpu import fuse, keep_freed_memory
from reg.datasets import load_images, load_training_arrays
from reg.errors import InputError
from reg.evaluation import central_crops, denoising_validation, write_table
from reg.losses import Generators, RegObjective, add_noise, draw_sigma, per_crop
from reg.methods import Networks
from reg.networks import (
    Denoiser,
    Regularizer,
    for_inference,
    initialise,
    load_denoiser,
    start_from_denoiser,
)
from reg.params import Params, TrainReg, read_params
from reg.patches import Patches
from reg.report.figures import BLACK, BLUE, GREEN, VERMILLION, save_figure
from reg.training import DivergenceError, seeded, train
from reg.tuning import tune

CODE = Path(__file__)
OUTPUT = Path("reports/benchmarks/recipes.csv")
TASKS = ("deblur-k5-2.55", "sr-x2-2.55", "inpaint-20")
MARKS = dict(zip(TASKS, (("o", BLUE), ("s", VERMILLION), ("^", GREEN)), strict=True))
COLUMN_WIDTH = 3.4  # inches, of a page of two columns
SHOWN = 3.0  # dB below the reference that the figure reaches
NEAR = 0.1  # dB below the best: seeds may turn the order
KNEE = 10 / 255  # below it the bounded weights no longer grow

REFERENCE: dict[str, Any] = {
    "lambda": 1.0,
    "form": "plain",
    "scale": 20.0,
    "start": "random",
    "batch": 16,
    "crop": 64,
    "learning_rate": 2.5e-3,
    "schedule": "cosine",
    "warmup": 40,
    "clip_gradient": 0.05,
}
PAPER: dict[str, Any] = {
    "scale": 1.0,
    "lambda": 0.004,
    "learning_rate": 1e-4,
    "schedule": "halving",
    "warmup": 0,
    "clip_gradient": None,
}
RESIDUAL: dict[str, Any] = {
    "form": "residual",
    "scale": 200.0,
    "start": "denoiser",
    "lambda": 4.0,
    "learning_rate": 1e-3,
}

Weight = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Variant:
    """What differs from the reference: fields of the recipe, w(σ, σ₀) in L_G, a fixed D."""

    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    weight: Weight | None = None
    update_denoiser: bool = True


VARIANTS = {
    "reference": Variant("reference (s = 20, λ = 1)"),
    "paper": Variant("paper (s = 1, λ = 0.004)", PAPER),
    "scale-5": Variant("s = 5", {"scale": 5.0}),
    "scale-80": Variant("s = 80", {"scale": 80.0}),
    "lambda-0.1": Variant("λ = 0.1", {"lambda": 0.1}),
    "lambda-4": Variant("λ = 4", {"lambda": 4.0}),
    "residual": Variant("residual, from D (s = 200, λ = 4)", RESIDUAL),
    "fixed": Variant("D fixed", update_denoiser=False),
    "residual-fixed": Variant("residual, from D, D fixed", RESIDUAL, update_denoiser=False),
    "residual-50": Variant("residual, from D, s = 50", {**RESIDUAL, "scale": 50.0}),
    "residual-fast": Variant(
        "residual, from D, rate 2.5e-3", {**RESIDUAL, "learning_rate": 2.5e-3}
    ),
    "residual-lambda-0.1": Variant("residual, from D, λ = 0.1", {**RESIDUAL, "lambda": 0.1}),
    "residual-lambda-1": Variant("residual, from D, λ = 1", {**RESIDUAL, "lambda": 1.0}),
    "residual-random": Variant("residual", {**RESIDUAL, "start": "random"}),
    "from-denoiser": Variant("plain, from D", {"start": "denoiser"}),
    "slow": Variant("rate 1e-3", {"learning_rate": 1e-3}),
    "batch-4": Variant("4 crops of 128²", {"batch": 4, "crop": 128}),
    "batch-64": Variant("64 crops of 32²", {"batch": 64, "crop": 32}),
    "halving": Variant("halved 8 times", {"schedule": "halving"}),
    "unguarded": Variant("no warm-up, no clipping", {"warmup": 0, "clip_gradient": None}),
    "weight-sigma": Variant("weight 1/σ²", weight=lambda sigma, sigma_0: sigma**-2),
    "weight-sigma-bounded": Variant(
        "weight 1/(σ² + 10²)", weight=lambda sigma, sigma_0: 1 / (sigma**2 + KNEE**2)
    ),
    "weight-noise-bounded": Variant(
        "weight 1/(σ₀² + 10²)", weight=lambda sigma, sigma_0: 1 / (sigma_0**2 + KNEE**2)
    ),
}


def recipe_of(variant: Variant, budget: int) -> TrainReg:
    """The variant's recipe for `budget` pixels of crops; halving is the paper's, eight times."""
    fields = {**REFERENCE, **variant.changes}
    iterations = max(1, round(budget / (fields["batch"] * fields["crop"] ** 2)))
    fields |= {"iterations": iterations, "validate_every": iterations}
    return TrainReg.model_validate({**fields, "halve_every": max(1, iterations // 8)})


class WeightedRegObjective(RegObjective):
    """The joint objective with L_G = mean of w(σ, σ₀)·(σ²G(D_σ(z)) − (z − D_σ(z)))².

    The weights of a batch are divided by their mean, so that they move L_G's attention between
    noise levels without changing its weight against L_D.
    """

    def __init__(
        self, denoiser: Denoiser, regularizer: Regularizer, lambda_: float, weight: Weight
    ) -> None:
        super().__init__(denoiser, regularizer, lambda_, update_denoiser=True)
        self.weight = weight

    def forward(self, clean: Tensor, iteration: int, generators: Generators) -> dict[str, Tensor]:
        sigma_0 = draw_sigma(generators)
        noisy = add_noise(clean, sigma_0, generators)
        matched = iteration % 2 == 1
        sigma = (sigma_0 if matched else draw_sigma(generators)).to(clean.device)
        denoised = self.denoiser(noisy, sigma)
        gradient = self.regularizer(denoised)
        error = sigma.view(-1, 1, 1, 1) ** 2 * gradient - (noisy - denoised)
        weight = self.weight(sigma, sigma_0.to(clean.device))
        loss = self.lambda_ * weight / weight.mean() * per_crop(error.square())
        if matched:
            loss = loss + per_crop((denoised - clean).abs())
        return {"loss": loss}


def train_pair(
    recipe: TrainReg,
    denoiser: Denoiser,
    patches: Patches,
    title: str,
    key: str,
    weight: Weight | None = None,
    update_denoiser: bool = True,
) -> Regularizer:
    """G trained by a recipe, and D with it, in place; DivergenceError if that does.

    `weight` is for a D that is updated.
    """
    size, seed = denoiser.network, patches.seed
    regularizer = Regularizer(size.channels, size.blocks, recipe.form, recipe.scale)
    if recipe.start == "denoiser":
        start_from_denoiser(regularizer, denoiser)
    else:
        initialise(regularizer, seeded(seed))
    if weight is None:
        objective = RegObjective(denoiser, regularizer, recipe.lambda_, update_denoiser)
    else:
        objective = WeightedRegObjective(denoiser, regularizer, recipe.lambda_, weight)
    train(objective, patches, recipe, title=title, seed=seed, checkpoint=key)
    return regularizer


def judge(
    denoiser: Denoiser,
    regularizer: Regularizer,
    images: Mapping[str, Tensor],
    params: Params,
    trials: int,
    key: str,
) -> State:
    """Mean PSNR in dB on validation images: of tuned PnP-GD by task, of D at σ = 25/255."""
    denoised = denoising_validation(denoiser, images, params.seed, params.active.tune.precision)()
    networks = Networks(regularizers={"updated": fuse(for_inference(regularizer))})
    tried, _ = tune_alike("pnp-gd", networks, images, params, trials, key)
    best = tried.groupby("task")["psnr"].max()
    return {"denoiser": denoised["psnr25"], **{task: float(best[task]) for task in TASKS}}


def tune_alike(
    method: str,
    networks: Networks,
    images: Mapping[str, Tensor],
    params: Params,
    trials: int,
    key: str,
) -> tuple[pd.DataFrame, dict[str, dict[str, dict[str, float]]]]:
    """A method tuned on TASKS as the stage `tune` does it: see `reg.tuning.tune`."""
    section = params.active.tune
    return tune(
        [(task, method) for task in TASKS],
        central_crops(images, section.crop),
        {0: networks},
        trials=trials,
        iterations=section.iterations,
        tolerance=section.tolerance,
        seed=params.seed,
        precision=section.precision,
        key=key,
    )


def compare(params: Params, names: Sequence[str], budget: int, trials: int, seeds: int) -> None:
    """Train and judge the named variants; with all of them, write the table and the figure."""
    manifest = params.folder("data", "prepare", "manifest.csv")
    pretrained = params.folder("models", "pretrain", "denoiser.safetensors")
    if not pretrained.exists():
        raise InputError(f"{pretrained}: no such file; run `dvc repro pretrain`, which makes it")
    images = load_images(manifest, "validation")
    arrays = load_training_arrays(manifest, params.data.memory_mb, params.data.cache)
    recipes = {name: recipe_of(VARIANTS[name], budget) for name in names}
    for recipe in recipes.values():  # refuses a crop that is too large before any work starts
        Patches(arrays, recipe.crop, recipe.batch, params.seed)
    # Profiles differ here by their data, their D and the section `tune` alone.
    section = params.active.tune.model_dump()
    key = fingerprint(
        "recipes", params.seed, section, budget, trials, files=[manifest, pretrained, CODE]
    )

    def row(name: str, seed: int) -> dict[str, object]:
        variant, recipe, unfinished = VARIANTS[name], recipes[name], f"{key}-{name}-{seed}"

        def measure() -> State:
            denoiser = load_denoiser(pretrained)
            patches = Patches(arrays, recipe.crop, recipe.batch, seed)
            try:
                regularizer = train_pair(
                    recipe, denoiser, patches, name, unfinished, variant.weight,
                    variant.update_denoiser,
                )  # fmt: skip
            except DivergenceError as error:
                say(f"  {error}")
                return dict.fromkeys((*TASKS, "denoiser"), float("nan"))
            return judge(denoiser, regularizer, images, params, trials, unfinished)

        state = finished_cell(key, f"{name}-{seed}", measure)
        forget(unfinished)
        levels = {task: state[task] for task in TASKS}
        mean = sum(levels.values()) / len(TASKS)
        say(f"{name}, seed {seed}: {mean:.2f} dB")
        compute = {"iterations": recipe.iterations, "batch": recipe.batch, "crop": recipe.crop}
        return {
            "variant": name,
            "seed": seed,
            **compute,
            **levels,
            "mean": mean,
            "denoiser_psnr25": state["denoiser"],
        }

    table = pd.DataFrame([row(name, params.seed) for name in names])
    leading = near_best(table)
    more = [row(name, params.seed + k) for k in range(1, seeds) for name in leading]
    if set(names) == VARIANTS.keys():
        table = pd.concat([table, pd.DataFrame(more)], ignore_index=True)
        write_table(table, OUTPUT)
        save_figure(lambda: draw(table), OUTPUT.with_suffix(""))
        say(f"{OUTPUT}")


def near_best(table: pd.DataFrame) -> list[str]:
    """The variants whose mean is less than 0.1 dB below the best."""
    near = table["mean"] >= table["mean"].max() - NEAR
    return [str(name) for name in table.loc[near, "variant"]]


def draw(table: pd.DataFrame) -> Figure:
    """PSNR of each task minus the reference's, a row per variant, the best mean at the top.

    Every seed has its marks; a mark at the left edge that points outwards lies beyond it. The
    numbers are the means over tasks and seeds in dB.
    """
    columns = [*TASKS, "mean"]
    means = table.groupby("variant")[columns].mean()
    means = means.sort_values("mean", na_position="first", kind="stable")
    figure = Figure(figsize=(COLUMN_WIDTH, 1.2 + 0.21 * len(means)), layout="constrained")
    axis = figure.subplots()
    for task, offset in zip(TASKS, (0.22, 0.0, -0.22), strict=True):
        mark, colour = MARKS[task]
        for y, name in enumerate(means.index):
            of_seeds = table.loc[table["variant"] == name, task].to_numpy(dtype=float)
            for value in of_seeds - means.loc["reference", task]:
                beyond = value < -SHOWN
                axis.plot(
                    max(value, -SHOWN), y + offset, "<" if beyond else mark, color=colour, ms=4,
                    mew=0, clip_on=False, zorder=3,
                )  # fmt: skip
        axis.plot([], [], mark, color=colour, ms=4, mew=0, label=task_name(task))
    for y, mean in enumerate(means["mean"]):
        text = f"{mean:.2f}" if mean == mean else "diverged"
        axis.annotate(
            text, (1.03, y), xycoords=("axes fraction", "data"), fontsize=7, va="center",
            annotation_clip=False,
        )  # fmt: skip
        axis.axhline(y + 0.5, color="#E4E4E4", lw=0.5)
    axis.annotate(
        "mean (dB)", (1.03, 1.0), (0, 3), xycoords="axes fraction", fontsize=7,
        textcoords="offset points", annotation_clip=False,
    )  # fmt: skip
    axis.axvline(0, color=BLACK, lw=0.8, zorder=2)
    axis.set_yticks(range(len(means)), [VARIANTS[name].label for name in means.index])
    axis.set_ylim(-0.5, len(means) - 0.5)
    axis.set_xlim(left=-SHOWN)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("validation PSNR of PnP-GD\nminus the reference's (dB)")
    figure.legend(
        loc="outside upper center", frameon=False, handletextpad=0.1, fontsize=7, labelspacing=0.2
    )  # fmt: skip
    return figure


@click.command()
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=300,
    show_default=True,
    help="Of 16 crops of 64²; other batches and crops get as many pixels.",
)
@click.option("--trials", type=click.IntRange(min=1), help="Per task; the profile's if not given.")
@click.option("--only", type=click.Choice(list(VARIANTS)), help="Train this variant alone.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How often variants within 0.1 dB of the best are trained.",
)
def main(iterations: int, trials: int | None, only: str | None, seeds: int) -> None:
    """Compare ways to train G at equal compute."""
    keep_freed_memory()
    try:
        params = read_params()
        names = [only] if only else list(VARIANTS)
        budget = iterations * 16 * 64**2
        compare(params, names, budget, trials or params.active.tune.trials, seeds)
    except InputError as error:
        fail(error)


if __name__ == "__main__":
    main()
