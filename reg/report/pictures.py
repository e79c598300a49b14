"""Which images figures show, and their pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from reg.claims import (
    VISUAL_TASK,
    best_rival,
    in_order,
    last,
    method_name,
    task_name,
    tasks_in_order,
)
from reg.errors import InputError
from reg.images import Pixels, read_pixels
from reg.methods import without_orientation
from reg.report import figures
from reg.report.captions import crops_say, first_of_seeds
from reg.report.inputs import Inputs

Picture = tuple[str, Pixels, str]  # name above, pixels, text beneath
THUMBNAILS = 18  # per group of the data sheet
CROPS = 6  # per group of photographs that are not ours to show whole


def inpainting(inputs: Inputs) -> tuple[list[Picture], Pixels, str]:
    """Pictures of the visual comparison, the truth, and the caption."""
    table = inputs.evidence.restoration
    claim = "visual"
    folder = inputs.results / "evaluate_restoration" / "images" / VISUAL_TASK
    present = table.loc[table["task"] == VISUAL_TASK, "method"].unique().tolist()
    # PnP-GD stands last, beside its strongest neighbours, as figures of the field have it
    methods = sorted(in_order(present), key=lambda m: without_orientation(m) == "pnp-gd")
    rival = best_rival(inputs.evidence, claim, VISUAL_TASK, "ssim")
    # Pictures are kept of the first training seed.
    ssim = {m: last(table, claim, VISUAL_TASK, m, "ssim").iloc[0] for m in methods}
    psnr = {m: last(table, claim, VISUAL_TASK, m, "psnr").iloc[0] for m in methods}
    image = _median_image(ssim["pnp-gd"] - ssim[rival], _kept(folder, methods))
    truth = read_pixels(folder / "truth" / f"{image}.png")
    pictures = [("Ground truth", truth, "PSNR, SSIM")]
    pictures += [
        (
            method_name(m),
            _same_size(folder / m / f"{image}.png", truth),
            f"{psnr[m][image]:.2f} dB, {ssim[m][image]:.3f}",
        )
        for m in methods
    ]
    caption = (
        f"Test image {image}: of those kept the one with the median SSIM difference between "
        f"PnP-GD and {method_name(rival)}, the best rival on validation images (the lower one of "
        "an even number). Below, the square with the strongest gradients of the truth. PSNR and "
        f"SSIM are those of the whole image, last iterate.{first_of_seeds(table)}"
        f"{crops_say(inputs, [image])}"
    )
    truth, pictures = shown(truth, pictures, inputs.cropped)
    return pictures, truth, caption


def update_denoiser(
    inputs: Inputs,
) -> tuple[list[tuple[str, Pixels, list[Picture]]], str, list[float], str]:
    """Rows of the figure, which images they show, ends of their error scales, what crops say."""
    methods = {"pnp-gd@fixed": "D fixed", "pnp-gd@updated": "D updated"}
    table = inputs.evidence.ablation
    claim = "update-denoiser"
    of_claim = table[table["method"] == "pnp-gd@updated"]
    rows, told, limits, images = [], [], [], []
    for task in tasks_in_order(of_claim["task"].tolist()):
        folder = inputs.results / "ablate" / "images" / task
        psnr = {m: last(table, claim, task, m, "psnr").iloc[0] for m in methods}
        difference = psnr["pnp-gd@updated"] - psnr["pnp-gd@fixed"]
        image = _median_image(difference, _kept(folder, list(methods)))
        truth = read_pixels(folder / "truth" / f"{image}.png")
        pictures = [
            (name, _same_size(folder / m / f"{image}.png", truth), f"{psnr[m][image]:.2f} dB")
            for m, name in methods.items()
        ]
        truth, pictures = shown(truth, pictures, inputs.cropped)
        rows.append((task_name(task), truth, pictures))
        images.append(image)
        told.append(f"{image} ({task_name(task)})")
        errors = [np.abs(p.astype(float) - truth).mean(axis=2) for _, p, _ in pictures]
        limits.append(max(10.0, 10.0 * np.ceil(max(np.quantile(e, 0.98) for e in errors) / 10)))
    crops = crops_say(inputs, images, inputs.central.get("ablate"))
    return rows, "; ".join(told), limits, crops


def _kept(folder: Path, methods: Sequence[str]) -> list[str]:
    """Names of images that were kept of every method, sorted."""
    names = [{p.stem for p in (folder / m).glob("*.png")} for m in methods]
    common = sorted(set.intersection(*names))
    if not common:
        raise InputError(f"{folder}: no image was kept of all of {', '.join(methods)}")
    return common


def _median_image(difference: pd.Series, kept: Sequence[str]) -> str:
    """The kept image with the median difference, the lower one of an even number."""
    ordered = difference[[n for n in difference.index if n in set(kept)]].sort_values(kind="stable")
    if ordered.empty:
        raise InputError(f"kept images {', '.join(kept)} are not among the measured ones")
    return str(ordered.index[(len(ordered) - 1) // 2])


def _same_size(path: Path, truth: Pixels) -> Pixels:
    pixels = read_pixels(path)
    if pixels.shape != truth.shape:
        raise InputError(f"{path}: is {pixels.shape[:2]}, its ground truth {truth.shape[:2]}")
    return pixels


def shown(
    truth: Pixels, pictures: Sequence[Picture], cropped: bool
) -> tuple[Pixels, list[Picture]]:
    """The truth and pictures of it, whole or the same crop of all."""
    window = figures.busiest_crop(truth) if cropped else (slice(None), slice(None))
    return truth[window], [(name, pixels[window], text) for name, pixels, text in pictures]


def data_groups(inputs: Inputs) -> list[tuple[str, list[tuple[str, Pixels]]]]:
    """The groups of the data sheet: heading, and names and pixels of what is shown."""
    sheet = []
    for heading, n, chosen in _rows_shown(inputs):
        cropped = inputs.cropped and not _leaves(chosen).any()
        count = f"{n}" if len(chosen) == n else f"{len(chosen)} of {n} shown"
        pictures = [
            (
                str(name).removeprefix("dead_leaves_"),
                _crop_of(read_pixels(inputs.manifest_file.parent / str(path)), cropped),
            )
            for name, path in zip(chosen["name"], chosen["path"], strict=True)
        ]
        sheet.append((f"{heading} ({count})", pictures))
    return sheet


def data_says(inputs: Inputs) -> str:
    """Which images of each role the data sheet has."""
    if inputs.cropped:
        chosen = pd.concat([rows for _, _, rows in _rows_shown(inputs)])
        photographs = chosen.loc[~_leaves(chosen), "name"]
        return f"An even choice of the images of each role.{crops_say(inputs, photographs)}"
    return "Every validation and test image, and the training images or an even choice of them."


def _leaves(manifest: pd.DataFrame) -> pd.Series:
    """Which of the images are no photographs."""
    return manifest["source"].str.startswith("dead leaves")


def _rows_shown(inputs: Inputs) -> list[tuple[str, int, pd.DataFrame]]:
    """The groups of the data sheet: heading, number of images, rows of those that are shown."""
    manifest = inputs.manifest
    leaves = _leaves(manifest)
    groups = {
        "Training, photographs": manifest[(manifest["role"] == "train") & ~leaves],
        "Training, dead leaves": manifest[(manifest["role"] == "train") & leaves],
        "Validation": manifest[manifest["role"] == "validation"],
        "Test": manifest[manifest["role"] == "test"],
    }
    found = []
    for heading, rows in groups.items():
        n = len(rows)
        cropped = inputs.cropped and not _leaves(rows).any()
        most = CROPS if cropped else THUMBNAILS if heading.startswith("Training") else n
        if n:
            found.append((heading, n, rows.iloc[np.arange(most) * n // most] if n > most else rows))
    return found


def _crop_of(pixels: Pixels, cropped: bool) -> Pixels:
    return pixels[figures.busiest_crop(pixels)] if cropped else pixels
