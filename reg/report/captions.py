"""What captions say of images, iterations, crops and training seeds."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

from reg.claims import MSD_RANGE, PSNR_DROP, method_name
from reg.datasets import set_of
from reg.report import figures
from reg.report.inputs import Inputs

LISTED = 6  # images whose names a caption lists
# Of `evaluate_convergence`, as the paper has it.
ADMM_LEVELS = (
    "PnP-ADMM gives D the levels of the paper: s = 30/255 throughout in deblurring, in "
    "super-resolution from 50/255 falling to the tuned level until iteration 25."
)
# Of mean squared steps.
ROUNDING = f" Steps below {MSD_RANGE[0]:.0e}, which are float32's rounding, are {{}} at that."


def named(manifest: pd.DataFrame, names: Iterable[object], role: str = "test") -> str:
    """`4 test images (a, b, c, d)`; of many the sets are counted: `(cbsd68: 68, set5: 3 of 5)`."""
    listed = sorted(map(str, names))
    of_role = manifest[manifest["role"] == role]
    there = Counter(of_role["source"].map(set_of))
    used = Counter(of_role.loc[of_role["name"].isin(listed), "source"].map(set_of))
    counts = [f"{s}: {n}" + (f" of {there[s]}" if n < there[s] else "") for s, n in used.items()]
    shown = ", ".join(listed if len(listed) <= LISTED else counts)
    return f"{len(listed)} {role} image{'' if len(listed) == 1 else 's'} ({shown})"


def curves_say(reference: str) -> str:
    """What the two kinds of curves of `figures.draw_iterations` are, up to what they are means of.

    `reference` is the method whose end PSNR is measured from.
    """
    return (
        "Top: PSNR of images clipped to [0,1], minus that of the last iterate of "
        f"{method_name(reference)} on the same image, linear within ±{figures.GAP_LINEAR:g} dB and "
        "logarithmic beyond. Bottom: mean squared "
        "difference of consecutive iterates. Bands go from the least to the greatest image, a "
        f"circle marks the peak of a mean PSNR that ends more than {PSNR_DROP} dB lower, labels "
        "give the mean PSNR at the end. Lines, geometric for the step, are the"
    )


def until_say(inputs: Inputs) -> str:
    """What a caption adds of how long the methods of `evaluate_restoration` ran."""
    if inputs.active is None:
        return ""
    section = inputs.active.evaluate_restoration
    return (
        f" Methods run for at most {section.iterations:,} iterations, or until an image changes by "
        f"less than {_plain(section.tolerance)} of its norm."
    )


def _plain(value: float) -> str:
    """`0.0002`, which `g` prints as 2e-04 or 0.0002 by its size."""
    return np.format_float_positional(value, trim="-")


def central_say(inputs: Inputs, stage: str) -> str:
    """What a caption adds after the images where a stage was run on their central crops."""
    side = inputs.central.get(stage)
    return f", their central {side} × {side} pixels" if side else ""


def crops_say(inputs: Inputs, images: Iterable[str], shown: int | None = None) -> str:
    """What a caption adds where photographs are shown as crops: their size, and whence they are.

    `shown` is the side of the crops that pictures are of anyway.
    """
    if not inputs.cropped:
        return ""
    if shown is not None and shown <= figures.CROP_SIDE:
        return f" The photographs are from {origins(inputs, images)}."
    return (
        f" Photographs are not shown whole but as crops of at most {figures.CROP_SIDE} × "
        f"{figures.CROP_SIDE} pixels, those with the strongest gradients of the truth; they are "
        f"from {origins(inputs, images)}."
    )


def origins(inputs: Inputs, images: Iterable[str]) -> str:
    """The folders that images come from, as the manifest names them."""
    manifest = inputs.manifest
    sources = manifest.loc[manifest["name"].isin(list(images)), "source"]
    return ", ".join(sorted(set(sources.map(set_of))))


def first_of_seeds(table: pd.DataFrame) -> str:
    """What a caption adds where only the first of several trainings, as in `table`, is shown."""
    seeds = table["seed"].nunique()
    return f" ReG is that of the first of {seeds} training seeds." if seeds > 1 else ""
