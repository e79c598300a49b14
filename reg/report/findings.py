"""What figures and tables say, computed: numbers behind them and the sentences beneath them."""

from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch

from reg.claims import (
    GENERIC_RIVALS,
    compared,
    curves,
    in_order,
    last,
    method_name,
    task_name,
    tasks_in_order,
)
from reg.iterations import curvature_bound
from reg.statistics import PairedDifference

PUBLISHED = "pnp-gd-published"  # run where its start is another, in inpainting
# The schedules that follow PnP-GD's gradient, the reference first.
SCHEDULES = {
    "pnp-gd-adam": "Adam",
    PUBLISHED: "Adam, as published",
    "pnp-gd-plain": "plain step",
    "pnp-gd-spectral": "spectral step",
    "pnp-gd": "accelerated",
}
REFERENCE = "pnp-gd-adam"
# Of `methods.METHODS`.
TURNED = (
    "The networks of PnP-GD, RED, PnP-HQS and PnP-PGD see another of the eight orientations at "
    "each iteration."
)
NEAR = 0.05  # dB below the reference's last iterate that is as good as reaching it
FALL = 1.0  # dB below its own best iterate from which the end of a run counts as fallen
# Of L: what the curvature of PnP-GD's step must exceed.
BOUND = f"{float(curvature_bound(torch.ones(()))):.2f} L"


# Of D at one σ, on z with noise: 0 for an exact pair of D and G, 1 for G = 0.
MAP_RESIDUAL = "‖σ²G(D(z)) − (z − D(z))‖ / ‖z − D(z)‖"

# What `benchmarks/sweep.py` writes; `method` is denoiser, pnp-gd, or SWEPT_ADMM.
SWEPT_ADMM = "pnp-admm-unbounded@updated"  # as published: bounds would hide how far it falls
SWEEP_COLUMNS = ("lambda", "iterations", "method", "task", "metric", "value")


# --- restoration ------------------------------------------------------------------------------


def run_ends(table: pd.DataFrame) -> pd.DataFrame:
    """PSNR of the last iterate, `psnr_oracle`, and what lies between, `loss`, of every run in dB.

    Its index is method, task, seed, image; `fallen` are those that lose FALL or more.
    """
    of = table[(table["method"] != "start") & table["metric"].isin(["psnr", "psnr_oracle"])]
    ends = of.pivot(
        index=["method", "task", "seed", "image"], columns="metric", values="value"
    ).rename_axis(columns=None)
    loss = ends["psnr_oracle"] - ends["psnr"]
    return ends.assign(loss=loss, fallen=loss >= FALL)


def restoration_says(table: pd.DataFrame) -> str:
    """PnP-GD beside every generic rival by task, and beside holes that are merely filled.

    Also what its fallen runs have to do with it.
    """
    ends = run_ends(table)
    fallen = ends.loc["pnp-gd"]["fallen"]
    present = ends.index.unique("method")
    sentences = [_against(rival, table, ends) for rival in GENERIC_RIVALS if rival in present]
    if fallen.any():
        counts = fallen.groupby("task").sum()
        worst = str(counts.idxmax())
        sentences.append(
            f"Of PnP-GD's {len(fallen):,} runs {fallen.sum()} have fallen, they end {FALL:g} dB or "
            f"more below their own best iterate, {counts.max()} of them in {task_name(worst)}."
        )
    if filled := _beside_filled_holes(table):
        sentences.append(filled)
    return " ".join(sentences)


def _beside_filled_holes(table: pd.DataFrame) -> str:
    """What PnP-GD adds to its start in inpainting, and which methods end below it."""
    means = table.groupby(["metric", "task", "method"])["value"].mean()
    if "psnr_filled" not in means.index.unique("metric"):
        return ""
    parts = []
    for task in tasks_in_order(means["psnr_filled"].index.unique("task").tolist()):
        filled, psnr = means["psnr_filled", task, "start"], means["psnr", task].drop("start")
        behind = [method_name(m) for m in in_order(list(psnr.index)) if psnr[m] < filled]
        parts.append(
            f"{filled:.2f} dB in {task_name(task)}, to which PnP-GD adds "
            f"{psnr['pnp-gd'] - filled:+.2f} dB"
            + (f" (below it: {', '.join(behind)})" if behind else "")
        )
    return f"Filling the holes from coarse to fine, without any network, gives {'; '.join(parts)}."


def _against(rival: str, table: pd.DataFrame, ends: pd.DataFrame) -> str:
    """PnP-GD minus one rival: by means, by intervals, and against the rival's best iterates."""
    ours, theirs = ends.loc["pnp-gd"], ends.loc[rival].droplevel("seed")
    ahead = _means_ahead(ours["psnr"], theirs["psnr"])
    intervals = [
        compared(table, "restoration", task, "pnp-gd", rival, "psnr") for task in ahead.index
    ]
    best = (_means_ahead(ours["psnr"], theirs["psnr_oracle"]) > 0).sum()
    text = (
        f"Against {method_name(rival)} the mean of PnP-GD is higher in {(ahead > 0).sum()} of "
        f"{_tasks(ahead)} ({_between(ahead, '+.2f')} dB; with the whole interval above in "
        f"{sum(d.low > 0 for d in intervals)}, below in {sum(d.high < 0 for d in intervals)}), "
        f"and in {best} than that of the rival's best iterates, which an oracle chooses"
    )
    kept = ~ours["fallen"]
    if not kept.all() and kept.any():
        rest = _means_ahead(ours["psnr"][kept], theirs["psnr"])
        text += f"; its own fallen runs left out, {_between(rest, '+.2f')} dB"
    return f"{text}."


def _means_ahead(ours: pd.Series, theirs: pd.Series) -> pd.Series:
    """Mean difference by task; `ours` by task, seed and image, `theirs` by task and image."""
    both = ours.rename("ours").reset_index("seed").join(theirs.rename("theirs"))
    return (both["ours"] - both["theirs"]).groupby("task").mean()


# --- acceleration -----------------------------------------------------------------------------


def psnr_gaps(table: pd.DataFrame, task: str) -> dict[str, pd.Series]:
    """PSNR minus that of Adam's last iterate, mean over images, dB, by iteration and schedule."""
    run = set(table.loc[table["task"] == task, "method"])
    psnr = {
        schedule: curves(table, "acceleration", task, schedule, "psnr").mean(axis=1)
        for schedule in SCHEDULES
        if schedule != PUBLISHED or schedule in run
    }
    return {schedule: curve - psnr[REFERENCE].iloc[-1] for schedule, curve in psnr.items()}


def stays_near(gap: pd.Series) -> int | None:
    """The iteration from which a gap is −NEAR or more to its end; None where it ends below."""
    below = gap.index[gap < -NEAR]
    kept = gap.index if below.empty else gap.index[gap.index > below[-1]]
    return int(kept[0]) if len(kept) else None


@dataclass(frozen=True)
class ScheduleRun:
    """How one schedule did on one task; PSNR in dB, means over images.

    `early` is the end of the shortest run of all schedules, `gap` the PSNR at the end of this one
    minus that of Adam. `near_from` is `stays_near`, and `speed_up` Adam's over this one's; both
    are None where it ends further below.
    """

    task: str
    schedule: str
    images: int
    early: int
    psnr_early: float
    iterations: int
    psnr: float
    ssim: float
    gap: float
    near_from: int | None
    speed_up: float | None


def schedule_runs(table: pd.DataFrame) -> list[ScheduleRun]:
    """Every schedule on every task of the stage `accelerate`."""
    runs = []
    for task in tasks_in_order(table["task"].tolist()):
        gaps = psnr_gaps(table, task)
        early = min(int(gap.index[-1]) for gap in gaps.values())
        reference = stays_near(gaps[REFERENCE])
        for schedule, gap in gaps.items():
            psnr = curves(table, "acceleration", task, schedule, "psnr")
            ssim = last(table, "acceleration", task, schedule, "ssim")
            near = stays_near(gap)
            runs.append(
                ScheduleRun(
                    task,
                    schedule,
                    images=ssim.shape[1],
                    early=early,
                    psnr_early=float(psnr.mean(axis=1)[early]),
                    iterations=int(psnr.index[-1]),
                    psnr=float(psnr.iloc[-1].mean()),
                    ssim=float(ssim.to_numpy().mean()),
                    gap=float(gap.iloc[-1]),
                    near_from=near,
                    speed_up=reference / near if reference and near else None,
                )
            )
    return runs


def acceleration_says(table: pd.DataFrame) -> str:
    """Whether each schedule reaches Adam's result, how soon, and where the accelerated misses."""
    runs = schedule_runs(table)
    adam, published, ours, plain, spectral = (
        [run for run in runs if run.schedule == schedule]
        for schedule in (REFERENCE, PUBLISHED, "pnp-gd", "pnp-gd-plain", "pnp-gd-spectral")
    )
    near = [run for run in ours if run.near_from]
    says = [
        f"After {_between(r.iterations for r in ours)} iterations the accelerated descent is "
        f"within {NEAR:g} dB of what Adam reaches in {_between(r.iterations for r in adam)}, or "
        f"above it, in {len(near)} of {_tasks(ours)} (difference "
        f"{_between((r.gap for r in ours), '+.2f')} dB)."
    ]
    if near:
        says.append(
            f"It stays there from iteration {_between(r.near_from for r in near)} on, by task, "
            f"Adam from {_between(r.near_from for r in adam)}: a speed-up of "
            f"{_between((r.speed_up for r in near), '.1f')} in iterations."
        )
    if missed := [run for run in ours if not run.near_from]:
        named = "; ".join(f"{task_name(run.task)} ({run.gap:+.2f} dB)" for run in missed)
        says.append(f"It misses {NEAR:g} dB in {named}.")
    others = [
        f"the {SCHEDULES[runs[0].schedule]} gets there in {sum(bool(r.near_from) for r in runs)} "
        f"of {_tasks(runs)} within {_between(r.iterations for r in runs)} iterations"
        for runs in (spectral, plain)
    ]
    says.append(f"Of the others, {', '.join(others)}.")
    if published:
        named = ", ".join(f"{run.gap:+.2f} dB in {task_name(run.task)}" for run in published)
        says.append(f"As published, from 0.5 in the holes, Adam ends elsewhere: {named}.")
    return " ".join(says)


def _tasks(of: Sized) -> str:
    return f"{len(of)} task{'s' if len(of) != 1 else ''}"


def _between(values: Iterable[float | None], form: str = ",.0f") -> str:
    """`12` or `12 to 80`: the range of values, as they print."""
    ordered = sorted(v for v in values if v is not None)
    low, high = (format(v, form) for v in (ordered[0], ordered[-1]))
    return low if low == high else f"{low} to {high}"


# --- diagnostics ------------------------------------------------------------------------------


def diagnostics_says(table: pd.DataFrame) -> str:
    """The updated pair against the fixed one: MAP residual, asymmetry, norms, and the step."""
    keys = ["quantity", "pair", "sigma_0"]
    same_level = table[(table["sigma"] == table["sigma_0"]) | (table["at"] == "clean")]
    # By noise level, mean over images; a task's iterates are judged one by one below.
    means = same_level[same_level["at"].isin(["clean", "noisy"])].groupby(keys)["value"].mean()
    residual = {pair: means["map_residual", pair] for pair in ("updated", "fixed")}
    lower = int((residual["updated"] < residual["fixed"]).sum())
    asymmetry, size = (
        [float(means[quantity, pair, 0]) for pair in ("updated", "fixed")]
        for quantity in ("asymmetry_G", "norm_G")
    )
    largest = {
        pair: ", ".join(f"{means[norm, pair].max():.2f}" for norm in ("norm_D", "norm_I-D"))
        for pair in ("updated", "fixed")
    }
    reflected = {pair: means["norm_2D-I", pair] for pair in ("updated", "fixed")}
    return (
        "Updated pair against fixed pair: where σ = σ₀ the MAP residual is "
        f"{_between(residual['updated'], '.2f')} against {_between(residual['fixed'], '.2f')}, "
        f"lower at {lower} of {len(residual['updated'])} noise levels; at clean images the "
        f"asymmetry of G's Jacobian is {asymmetry[0]:.2f} against {asymmetry[1]:.2f} and its norm "
        f"{size[0]:,.0f} against {size[1]:,.0f}. The largest norms over noise levels are "
        f"{largest['updated']} against {largest['fixed']} for D and I − D; that of 2D − I is "
        f"{_between(reflected['updated'], '.2f')} against {_between(reflected['fixed'], '.2f')}, "
        f"{_firmness(reflected)}. The curvature in use exceeds {BOUND} at the last iterates of "
        f"every image in {_step_margins(table, 'updated')} with the updated pair and in "
        f"{_step_margins(table, 'fixed')} with the fixed one."
    )


def _firmness(reflected: Mapping[str, pd.Series]) -> str:
    """What the norms of 2D − I, by pair and noise level, mean for PnP-ADMM."""
    firm = {pair: int((norms <= 1).sum()) for pair, norms in reflected.items()}
    if not any(firm.values()):
        return (
            "above 1 at every level with either D, so that neither satisfies the condition under "
            "which PnP-ADMM's convergence is proven"
        )
    return (
        f"so that D can be firmly nonexpansive at {firm['updated']} against {firm['fixed']} of "
        f"{len(reflected['updated'])} levels"
    )


def _step_margins(table: pd.DataFrame, pair: str) -> str:
    """`6 of 7 tasks (0.94 to 2.80 times)`: where the curvature exceeds its bound, and how far.

    By task, the least ratio over images; a diverged iterate has no bound and counts as a miss.
    """
    of_pair = table[table["pair"] == pair]
    wide = of_pair[of_pair["quantity"].isin(["curvature", "curvature_bound"])].pivot(
        index=["at", "image"], columns="quantity", values="value"
    )
    ratio = wide["curvature"] / wide["curvature_bound"]
    least = ratio.groupby("at").min()
    diverged = ratio.isna().groupby("at").any()
    met = int(((least > 1) & ~diverged).sum())
    text = f"{met} of {_tasks(least)}"
    if least.notna().any():
        text += f" ({_between(least.dropna(), '.2f')} times"
        lost = int(diverged.sum())
        return text + (f"; iterates diverged in {lost})" if lost else ")")
    return f"{text} (all iterates diverged)"


# --- where PnP-GD and PnP-ADMM end --------------------------------------------------------------


class Limits(NamedTuple):
    """PSNR of PnP-GD minus that of PnP-ADMM with the original D, and the two parts of it.

    `update` is what PnP-ADMM gains by the updated D, `rest` PnP-GD minus that.
    """

    gap: PairedDifference
    update: PairedDifference
    rest: PairedDifference


def limits_of(ablation: pd.DataFrame, task: str) -> Limits:
    """The gap between PnP-GD and PnP-ADMM on one task of the ablation, in dB."""
    gd, own, original = "pnp-gd@updated", "pnp-admm@updated", "pnp-admm@original"
    pairs = ((gd, original), (own, original), (gd, own))
    return Limits(*(compared(ablation, "limits", task, a, b, "psnr") for a, b in pairs))


def limits_say(ablation: pd.DataFrame, diagnostics: pd.DataFrame) -> str:
    """What PnP-GD gains or loses against PnP-ADMM by D's update and beside it; how G meets D."""
    sentences = []
    for task in tasks_in_order(ablation["task"].tolist()):
        gap, update, rest = limits_of(ablation, task)
        sentences.append(
            f"{task_name(task)}: PnP-GD minus PnP-ADMM with the original D is "
            f"{_with_interval(gap)}, the sum of {_with_interval(update)} that D's update brings "
            f"PnP-ADMM as well, and {_with_interval(rest)} between PnP-GD and PnP-ADMM with the "
            "updated D."
        )
    own, other = (
        alignments(diagnostics, "updated", arm).groupby("at")["value"].mean()
        for arm in ("updated", "original")
    )
    if not own.empty:
        sentences.append(
            "Where PnP-ADMM ends, G and what D removes have a cosine of "
            f"{_between(own, '.2f')} with the updated D, to which G belongs, and of "
            f"{_between(other[own.index], '.2f')} with the original one in the same tasks."
        )
    return " ".join(sentences)


def _with_interval(difference: PairedDifference) -> str:
    """`−0.59 dB [−1.02, −0.31]`"""
    interval = difference.interval
    return f"{difference.mean:+.2f} dB" + (
        f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else ""
    )


def alignments(diagnostics: pd.DataFrame, pair: str, arm: str) -> pd.DataFrame:
    """Of a pair's G with a D, original or updated, by task and image."""
    of_arm = diagnostics["quantity"] == f"alignment_{arm}"
    return diagnostics[of_arm & (diagnostics["pair"] == pair)]


# --- training seeds ---------------------------------------------------------------------------


def seeds_say(table: pd.DataFrame) -> str:
    """How many training seeds are in a table, and how far apart they lie; "" where it is one."""
    seeds = table["seed"].nunique()
    if seeds == 1:
        return ""
    keys = ["task", "method", "seed"]
    psnr = table[table["metric"] == "psnr"]
    ends = psnr.loc[psnr.groupby([*keys, "image"])["iteration"].idxmax()]
    of_seeds = ends.groupby(keys)["value"].mean()
    return (
        f" What uses ReG is the mean over {seeds} training seeds, whose mean PSNR has a standard "
        f"deviation of at most {of_seeds.groupby(keys[:2]).std().max():.2f} dB."
    )


# --- λ ----------------------------------------------------------------------------------------


def of_lambda(sweep: pd.DataFrame, method: str, metric: str) -> pd.DataFrame:
    """What a sweep of λ measured of a method, by λ (rows) and task (columns)."""
    rows = sweep[(sweep["method"] == method) & (sweep["metric"] == metric)]
    found = rows.pivot(index="lambda", columns="task", values="value")
    # A λ whose training diverged has no numbers.
    return found.reindex(sorted(sweep["lambda"].unique()))[tasks_in_order(found.columns.tolist())]


def lambda_says(sweep: pd.DataFrame) -> str:
    """The best λ of PnP-GD, the residual from end to end, and from which λ on PnP-ADMM holds."""
    mean = of_lambda(sweep, "pnp-gd", "psnr").mean(axis=1)
    residual = of_lambda(sweep, "denoiser", "map_residual").iloc[:, 0].dropna()
    denoiser = of_lambda(sweep, "denoiser", "psnr").iloc[:, 0].dropna()
    best, last = (of_lambda(sweep, SWEPT_ADMM, m) for m in ("psnr_oracle", "psnr"))
    lost = (best - last).max(axis=1).dropna()
    return (
        f"PnP-GD is best at λ = {mean.idxmax():g} ({mean.max():.2f} dB, mean over tasks; "
        f"{mean.min():.2f} dB at λ = {mean.idxmin():g}). From λ = {residual.index[0]:g} to "
        f"{residual.index[-1]:g} the MAP residual goes from {residual.iloc[0]:.2f} to "
        f"{residual.iloc[-1]:.2f}, D's PSNR from {denoiser.iloc[0]:.2f} to "
        f"{denoiser.iloc[-1]:.2f} dB. In the task where it loses most, unbounded PnP-ADMM with "
        "that D ends "
        f"{lost.max():.2f} dB below its own best at λ = {lost.idxmax():g} and {lost.min():.2f} dB "
        f"at λ = {lost.idxmin():g}."
    )
