"""Every figure of the report, as pure functions of result tables and kept images.

Each `draw_*` returns a matplotlib Figure; `save_figure` writes it as vector pdf and as png,
byte for byte the same for the same input. Colours are those of Okabe & Ito (2008), one per
method in every figure, with the line style telling variants of a method apart.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.patches import Rectangle
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)
from PIL import Image

from reg.claims import (
    MSD_RANGE,
    PSNR_DROP,
    PUBLISHED_ADMM,
    compared,
    in_order,
    method_name,
    task_name,
    tasks_in_order,
)
from reg.images import Pixels
from reg.methods import without_orientation
from reg.report.findings import (
    BOUND,
    NEAR,
    SCHEDULES,
    SWEPT_ADMM,
    alignments,
    of_lambda,
    psnr_gaps,
    stays_near,
)
from reg.statistics import PairedDifference

PSNR_SHOWN = 20.0  # dB below the best that a plot reaches
NAME_LETTERS = 18  # of an image that fit beneath its thumbnail
CROP_SIDE = 160  # pixels at most of photographs that are not ours to show whole
GAP_LINEAR = 0.5  # dB: up to which differences of PSNR are drawn linearly, by iteration,
RESTORATION_LINEAR = 1.0  # and by method
# log10 of squared steps: images have values in [0,1], so that no run with larger ones converges.
STEPS_SHOWN = 1.0
TEXT_WIDTH, COLUMN_WIDTH = 7.0, 3.5  # inches, a page of two columns
BLUE, VERMILLION, ORANGE, SKY = "#0072B2", "#D55E00", "#E69F00", "#56B4E9"
GREEN, PURPLE, BLACK, GREY = "#009E73", "#CC79A7", "#000000", "#767676"
COLOURS = {
    "start": GREY,
    "pnp-gd": BLUE,
    "red": VERMILLION,
    "pnp-admm": ORANGE,
    "pnp-admm-unbounded": GREEN,  # shares no plot with PnP-PGD
    "pnp-hqs": SKY,
    "pnp-pgd": GREEN,
    "gs-pnp": PURPLE,
    "tv": BLACK,
    "pnp-gd-adam": BLACK,  # the schedules of PnP-GD share a plot with each other only
    "pnp-gd-plain": GREY,
    "pnp-gd-published": ORANGE,
    "pnp-gd-spectral": GREEN,
    "pnp-gd@updated": BLUE,
    "pnp-gd@fixed": BLUE,
    "pnp-admm@original": ORANGE,
    "pnp-admm@updated": "#7A5200",  # the same hue, darker: both lines share one plot
    "pnp-admm-unbounded@original": GREEN,
    "pnp-admm-unbounded@updated": "#004D38",
    "unrolled-reg": BLUE,
    "unrolled-denoiser": ORANGE,
    "unrolled-random": GREY,
    "unrolled-end-to-end": GREEN,
}
INK = {ORANGE: "#A87300", SKY: "#2277A8", PURPLE: "#A8517F"}  # darker, for legible text
DASHED = {
    "pnp-gd@fixed", "pnp-admm@original", "pnp-admm-unbounded@original", "pnp-gd-plain",
    "pnp-gd-published",
}  # fmt: skip

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # bundled with matplotlib: the same on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "image.interpolation": "none",
    "pdf.fonttype": 42,
    "svg.hashsalt": "reg",
}


@cache
def _bundled_fonts_alone() -> None:
    """Forget the fonts of this machine, which may be others of the same names.

    Nor is what is cached of them in a user's folder to be relied on: it may lack those of
    matplotlib.
    """
    fontManager.ttflist.clear()
    for path in sorted(Path(mpl.get_data_path(), "fonts", "ttf").glob("*.ttf")):
        fontManager.addfont(path)


def save_figure(draw: Callable[[], Figure], stem: Path) -> None:
    """Draw in the project's style; write `<stem>.pdf` and `<stem>.png` without dates."""
    _bundled_fonts_alone()
    with mpl.rc_context(STYLE):
        figure = draw()
        figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None, "Producer": None})
        figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})


def colour_of(method: str) -> str:
    """The colour of a method in every figure, in whatever orientation its network sees images."""
    return COLOURS.get(without_orientation(method), GREEN)


def is_dashed(method: str) -> bool:
    """Whether a method's line is dashed, in whatever orientation its network sees images."""
    return without_orientation(method) in DASHED


def face_of(method: str) -> str:
    """The inside of a method's mark: white where its network sees other orientations than usual."""
    return colour_of(method) if method == without_orientation(method) else "white"


# --- curves -----------------------------------------------------------------------------------


def wide(table: pd.DataFrame, task: str, method: str, metric: str) -> pd.DataFrame:
    """Values by iteration (rows) and image (columns), mean over seeds (geometric for the step)."""
    rows = table[
        (table["task"] == task) & (table["method"] == method) & (table["metric"] == metric)
    ]
    keys = ["iteration", "image"]
    if metric != "msd":
        return rows.groupby(keys)["value"].mean().unstack("image")
    decades = rows.assign(value=np.log10(rows["value"].clip(*MSD_RANGE)))
    return 10 ** decades.groupby(keys)["value"].mean().unstack("image")


def draw_iterations(table: pd.DataFrame, tasks: Sequence[str], reference: str) -> Figure:
    """PSNR against a reference's end (top) and mean squared step (bottom), a column per task.

    From PSNR that of the last iterate of the method `reference` on the same image is subtracted,
    so that what makes an image hard does not hide how methods differ. Within ±GAP_LINEAR dB the
    axis is linear, beyond it logarithmic. The line is the mean over images (geometric for the
    step), the band goes from the least to the greatest image.
    """
    figure = Figure(figsize=(TEXT_WIDTH, 4.3), layout="constrained")
    axes = figure.subplots(2, len(tasks), squeeze=False, sharex="col")
    for (top, bottom), task in zip(axes.T, tasks, strict=True):
        _gaps_and_steps(top, bottom, table, task, reference)
        top.set_title(task_name(task))
        bottom.set_xlabel("iteration")
    axes[0, 0].set_ylabel(f"PSNR minus that of the end of\n{method_name(reference)} (dB)")
    axes[1, 0].set_ylabel("mean squared step")
    return figure


def _gaps_and_steps(
    top: Axes, bottom: Axes, table: pd.DataFrame, task: str, reference: str
) -> None:
    """Both panels of one task, with the names of methods at the ends of their lines."""
    end = wide(table, task, reference, "psnr").iloc[-1]  # by image
    gaps, steps = [], []
    methods = in_order(table.loc[table["task"] == task, "method"].unique().tolist())
    for method, name in short_names(methods).items():
        psnr, msd = (wide(table, task, method, metric) for metric in ("psnr", "msd"))
        # no place for the start on a logarithmic axis
        gap = _band(top, (psnr - end)[psnr.index > 0], method)
        decades = _band(bottom, msd[msd.index > 0].map(np.log10), method)
        beyond = f"\n↑ to $10^{{{decades.max():.0f}}}$" if decades.max() > STEPS_SHOWN else ""
        if gap.max() - gap.iloc[-1] > PSNR_DROP:
            best = int(gap.to_numpy().argmax())
            peak = (gap.index[best], gap.iloc[best])
            top.plot(*peak, "o", color=colour_of(method), ms=4, mfc="white")
        level = float(psnr.iloc[-1].mean())
        gaps.append((f"{name}\n{level:.2f} dB", colour_of(method), float(gap.iloc[-1])))
        steps.append((name + beyond, colour_of(method), float(decades.iloc[-1])))
    for axis in (top, bottom):
        _log_iterations(axis)
    _gap_axis(top)
    # A run that diverged leaves the plot rather than squeezing the others.
    bottom.set_ylim(top=min(bottom.get_ylim()[1], STEPS_SHOWN))
    bottom.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"$10^{{{v:.0f}}}$"))
    names_right(top, gaps)
    names_right(bottom, steps, gap=0.09)


def short_names(methods: Sequence[str]) -> dict[str, str]:
    """Names of methods without the `PnP-ADMM, ` that all of them begin with, if they do."""
    names = {method: method_name(method) for method in methods}
    beginnings = {name.partition(", ")[0] for name in names.values()}
    if len(beginnings) > 1 or len(names) < 2:
        return names
    return {method: name.partition(", ")[2] or name for method, name in names.items()}


def _gap_axis(axis: Axes) -> None:
    """Linear within ±GAP_LINEAR dB, logarithmic beyond, and not below −PSNR_SHOWN."""
    axis.set_yscale("symlog", linthresh=GAP_LINEAR, linscale=0.8)
    low, high = axis.dataLim.intervaly
    axis.set_ylim(max(1.2 * low, -PSNR_SHOWN), max(1.2 * high, 0.2))
    ticks = [0.25, 0.5, 1, 2, 5, 10, 20]
    axis.yaxis.set_major_locator(FixedLocator([*(-t for t in reversed(ticks)), 0, *ticks]))
    axis.yaxis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{v:+g}".replace("-", "−") if v else "0")
    )
    axis.yaxis.set_minor_locator(NullLocator())


def _band(axis: Axes, values: pd.DataFrame, method: str) -> pd.Series:
    """Draw the mean over images (columns) and their range; return the mean by iteration.

    PnP-ADMM without bounds is a broad line without a range, so that what it shares with PnP-ADMM
    within them can be seen.
    """
    mean, colour = values.mean(axis=1), colour_of(method)
    unbounded = method.startswith(PUBLISHED_ADMM)  # behind the same method within bounds
    if not unbounded:
        low, high = values.min(axis=1), values.max(axis=1)
        axis.fill_between(values.index, low, high, color=colour, alpha=0.14, linewidth=0)
    style = "--" if is_dashed(method) else "-"
    width, layer = (3.0, 1.5) if unbounded else (1.1, 2.0)
    axis.plot(values.index, mean, style, color=colour, linewidth=width, zorder=layer)
    return mean


def _log_iterations(axis: Axes) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(10))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def names_right(axis: Axes, ends: Sequence[tuple[str, str, float]], gap: float = 0.17) -> None:
    """(text, colour, value) at the right end of lines, pushed apart to at least `gap`.

    Positions are fractions of the axis height, so that they hold for every kind of axis; the
    limits of the axis must be final.
    """
    low, high = axis.get_ylim()
    axis.set_ylim(low, high)
    ordered = sorted(ends, key=lambda e: e[2])
    values = axis.yaxis.get_transform().transform(np.array([low, high, *(e[2] for e in ordered)]))
    wanted = (values[2:] - values[0]) / (values[1] - values[0])
    places = spread(wanted.tolist(), gap, 0.04, 0.96)
    for (text, colour, _), place in zip(ordered, places, strict=True):
        axis.annotate(
            text,
            (1.02, place),
            xycoords="axes fraction",
            color=INK.get(colour, colour),
            fontsize=7,
            va="center",
            linespacing=1.05,
            annotation_clip=False,
        )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending positions moved least (in order) to lie `gap` apart within [low, high]."""
    n = len(wanted)
    gap = min(gap, (high - low) / max(1, n - 1))
    # least squares with equal spacing removed is isotonic regression; n is tiny, so blocks merge
    blocks: list[list[float]] = []
    for i, value in enumerate(wanted):
        blocks.append([value - i * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            merged = blocks.pop()
            blocks[-1] += merged
    flat = [float(np.mean(b)) for b in blocks for _ in b]
    return [min(max(v, low), high - (n - 1) * gap) + i * gap for i, v in enumerate(flat)]


def draw_training(
    pretrain: pd.DataFrame, gradient_step: pd.DataFrame, arms: Mapping[str, pd.DataFrame]
) -> Figure:
    """Training curves: D and the gradient-step denoiser; D and the MAP residual with ReG.

    The logs of `arms` have a column `seed`; several seeds are thin lines around their mean.
    """
    figure = Figure(figsize=(TEXT_WIDTH, 4.3), layout="constrained")
    (a, b), (c, d) = figure.subplots(2, 2)
    _denoising_curves(a, pretrain)
    a.set_title("Pre-training of D")
    _denoising_curves(b, gradient_step, before=pretrain)
    b.set_title("Gradient-step denoiser (dotted: D before)")

    for axis, metric, title, unit in (
        (c, "psnr25", "ReG training: D at σ = 25/255", "validation PSNR (dB)"),
        (d, "map_residual", "ReG training: how far G is from ∇φ", "relative MAP residual"),
    ):
        ends = []
        for arm, log in arms.items():
            curve = _of_norms(log_curve(log, metric), metric)
            if curve.empty:
                continue
            style = "--" if arm == "fixed" else "-"
            smooth = running_median(curve)
            _training_curve(axis, smooth, color=BLUE, linestyle=style)
            if log["seed"].nunique() > 1:
                for _, of_seed in log.groupby("seed"):
                    thin = running_median(_of_norms(log_curve(of_seed, metric), metric))
                    _training_curve(axis, thin, color=BLUE, linestyle=style, lw=0.5, alpha=0.6)
            ends.append(_end(f"D {arm}", BLUE, smooth))
        if metric == "psnr25" and not (before := log_curve(pretrain, metric)).empty:
            axis.axhline(float(before.iloc[-1]), color=GREY, linestyle=":", linewidth=1)
            ends.append(_end("before", GREY, before))
        if metric == "map_residual":
            axis.set_ylim(bottom=0)
        names_right(axis, ends)
        axis.set_title(title)
        axis.set_ylabel(unit)
    for axis in (a, b, c, d):
        axis.set_xlabel("training iteration")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    return figure


def _denoising_curves(axis: Axes, log: pd.DataFrame, before: pd.DataFrame | None = None) -> None:
    """Validation PSNR at three noise levels, with the last values of an earlier log dotted."""
    ends = []
    for sigma, shade in ((15, "#8C8C8C"), (25, "#4D4D4D"), (50, BLACK)):
        curve = log_curve(log, f"psnr{sigma}")
        if curve.empty:
            continue
        _training_curve(axis, curve, color=shade)
        ends.append(_end(f"σ = {sigma}/255", shade, curve))
        if before is not None and not (earlier := log_curve(before, f"psnr{sigma}")).empty:
            axis.axhline(float(earlier.iloc[-1]), color=shade, linestyle=":", linewidth=1)
    names_right(axis, ends)
    axis.set_ylabel("validation PSNR (dB)")


def _training_curve(axis: Axes, curve: pd.Series, **style: Any) -> None:
    """A curve; a lone value, as imported weights have, is a dot."""
    axis.plot(curve.index, curve, marker="o" if len(curve) == 1 else "", ms=4, **style)


def log_curve(log: pd.DataFrame, metric: str) -> pd.Series:
    """One metric of a training log by iteration; the mean where it holds several seeds."""
    return log[log["metric"] == metric].groupby("iteration")["value"].mean()


def running_median(curve: pd.Series, share: float = 0.02) -> pd.Series:
    """Median over a window of this share of a long noisy curve; short curves stay as they are."""
    window = max(1, round(share * len(curve)))
    return curve.rolling(window, center=True, min_periods=1).median()


def _end(name: str, colour: str, curve: pd.Series) -> tuple[str, str, float]:
    """Name and last value of a curve, for its right end."""
    value = float(curve.iloc[-1])
    return f"{name}\n{value:.2f}", colour, value


def _of_norms(curve: pd.Series, metric: str) -> pd.Series:
    """The MAP residual as a ratio of norms, as it is everywhere else; logs have squared norms."""
    return curve.pow(0.5) if metric == "map_residual" else curve


# --- acceleration -----------------------------------------------------------------------------


def draw_acceleration(table: pd.DataFrame) -> Figure:
    """PSNR minus that of Adam's last iterate against iteration, by schedule, a panel per task.

    Means over images; the gap is linear within ±NEAR, the band, and logarithmic beyond. A mark
    is where a schedule enters the band or what is above it for good.
    """
    tasks = tasks_in_order(table["task"].tolist())
    gaps = {task: psnr_gaps(table, task) for task in tasks}
    rows = -(-len(tasks) // 2)
    figure = Figure(figsize=(TEXT_WIDTH, 0.35 + 1.75 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False, sharex=True, sharey=True)
    every = pd.concat([gap for of_task in gaps.values() for gap in of_task.values()])
    limits = (max(1.5 * min(every.min(), -NEAR), -PSNR_SHOWN), 1.5 * max(every.max(), 2 * NEAR))
    for axis, task in zip(axes.flat, tasks, strict=False):
        axis.set_yscale("symlog", linthresh=NEAR, linscale=0.6)
        axis.set_ylim(limits)
        axis.axhspan(-NEAR, NEAR, color=BLUE, alpha=0.12, linewidth=0)
        axis.axhline(0, color=GREY, linewidth=0.6)
        ends = []
        for schedule, gap in gaps[task].items():
            colour, near = colour_of(schedule), stays_near(gap)
            axis.plot(gap.index, gap, "--" if is_dashed(schedule) else "-", color=colour, lw=1.1)
            reached = f"from {near:,} on" if near else f"not in {gap.index[-1]:,}"
            ends.append((f"{SCHEDULES[schedule]}:\n{reached}", colour, float(gap.iloc[-1])))
            if near:
                axis.plot(near, gap[near], "o", color=colour, ms=4, mec="white", mew=0.5)
        axis.set_title(task_name(task))
        axis.yaxis.set_major_locator(FixedLocator([-10, -1, -NEAR, 0, NEAR, 1, 10]))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", "−")))
        axis.yaxis.set_minor_locator(NullLocator())
        _log_iterations(axis)
        names_right(axis, ends, gap=0.25)
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    for axis in axes.flat[max(0, len(tasks) - 2) : len(tasks)]:
        axis.xaxis.set_tick_params(labelbottom=True)
        axis.set_xlabel("iteration")
    for axis in axes[:, 0]:
        axis.set_ylabel("PSNR minus that of\nAdam's last iterate (dB)")
    return figure


# --- λ ----------------------------------------------------------------------------------------


def draw_lambda(sweep: pd.DataFrame, chosen: float | None) -> Figure:
    """PSNR of PnP-GD by task and of D (top), and the relative MAP residual (bottom) against λ.

    Hollow marks are PnP-ADMM with D, at its last iterate. A dotted line is the `chosen` λ.
    """
    figure = Figure(figsize=(COLUMN_WIDTH, 3.7), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    ends = []
    gd, admm = (of_lambda(sweep, method, "psnr") for method in ("pnp-gd", SWEPT_ADMM))
    for task, colour in zip(gd.columns, (BLUE, VERMILLION, GREEN), strict=True):
        top.plot(gd.index, gd[task], "-o", color=colour, ms=3.5, lw=1.1)
        top.plot(admm.index, admm[task], "o", color=colour, ms=3.5, mfc="white", mew=0.8)
        # the training with the greatest λ may have diverged
        end = float(gd[task].dropna().iloc[-1])
        ends.append((task_name(task).replace(", ", "\n"), colour, end))
    for axis, metric in ((top, "psnr"), (bottom, "map_residual")):
        curve = of_lambda(sweep, "denoiser", metric).iloc[:, 0]
        axis.plot(curve.index, curve, "--s", color=GREY, ms=3, lw=1.1)
        if axis is top:
            ends.append(("D alone,\nσ = 25/255", GREY, float(curve.dropna().iloc[-1])))
        if chosen is not None:
            axis.axvline(chosen, color=BLACK, lw=0.8, ls=":")
        axis.set_xscale("log")
    names_right(top, ends, gap=0.14)
    top.set_ylabel("validation PSNR (dB)")
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("MAP residual")
    bottom.set_xlabel("λ")
    bottom.set_xticks(gd.index, [f"{value:g}" for value in gd.index])
    bottom.xaxis.set_minor_locator(NullLocator())
    return figure


# --- diagnostics ------------------------------------------------------------------------------

PAIR_NAMES = {"fixed": "D original, G fixed", "updated": "D updated, G updated"}
PAIR_STYLES = {"fixed": "--", "updated": "-"}


def draw_diagnostics(table: pd.DataFrame) -> Figure:
    """MAP residual, asymmetry of Jacobians, norms of D's, and the curvature of PnP-GD's step.

    Dashed lines and hollow marks are the pair (D original, G fixed), solid and filled ones (D
    updated, G updated); lines are means over images.
    """
    figure = Figure(figsize=(TEXT_WIDTH, 4.8), layout="constrained")
    rows = figure.add_gridspec(2, 1, height_ratios=[1, 1.15])
    upper = rows[0].subgridspec(1, 3, width_ratios=[1, 1, 1.3])
    lower = rows[1].subgridspec(1, 2, width_ratios=[1, 1.1])
    a, b, c = (figure.add_subplot(upper[i]) for i in range(3))
    d, e = (figure.add_subplot(lower[i]) for i in range(2))

    for axis, pair in ((a, "fixed"), (b, "updated")):
        _residual_grid(axis, table[table["pair"] == pair])
        axis.set_title(f"MAP residual,\n{PAIR_NAMES[pair]}")
    a.set_ylabel("σ of D (/255)")

    _noise_lines(c, table, {"asymmetry_G": ("G", BLUE), "asymmetry_D": ("D", ORANGE)})
    c.set_title("Asymmetry of Jacobians:\n0 for a gradient")
    c.set_ylabel("‖J − Jᵀ‖ / ‖J + Jᵀ‖")

    maps = {"norm_2D-I": ("2D − I", PURPLE), "norm_D": ("D", ORANGE), "norm_I-D": ("I − D", GREEN)}
    _noise_lines(d, table, maps)
    d.axhline(1, color=BLACK, linewidth=0.8, linestyle=":")
    d.set_title("Spectral norms of Jacobians of D, I − D, 2D − I:\nat most 1 for a prox")
    d.set_ylabel("spectral norm")

    _curvatures(e, table)
    handles = [
        mpl.lines.Line2D(
            [], [], color=GREY, ls=style, marker="o", ms=3.5, mfc=GREY if style == "-" else "white"
        )
        for style in PAIR_STYLES.values()
    ]
    figure.legend(
        handles, PAIR_NAMES.values(), loc="outside upper center", ncols=2, frameon=False
    )  # fmt: skip
    return figure


def _residual_grid(axis: Axes, rows: pd.DataFrame) -> None:
    """MAP residual by σ (upwards) and σ₀ as colours and numbers; mean over images."""
    grid = rows[rows["quantity"] == "map_residual"].pivot_table(
        index="sigma", columns="sigma_0", values="value", aggfunc="mean"
    )
    numbers = grid.to_numpy(dtype=float)
    axis.imshow(numbers, cmap="Blues", vmin=0, vmax=1, origin="lower", aspect="auto")
    for (row, column), value in np.ndenumerate(numbers):
        ink = "white" if value > 0.6 else BLACK
        axis.text(column, row, f"{value:.2f}", color=ink, fontsize=7, ha="center", va="center")
    axis.set_xticks(range(grid.shape[1]), [f"{s:g}" for s in grid.columns])
    axis.set_yticks(range(grid.shape[0]), [f"{s:g}" for s in grid.index])
    axis.set_xlabel("noise σ₀ (/255)")
    axis.grid(False)
    axis.tick_params(length=0)


def _noise_lines(
    axis: Axes, table: pd.DataFrame, quantities: Mapping[str, tuple[str, str]]
) -> None:
    """Each quantity (with name and colour) against σ₀, a line per pair; mean over images."""
    ends = []
    for quantity, (name, colour) in quantities.items():
        rows = table[(table["quantity"] == quantity) & table["at"].isin(["clean", "noisy"])]
        for pair, style in PAIR_STYLES.items():
            mean = rows[rows["pair"] == pair].groupby("sigma_0")["value"].mean()
            face = colour if pair == "updated" else "white"
            axis.plot(
                mean.index, mean, style, color=colour, marker="o", ms=3.5, mfc=face, lw=1.1
            )  # fmt: skip
        ends.append((name, colour, float(mean.iloc[-1])))
    axis.set_ylim(0, 1.05 * axis.get_ylim()[1])
    names_right(axis, ends, gap=0.09)
    axis.set_xlabel("noise σ₀ (/255); D has σ = σ₀")


CURVATURES = {  # name, mark, colour, size
    "curvature_bound": (f"bound {BOUND}, by image", "o", BLUE, 3.5),
    "curvature": ("in use", "D", VERMILLION, 4.5),
}


def _curvatures(axis: Axes, table: pd.DataFrame) -> None:
    """By task: the curvature that tuning chose, and what it must exceed at each image's iterate."""
    rows = table[table["quantity"].isin(["curvature", "curvature_bound"])]
    tasks = tasks_in_order(rows["at"].tolist())
    for i, task in enumerate(tasks[::-1]):
        for pair, offset in (("fixed", 0.17), ("updated", -0.17)):
            of_pair = rows[(rows["at"] == task) & (rows["pair"] == pair)]
            for quantity, (_, mark, colour, size) in CURVATURES.items():
                values = of_pair.loc[of_pair["quantity"] == quantity, "value"].unique()
                face = colour if pair == "updated" else "white"
                y = np.full(len(values), i + offset)
                axis.plot(values, y, mark, color=colour, ms=size, mfc=face, mew=0.9)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    steps = (1, 2, 3, 4, 6, 8) if high < 10 * low else (1, 2, 5)
    axis.xaxis.set_major_locator(LogLocator(10, subs=steps))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.4g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    _task_rows(axis, tasks, [task_name(task) for task in tasks])
    axis.set_xlabel("curvature c of the step")
    axis.set_title("PnP-GD's step at the last iterates", pad=18)
    handles = [
        mpl.lines.Line2D([], [], color=colour, ls="", marker=mark, ms=size, label=name)
        for name, mark, colour, size in CURVATURES.values()
    ]
    axis.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2, frameon=False,
        fontsize=7, handletextpad=0.1, columnspacing=1.2,
    )  # fmt: skip


# --- where PnP-GD and PnP-ADMM end --------------------------------------------------------------

ALIGNED = {  # (pair, D): name, mark, colour, whether filled
    ("updated", "updated"): (PAIR_NAMES["updated"], "o", BLUE, True),
    ("updated", "original"): ("D original, G updated", "o", BLUE, False),
    ("fixed", "original"): (PAIR_NAMES["fixed"], "D", GREY, False),
}


def draw_limits(ablation: pd.DataFrame, diagnostics: pd.DataFrame) -> Figure:
    """PnP-GD and PnP-ADMM with the updated D against PnP-ADMM with the original; alignments of G.

    Left: PSNR differences by task as in `draw_restoration`. Right: the cosines of
    `diagnostics.alignment` by task and image, large marks being means.
    """
    tasks = tasks_in_order(ablation["task"].tolist())
    aligned = {key: alignments(diagnostics, *key) for key in ALIGNED}
    known = tasks_in_order([at for rows in aligned.values() for at in rows["at"]])
    height = 0.9 + max(0.5 * len(tasks), 0.36 * len(known))
    figure = Figure(figsize=(TEXT_WIDTH, height), layout="constrained")
    left, right = figure.subplots(1, 2)
    _ends(left, ablation, tasks)
    for i, task in enumerate(known[::-1]):
        for offset, (key, (_, mark, colour, filled)) in zip(
            (0.25, 0, -0.25), ALIGNED.items(), strict=True
        ):
            values = aligned[key].loc[aligned[key]["at"] == task, "value"]
            y, face = i + offset, colour if filled else "white"
            right.plot(values, np.full(len(values), y), ".", color=colour, ms=2.5, mew=0)
            if len(values):
                right.plot(values.mean(), y, mark, color=colour, ms=4, mfc=face, mew=0.8)
    right.axvline(1, color=BLACK, lw=0.8, ls=":")
    right.set_xlabel("cosine of G(D(z)) and z − D(z)")
    _task_rows(right, known)
    handles = [
        mpl.lines.Line2D([], [], marker=m, ls="", ms=4, color=c, mfc=c if filled else "white")
        for _, m, c, filled in ALIGNED.values()
    ]
    right.legend(
        handles, [name for name, *_ in ALIGNED.values()], loc="lower center",
        bbox_to_anchor=(0.5, 1), ncols=1, frameon=False, fontsize=7, handletextpad=0.1,
    )  # fmt: skip
    return figure


def _ends(axis: Axes, ablation: pd.DataFrame, tasks: Sequence[str]) -> None:
    """By task: PSNR of last iterates minus that of PnP-ADMM with the original D."""
    reference = "pnp-admm@original"
    rows = last_by_image(ablation[ablation["metric"] == "psnr"])
    methods = ("pnp-admm@updated", "pnp-gd@updated")
    for i, task in enumerate(tasks[::-1]):
        by_image = rows[rows["task"] == task].pivot(index="image", columns="method", values="value")
        for offset, method in zip((0.17, -0.17), methods, strict=True):
            mean = compared(ablation, "limits", task, method, reference, "psnr")
            each = by_image[method] - by_image[reference]
            _differences(axis, i + offset, method, each, mean)
    axis.axvline(0, color=COLOURS[reference], lw=1, ls="--")
    _decibels(axis)
    axis.set_xlabel(f"PSNR minus that of {method_name(reference)} (dB)")
    _task_rows(axis, tasks)
    handles = [mpl.lines.Line2D([], [], marker="o", ls="", ms=4, color=COLOURS[m]) for m in methods]
    axis.legend(
        handles, [method_name(m) for m in methods], loc="lower center", bbox_to_anchor=(0.5, 1),
        ncols=1, frameon=False, fontsize=7, handletextpad=0.1,
    )  # fmt: skip


def _differences(
    axis: Axes, y: float, method: str, each: pd.Series, mean: PairedDifference
) -> None:
    """Those of images as small dots, their mean as a large one, its interval as a bar."""
    colour = colour_of(method)
    if mean.interval is not None:
        axis.plot(mean.interval, (y, y), "-", color=colour, lw=2.5, alpha=0.35)
    axis.plot(each, np.full(len(each), y), ".", color=colour, ms=2.5, mew=0)
    axis.plot(mean.mean, y, "o", color=colour, ms=4, mfc=face_of(method), mew=0.6)


def _decibels(axis: Axes) -> None:
    """A symlog axis of PSNR differences: linear within ±RESTORATION_LINEAR dB."""
    axis.set_xscale("symlog", linthresh=RESTORATION_LINEAR)
    axis.xaxis.set_major_locator(FixedLocator([-30, -10, -3, -1, -0.5, 0, 0.5, 1, 3, 10]))
    axis.xaxis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{v:+g}".replace("-", "−") if v else "0")
    )
    axis.xaxis.set_minor_locator(NullLocator())


def _task_rows(axis: Axes, tasks: Sequence[str], names: Sequence[str] = ()) -> None:
    """A row per task from the top, by name or as `names` say."""
    shown = names or [task_name(task).replace(", ", "\n") for task in tasks]
    axis.set_yticks(range(len(tasks)), shown[::-1])
    axis.set_ylim(-0.55, len(tasks) - 0.45)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    for line in np.arange(len(tasks) - 1) + 0.5:
        axis.axhline(line, color="#E4E4E4", lw=0.5)


# --- restoration overview ---------------------------------------------------------------------


def last_by_image(table: pd.DataFrame) -> pd.DataFrame:
    """Task, method, image, metric, iteration and value of last iterates, mean over seeds."""
    keys = ["task", "method", "image", "metric"]
    last = table.loc[table.groupby([*keys, "seed"], sort=False)["iteration"].idxmax()]
    return last.groupby([*keys, "iteration"], sort=False)["value"].mean().reset_index()


def draw_restoration(table: pd.DataFrame) -> Figure:
    """PSNR of every method minus that of PnP-GD on the same image, by task.

    Small dots are images, large ones means with their 95 % bootstrap intervals as bars, over
    images and training seeds; the axis is linear within ±RESTORATION_LINEAR dB and logarithmic
    beyond. Beside the task stands PnP-GD's own mean.
    """
    rows = last_by_image(table[table["metric"] == "psnr"])
    tasks = tasks_in_order(rows["task"].tolist())
    rivals = [m for m in in_order(rows["method"].tolist()) if m not in ("start", "pnp-gd")]
    height = 0.5 + 0.14 * -(-len(rivals) // 3) + len(tasks) * max(0.4, 0.085 * len(rivals))
    figure = Figure(figsize=(COLUMN_WIDTH, height), layout="constrained")
    axis = figure.subplots()
    offsets = np.linspace(0.36, -0.36, len(rivals)) if len(rivals) > 1 else np.zeros(1)
    names = []
    for i, task in enumerate(tasks[::-1]):
        by_image = rows[rows["task"] == task].pivot(index="image", columns="method", values="value")
        ours = by_image["pnp-gd"]
        names.append("\n".join([*task_name(task).split(", "), f"{ours.mean():.2f} dB"]))
        for offset, method in zip(offsets, rivals, strict=True):
            if method in by_image:
                mean = compared(table, "restoration", task, method, "pnp-gd", "psnr")
                _differences(axis, i + offset, method, by_image[method] - ours, mean)
    axis.axvline(0, color=colour_of("pnp-gd"), lw=1)
    _decibels(axis)
    _task_rows(axis, tasks, names[::-1])
    axis.set_xlabel(f"PSNR minus that of {method_name('pnp-gd')} (dB)")
    handles = [
        mpl.lines.Line2D([], [], marker="o", ls="", ms=4, color=colour_of(m), mfc=face_of(m))
        for m in rivals
    ]
    figure.legend(
        handles, [method_name(m) for m in rivals], loc="outside upper center", ncols=3,
        frameon=False, handletextpad=0, columnspacing=0.8, fontsize=7,
    )  # fmt: skip
    return figure


# --- pictures ---------------------------------------------------------------------------------


def thumbnail(pixels: Pixels, longest: int) -> Pixels:
    """Shrunk to `longest` pixels on the longer side; smaller pictures stay as they are."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(image)


def busiest_window(pixels: Pixels, size: int) -> tuple[int, int]:
    """Top-left corner (row, column) of the square with the greatest sum of squared gradients.

    It chooses the part to zoom in from the ground truth alone, so no method can be favoured.
    """
    grey = pixels.astype(float).mean(axis=2)
    dy, dx = np.gradient(grey)
    energy = np.pad(dx**2 + dy**2, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    sums = energy[size:, size:] - energy[:-size, size:] - energy[size:, :-size]
    sums = sums + energy[:-size, :-size]
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(row), int(column)


def busiest_crop(truth: Pixels, side: int = CROP_SIDE) -> tuple[slice, slice]:
    """Rows and columns of the square of at most `side` pixels with the strongest gradients."""
    side = min(side, *truth.shape[:2])
    row, column = busiest_window(truth, side)
    return slice(row, row + side), slice(column, column + side)


def zoom_size(pixels: Pixels, share: float = 0.3) -> int:
    """Side of the zoomed square: a share of the shorter side."""
    return max(8, round(share * int(min(pixels.shape[:2]))))


def draw_comparison(
    pictures: Sequence[tuple[str, Pixels, str]], truth: Pixels, per_row: int = 5
) -> Figure:
    """Whole pictures with a box, the box enlarged below, a name above and numbers beneath.

    `pictures` are (name, pixels, caption) in reading order.
    """
    size = zoom_size(truth)
    row, column = busiest_window(truth, size)
    bands = -(-len(pictures) // per_row)
    per_row = -(-len(pictures) // bands)
    cell = TEXT_WIDTH / per_row
    aspect = truth.shape[0] / truth.shape[1]
    figure = Figure(figsize=(TEXT_WIDTH, bands * (cell * (aspect + 1) + 0.42)))
    outer = figure.add_gridspec(
        bands, 1, left=0.003, right=0.997, top=1 - 0.2 / figure.get_figheight(),
        bottom=0.2 / figure.get_figheight(), hspace=0.42 / (cell * (aspect + 1)),
    )  # fmt: skip
    for i, (name, pixels, caption) in enumerate(pictures):
        inner = outer[i // per_row].subgridspec(
            2, per_row, height_ratios=[aspect, 1], hspace=0.03, wspace=0.03
        )
        whole = figure.add_subplot(inner[0, i % per_row])
        crop = figure.add_subplot(inner[1, i % per_row])
        _whole_with_box(whole, pixels, truth, (row, column), size)
        crop.imshow(pixels[row : row + size, column : column + size], aspect="auto")
        whole.set_title(name, pad=3)
        crop.set_xlabel(caption, fontsize=7, labelpad=2)
        for axis in (whole, crop):
            _bare(axis)
    return figure


def _bare(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def draw_update_denoiser(
    rows: Sequence[tuple[str, Pixels, Sequence[tuple[str, Pixels, str]]]],
    error_limits: Sequence[float],
) -> Figure:
    """Crops and error maps, one row per task.

    `rows` are (row name, truth, [(name, pixels, caption), …]); each row shows the whole truth
    with the box, the truth's crop, every picture's crop, and every picture's error map: mean
    absolute error over the colours, scaled to the row's `error_limits` in grey levels of 255.
    """
    n = len(rows[0][2])
    left, right, gap, above, below = 0.34, 0.52, 0.04, 0.2, 0.2  # inches
    cell = (TEXT_WIDTH - left - right) / (2 + 2 * n) - gap
    height = above + len(rows) * (cell + below)
    figure = Figure(figsize=(TEXT_WIDTH, height))

    def place(row: int, column: int, width: float = cell) -> Axes:
        bottom = height - above - row * (cell + below) - cell
        x = left + column * (cell + gap)
        rectangle = (x / TEXT_WIDTH, bottom / height, width / TEXT_WIDTH, cell / height)
        return figure.add_axes(rectangle)

    for i, ((row_name, truth, pictures), limit) in enumerate(zip(rows, error_limits, strict=True)):
        size = zoom_size(truth)
        y, x = busiest_window(truth, size)
        box = (slice(y, y + size), slice(x, x + size))
        whole, crop = place(i, 0), place(i, 1)
        _whole_with_box(whole, truth, truth, (y, x), size)
        whole.set_ylabel(row_name.replace(", ", "\n"), labelpad=3, linespacing=1.1)
        crop.imshow(truth[box])
        titles = {whole: "Ground truth", crop: "Enlarged"}
        for j, (name, pixels, caption) in enumerate(pictures):
            shown, mapped = place(i, 2 + j), place(i, 2 + n + j)
            shown.imshow(pixels[box])
            shown.set_xlabel(caption, fontsize=7, labelpad=2)
            error = np.abs(pixels[box].astype(float) - truth[box]).mean(axis=2)
            drawn = mapped.imshow(error, cmap="magma", vmin=0, vmax=limit)
            mapped.set_xlabel(f"mean {error.mean():.1f}/255", fontsize=7, labelpad=2)
            titles |= {shown: name, mapped: f"Error, {name}"}
        for axis, title in titles.items():
            if i == 0:
                axis.set_title(title, pad=3)
            _bare(axis)
        bar = figure.colorbar(drawn, cax=place(i, 2 + 2 * n, 0.07), ticks=[0, limit / 2, limit])
        bar.ax.tick_params(length=2, labelsize=6)
        bar.ax.grid(False)
        bar.set_label("error (/255)", fontsize=6, labelpad=2)
    return figure


def _whole_with_box(
    axis: Axes, pixels: Pixels, truth: Pixels, corner: tuple[int, int], size: int
) -> None:
    """A whole picture in the coordinates of the truth, the zoomed square marked."""
    extent = (0.0, float(truth.shape[1]), float(truth.shape[0]), 0.0)
    axis.imshow(thumbnail(pixels, 320), extent=extent)
    for colour, width in (("white", 1.8), (VERMILLION, 0.9)):
        axis.add_patch(
            Rectangle(corner[::-1], size, size, fill=False, edgecolor=colour, linewidth=width)
        )


def draw_data_sheet(groups: Sequence[tuple[str, Sequence[tuple[str, Pixels]]]]) -> Figure:
    """Thumbnails with names, one block per group of (heading, [(name, pixels), …])."""
    columns = 9
    cell, head = TEXT_WIDTH / columns, 0.19
    named = [
        (heading, [(_two_lines(name, NAME_LETTERS), pixels) for name, pixels in pictures])
        for heading, pictures in groups
    ]
    # A block has room for two lines only where a name needs them.
    texts = [0.24 if any("\n" in name for name, _ in pictures) else 0.15 for _, pictures in named]
    lines = [-(-len(pictures) // columns) for _, pictures in named]
    height = 0.03 + sum(head + n * (cell + t) for n, t in zip(lines, texts, strict=True))
    figure = Figure(figsize=(TEXT_WIDTH, height))
    y = height
    for (heading, pictures), n, text in zip(named, lines, texts, strict=True):
        figure.text(0.004, (y - 0.04) / height, heading, va="top", fontsize=8, weight="bold")
        y -= head
        for i, (name, pixels) in enumerate(pictures):
            left = (i % columns) * cell
            bottom = y - (i // columns + 1) * (cell + text) + text
            axis = figure.add_axes(
                ((left + 0.02) / TEXT_WIDTH, bottom / height, (cell - 0.04) / TEXT_WIDTH,
                 (cell - 0.04) / height)
            )  # fmt: skip
            axis.imshow(thumbnail(pixels, 150))
            axis.set_anchor("S")
            axis.set_xlabel(name, fontsize=5.5, labelpad=1.5, linespacing=1.1)
            _bare(axis)
        y -= n * (cell + text)
    return figure


def _two_lines(name: str, longest: int) -> str:
    """A name that is too long for a line in two, broken after a mark where one is near its end."""
    if len(name) <= longest:
        return name
    marks = [k + 1 for k in range(longest // 2, longest) if name[k] in "_- ."]
    first = max(marks, default=longest)
    rest = name[first:]
    return f"{name[:first]}\n{rest if len(rest) <= longest else f'{rest[: longest - 1]}…'}"
