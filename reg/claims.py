"""The ledger: six claims of the paper as statements that result tables decide.

Every claim names the rows it speaks of, a statistic, a threshold and a rule for its verdict.
They were written before the first result. All have been changed since: each says how it judged
before (`Claim.changed`).
Evidence that is missing or not a number raises ClaimError, so that no claim passes by silence.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from reg.errors import InputError
from reg.evaluation import COLUMNS as COLUMNS
from reg.methods import CONVERGENCE, without_orientation
from reg.problems import parse_task, task_label
from reg.statistics import LEVEL, PairedDifference, mean_over_tasks, paired_difference

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
OPPOSITE: dict[Verdict, Verdict] = {
    "reproduced": "not reproduced",
    "not reproduced": "reproduced",
    "inconclusive": "inconclusive",
}

TEXT_COLUMNS = ("task", "method", "image", "metric", "parameters", "name", "role", "source", "path")

# Methods in the order of every table and figure, with the names readers know them by.
METHODS = {
    "start": "Degraded",
    "pnp-gd": "PnP-GD (ReG)",
    "pnp-gd-adam": "PnP-GD, Adam",
    "pnp-gd-published": "PnP-GD, Adam, published start",
    "pnp-gd-plain": "PnP-GD, plain step",
    "pnp-gd-spectral": "PnP-GD, spectral step",
    "red": "RED",
    "pnp-admm": "PnP-ADMM",
    "pnp-admm-unbounded": "PnP-ADMM, unbounded",
    "pnp-hqs": "PnP-HQS (DPIR)",
    "pnp-pgd": "PnP-PGD",
    "gs-pnp": "GS-PnP",
    "tv": "TV",
    "pnp-gd@updated": "PnP-GD, D updated",
    "pnp-gd@fixed": "PnP-GD, D fixed",
    "pnp-admm@original": "PnP-ADMM, original D",
    "pnp-admm@updated": "PnP-ADMM, updated D",
    "pnp-admm-unbounded@original": "PnP-ADMM, original D, unbounded",
    "pnp-admm-unbounded@updated": "PnP-ADMM, updated D, unbounded",
    "unrolled-reg": "Unrolled, ReG start",
    "unrolled-denoiser": "Unrolled, denoiser start",
    "unrolled-random": "Unrolled, random start",
    "unrolled-end-to-end": "DRUNet, end to end",
}

# The constants of the rules.
PUBLISHED_ADMM = "pnp-admm-unbounded"  # as the paper runs it; `pnp-admm` has PnP-GD's bounds
FAMILIES = {"deblur": "deblurring", "sr": "super-resolution", "inpaint": "inpainting"}
OBLIGATORY_RIVALS = ("red", "pnp-admm")
GENERIC_RIVALS = (*OBLIGATORY_RIVALS, "pnp-hqs", "pnp-pgd", "gs-pnp")  # one network, all tasks
VISUAL_TASK = "inpaint-20"
CONVERGENCE_TASKS = CONVERGENCE
LONG_ENOUGH = 500  # iterations below which nothing is said about PnP-ADMM's convergence
GD_LONG_ENOUGH = 1500  # and about that of gradient descent: the official code's number
PSNR_DROP = 0.1  # dB that a converged run may lie below its own best
LATE_CHANGE = 0.1  # dB by which the second half of its iterations may still change it
MSD_RATIO = 100.0  # by which a converged run's steps must have shrunk
HEAD = 10  # first iterations that the tail is compared with
TAIL = 0.1  # last share of the iterations
MSD_RANGE = (1e-14, 1e12)  # below: float32 rounding of values in [0,1]; above: diverged
SETTLED = 1e-13  # mean squared steps below it are little more than that rounding
PUBLISHED_UPDATED, PUBLISHED_FIXED = 35.46, 33.72  # dB, one image (the authors' talk)


class ClaimError(InputError):
    """The evidence for a claim is missing or not a number; the message names claim and rows."""


@dataclass(frozen=True)
class Evidence:
    """The four tables that the claims speak of, each with the columns COLUMNS.

    Beside them `trials`, what the stage `tune` tried on validation images: task, method, psnr.
    """

    restoration: pd.DataFrame
    convergence: pd.DataFrame
    ablation: pd.DataFrame
    unrolled: pd.DataFrame
    trials: pd.DataFrame


@dataclass(frozen=True)
class Finding:
    """What a rule found: a number with its interval, a verdict, and why in one sentence.

    `seeds` are the training seeds behind it, and `seeds_of` what was trained with them.
    """

    difference: PairedDifference
    verdict: Verdict
    why: str
    seeds: Sequence[int]
    parts: dict[str, Any] = field(default_factory=dict)
    seeds_of: str = "training seeds"


@dataclass(frozen=True)
class Claim:
    """One declared claim.

    `published` is None where no number of the paper is available to us; `rule` says in words
    what `judge` does, and `changed` what it did when the first results were seen, if that differs.
    """

    id: str
    claim: str
    published: float | None
    published_note: str
    statistic: str
    unit: str
    rule: str
    stages: tuple[str, ...]
    judge: Callable[[Evidence], Finding]
    changed: str = ""


# --- reading rows -----------------------------------------------------------------------------


def read_table(path: Path) -> pd.DataFrame:
    """Read a long table with the columns COLUMNS; InputError says what is wrong.

    `seed` is the training seed; of methods that ReG training has no part in, the first one.
    `value` may hold NaN or infinity (a run that diverged); rules decide what that means.
    """
    table = read_csv(path, COLUMNS)
    keys = COLUMNS[:-1]
    if table.duplicated(keys).any():
        row = table.loc[table.duplicated(keys), keys].iloc[0]
        raise InputError(f"{path}: row {','.join(map(str, row))} occurs twice; rerun its stage")
    return table


def read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file that must have exactly these columns and at least one row."""
    try:
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(TEXT_COLUMNS, str),
            keep_default_na=False,  # an image may be called NA
            na_values={"value": ["", "nan", "NaN"], "psnr": ["", "nan", "NaN"]},
        )
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV table ({error}); rerun its stage") from None
    if list(table.columns) != list(columns):
        found = ",".join(map(str, table.columns))
        raise InputError(f"{path}: columns are {found}, must be {','.join(columns)}")
    if table.empty:
        raise InputError(f"{path}: has no rows; rerun its stage")
    for column in ("seed", "iteration", "value"):
        if column in columns and not pd.api.types.is_numeric_dtype(table[column]):
            raise InputError(f"{path}: column {column} holds text; it must be numbers")
    return table


def count_verdicts(ledger: Sequence[Mapping[str, Any]]) -> dict[Verdict, int]:
    """How many claims have each verdict, in the order in which reports name them."""
    return {
        verdict: sum(claim["verdict"] == verdict for claim in ledger)
        for verdict in get_args(Verdict)
    }


def cautions_of(ledger: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know of claims' intervals, each thing once with the claims it is of."""
    of: dict[str, list[str]] = {}
    for claim in ledger:
        for part in claim["caution"].split("; "):
            of.setdefault(part, []).append(claim["id"])
    return [
        part if len(ids) == len(ledger) else f"{part} ({', '.join(ids)})"
        for part, ids in sorted(of.items())
        if part
    ]


def in_order(names: Sequence[str]) -> list[str]:
    """Known methods in declared order, each before its ×1 or ×8, then unknown ones by name."""
    order = list(METHODS)

    def place(method: str) -> tuple[int, str]:
        base = without_orientation(method)
        return (order.index(base) if base in METHODS else len(order), method)

    return sorted(set(names), key=place)


def method_name(method: str) -> str:
    """What readers call a method: `PnP-GD (ReG)`; with ×8 or ×1 where that is not its usual."""
    base = without_orientation(method)
    return METHODS.get(base, base) + method.removeprefix(base).replace("+x", " ×")


def tasks_in_order(names: Sequence[str]) -> list[str]:
    """Tasks by family (deblurring, super-resolution, inpainting, denoising), then as they come."""
    order = [*FAMILIES, "denoise"]
    return sorted(dict.fromkeys(names), key=lambda task: order.index(parse_task(task).kind))


def task_name(task: str) -> str:
    """What readers call a task: `Deblurring k5, σₙ 2.55`."""
    return task_label(parse_task(task))


def curves(table: pd.DataFrame, claim: str, task: str, method: str, metric: str) -> pd.DataFrame:
    """Values by iteration (rows) and run (columns: seed, image; sorted), complete, without NaN.

    Raises:
        ClaimError: no such rows, or a seed lacks an image that others have, or a run an iteration,
            or NaN.
    """
    rows = table[
        (table["task"] == task) & (table["method"] == method) & (table["metric"] == metric)
    ]
    named = f"claim {claim}: rows task={task}, method={method}, metric={metric}"
    if rows.empty:
        raise ClaimError(f"{named} are missing; run the stage that makes them with this task")
    wide = rows.pivot(index="iteration", columns=["seed", "image"], values="value")
    every = [sorted(rows["seed"].unique()), sorted(rows["image"].unique())]
    wide = wide.reindex(columns=pd.MultiIndex.from_product(every, names=["seed", "image"]))
    if wide.isna().to_numpy().any():
        lacking = wide.loc[:, wide.isna().any(axis=0)]
        seed, image = (lacking.columns.get_level_values(level)[0] for level in ("seed", "image"))
        iteration = lacking.index[lacking.iloc[:, 0].isna()][0]
        of_seed = f" of seed {seed}" if rows["seed"].nunique() > 1 else ""
        raise ClaimError(
            f"{named} have no number for image {image}{of_seed} at iteration {iteration}"
        )
    return wide


def last(table: pd.DataFrame, claim: str, task: str, method: str, metric: str) -> pd.DataFrame:
    """Value of the last iterate by seed (rows) and image (columns), both sorted."""
    return by_seed(curves(table, claim, task, method, metric).iloc[-1])


def by_seed(of_runs: pd.Series) -> pd.DataFrame:
    """One number per run, as `curves` has them, by seed (rows) and image (columns)."""
    return of_runs.unstack("image")


def for_seeds_of(ours: pd.DataFrame, rival: pd.DataFrame) -> pd.DataFrame:
    """What was trained once stands beside every training seed of ours."""
    if len(rival) > 1:
        return rival
    return rival.loc[rival.index.repeat(len(ours))].set_axis(ours.index)


def paired(
    ours: pd.DataFrame, rival: pd.DataFrame, claim: str, names: str
) -> tuple[np.ndarray, np.ndarray]:
    """Two tables of seeds and images as arrays in the same order; ClaimError if these differ."""
    for of_ours, of_rival, what in (
        (ours.columns, rival.columns, "on different images"),
        (ours.index, rival.index, "with different training seeds"),
    ):
        if list(of_ours) != list(of_rival):
            odd = sorted(set(of_ours) ^ set(of_rival))
            raise ClaimError(f"claim {claim}: {names} were measured {what}: {odd}")
    return ours.to_numpy(dtype=float), rival.to_numpy(dtype=float)


def _tasks(table: pd.DataFrame, claim: str, method: str, metric: str) -> list[str]:
    rows = table[(table["method"] == method) & (table["metric"] == metric)]
    if rows.empty:
        raise ClaimError(f"claim {claim}: rows method={method}, metric={metric} are missing")
    return tasks_in_order(rows["task"].tolist())


def compared(
    table: pd.DataFrame, claim: str, task: str, method: str, reference: str, metric: str
) -> PairedDifference:
    """A method minus a reference, last iterates, paired by training seed and image."""
    ours = last(table, claim, task, method, metric)
    theirs = last(table, claim, task, reference, metric)
    return paired_difference(
        *paired(
            for_seeds_of(theirs, ours),
            for_seeds_of(ours, theirs),
            claim,
            f"{method} and {reference} on {task}",
        )
    )


def over_tasks(by_task: Mapping[str, pd.DataFrame], claim: str) -> np.ndarray:
    """Mean over tasks by seed and image; ClaimError if tasks differ in their seeds or images."""
    (first, of_first), *others = by_task.items()
    for task, values in others:
        paired(of_first, values, claim, f"{first} and {task}")
    return mean_over_tasks(list(by_task.values()))


def _seeds(of: pd.DataFrame) -> list[int]:
    return [int(seed) for seed in of.index]


def _by_interval(difference: PairedDifference) -> Verdict:
    if difference.low > 0:
        return "reproduced"
    return "not reproduced" if difference.high < 0 else "inconclusive"


def _part(difference: PairedDifference) -> dict[str, Any]:
    return {"difference": difference.mean, "interval": difference.interval}


# --- the rules --------------------------------------------------------------------------------


def best_rival(evidence: Evidence, claim: str, task: str, metric: str) -> str:
    """The generic method with the highest PSNR on the validation images of this task.

    There it is the best trial of its tuning that counts. Chosen by the test images, the rival would
    owe a part of its lead to their chance. All must have been measured on PnP-ReG's images.
    """
    table, trials = evidence.restoration, evidence.trials
    present = set(table.loc[(table["task"] == task) & (table["metric"] == metric), "method"])
    ours = last(table, claim, task, "pnp-gd", metric)
    best: dict[str, float] = {}
    for method in GENERIC_RIVALS:
        if method in present or method in OBLIGATORY_RIVALS:
            theirs = for_seeds_of(ours, last(table, claim, task, method, metric))
            paired(ours, theirs, claim, f"{method} and pnp-gd on {task}")
            tried = trials.loc[(trials["task"] == task) & (trials["method"] == method), "psnr"]
            if tried.dropna().empty:
                raise ClaimError(
                    f"claim {claim}: rows task={task}, method={method} of the trials are missing; "
                    "run `dvc repro tune`"
                )
            best[method] = float(tried.max())
    return max(best, key=lambda method: best[method])


def judge_restoration(evidence: Evidence) -> Finding:
    """PnP-ReG against the best rival of each task, PSNR paired over images."""
    claim, table = "restoration", evidence.restoration
    tasks = [t for t in _tasks(table, claim, "pnp-gd", "psnr") if parse_task(t).kind in FAMILIES]
    for family, name in FAMILIES.items():
        if not any(parse_task(t).kind == family for t in tasks):
            raise ClaimError(
                f"claim {claim}: rows task={family}-*, method=pnp-gd, metric=psnr are missing; "
                f"the claim speaks of {name} too"
            )
    parts: dict[str, Any] = {}
    ours, rivals, differences, behind = {}, {}, [], 0
    for task in tasks:
        rival = best_rival(evidence, claim, task, "psnr")
        ours[task] = last(table, claim, task, "pnp-gd", "psnr")
        rivals[task] = for_seeds_of(ours[task], last(table, claim, task, rival, "psnr"))
        values = paired(ours[task], rivals[task], claim, f"{rival} and pnp-gd")
        difference = paired_difference(*values)
        differences.append(difference)
        # Of several tasks one may well lie below 0 by chance (Bonferroni).
        behind += paired_difference(*values, level=1 - (1 - LEVEL) / len(tasks)).high < 0
        parts[task] = {"rival": rival, **_part(difference)}
    overall = paired_difference(over_tasks(ours, claim), over_tasks(rivals, claim))
    ahead = sum(d.low > 0 for d in differences)
    verdict: Verdict = "inconclusive"
    if ahead == len(tasks):
        verdict = "reproduced"
    elif behind:
        verdict = "not reproduced"
    worst = tasks[int(np.argmin([d.mean for d in differences]))]
    why = (
        f"Against the best rival of each task ({_rivals(parts)}), PnP-ReG is ahead in {ahead} of "
        f"{len(tasks)} tasks "
        f"with the whole interval, and behind in {behind} with the wider one that allows for "
        f"{len(tasks)} tasks; the mean difference is "
        f"{overall.text('dB')}, the least favourable task {task_name(worst)} against "
        f"{METHODS[parts[worst]['rival']]} with {differences[tasks.index(worst)].text('dB')}"
    )
    return Finding(overall, verdict, f"{why}.", _seeds(ours[tasks[0]]), parts)


def _rivals(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """`PnP-ADMM in 3, RED in 1`: in how many tasks each rival is the best."""
    names = [METHODS[part["rival"]] for part in parts.values()]
    return ", ".join(f"{name} in {names.count(name)}" for name in sorted(set(names)))


def judge_visual(evidence: Evidence) -> Finding:
    """PnP-ReG against the best rival in inpainting 20 %, SSIM paired over images."""
    claim, table = "visual", evidence.restoration
    mine = last(table, claim, VISUAL_TASK, "pnp-gd", "ssim")
    rival = best_rival(evidence, claim, VISUAL_TASK, "ssim")
    theirs = for_seeds_of(mine, last(table, claim, VISUAL_TASK, rival, "ssim"))
    a, b = paired(mine, theirs, claim, f"{rival} and pnp-gd")
    difference = paired_difference(a, b)
    why = (
        f"Mean SSIM is {a.mean():.3f} with PnP-ReG and {b.mean():.3f} with {METHODS[rival]}, the "
        f"best rival: {difference.text(decimals=3)}; SSIM is a proxy, nobody was asked which "
        "image looks better"
    )
    verdict = _by_interval(difference)
    return Finding(difference, verdict, f"{why}.", _seeds(mine), {"rival": rival})


def drop_from_best(psnr: pd.DataFrame) -> pd.DataFrame:
    """Best PSNR over iterations minus PSNR of the last iterate, dB, by seed and image."""
    return by_seed(psnr.max() - psnr.iloc[-1])


def head_and_tail(msd: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean of msd over the first HEAD and over the last TAIL of iterations, by seed and image."""
    values = msd[msd.index > 0].clip(*MSD_RANGE)
    n = max(1, round(TAIL * len(values)))
    return by_seed(values.iloc[:HEAD].mean()), by_seed(values.iloc[-n:].mean())


def _convergence(table: pd.DataFrame, claim: str, task: str, method: str) -> dict[str, Any]:
    """How a method converges on a task, per run: drop in dB, shrinking of steps, criteria met.

    A run that holds its PSNR and shrinks its steps, but has not settled, is on its way: neither
    `converged` nor `failed`. Beside them the PSNR in dB that the second half of the iterations
    brings, mean over runs.
    """
    psnr = curves(table, claim, task, method, "psnr")
    msd = curves(table, claim, task, method, "msd")
    drop = drop_from_best(psnr)
    head, tail = head_and_tail(msd)
    paired(drop, tail, claim, f"psnr and msd of {method} on {task}")
    late = by_seed(psnr.iloc[-1] - psnr.iloc[len(psnr) // 2])
    held, shrunk = (drop <= PSNR_DROP).to_numpy(), (head >= MSD_RATIO * tail).to_numpy()
    settled = (late.abs() <= LATE_CHANGE).to_numpy()
    return {
        "iterations": int(psnr.index[-1]),
        "last": by_seed(psnr.iloc[-1]),
        "drop": drop,
        "tail": tail,
        "shrink": (head / tail).to_numpy(),
        "held": held,
        "shrunk": shrunk,
        "settled": settled,
        "converged": held & shrunk & settled,
        "failed": ~(held & shrunk),
        "late": float(late.to_numpy().mean()),
    }


def _counted_runs(run: Mapping[str, Any]) -> dict[str, Any]:
    """What `parts` hold of a method on a task: PSNR, and how many runs meet which criterion."""
    last, drop = (float(run[name].to_numpy().mean()) for name in ("last", "drop"))
    counts = {name: int(run[name].sum()) for name in ("converged", "held", "shrunk", "settled")}
    return {"peak": last + drop, "last": last, **counts, "runs": run["converged"].size}


def _say_runs(counted: Mapping[str, Any]) -> str:
    """`28.15 to 28.02 dB (1 of 4 runs converge; drop 1, steps 4, second half 3)`."""
    c = counted
    return (
        f"{c['peak']:.2f} to {c['last']:.2f} dB ({c['converged']} of {c['runs']} runs converge; "
        f"drop {c['held']}, steps {c['shrunk']}, second half {c['settled']})"
    )


def judge_gd_convergence(evidence: Evidence) -> Finding:
    """The criteria of convergence for every run of PnP-ReG's plain step, others beside it."""
    claim, table = "gd-convergence", evidence.convergence
    parts: dict[str, Any] = {}
    methods = ("pnp-gd-plain+x1", "pnp-gd+x1", PUBLISHED_ADMM, "pnp-admm")
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for task in CONVERGENCE_TASKS:
        for method in runs:
            run = _convergence(table, claim, task, method)
            runs[method].append(run)
            parts[f"{task}/{method}"] = {
                "iterations": run["iterations"],
                **_counted_runs(run),
                "largest_drop": float(run["drop"].to_numpy().max()),
                "smallest_shrink": float(run["shrink"].min()),
                "late_gain": run["late"],
            }
    gd = runs["pnp-gd-plain+x1"]
    drops = over_tasks(
        {task: run["drop"] for task, run in zip(CONVERGENCE_TASKS, gd, strict=True)}, claim
    )
    drop = paired_difference(drops, np.zeros_like(drops))
    shortest = min(r["iterations"] for r in gd)
    enough = shortest >= GD_LONG_ENOUGH
    verdict, first = _by_runs(gd, enough), _by_runs(runs["pnp-gd+x1"], enough)
    met = {m: sum(int(r["converged"].sum()) for r in rs) for m, rs in runs.items()}
    total = {m: sum(r["converged"].size for r in rs) for m, rs in runs.items()}
    deepest = {m: max(r["drop"].to_numpy().max() for r in rs) for m, rs in runs.items()}
    late = ", ".join(
        f"{run['late']:+.2f} dB in {task_name(task)}"
        for task, run in zip(CONVERGENCE_TASKS, gd, strict=True)
    )
    by = {name: sum(int(run[name].sum()) for run in gd) for name in ("held", "shrunk", "settled")}
    why = (
        f"{met['pnp-gd-plain+x1']} of {total['pnp-gd-plain+x1']} runs of PnP-ReG by the paper's "
        f"step converge within {shortest:,} iterations: {by['held']} hold their PSNR (largest drop "
        f"{deepest['pnp-gd-plain+x1']:.3f} dB), {by['shrunk']} shrink their steps (by "
        f"{_factor(min(r['shrink'].min() for r in gd))} or more in mean square), {by['settled']} "
        f"have settled (the second half of the iterations brings {late}); beside it "
        f"{met['pnp-gd+x1']} of {total['pnp-gd+x1']} by the accelerated schedule, by which the "
        f"claim would be {first}, "
        f"{met[PUBLISHED_ADMM]} of {total[PUBLISHED_ADMM]} of PnP-ADMM as published (largest drop "
        f"{deepest[PUBLISHED_ADMM]:.3f} dB), and {met['pnp-admm']} of {total['pnp-admm']} of "
        f"PnP-ADMM kept within [0,1] (largest drop {deepest['pnp-admm']:.3f} dB)"
    )
    if not enough:
        why += f"; fewer than {GD_LONG_ENOUGH:,} iterations cannot show convergence"
    return Finding(drop, verdict, f"{why}.", _seeds(gd[0]["drop"]), parts)


def _by_runs(runs: Sequence[Mapping[str, Any]], enough: bool) -> Verdict:
    """Whether every run of every task converged, over enough iterations."""
    if any(run["failed"].mean() > 0.5 for run in runs):
        return "not reproduced"
    all_do = enough and all(run["converged"].all() for run in runs)
    return "reproduced" if all_do else "inconclusive"


def judge_update_denoiser(evidence: Evidence) -> Finding:
    """PSNR of PnP-ReG with D updated against D fixed, paired over images.

    Looked at twice, after all iterations and after half of them: a difference that hangs on where
    one stops says little of the two.
    """
    claim, table = "update-denoiser", evidence.ablation
    parts: dict[str, Any] = {}
    updated, fixed, found = {}, {}, {}
    halfway: dict[str, dict[str, pd.DataFrame]] = {"pnp-gd@updated": {}, "pnp-gd@fixed": {}}
    tasks = _tasks(table, claim, "pnp-gd@updated", "psnr")
    for task in tasks:
        updated[task] = last(table, claim, task, "pnp-gd@updated", "psnr")
        fixed[task] = last(table, claim, task, "pnp-gd@fixed", "psnr")
        names = f"pnp-gd@updated and pnp-gd@fixed on {task}"
        a, b = paired(updated[task], fixed[task], claim, names)
        found[task] = paired_difference(a, b)
        for method, of_tasks in halfway.items():
            psnr = curves(table, claim, task, method, "psnr")
            of_tasks[task] = by_seed(psnr.iloc[len(psnr) // 2])
        parts[task] = {
            "updated": float(a.mean()), "fixed": float(b.mean()), **_part(found[task])
        }  # fmt: skip
    overall = paired_difference(over_tasks(updated, claim), over_tasks(fixed, claim))
    half = paired_difference(*(over_tasks(of_tasks, claim) for of_tasks in halfway.values()))
    levels = "; ".join(
        f"{task_name(t)}: {p['updated']:.2f} against {p['fixed']:.2f} dB, {found[t].text()}"
        for t, p in parts.items()
    )
    why = (
        f"Updating D changes PnP-ReG's PSNR by {overall.text('dB')} ({levels}); after half of the "
        f"iterations by {half.text('dB')}"
    )
    parts["halfway"] = _part(half)
    verdicts = {_by_interval(overall), _by_interval(half)}
    verdict: Verdict = verdicts.pop() if len(verdicts) == 1 else "inconclusive"
    return Finding(overall, verdict, f"{why}.", _seeds(updated[tasks[0]]), parts)


def judge_admm_convergence(evidence: Evidence) -> Finding:
    """Last PSNR, loss from the best PSNR, and final steps of PnP-ADMM with either D.

    Beside them the same of PnP-ADMM within PnP-GD's bounds, which plays no part in the verdict.
    """
    claim, table = "admm-convergence", evidence.ablation
    tasks = _tasks(table, claim, f"{PUBLISHED_ADMM}@updated", "psnr")
    if not any(parse_task(t).kind == "deblur" for t in tasks):
        raise ClaimError(
            f"claim {claim}: rows task=deblur-*, method={PUBLISHED_ADMM}@updated, metric=psnr are "
            "missing; the claim speaks of deblurring"
        )
    parts: dict[str, Any] = {}
    log_ratios: dict[str, pd.DataFrame] = {}
    found: dict[str, Verdict] = {}
    sentences, shortest = [], np.inf
    for task in tasks:
        runs = {
            method: {
                which: _convergence(table, claim, task, f"{method}@{which}")
                for which in ("original", "updated")
            }
            for method in (PUBLISHED_ADMM, "pnp-admm")
        }
        published = runs[PUBLISHED_ADMM]
        shortest = min(shortest, *(run["iterations"] for run in published.values()))
        level, drop, tail = (
            {which: run[name] for which, run in published.items()}
            for name in ("last", "drop", "tail")
        )
        for measured in (level, drop, tail):
            measured["original"] = for_seeds_of(measured["updated"], measured["original"])
        names = f"{PUBLISHED_ADMM}@updated and @original on {task}"
        final = paired_difference(*paired(level["updated"], level["original"], claim, names))
        saved = paired_difference(drop["original"], drop["updated"])
        decades = {w: tail[w].transform(np.log10) for w in tail}
        log_ratios[task] = decades["original"] - decades["updated"]
        steps = paired_difference(decades["original"], decades["updated"])
        worse = final.high < 0
        psnr_verdict: Verdict = "inconclusive"
        if (final.low > 0 or saved.low > 0) and not worse:
            psnr_verdict = "reproduced"
        elif worse and saved.low <= 0:
            psnr_verdict = "not reproduced"
        original = published["original"]
        original_verdict = OPPOSITE[_by_runs([original], original["iterations"] >= LONG_ENOUGH)]
        settled = all(d.to_numpy().mean() <= np.log10(SETTLED) for d in decades.values())
        steps_verdict = "inconclusive" if settled else _by_interval(steps)
        of_part = {"a": psnr_verdict, "b": steps_verdict, "c": original_verdict}
        found |= {f"({name}) in {task_name(task)}": v for name, v in of_part.items()}
        counted = {
            method: {which: _counted_runs(run) for which, run in of_method.items()}
            for method, of_method in runs.items()
        }
        parts[task] = {
            "psnr": {"verdict": psnr_verdict, **_part(final), "drop_saved": _part(saved)},
            "msd": {"verdict": steps_verdict, "log10_ratio": _part(steps)},
            "original": {"verdict": original_verdict},
            "runs": counted,
        }
        told, bounded = (
            {which: _say_runs(counts) for which, counts in of_method.items()}
            for of_method in counted.values()
        )
        sentences.append(
            f"{task_name(task)}, peak to last: {told['original']} with the original D, "
            f"{told['updated']} with the updated one, which changes the last by "
            f"{final.text('dB')}, saves {saved.text('dB')} of the drop, and makes the final "
            f"squared steps {_times(steps.mean)}, by {steps.text('decades')}"
            f"{', with either D down to rounding' if settled else ''}. Kept within [0,1]: "
            f"{bounded['original']} and {bounded['updated']}"
        )
    mean_ratio = over_tasks(log_ratios, claim)
    overall = paired_difference(mean_ratio, np.zeros_like(mean_ratio))
    verdict: Verdict = "inconclusive"
    if all(v == "reproduced" for v in found.values()) and shortest >= LONG_ENOUGH:
        verdict = "reproduced"
    elif "not reproduced" in found.values():
        verdict = "not reproduced"
    why = f"PnP-ADMM as published, without bounds. {_by_verdict(found)}{'. '.join(sentences)}"
    if shortest < LONG_ENOUGH:
        why += f"; {shortest:.0f} iterations, and fewer than {LONG_ENOUGH} cannot show convergence"
    at_paper = _convergence(evidence.convergence, claim, CONVERGENCE_TASKS[0], PUBLISHED_ADMM)
    why += (
        ". D's level is the tuned one; with the paper's, 30/255, "
        f"{at_paper['converged'].sum()} of {at_paper['converged'].size} runs with the original D "
        f"converge in {task_name(CONVERGENCE_TASKS[0])}"
    )
    return Finding(overall, verdict, f"{why}.", _seeds(log_ratios[tasks[0]]), parts)


def _by_verdict(found: Mapping[str, Verdict]) -> str:
    """`Against the claim: (a) in Deblurring k3. Open: (c) in …. `, of the parts of a rule."""
    said = ""
    headings: tuple[tuple[str, Verdict], ...] = (
        ("Against the claim", "not reproduced"),
        ("Open", "inconclusive"),
    )
    for heading, verdict in headings:
        those = [part for part, v in found.items() if v == verdict]
        said += f"{heading}: {', '.join(those)}. " if those else ""
    return said


def _times(log_ratio: float) -> str:
    """`40x smaller`, from log10 of original over updated."""
    return f"{_factor(10 ** abs(log_ratio))} {'smaller' if log_ratio >= 0 else 'larger'}"


def _factor(value: float) -> str:
    """`10,000x`: two significant digits, without an exponent up to a million."""
    return f"{value:.1e}x" if value >= 1e6 else f"{float(f'{value:.2g}'):,g}x"


def judge_unrolled(evidence: Evidence) -> Finding:
    """PSNR of the unrolled networks from either start at an equal budget."""
    claim, table = "unrolled", evidence.unrolled
    parts: dict[str, Any] = {}
    regs, randoms, gains, budget = {}, {}, {}, 0
    tasks = _tasks(table, claim, "unrolled-reg", "psnr")
    for task in tasks:
        reg = curves(table, claim, task, "unrolled-reg", "psnr")
        random = curves(table, claim, task, "unrolled-random", "psnr")
        denoiser = curves(table, claim, task, "unrolled-denoiser", "psnr")
        for start, other in (("random", random), ("denoiser", denoiser)):
            if reg.index[-1] != other.index[-1]:
                raise ClaimError(
                    f"claim {claim}: unrolled-reg was trained for {reg.index[-1]} iterations and "
                    f"unrolled-{start} for {other.index[-1]} on {task}; the budget must be equal"
                )
        budget = int(reg.index[-1])
        gains[task] = compared(table, claim, task, "unrolled-reg", "unrolled-denoiser", "psnr")
        names = f"unrolled-reg and unrolled-random on {task}"
        regs[task], randoms[task] = by_seed(reg.iloc[-1]), by_seed(random.iloc[-1])
        a, b = paired(regs[task], randoms[task], claim, names)
        parts[task] = {
            "reg": float(a.mean()), "random": float(b.mean()), **_part(paired_difference(a, b))
        }  # fmt: skip
    overall = paired_difference(over_tasks(regs, claim), over_tasks(randoms, claim))
    ahead = sum(part["interval"] is not None and part["interval"][0] > 0 for part in parts.values())
    levels = "; ".join(
        f"{task_name(t)}: {p['reg']:.2f} against {p['random']:.2f} dB" for t, p in parts.items()
    )
    said = ", ".join(f"{gain.text('dB')} in {task_name(t)}" for t, gain in gains.items())
    verdict = _by_interval(overall)
    if verdict == "reproduced" and any(gain.high < 0 for gain in gains.values()):
        verdict = "inconclusive"
    why = (
        f"After {budget:,} training iterations from either start, ReG's start is better by "
        f"{overall.text('dB')} ({levels}); the interval lies above 0 on {ahead} of "
        f"{len(tasks)} task{'s' if len(tasks) > 1 else ''}; against a start from the pre-trained "
        f"denoiser it is {said}"
    )
    return Finding(
        overall, verdict, f"{why}.", _seeds(regs[tasks[0]]), parts,
        "fine-tuning seeds, from one training of ReG",
    )  # fmt: skip


INTERVAL_RULE = (
    "reproduced if the 95 % interval lies above 0, not reproduced if it lies below, "
    "else inconclusive"
)

CLAIMS = (
    Claim(
        "restoration",
        "PnP-ReG beats the generic PnP and RED methods that use one network for all tasks, in "
        "deblurring, super-resolution and pixel-wise inpainting.",
        None,
        "tables not available to us",
        "PSNR of PnP-ReG minus that of the rival that is best on the validation images, mean over "
        "tasks",
        "dB",
        "per task, paired over images: reproduced if the 95 % interval lies above 0 in every "
        "task, not reproduced if the wider one of level 1 − 5 %/(number of tasks) lies below 0 in "
        "any, else inconclusive",
        ("tune", "evaluate_restoration"),
        judge_restoration,
        "at first the rival was the one with the highest mean on the test images, and a 95 % "
        "interval below 0 in one task was enough, both of which favoured the rivals; and PnP-ADMM "
        "and PnP-HQS had no bounds on their iterates, and no network was turned",
    ),
    Claim(
        "visual",
        "Inpainting from 20 % of the pixels looks visibly better than with the other methods.",
        None,
        "a figure, no number",
        "SSIM (a proxy for looks) of PnP-ReG minus that of the rival that is best on the "
        "validation images, by PSNR; inpainting 20 %",
        "",
        INTERVAL_RULE,
        ("tune", "evaluate_restoration"),
        judge_visual,
        "at first the rival was the one with the highest SSIM on the test images, and PnP-ADMM and "
        "PnP-HQS had no bounds on their iterates, and no network was turned",
    ),
    Claim(
        "gd-convergence",
        "PnP-ReG by gradient descent converges, for deblurring and for super-resolution.",
        None,
        "curves, no number",
        "PSNR lost between the best and the last iterate of PnP-ReG by the paper's step, mean over "
        "both settings",
        "dB",
        f"a run converges if it holds its PSNR (the last iterate is within {PSNR_DROP} dB of the "
        f"best), shrinks its steps (the mean square of the last {TAIL:.0%} of iterations is "
        f"{MSD_RATIO:.0f} times below that of the first {HEAD}), and has settled (the second half "
        f"of the iterations changes its PSNR by no more than {LATE_CHANGE} dB); reproduced if "
        f"every run converges in both settings over at least {GD_LONG_ENOUGH:,} iterations, not "
        "reproduced if in either more than half fail to hold their PSNR or to shrink their steps, "
        "else inconclusive. Judged by the step of the paper's equation, "
        "x ← x − μ(Aᵀ(Ax − y) + σ²G(x)), with images in one orientation",
        ("evaluate_convergence",),
        judge_gd_convergence,
        "at first the accelerated schedule was judged, which was PnP-ReG's only one; since there "
        "are others it is the step of the paper, and what the accelerated one gives stands beside "
        f"it; and {LONG_ENOUGH} iterations were enough, of runs that need not have settled, so "
        "that one which had not yet come to its best could not fall from it; σ and c are since "
        "tuned for a G that is turned",
    ),
    Claim(
        "update-denoiser",
        "Training G together with D beats training it with D fixed.",
        round(PUBLISHED_UPDATED - PUBLISHED_FIXED, 2),
        f"{PUBLISHED_UPDATED} dB against {PUBLISHED_FIXED} dB on one image; which image and "
        "which task is not stated",
        "PSNR of PnP-ReG with D updated minus with D fixed, last iterate, mean over tasks",
        "dB",
        "reproduced if the 95 % interval lies above 0, after all iterations and after half of "
        "them, not reproduced if both lie below, else inconclusive",
        ("ablate",),
        judge_update_denoiser,
        "at first the last iterate alone was looked at, and G was not turned",
    ),
    Claim(
        "admm-convergence",
        "Over many iterations PnP-ADMM does not converge with the original D, even if it may peak "
        "higher early, and converges better with the updated D.",
        None,
        "curves, no number",
        f"log10 of the final mean squared step (last {TAIL:.0%} of iterations) with the original D "
        "over that with the updated D, mean over tasks; steps are clipped to "
        f"[{MSD_RANGE[0]:.0e}, {MSD_RANGE[1]:.0e}], rounding and divergence",
        "decades",
        "per task: (a) PSNR: the last iterate is better with the updated D or drops less from its "
        "best, 95 % interval above 0, and it is not worse, interval below 0; (b) steps: the "
        "logarithm's interval lies above 0, and not both geometric means are below "
        f"{SETTLED:.0e}, where rounding begins; (c) with the original D more than half of the "
        "runs fail to hold their PSNR or to shrink their steps, as in gd-convergence; reproduced "
        f"if all hold in every task over at least {LONG_ENOUGH} iterations, not reproduced if in "
        "any task the last iterate is worse with the updated D and drops no less, (b) is reversed, "
        f"or every run with the original D converges, as there, over {LONG_ENOUGH} iterations, "
        "else inconclusive. Judged without bounds on the iterates, as the paper runs it",
        ("ablate",),
        judge_admm_convergence,
        f"(b) had no bound of {SETTLED:.0e}, so that it could hold by a difference between "
        "rounding errors of runs that had settled with either D; (a) held by a smaller drop even "
        "if the last iterate was worse, and spoke against the claim only if the drop was greater, "
        "too; (c) was missing, so that the claim could be reproduced where PnP-ADMM converges with "
        "the original D; and runs that had not settled counted as converged",
    ),
    Claim(
        "unrolled",
        "ReG is a good initialisation for an unrolled gradient-descent network.",
        None,
        "tables not available to us",
        "PSNR after training from ReG minus after training from random weights in ReG's form, "
        "equal budget",
        "dB",
        f"{INTERVAL_RULE}; inconclusive, too, if a start from the pre-trained denoiser is better "
        "in any task, interval below 0",
        ("finetune_unrolled@reg", "finetune_unrolled@random", "finetune_unrolled@denoiser"),
        judge_unrolled,
        "at first the start from the pre-trained denoiser played no part",
    ),
)


def judge_claims(evidence: Evidence, files: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Every claim with its verdict, as JSON-ready objects in the order of the ledger.

    Args:
        evidence: the four tables.
        files: claim id → the result files its rows come from, as a reader finds them.

    Raises:
        ClaimError: evidence for a claim is missing or not a number.
    """
    ledger: list[dict[str, Any]] = []
    for c in CLAIMS:
        found = c.judge(evidence)
        ledger.append(
            {
                "id": c.id,
                "claim": c.claim,
                "published": c.published,
                "published_note": c.published_note,
                "measured": found.difference.mean,
                "unit": c.unit,
                "interval": found.difference.interval,
                "effect_size": found.difference.effect_size,
                "images": found.difference.images,
                "seeds": list(found.seeds),
                "trained": _counted(found.seeds, found.seeds_of),
                "verdict": found.verdict,
                "statistic": c.statistic,
                "rule": c.rule,
                "rule_changed": c.changed,
                "caution": found.difference.caution,
                "evidence": {
                    "files": files[c.id],
                    "stages": list(c.stages),
                    "command": f"dvc repro {' '.join(c.stages)}",
                    "why": found.why + _of_seeds(found.seeds, found.seeds_of),
                },
                "parts": found.parts,
            }
        )
    return [rounded(entry) for entry in ledger]


def _counted(seeds: Sequence[int], seeds_of: str) -> str:
    """`3 training seeds`, `1 training seed`."""
    return f"{len(seeds)} {seeds_of if len(seeds) > 1 else seeds_of.replace('seeds', 'seed')}"


def _of_seeds(seeds: Sequence[int], seeds_of: str) -> str:
    if len(seeds) == 1:
        return ""
    return (
        f" Numbers are means over {_counted(seeds, seeds_of)}, and the interval speaks of images "
        "and these seeds."
    )


def rounded(value: Any, digits: int = 6) -> Any:
    """The same nested value with floats at `digits` significant digits, tuples as lists.

    JSON knows no infinity and no NaN; they become None.
    """
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{digits}g}") if np.isfinite(value) else None
    return value


def write_json(path: Path, value: Any) -> None:
    """Indented UTF-8 JSON with a final line end; refuses NaN and infinity."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def claims_markdown(ledger: Sequence[dict[str, Any]], profile: str) -> str:
    """The ledger as a page: a table, then rule and evidence of each claim."""
    lines = [
        f"# Claims of the paper, tested at scale `{profile}`",
        "",
        "| id | claim | published | measured | 95 % interval | effect size | images | seeds "
        "| verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(_cells(c))} |" for c in ledger]
    for c in ledger:
        evidence = c["evidence"]
        lines += [
            "",
            f"## {c['id']}: {c['verdict']}",
            "",
            evidence["why"],
            "",
            f"- **Statistic:** {c['statistic']}.",
            f"- **Rule:** {c['rule']}.",
            *(
                [f"- **Changed after results were seen:** {c['rule_changed']}."]
                if c["rule_changed"]
                else []
            ),
            f"- **Published:** {c['published_note']}.",
            f"- **Images:** {c['images']}; **seeds:** {c['trained']}"
            f"{'; ' + c['caution'] if c['caution'] else ''}.",
            "- **Effect size** (Cohen's d_z: mean over standard deviation of the differences of "
            f"images): {_effect_size(c)}.",
            f"- **Evidence:** {', '.join(f'`{f}`' for f in evidence['files'])}, "
            f"made by `{evidence['command']}`.",
        ]
    return "\n".join(lines) + "\n"


def _effect_size(c: dict[str, Any]) -> str:
    return "none" if c["effect_size"] is None else f"{c['effect_size']:+.2f}"


def _cells(c: dict[str, Any]) -> list[str]:
    unit = f" {c['unit']}" if c["unit"] else ""
    published = "no number available" if c["published"] is None else f"{c['published']:+.2f}{unit}"
    interval = "none" if c["interval"] is None else "[{:+.3f}, {:+.3f}]".format(*c["interval"])
    return [
        f"[{c['id']}](#{c['id']}-{c['verdict'].replace(' ', '-')})",
        c["claim"],
        published,
        f"{c['measured']:+.3f}{unit}",
        interval,
        _effect_size(c),
        str(c["images"]),
        str(len(c["seeds"])),
        f"**{c['verdict']}**",
    ]
