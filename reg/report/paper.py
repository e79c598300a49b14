"""How far a profile is from the paper: where G comes from, and a table of both sides."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import pandas as pd
from safetensors import safe_open

from reg.datasets import set_of
from reg.methods import arm_folder
from reg.networks import read_metadata
from reg.params import Profile, TrainReg
from reg.problems import parse_task
from reg.recipe import Recipe
from reg.report.sheets import Cell, Sheet

NOT_STATED = "not stated"

# What the paper did, as far as it is known here, row by row. Sources: its abstract
# (arXiv:2204.13940), the authors' talk (Mathematical Models for Plug-and-play Image Restoration,
# Paris, December 2022: tasks, kernels, kinds of noise levels), their code
# (github.com/rita442/PnP-ReG: networks, training sets, recipes, λ), and DPIR/KAIR, whose recipe
# the pre-training follows. The paper's tables were not available.
PAPER = {
    "Weights of D": "32,640,960",
    "Weights of G": "32,640,384",
    "Training images": "DIV2K, Flickr2K, Waterloo, BSDS500 train and test",
    "Pre-training of D": "64 crops of 128², iterations not stated",
    "Training of G and D": "800,000 × 16 crops of 128²",
    "λ": "0.004",
    "Form of G": "plain",
    "Start of G": "random weights",
    "Deblurring kernels": "k5, k7",
    "Deblurring noise σₙ (/255)": "three levels, not stated which",
    "Super-resolution": "×2, others not stated",
    "Inpainting, pixels known": "20 %, 10 %",
    "Test images": "CBSD68, Set5 (named by the code)",
    "Training seeds": NOT_STATED,
}


@dataclass(frozen=True)
class Origin:
    """Form and scale of a G, and what it was trained from with which λ: unknown if imported."""

    form: str
    scale: float
    start: str
    lambda_: float | None

    @property
    def weight(self) -> str:
        """λ for print."""
        return "imported" if self.lambda_ is None else f"{self.lambda_:g}"


def origin_of_g(models: Path, recipe: TrainReg) -> Origin:
    """Where the G of the arm `updated` below models/<profile> comes from, by its own record."""
    about = read_metadata(arm_folder(models, "updated") / "regularizer.safetensors")
    if "imported" in about["training"]:
        return Origin(about["form"], about["scale"], "imported", None)
    return Origin(about["form"], about["scale"], recipe.start, recipe.lambda_)


def settings_of(models: Path, recipe: TrainReg) -> dict[str, str]:
    """What the report says of the settings, in this order."""
    origin, seeds = origin_of_g(models, recipe), recipe.seeds
    together = "; methods that use ReG are tuned on all of them at once" if len(seeds) > 1 else ""
    return {
        "λ": origin.weight,
        "form of G": f"{origin.form}, scale {origin.scale:g}, start {origin.start}",
        "training seeds of ReG": f"{', '.join(map(str, seeds))}{together}",
    }


def paper_sheet(
    active: Profile, models: Path, manifest: pd.DataFrame, restoration: pd.DataFrame
) -> Sheet:
    """What the profile used beside what the paper did; the table has no number of quality.

    `manifest` is that of the images, `restoration` the table of `evaluate_restoration`.
    """
    recipe, denoiser = active.train_reg, models / "pretrain" / "denoiser.safetensors"
    origin = origin_of_g(models, recipe)
    tasks = [parse_task(task) for task in dict.fromkeys(restoration["task"])]
    blurs = [task for task in tasks if task.kind == "deblur"]
    form = origin.form if origin.scale == 1 else f"{origin.form}, scale {origin.scale:g}"
    here = {
        "Weights of D": f"{_weights(denoiser):,}",
        "Weights of G": f"{_weights(arm_folder(models, 'updated') / 'regularizer.safetensors'):,}",
        "Training images": _sets(manifest[manifest["role"] == "train"]),
        "Pre-training of D": _training(active.pretrain, "imported" in _record(denoiser)),
        "Training of G and D": _training(recipe, origin.lambda_ is None),
        "λ": origin.weight,
        "Form of G": form,
        "Start of G": {"random": "random weights", "denoiser": "weights of D"}.get(
            origin.start, origin.start
        ),
        "Deblurring kernels": _listed(task.kernel for task in blurs),
        "Deblurring noise σₙ (/255)": _listed(f"{255 * task.sigma_n:g}" for task in blurs),
        "Super-resolution": _listed(f"×{task.factor}" for task in tasks if task.kind == "sr"),
        "Inpainting, pixels known": _listed(
            f"{task.percent:g} %" for task in tasks if task.kind == "inpaint"
        ),
        "Test images": _sets(manifest[manifest["name"].isin(restoration["image"])]),
        "Training seeds": f"{len(recipe.seeds)} ({_listed(recipe.seeds)})",
    }
    rows = [(name, here[name], paper) for name, paper in PAPER.items()]
    return Sheet(
        "paper",
        "What was done here beside what the paper did. A training is iterations × crops, by side "
        "in pixels, of each. Right: the paper's abstract, its authors' talk and their code "
        "(arXiv:2204.13940, github.com/rita442/PnP-ReG), and for the pre-training DRUNet's recipe "
        "(Zhang et al., DPIR); not stated: none of these says it, and the paper's tables were "
        "not available to us.",
        ("What", "Here", "Paper"),
        (("", tuple(tuple(map(Cell, row)) for row in rows)),),
        pd.DataFrame(rows, columns=["what", "here", "paper"]),
        text_columns=3,
    )


def _record(path: Path) -> dict[str, object]:
    record: dict[str, object] = read_metadata(path)["training"]
    return record


def _weights(path: Path) -> int:
    """How many numbers a weights file holds, from its header alone."""
    with safe_open(path, framework="pt") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())


def _training(recipe: Recipe, imported: bool) -> str:
    if imported:
        return "imported"
    return f"{recipe.iterations:,} × {recipe.batch} crops of {recipe.crop}²"


def _sets(images: pd.DataFrame) -> str:
    """`392 (bsd400)`, or `73 (cbsd68: 68, set5: 5)`."""
    counts = Counter(images["source"].map(set_of))
    named = [name if len(counts) == 1 else f"{name}: {n}" for name, n in counts.items()]
    return f"{len(images)} ({', '.join(named)})"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, values))) or "none"
