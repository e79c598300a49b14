"""Every table of the report, as pure functions of result tables that return a `Sheet`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from reg.claims import MSD_RANGE, compared, curves, in_order, method_name, task_name, tasks_in_order
from reg.denoising import (
    CBSD68,
    CBSD68_IMAGES,
    COST_COLUMNS,
    GRADIENT_STEP,
    ORIGINAL,
    UPDATED,
    published,
)
from reg.problems import parse_task
from reg.report.figures import PAIR_NAMES, last_by_image, log_curve
from reg.report.findings import (
    BOUND,
    FALL,
    MAP_RESIDUAL,
    NEAR,
    SCHEDULES,
    TURNED,
    run_ends,
    schedule_runs,
    seeds_say,
)
from reg.report.sheets import Cell, Sheet
from reg.statistics import PairedDifference
from reg.tuning import FIRST_RATIO, LAST_RATIO


def ranked(
    values: Sequence[float], decimals: int, eligible: Sequence[bool], greatest: bool = True
) -> list[Cell]:
    """Numbers as text; the best of the eligible ones has rank 1, the second best rank 2.

    Numbers that print alike share their rank, so that no reader wonders why one is bold.
    """
    texts = [_fixed(v, decimals) for v in values]
    shown = {float(t) for t, e in zip(texts, eligible, strict=True) if e and t != "–"}
    best = sorted(shown, reverse=greatest)[:2] if len(shown) > 1 else []
    return [
        Cell(t, best.index(float(t)) + 1 if e and t != "–" and float(t) in best else 0)
        for t, e in zip(texts, eligible, strict=True)
    ]


def _fixed(value: float, decimals: int) -> str:
    return "–" if pd.isna(value) else f"{value:.{decimals}f}"


def _step(value: float) -> str:
    """A mean squared step; at float32's rounding no more than that can be said."""
    if pd.isna(value):
        return "–"
    floor = MSD_RANGE[0]
    return f"≤ {floor:.0e}" if value <= floor * (1 + 1e-9) else f"{value:.1e}"


def restoration_sheet(table: pd.DataFrame, images: str, until: str = "") -> Sheet:
    """PSNR and SSIM, mean over test images, by method and task.

    Each has the interval of the difference to PnP-GD. The csv has every other metric, too: PSNR
    without clipping, the oracle's choice of iterate (`psnr_oracle`) and the iterations taken.
    `images` says which they are, `until` how long methods ran.
    """
    rows = last_by_image(table)
    methods = in_order(rows["method"].unique().tolist())
    tasks = tasks_in_order(rows["task"].tolist())
    eligible = [m != "start" for m in methods]
    differences: Differences = {
        (task, method, metric): compared(table, "restoration", task, method, "pnp-gd", metric)
        for metric in ("psnr", "ssim")
        for task in tasks
        for method in methods
        if method != "pnp-gd"
    }
    blocks = []
    for metric, heading, decimals in (("psnr", "PSNR (dB)", 2), ("ssim", "SSIM", 3)):
        of_metric = (
            rows[rows["metric"] == metric]
            .pivot_table(index="task", columns="method", values="value", aggfunc="mean")
            .reindex(index=tasks, columns=methods)
        )
        by_task = []
        for task, values in zip(tasks, of_metric.to_numpy(dtype=float).tolist(), strict=True):
            cells = ranked(values, decimals, eligible)
            found = [differences.get((task, method, metric)) for method in methods]
            by_task.append(
                [_with_interval(*pair, decimals) for pair in zip(cells, found, strict=True)]
            )
        lines = [
            (Cell(method_name(method)), *cells)
            for method, cells in zip(methods, zip(*by_task, strict=True), strict=True)
        ]
        filled = rows[rows["metric"] == f"{metric}_filled"].groupby("task")["value"].mean()
        if len(filled):
            values = filled.reindex(tasks).tolist()
            lines.insert(1, (Cell("Holes filled"), *(Cell(_fixed(v, decimals)) for v in values)))
        blocks.append((heading, tuple(lines)))
    starts = (
        " In inpainting all methods begin with holes filled from coarse to fine."
        if "psnr_filled" in set(rows["metric"])
        else ""
    )
    return Sheet(
        "restoration",
        f"Restoration of {images}, by task (σₙ in /255 where there is noise): mean of "
        "PSNR and SSIM over images, last iterate, clipped to [0,1], RGB, no border. Best in bold, "
        f"second underlined.{starts} {TURNED}{until}{seeds_say(table)}",
        ("Method", *[_task_heading(task) for task in tasks]),
        tuple(blocks),
        task_means(rows).join(_difference_columns(differences), on=["task", "method", "metric"]),
        intervals="In brackets, the 95 % bootstrap interval of the mean difference to "
        f"{method_name('pnp-gd')}, paired by image and training seed.",
    )


def falls_sheet(
    table: pd.DataFrame, until: str = "", ablation_iterations: int | None = None
) -> Sheet:
    """How far below their own best iterate runs end, by method and task.

    A run is one image with one training seed. The best iterate is that of an oracle. `until` says
    how long methods ran, `ablation_iterations` for how many the ablation did.
    """
    by_cell = run_ends(table).groupby(["method", "task"])
    found = pd.DataFrame(
        {
            "runs": by_cell["loss"].count(),
            "fallen": by_cell["fallen"].sum(),
            "median_loss": by_cell["loss"].median(),
            "greatest_loss": by_cell["loss"].max(),
        }
    )
    methods = in_order(found.index.unique("method").tolist())
    tasks = tasks_in_order(table["task"].tolist())
    found = found.reindex(pd.MultiIndex.from_product([methods, tasks], names=["method", "task"]))
    share = 100 * found["fallen"] / found["runs"]
    blocks = []
    for heading, values, decimals in (
        (f"Runs that end {FALL:g} dB or more below their best (%)", share, 0),
        ("Greatest loss (dB)", found["greatest_loss"], 1),
    ):
        lines = tuple(
            (Cell(method_name(m)), *[Cell(_fixed(v, decimals)) for v in values.loc[m].tolist()])
            for m in methods
        )
        blocks.append((heading, lines))
    longer = (
        f" The ablation runs for {ablation_iterations:,} iterations and never stops before: a "
        "method that holds here may fall there."
        if ablation_iterations
        else ""
    )
    return Sheet(
        "falls",
        "Where the runs of the table above end: PSNR of the last iterate against the best one, "
        "which an oracle that knows the truth chooses. A run is one image with one training seed. "
        "PnP-GD, RED, PnP-ADMM and PnP-HQS keep their iterates within [0,1], the others run "
        "without bounds. Where a run begins near its best, as in inpainting with filled holes, it "
        "can fall to a limit that it keeps."
        f"{until}{longer}",
        ("Method", *[_task_heading(task) for task in tasks]),
        tuple(blocks),
        found.reset_index(),
    )


Differences = dict[tuple[str, str, str], PairedDifference]  # by task, method and metric


def _with_interval(cell: Cell, difference: PairedDifference | None, decimals: int) -> Cell:
    if difference is None or difference.interval is None:
        return cell
    low, high = (f"{bound:+.{decimals}f}" for bound in (difference.low, difference.high))
    return replace(cell, interval=f"[{low}, {high}]")


def _difference_columns(differences: Differences) -> pd.DataFrame:
    """The columns difference, low and high by task, method and metric."""
    index = pd.MultiIndex.from_tuples(list(differences), names=["task", "method", "metric"])
    values = [(d.mean, *(d.interval or (np.nan, np.nan))) for d in differences.values()]
    return pd.DataFrame(values, index, columns=["difference", "low", "high"], dtype=float)


def _task_heading(task: str) -> str:
    """A task as a narrow column's heading: family, setting, noise level."""
    parsed = parse_task(task)
    heading = {
        "deblur": f"Deblur\n{parsed.kernel}",
        "sr": f"SR\n×{parsed.factor}",
        "inpaint": f"Inpaint\n{parsed.percent:g} %",
        "denoise": "Denoise",
    }[parsed.kind]
    return f"{heading}\n{255 * parsed.sigma_n:g}" if parsed.sigma_n else heading


def task_means(rows: pd.DataFrame) -> pd.DataFrame:
    """task, method, metric, iteration, images and mean value, in the order of the printed table."""
    grouped = rows.groupby(["task", "method", "metric", "iteration"], sort=False)["value"]
    means = grouped.agg(images="count", mean="mean").reset_index()
    tasks, methods = tasks_in_order(means["task"].tolist()), in_order(means["method"].tolist())
    means["task"] = pd.Categorical(means["task"], tasks)
    means["method"] = pd.Categorical(means["method"], methods)
    metrics = sorted(means["metric"].unique(), key=lambda m: (m not in ("psnr", "ssim"), m))
    means["metric"] = pd.Categorical(means["metric"], metrics)
    return means.sort_values(["metric", "task", "method"], ignore_index=True)


def iterations_sheet(table: pd.DataFrame, name: str, caption: str) -> Sheet:
    """PSNR of the last and of the best iterate and the last mean squared step, by task.

    The mean of the step is geometric, within MSD_RANGE, as the figures have it. SSIM is shown
    where it was measured. `caption` may hold {iterations}.
    """
    records, blocks = [], []
    with_ssim = bool((table["metric"] == "ssim").any())
    for task in tasks_in_order(table["task"].tolist()):
        methods = in_order(table.loc[table["task"] == task, "method"].unique().tolist())
        measured = [_convergence_means(table, name, task, m) for m in methods]
        records += measured
        # Variants of one method (after the @) compete with each other, whole methods likewise.
        groups = [m.split("@")[0] if "@" in m else "" for m in methods]
        marked = {
            "psnr": ranked_in_group([r["psnr"] for r in measured], groups, 2),
            "psnr_oracle": [Cell(_fixed(r["psnr_oracle"], 2)) for r in measured],
            "ssim": ranked_in_group([r["ssim"] for r in measured], groups, 3),
            "msd": [Cell(_step(r["msd"])) for r in measured],
        }
        shown = ["psnr", "psnr_oracle", *(["ssim"] if with_ssim else []), "msd"]
        lines = tuple(
            (Cell(method_name(m)), *[marked[metric][i] for metric in shown])
            for i, m in enumerate(methods)
        )
        blocks.append((task_name(task), lines))
    numbers = pd.DataFrame(records)
    header = ["Method", "PSNR, last (dB)", "PSNR, best (oracle, dB)"]
    header += [*(["SSIM, last"] if with_ssim else []), "Last mean squared step"]
    iterations = int(numbers["iterations"].max())
    return Sheet(
        name,
        caption.format(iterations=f"{iterations:,}"),
        tuple(header),
        tuple(blocks),
        numbers if with_ssim else numbers.drop(columns="ssim"),
    )


def _convergence_means(table: pd.DataFrame, name: str, task: str, method: str) -> dict[str, Any]:
    psnr = curves(table, name, task, method, "psnr")
    msd = curves(table, name, task, method, "msd")
    ssim = last_by_image(table[(table["task"] == task) & (table["method"] == method)])
    return {
        "task": task,
        "method": method,
        "iterations": int(psnr.index[-1]),
        "images": psnr.columns.get_level_values("image").nunique(),
        "psnr": float(psnr.iloc[-1].mean()),
        "psnr_oracle": float(psnr.max(axis=0).mean()),
        "ssim": float(ssim.loc[ssim["metric"] == "ssim", "value"].mean()),
        "msd": float(10 ** np.log10(msd.iloc[-1].clip(*MSD_RANGE)).mean()),
    }


def ranked_in_group(values: Sequence[float], groups: Sequence[str], decimals: int) -> list[Cell]:
    """Cells with the best of each group marked; of two or three no second is worth a mark."""
    cells = [Cell("")] * len(values)
    for group in dict.fromkeys(groups):
        places = [i for i, g in enumerate(groups) if g == group]
        found = ranked([values[i] for i in places], decimals, [True] * len(places))
        for i, cell in zip(places, found, strict=True):
            cells[i] = Cell(cell.text, 1 if cell.rank == 1 else 0)
    return cells


def acceleration_sheet(table: pd.DataFrame, images: str) -> Sheet:
    """PSNR early and at the end, iterations to Adam's result, speed-up; by task and schedule."""
    runs = schedule_runs(table)
    blocks = [
        (
            task_name(task),
            tuple(
                (
                    Cell(SCHEDULES[run.schedule]),
                    Cell(_fixed(run.psnr_early, 2)),
                    Cell(f"{run.iterations:,}"),
                    Cell(_fixed(run.psnr, 2)),
                    Cell(f"{run.gap:+.2f}".replace("-", "−")),
                    Cell(f"{run.near_from:,}" if run.near_from else "–"),
                    Cell(f"{run.speed_up:.1f}×" if run.speed_up else "–"),
                )
                for run in runs
                if run.task == task
            ),
        )
        for task in dict.fromkeys(run.task for run in runs)
    ]
    early = max(run.early for run in runs)
    return Sheet(
        "acceleration",
        f"Schedules of PnP-GD from the same start, mean over {images}: PSNR in dB after "
        f"{early:,} iterations and at the end of the run, the difference to Adam's end, the "
        f"iteration from which PSNR stays at most {NEAR:g} dB below it or above, and the "
        "speed-up: Adam's own such iteration over the schedule's. A dash: it ends further below. "
        "In inpainting without noise Adam and the plain step take σ = 1/255, the others the tuned "
        "one, on which they hardly depend; there Adam as published begins with 0.5 in the holes, "
        "the others with holes filled from coarse to fine.",
        (
            "Schedule", f"PSNR\nat {early:,}", "End\nat", "PSNR\nat end", "Minus\nAdam's",
            f"{NEAR:g} dB\nfrom", "Speed-\nup",
        ),
        tuple(blocks),
        pd.DataFrame([asdict(run) for run in runs]),
    )  # fmt: skip


def diagnostics_sheet(table: pd.DataFrame) -> Sheet:
    """What `reg.diagnostics` measured, mean over images, a column per pair of networks.

    Printed are the MAP residual where σ = σ₀ and G's Jacobian at clean images; the csv has all.
    """
    tasks = tasks_in_order(sorted(set(table["at"]) - {"clean", "noisy"}))
    # At a task σ is a tuned parameter, which may differ between the pairs: no part of the key.
    keyed = table.assign(
        quantity=pd.Categorical(table["quantity"], list(DIAGNOSTICS)),
        at=pd.Categorical(table["at"], ["clean", "noisy", *tasks]),
        sigma=table["sigma"].mask(table["at"].isin(tasks), 0),
    )
    keys = ["quantity", "at", "sigma", "sigma_0"]
    means = keyed.groupby([*keys, "pair"], observed=True)["value"].mean().unstack("pair")
    means = means.reindex(columns=list(PAIR_NAMES)).reset_index()
    of_regularizer = means["quantity"].isin(["asymmetry_G", "norm_G"])
    omitted = (of_regularizer & (means["at"] != "clean")) | (
        (means["quantity"] == "map_residual") & (means["sigma"] != means["sigma_0"])
    )
    blocks = []
    for quantity, (heading, decimals) in DIAGNOSTICS.items():
        rows = means[~omitted & (means["quantity"] == quantity)]
        pairs = rows[list(PAIR_NAMES)].to_numpy(dtype=float).tolist()
        lines = tuple(
            (Cell(_point(at, sigma)), *[Cell(_fixed(value, decimals)) for value in values])
            for at, sigma, values in zip(rows["at"], rows["sigma"], pairs, strict=True)
        )
        blocks.append((heading, lines))
    return Sheet(
        "diagnostics",
        f"The two pairs of networks on central crops of {table['image'].nunique()} validation "
        f"images, mean over images. The relative MAP residual is {MAP_RESIDUAL}. Asymmetry is the "
        "ratio of the Frobenius norms of J minus its transpose and J plus its transpose, J being "
        "the Jacobian; norms are spectral. Alignment is the cosine of the angle between G(D(z)) "
        "and z − D(z), z being what PnP-ADMM gave that D last. All else by task: at the last "
        "iterate of PnP-GD, near which the bounds would suffice for stability if G's Jacobian were "
        "symmetric with no negative eigenvalue.",
        ("Where (noise levels /255)", *PAIR_NAMES.values()),
        tuple(blocks),
        means,
    )


DIAGNOSTICS = {
    "map_residual": ("Relative MAP residual", 3),
    "alignment_original": ("Alignment of G with D original", 3),
    "alignment_updated": ("Alignment of G with D updated", 3),
    "asymmetry_G": ("Asymmetry of G's Jacobian", 3),
    "asymmetry_D": ("Asymmetry of D's Jacobian", 3),
    "norm_G": ("Norm of G's Jacobian", 1),
    "norm_D": ("Norm of D's Jacobian", 3),
    "norm_I-D": ("Norm of the Jacobian of I − D", 3),
    "norm_2D-I": ("Norm of the Jacobian of 2D − I", 3),
    "curvature": ("PnP-GD's step: curvature in use", 1),
    "curvature_bound": (f"PnP-GD's step: curvature to exceed, {BOUND}", 1),
    "plain_step": ("μ of the plain step", 3),
    "plain_step_bound": ("Largest stable μ of the plain step", 3),
}


def _point(at: str, sigma: float) -> str:
    """Where a diagnostic was taken, as readers know it."""
    match at:
        case "clean":
            return "clean images"
        case "noisy":
            return f"σ = σ₀ = {sigma:g}"
        case task:
            return task_name(task)


SYMBOLS = {
    "sigma": "σ",
    "curvature": "c",
    "level": "s",
    "weight": "w",
    "step": "μ",
    "relative_step": "μ‖A‖²",
}


def tuning_sheet(
    trials: pd.DataFrame, chosen: Mapping[str, Mapping[str, Mapping[str, float]]], budget: int
) -> Sheet:
    """Where each search began, what it tried, what was chosen, and whether it ended by itself.

    `trials` are in the order of the search; `budget` is how many it was allowed.
    """
    records, blocks = [], []
    for task in tasks_in_order(trials["task"].tolist()):
        lines = []
        of_task = trials[trials["task"] == task]
        for method in in_order(of_task["method"].unique().tolist()):
            of_method = of_task[of_task["method"] == method]
            tried = pd.DataFrame([json.loads(text) for text in of_method["parameters"]])
            found = {
                "trials": len(tried),
                "ran_out": len(tried) >= budget,
                "psnr": float(of_method["psnr"].max()),
            }
            searches = [
                _search(name, tried[name], chosen[task][method][name]) for name in tried.columns
            ]
            records += [{"task": task, "method": method, **each, **found} for each in searches]
            lines.append(
                (
                    Cell(method_name(method)),
                    *[Cell(_search_text(each)) for each in searches],
                    Cell(f"{found['trials']}{'†' if found['ran_out'] else ''}"),
                    Cell(_fixed(float(of_method["psnr"].max()), 2)),
                )
            )
        blocks.append((task_name(task), tuple(lines)))
    columns = max(len(line) for _, lines in blocks for line in lines) - 3
    return Sheet(
        "tuning",
        "The two parameters of every method, chosen by mean PSNR over the validation images, never "
        "the test images: value at the beginning → value chosen [least, greatest value tried]. "
        "All are searched alike, by compass search: each parameter in turn is multiplied and "
        f"divided by a ratio, {FIRST_RATIO:g} at first, and after a round without gain by its "
        f"square root, until that is below {LAST_RATIO:g} or after {budget} trials (†). * marks "
        "choices at the edge of what was tried. Longer steps than are stable are not tried: c "
        f"stays above {BOUND}, measured beforehand at the validation images, where its search "
        "begins, and PnP-PGD's step below that of a stable gradient step. σ and s are noise levels "
        "(/255), c is the curvature, w the weight of the regularizer, μ the step. PSNR in dB.",
        ("Method", *["Begin → chosen [tried]"] * columns, "Trials", "PSNR"),
        tuple(blocks),
        pd.DataFrame(records),
        text_columns=1 + columns,
    )


def _search(name: str, tried: pd.Series, value: float) -> dict[str, Any]:
    """Beginning, range and choice of one parameter; at the edge if nothing beyond was tried."""
    least, greatest = float(tried.min()), float(tried.max())
    return {
        "parameter": name,
        "begin": float(tried.iloc[0]),
        "least": least,
        "greatest": greatest,
        "chosen": value,
        "at_edge": not least < value < greatest,
    }


def _search_text(search: Mapping[str, Any]) -> str:
    begin, least, greatest = (
        f"{float(f'{search[key]:.3g}'):g}" for key in ("begin", "least", "greatest")
    )
    chosen = f"{search['chosen']:.4g}"
    symbol = SYMBOLS.get(search["parameter"], search["parameter"])
    return f"{symbol} {begin} → {chosen}{'*' if search['at_edge'] else ''} [{least}, {greatest}]"


def denoiser_sheet(
    pretrain: pd.DataFrame, gradient_step: pd.DataFrame, arms: Mapping[str, pd.DataFrame]
) -> Sheet:
    """Last validation PSNR at three noise levels: pre-trained D, that of each arm, and GS-PnP's."""
    logs = {
        "Pre-trained D": pretrain,
        **{f"D after ReG training, {arm}": log for arm, log in arms.items()},
        "Gradient-step denoiser": gradient_step,
    }
    records, lines = [], []
    for name, log in logs.items():
        found: dict[str, float] = {}
        for sigma in (15, 25, 50):
            curve = log_curve(log, f"psnr{sigma}")
            found[f"psnr{sigma}"] = float(curve.iloc[-1]) if len(curve) else float("nan")
        iterations = int(log["iteration"].max())
        records.append({"denoiser": name, "iterations": iterations, **found})
        cells = [Cell(_fixed(v, 2)) for v in found.values()]
        lines.append((Cell(name), Cell(f"{iterations:,}"), *cells))
    return Sheet(
        "denoiser",
        "Validation PSNR (dB) of the denoisers at three noise levels in units of 1/255: D before "
        "and after ReG training, and that of GS-PnP, which starts from the pre-trained D. "
        "Imported weights have 0 training iterations.",
        ("Denoiser", "Training iterations", "σ = 15", "σ = 25", "σ = 50"),
        (("", tuple(lines)),),
        pd.DataFrame(records),
    )


DENOISERS = {
    ORIGINAL: "Pre-trained D",
    UPDATED: "D after ReG training, updated",
    GRADIENT_STEP: "Gradient-step denoiser",
}
AS_PUBLISHED = "psnr_8bit"  # the metric of the published numbers


def denoising_sheet(table: pd.DataFrame, costs: pd.DataFrame) -> Sheet:
    """PSNR and cost of the denoisers on test images; on all of CBSD68, beside published ones.

    The csv has every metric that was measured.
    """
    of_cbsd68 = table[table["image"].str.startswith(CBSD68)]
    comparable = of_cbsd68["image"].nunique() == CBSD68_IMAGES
    shown = of_cbsd68 if comparable else table
    measured = shown.groupby(["method", "task", "metric"], sort=False)["value"].mean()
    numbers = measured.rename("mean").reset_index().merge(costs, on="method", how="left")
    if comparable:
        records = [
            (other.name, task, AS_PUBLISHED, level, other.cost.weights, other.cost.multiply_adds)
            for other in published()
            for task, level in other.psnr.items()
        ]
        columns = ["method", "task", "metric", "mean", *COST_COLUMNS[1:]]
        numbers = pd.concat([numbers, pd.DataFrame(records, columns=columns)], ignore_index=True)
    tasks = shown["task"].unique().tolist()
    blocks = [("Measured here" if comparable else "", _denoising_rows(numbers, tasks, DENOISERS))]
    if comparable:
        others = {other.name: other.name for other in published()}
        blocks.append(("Published", _denoising_rows(numbers, tasks, others)))
    images = shown["image"].nunique()
    return Sheet(
        "denoising",
        f"Denoisers on {'CBSD68 (' if comparable else ''}{images} test images"
        f"{')' if comparable else ''}: PSNR (dB) by noise level σ in units of 1/255, mean over "
        "images, RGB, no border, of results clipped to [0,1] and rounded to 8 bits"
        f"{PUBLISHED_PROTOCOL if comparable else NOT_COMPARABLE} Multiply-adds, per pixel, are "
        "those of convolutions, and of the gradient-step denoiser's backward pass."
        f"{seeds_say(shown)}",
        (
            "Denoiser",
            "Parameters",
            "Multiply-adds\nper pixel",
            *[f"σ = {255 * parse_task(task).sigma_n:g}" for task in tasks],
        ),
        tuple(blocks),
        numbers,
    )


PUBLISHED_PROTOCOL = (
    ", which is how the code of Zhang et al. (DPIR, TPAMI 2022), from whom the published numbers "
    "are, measures. Unlike there, images are cut at the right and the bottom to multiples of 12 "
    "pixels, and the noise is another draw; each network was trained on images of its own. The "
    "published networks' parameters and multiply-adds we computed from their architectures; IRCNN "
    "is one such network for each of 25 noise levels."
)
NOT_COMPARABLE = "; not CBSD68, so that no published number can stand beside these."


def _denoising_rows(
    numbers: pd.DataFrame, tasks: Sequence[str], names: Mapping[str, str]
) -> tuple[tuple[Cell, ...], ...]:
    """A row for each method of `names`: what it is called, its cost, PSNR by task."""
    rows = []
    for method, name in names.items():
        of_method = numbers[(numbers["method"] == method) & (numbers["metric"] == AS_PUBLISHED)]
        by_task = of_method.set_index("task")["mean"].reindex(list(tasks))
        size = [Cell(f"{of_method[column].iloc[0]:,.0f}") for column in COST_COLUMNS[1:]]
        rows.append((Cell(name), *size, *[Cell(_fixed(level, 2)) for level in by_task]))
    return tuple(rows)
