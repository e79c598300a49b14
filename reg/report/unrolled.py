"""What the report shows of the unrolled networks: curves, numbers of steps, crops, tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from reg.claims import compared, in_order, method_name, read_csv, task_name, tasks_in_order
from reg.errors import InputError
from reg.images import Pixels, read_pixels
from reg.report.figures import (
    BLUE,
    GREY,
    TEXT_WIDTH,
    colour_of,
    last_by_image,
    names_right,
)
from reg.report.sheets import Cell, Sheet
from reg.report.tables import ranked_in_group, task_means
from reg.unrolled import STEPS_COLUMNS

STARTS = {
    "reg": "ReG",
    "denoiser": "denoiser",
    "random": "random",
    "end-to-end": "end to end",
}
LOG_COLUMNS = ("iteration", "psnr", "loss", "learning_rate", "task", "steps", "seed")
PSNR_SHOWN = 4.0  # dB below the best that the training curves reach


@dataclass(frozen=True)
class Logs:
    """Training logs of every start, and ReG's networks by number of steps."""

    trainings: pd.DataFrame  # LOG_COLUMNS and start
    steps: pd.DataFrame  # STEPS_COLUMNS

    @property
    def main_steps(self) -> int:
        """K of the networks that are compared."""
        return int(self.trainings.loc[self.trainings["start"] == "reg", "steps"].iloc[0])


def read_logs(folder: Path) -> Logs:
    """The logs below results/<profile>/finetune_unrolled; InputError names what is missing."""
    logs = [
        read_csv(folder / start / "logs.csv", LOG_COLUMNS).assign(start=start) for start in STARTS
    ]
    return Logs(
        pd.concat(logs, ignore_index=True), read_csv(folder / "reg" / "steps.csv", STEPS_COLUMNS)
    )


def main_curves(logs: Logs, task: str, start: str) -> pd.DataFrame:
    """Validation PSNR by iteration (rows) and seed (columns), at the usual number of steps."""
    rows = logs.trainings
    rows = rows[(rows["task"] == task) & (rows["start"] == start)]
    first = rows["steps"].iloc[0]
    curves: pd.DataFrame = rows[rows["steps"] == first].pivot(
        index="iteration", columns="seed", values="psnr"
    )
    return curves


def reached_after(curve: pd.Series, level: float) -> float | None:
    """The training iteration at which a curve reaches a level, between its points on a line.

    None where it never does.
    """
    above = np.flatnonzero(curve.to_numpy() >= level)
    if not len(above):
        return None
    if above[0] == 0:
        return float(curve.index[0])
    before, after = above[0] - 1, above[0]
    share = (level - curve.iloc[before]) / (curve.iloc[after] - curve.iloc[before])
    return float(curve.index[before] + share * (curve.index[after] - curve.index[before]))


def worth(logs: Logs, task: str) -> list[tuple[int, float, float | None]]:
    """What pre-training is worth, for every point of ReG's mean curve.

    (its iteration, its PSNR, the iteration at which the mean curve of the random start has that).
    """
    reg, random = (main_curves(logs, task, start).mean(axis=1) for start in ("reg", "random"))
    levels = zip(reg.index.tolist(), reg.tolist(), strict=True)
    return [(iteration, level, reached_after(random, level)) for iteration, level in levels]


# --- figures ----------------------------------------------------------------------------------


def draw_unrolled(logs: Logs, descents: Mapping[str, tuple[float, float]]) -> Figure:
    """Training curves of the starts (left), PSNR against the number of steps (right), by task.

    `descents` gives PSNR of PnP-GD with ReG on the test images, and its iterations, by task.
    """
    tasks = tasks_in_order(logs.trainings["task"].tolist())
    figure = Figure(figsize=(TEXT_WIDTH, 0.35 + 2.15 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), 2, width_ratios=[1.25, 1], squeeze=False)
    for (left, right), task in zip(axes, tasks, strict=True):
        _training_curves(left, logs, task)
        _number_of_steps(right, logs.steps[logs.steps["task"] == task], descents.get(task))
        left.set_title(task_name(task), loc="left")
    axes[-1][0].set_xlabel("training iteration")
    axes[-1][1].set_xlabel("number of steps K")
    return figure


def _training_curves(axis: Axes, logs: Logs, task: str) -> None:
    ends, best = [], -np.inf
    for start, name in STARTS.items():
        curves, colour = main_curves(logs, task, start), colour_of(f"unrolled-{start}")
        mean = curves.mean(axis=1)
        axis.fill_between(
            curves.index, curves.min(axis=1), curves.max(axis=1), color=colour, alpha=0.2, lw=0
        )
        axis.plot(mean.index, mean, color=colour, marker="o", markersize=2.5)
        ends.append((f"{name} {mean.iloc[-1]:.2f}", colour, float(mean.iloc[-1])))
        best = max(best, float(curves.to_numpy().max()))
    low = min(float(main_curves(logs, task, "reg").to_numpy().min()), best - PSNR_SHOWN)
    axis.set_ylim(low - 0.1, best + 0.2)
    names_right(axis, ends, gap=0.1)
    axis.set_ylabel("validation PSNR (dB)")
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))


def _number_of_steps(axis: Axes, rows: pd.DataFrame, descent: tuple[float, float] | None) -> None:
    mean = rows.groupby(["trained", "steps"])["psnr"].mean()
    main = int(rows["trained"][rows["steps"] == 0].iloc[0])
    as_trained = {int(k): float(mean[k, k]) for k in sorted(rows["trained"].unique())}
    other, end = mean[main], list(as_trained.values())[-1]
    axis.plot(other.index, other, "--", color=GREY, marker="o", markersize=2.5)
    axis.plot(list(as_trained), list(as_trained.values()), color=BLUE, marker="o", markersize=4)
    ends = [
        (f"trained for K\n{end:.2f}", BLUE, end),
        (f"trained for {main},\nrun for K", GREY, float(other.iloc[-1])),
    ]
    shown = [*as_trained.values(), *other[other.index >= 1]]
    if descent is not None:
        axis.axhline(descent[0], color="black", linewidth=0.8)
        ends.append((f"PnP-GD, {descent[1]:.0f}\niterations {descent[0]:.2f}", "black", descent[0]))
        shown.append(descent[0])
    shown = [level for level in shown if level > max(shown) - 8]
    axis.set_ylim(min([*shown, other.iloc[0]]) - 0.2, max(shown) + 0.3)
    axis.xaxis.set_major_locator(FixedLocator([0, *as_trained]))
    axis.xaxis.set_minor_locator(NullLocator())
    names_right(axis, ends, gap=0.2)
    axis.set_ylabel("test PSNR (dB)")


def crops(
    results: Path, table: pd.DataFrame, task: str
) -> tuple[str, list[tuple[str, Pixels, str]]]:
    """Of the kept images the one with the median PSNR of ReG's start, and what is shown of it.

    The truth and the degraded start are those that evaluate_restoration kept; InputError if it
    kept none of this task, or none that finetune_unrolled kept too.
    """
    kept = results / "evaluate_restoration" / "images" / task
    mine = results / "finetune_unrolled"
    common = {path.stem for path in (kept / "truth").glob("*.png")}
    common &= {path.stem for path in (mine / "reg" / "images" / task).glob("*.png")}
    if not common:
        raise InputError(
            f"{kept}: has no picture that {mine}/reg/images/{task} has too; add {task} to "
            "evaluate_restoration.keep_images, and let keep_every choose the same images in both"
        )
    first = table[(table["task"] == task) & (table["seed"] == table["seed"].min())]
    psnr = first[first["metric"] == "psnr"].set_index(["method", "image"])["value"]
    levels = psnr["unrolled-reg"].sort_values(kind="stable")
    levels = levels[levels.index.isin(common)]
    image = str(levels.index[(len(levels) - 1) // 2])
    pictures = [("Ground truth", read_pixels(kept / "truth" / f"{image}.png"), "PSNR")]
    pictures.append(("Degraded", read_pixels(kept / "start" / f"{image}.png"), ""))
    pictures += [
        (
            name[0].upper() + name[1:],
            read_pixels(mine / start / "images" / task / f"{image}.png"),
            f"{psnr[f'unrolled-{start}', image]:.2f} dB",
        )
        for start, name in STARTS.items()
    ]
    return image, pictures


# --- tables and sentences ---------------------------------------------------------------------


def unrolled_sheet(
    table: pd.DataFrame, restoration: pd.DataFrame, steps: int, images: str
) -> Sheet:
    """Test PSNR and SSIM by task and start, beside PnP-GD with ReG run to its end."""
    rows = last_by_image(pd.concat([table, pnp_gd_beside(table, restoration)]))
    blocks = []
    for task in tasks_in_order(table["task"].tolist()):
        of_task = rows[rows["task"] == task]
        methods = in_order(of_task["method"].unique().tolist())
        means = of_task.pivot_table(
            index="method", columns="metric", values="value", aggfunc="mean"
        ).loc[methods]
        passes = [_passes(method, means, steps) for method in methods]
        psnr = ranked_in_group(means["psnr"].tolist(), [""] * len(methods), 2)
        ssim = ranked_in_group(means["ssim"].tolist(), [""] * len(methods), 3)
        lines = tuple(
            (Cell(method_name(m)), Cell(n), p, Cell(_gain(table, task, m)), s)
            for m, n, p, s in zip(methods, passes, psnr, ssim, strict=True)
        )
        blocks.append((task_name(task), lines))
    return Sheet(
        "unrolled",
        f"Unrolled gradient descent from every start after equal training, beside PnP-GD with the "
        f"same ReG: mean over {images} and "
        f"{table['seed'].nunique()} fine-tuning seeds. Passes: how often the network is run for "
        "one image, which its time is proportional to. Gain: PSNR minus that of the random start, "
        "random weights in the form of ReG's G, paired by seed and image, with its 95 % interval.",
        ("Method", "Passes", "PSNR (dB)", "Gain (dB)", "SSIM"),
        tuple(blocks),
        task_means(rows),
    )


def pnp_gd_beside(table: pd.DataFrame, restoration: pd.DataFrame) -> pd.DataFrame:
    """The rows of PnP-GD on the tasks and images on which unrolled networks were measured."""
    same = restoration["task"].isin(table["task"]) & restoration["image"].isin(table["image"])
    return restoration[same & (restoration["method"] == "pnp-gd")]


def _gain(table: pd.DataFrame, task: str, method: str) -> str:
    if method not in set(table["method"]) - {"unrolled-random"}:
        return "–"
    return compared(table, "unrolled", task, method, "unrolled-random", "psnr").text()


def _passes(method: str, means: pd.DataFrame, steps: int) -> str:
    if method == "pnp-gd":
        return f"{float(means['iterations'][method]):.0f}"
    return "1" if method == "unrolled-end-to-end" else str(steps)


def worth_sheet(logs: Logs) -> Sheet:
    """How many iterations the random start needs for what ReG's start has, by task."""
    blocks, numbers = [], []
    for task in tasks_in_order(logs.trainings["task"].tolist()):
        found = worth(logs, task)
        lines = tuple(
            (
                Cell(f"{iteration:,}"),
                Cell(f"{level:.2f}"),
                Cell("not reached" if needed is None else f"{needed:,.0f}"),
            )
            for iteration, level, needed in found
        )
        blocks.append((task_name(task), lines))
        numbers += [[task, *line] for line in found]
    seeds = logs.trainings["seed"].nunique()
    return Sheet(
        "worth",
        "What pre-training is worth: training iterations after which the unrolled network from "
        "random weights, in the form of ReG's G, has the validation PSNR that the one from ReG has "
        f"(in the form s(x − N(x)) it first must learn not to darken). Mean curves over {seeds} "
        "fine-tuning seeds, between their points on a line.",
        ("ReG's iteration", "PSNR (dB)", "Random needs"),
        tuple(blocks),
        pd.DataFrame(numbers, columns=["task", "reg_iteration", "psnr", "random_iteration"]),
    )


def unrolled_says(logs: Logs) -> str:
    """What ReG's start saves, in a sentence for each task."""
    sentences = []
    for task in tasks_in_order(logs.trainings["task"].tolist()):
        found = worth(logs, task)
        (_, level, needed), (budget, last, after) = found[0], found[-1]
        begun = (
            f"The {level:.2f} dB that ReG has untrained the random start has after "
            f"{needed:,.0f} iterations"
            if needed is not None
            else f"The {level:.2f} dB that ReG has untrained the random start never has"
        )
        ended = (
            f"ReG's {last:.2f} dB after {budget:,} it has after {after:,.0f}"
            if after is not None
            else f"ReG's {last:.2f} dB after {budget:,} it does not reach within the same budget"
        )
        sentences.append(f"{task_name(task)}: {begun}; {ended}.")
    return " ".join(sentences)
