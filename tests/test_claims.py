import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reg.claims import (
    CLAIMS,
    COLUMNS,
    ClaimError,
    Evidence,
    claims_markdown,
    in_order,
    judge_claims,
    method_name,
    read_table,
    rounded,
    write_json,
)
from reg.errors import InputError
from reg.methods import METHODS as RUNNABLE
from reg.report.figures import COLOURS

IMAGES = ("a", "b", "c", "d", "e")
TASKS = ("deblur-k5-2.55", "sr-x2-2.55", "inpaint-20")
FILES = {c.id: [f"results/{c.id}.csv"] for c in CLAIMS}
HEADER = "task,method,seed,image,iteration,metric,value\n"

Row = tuple[str, str, int, str, int, str, float]


def table(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


def restoration(ahead: float = 0.5, ssim_ahead: float = 0.02) -> pd.DataFrame:
    rows: list[Row] = []
    for task in TASKS:
        for i, image in enumerate(IMAGES):
            # difficulty of the image, and a little that differs between methods
            base, own = 25.0 + 3 * i, 0.02 * (i - 2)
            for method, gain, proxy in (
                ("start", -6.0, -0.2),
                ("pnp-gd", ahead + own, ssim_ahead + own / 20),
                ("red", -1.0, -0.05),
                ("pnp-admm", 0.0, 0.0),
                ("tv", 5.0, 0.1),  # uses no network, so it is no rival of the claim
            ):
                rows.append((task, method, 0, image, 200, "psnr", base + gain))
                rows.append((task, method, 0, image, 200, "ssim", 0.7 + proxy))
    return table(rows)


def run(
    task: str, method: str, level: float, falls: float, floor: float, iterations: int = 600
) -> list[Row]:
    """A run that rises to `level` and loses `falls` dB (1 % more by image) in its last fifth."""
    rows: list[Row] = []
    for k, image in enumerate(IMAGES):
        for i in range(iterations + 1):
            loss = falls * (1 + 0.01 * k) * max(0.0, 5 * i / iterations - 4)
            psnr = level + 0.1 * k - 10 * np.exp(-i / 20) - loss
            rows.append((task, method, 0, image, i, "psnr", psnr))
            if i:
                step = floor * (1 + 0.1 * k) + 1e-3 * np.exp(-i / 10)
                rows.append((task, method, 0, image, i, "msd", step))
    return rows


def convergence(falls: float = 0.0, floor: float = 1e-9, iterations: int = 1500) -> pd.DataFrame:
    rows: list[Row] = []
    for task in ("deblur-k3-2.55", "sr-x2-2.55"):
        rows += run(task, "pnp-gd-plain+x1", 28.0, falls, floor, iterations)
        rows += run(task, "pnp-gd+x1", 28.0, 2.0, 1e-4, iterations)
        rows += run(task, "pnp-admm-unbounded", 29.0, 3.0, 1e-5, iterations)
        rows += run(task, "pnp-admm", 29.0, 0.0, 1e-9, iterations)
    return table(rows)


def ablation(
    gained: float = 1.7, falls: float = 5.0, floors: tuple[float, float] = (1e-5, 1e-9)
) -> pd.DataFrame:
    rows: list[Row] = []
    for task in ("deblur-k3-2.55", "inpaint-20"):
        rows += run(task, "pnp-gd@updated", 28.0 + gained, 0.0, 1e-9)
        rows += run(task, "pnp-gd@fixed", 28.0, 0.0, 1e-9)
        rows += run(task, "pnp-admm-unbounded@original", 29.0, falls, floors[0])
        rows += run(task, "pnp-admm-unbounded@updated", 28.8, 0.0, floors[1])
        rows += run(task, "pnp-admm@original", 28.9, 2.0, 1e-5)
        rows += run(task, "pnp-admm@updated", 28.7, 0.0, 1e-9)
    return table(rows)


def unrolled(
    gained: float = 1.0, denoiser: float = -0.5, budgets: tuple[int, int, int] = (400, 400, 400)
) -> pd.DataFrame:
    """ReG's start is `gained` dB ahead of the random one; the denoiser's so much more or less."""
    rows: list[Row] = []
    for i, image in enumerate(IMAGES):
        gain_of_reg = gained + 0.05 * i
        for method, gain, budget in zip(
            ("unrolled-reg", "unrolled-random", "unrolled-denoiser"),
            (gain_of_reg, 0.0, gain_of_reg + denoiser),
            budgets,
            strict=True,
        ):
            rows.append(("deblur-k3-2.55", method, 0, image, budget, "psnr", 27.0 + i + gain))
    return table(rows)


def trials(best: str = "pnp-admm") -> pd.DataFrame:
    """Two trials of every rival; the better one of `best` is the highest, that of TV apart."""
    rows = [
        (task, method, "{}", 20.0 + (method == best) + k + 5 * (method == "tv"))
        for task in TASKS
        for method in ("pnp-gd", "red", "pnp-admm", "tv")
        for k in (0, 1)
    ]
    return pd.DataFrame(rows, columns=["task", "method", "parameters", "psnr"])


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence(restoration(), convergence(), ablation(), unrolled(), trials())


def judged(evidence: Evidence, claim: str) -> dict[str, object]:
    found = next(c for c in CLAIMS if c.id == claim).judge(evidence)
    return {"verdict": found.verdict, "measured": found.difference.mean, "why": found.why}


def test_the_ledger_is_the_papers(evidence: Evidence) -> None:
    ledger = judge_claims(evidence, FILES)
    assert [c["id"] for c in ledger] == [
        "restoration",
        "visual",
        "gd-convergence",
        "update-denoiser",
        "admm-convergence",
        "unrolled",
    ]
    wanted = {"claim", "published", "measured", "interval", "images", "seeds", "verdict"}
    for c in ledger:
        assert wanted | {"id", "evidence"} <= set(c)
        assert c["verdict"] == "reproduced"
        assert c["images"] == len(IMAGES)
        assert c["seeds"] == [0]
        assert c["evidence"]["files"] == FILES[c["id"]]
        assert c["evidence"]["command"].startswith("dvc repro ")
        assert "only 5 images" in c["caution"]
        low, high = c["interval"]
        assert low <= c["measured"] <= high
    # the talk's one pair of numbers is the only published one
    assert {c["id"]: c["published"] for c in ledger if c["published"] is not None} == {
        "update-denoiser": 1.74
    }


def test_measured_numbers_are_the_paired_means(evidence: Evidence) -> None:
    assert judged(evidence, "restoration")["measured"] == pytest.approx(0.5)
    assert judged(evidence, "visual")["measured"] == pytest.approx(0.02)
    assert judged(evidence, "update-denoiser")["measured"] == pytest.approx(1.7)
    assert judged(evidence, "unrolled")["measured"] == pytest.approx(1.1)
    assert judged(evidence, "admm-convergence")["measured"] == pytest.approx(4.0, abs=0.01)


CASES: list[tuple[str, str, Callable[[], pd.DataFrame], str]] = [
    ("restoration", "restoration", lambda: restoration(ahead=-0.5), "not reproduced"),
    ("restoration", "restoration", lambda: restoration(ahead=0.0), "inconclusive"),
    ("visual", "restoration", lambda: restoration(ssim_ahead=-0.02), "not reproduced"),
    ("visual", "restoration", lambda: restoration(ssim_ahead=0.0), "inconclusive"),
    ("gd-convergence", "convergence", lambda: convergence(falls=1.0), "not reproduced"),
    ("gd-convergence", "convergence", lambda: convergence(floor=1e-4), "not reproduced"),
    ("gd-convergence", "convergence", lambda: convergence(iterations=1499), "inconclusive"),
    # images c to e lose more than 0.1 dB in the first case, e alone in the second
    ("gd-convergence", "convergence", lambda: convergence(falls=0.0985), "not reproduced"),
    ("gd-convergence", "convergence", lambda: convergence(falls=0.097), "inconclusive"),
    ("update-denoiser", "ablation", lambda: ablation(gained=-0.1), "not reproduced"),
    ("admm-convergence", "ablation", lambda: ablation(floors=(1e-9, 1e-5)), "not reproduced"),
    ("admm-convergence", "ablation", lambda: ablation(floors=(1e-9, 1e-9)), "inconclusive"),
    # of runs that have settled with either D the steps are rounding errors
    ("admm-convergence", "ablation", lambda: ablation(floors=(4e-14, 2e-14)), "inconclusive"),
    ("admm-convergence", "ablation", lambda: ablation(floors=(2e-14, 4e-14)), "inconclusive"),
    ("admm-convergence", "ablation", lambda: ablation(floors=(4e-12, 2e-14)), "reproduced"),
    # the last iterate is worse by 0.2 dB, and the original D loses nothing
    ("admm-convergence", "ablation", lambda: ablation(falls=0.0), "not reproduced"),
    ("unrolled", "unrolled", lambda: unrolled(gained=-2.0), "not reproduced"),
    ("unrolled", "unrolled", lambda: unrolled(gained=-0.1), "inconclusive"),
]


@pytest.mark.parametrize(("claim", "part", "make", "verdict"), CASES)
def test_verdicts(
    evidence: Evidence, claim: str, part: str, make: Callable[[], pd.DataFrame], verdict: str
) -> None:
    assert judged(replace(evidence, **{part: make()}), claim)["verdict"] == verdict


def test_one_task_behind_decides_against_the_restoration_claim(evidence: Evidence) -> None:
    worse = restoration()
    chosen = (worse["task"] == "sr-x2-2.55") & (worse["method"] == "red")
    worse.loc[chosen & (worse["metric"] == "psnr"), "value"] += 3
    # Only where the validation images speak for it is RED the rival.
    tuned = trials()
    first = (tuned["task"] == "sr-x2-2.55") & (tuned["method"] == "red")
    tuned.loc[first, "psnr"] += 2
    found = judged(replace(evidence, restoration=worse, trials=tuned), "restoration")
    assert found["verdict"] == "not reproduced"
    assert "Super-resolution ×2" in str(found["why"])
    assert "against RED" in str(found["why"])
    assert judged(replace(evidence, restoration=worse), "restoration")["verdict"] == "reproduced"


def test_of_several_tasks_one_may_lie_behind_by_chance(evidence: Evidence) -> None:
    # Behind in one of three tasks: t of 4 degrees of freedom at 5 % is 2.8, at 5/3 % it is 4.0.
    def verdict(behind: float) -> object:
        table = restoration(ahead=0.0)
        chosen = (table["task"] == "sr-x2-2.55") & (table["method"] == "pnp-gd")
        table.loc[chosen & (table["metric"] == "psnr"), "value"] -= behind
        return judged(replace(evidence, restoration=table), "restoration")["verdict"]

    spread = 0.02 * np.std([-2, -1, 0, 1, 2], ddof=1) / np.sqrt(5)
    assert verdict(3.4 * spread) == "inconclusive"
    assert verdict(6.0 * spread) == "not reproduced"


def test_a_rival_that_was_not_tuned_is_an_error(evidence: Evidence) -> None:
    less = trials()
    less = less[(less["method"] != "red") | (less["task"] != "inpaint-20")]
    with pytest.raises(ClaimError, match="task=inpaint-20, method=red of the trials"):
        judged(replace(evidence, trials=less), "visual")


def settled_by(head: float, tail: float) -> pd.DataFrame:
    """Runs of PnP-GD whose squared steps are `head` first and `tail` in the last tenth."""
    table = convergence()
    steps = (table["metric"] == "msd") & (table["method"] == "pnp-gd-plain+x1")
    table.loc[steps, "value"] = np.where(table.loc[steps, "iteration"] <= 10, head, tail)
    return table


@pytest.mark.parametrize(
    ("head", "tail", "verdict"),
    [(1.01e-2, 1e-4, "reproduced"), (0.99e-2, 1e-4, "not reproduced")],
)
def test_steps_must_shrink_a_hundred_times(
    evidence: Evidence, head: float, tail: float, verdict: str
) -> None:
    found = judged(replace(evidence, convergence=settled_by(head, tail)), "gd-convergence")
    assert found["verdict"] == verdict


def test_steps_are_compared_with_those_of_the_first_ten_iterations(evidence: Evidence) -> None:
    table = settled_by(1e-2, 1e-9)
    early = (table["metric"] == "msd") & (table["method"] == "pnp-gd-plain+x1")
    early &= table["iteration"] <= 10
    # Nine tiny steps and one that makes the mean of ten just large enough, then too small.
    for tenth, verdict in ((1.01e-6, "reproduced"), (0.99e-6, "not reproduced")):
        table.loc[early, "value"] = np.where(table.loc[early, "iteration"] == 10, tenth, 1e-12)
        found = judged(replace(evidence, convergence=table), "gd-convergence")
        assert found["verdict"] == verdict


@pytest.mark.parametrize(("rises", "verdict"), [(0.21, "inconclusive"), (0.19, "reproduced")])
def test_a_run_on_its_way_is_no_evidence(evidence: Evidence, rises: float, verdict: str) -> None:
    # It drops nothing and its steps shrink, for it has not yet come to where it goes.
    table = convergence()
    rows = (table["metric"] == "psnr") & (table["method"] == "pnp-gd-plain+x1")
    table.loc[rows, "value"] += rises * table.loc[rows, "iteration"] / 1500
    found = judged(replace(evidence, convergence=table), "gd-convergence")
    assert found["verdict"] == verdict
    assert f"{0 if verdict == 'inconclusive' else 10} have settled" in str(found["why"])


def test_what_the_accelerated_schedule_would_give_is_said(evidence: Evidence) -> None:
    why = str(judged(evidence, "gd-convergence")["why"])
    assert "by the accelerated schedule, by which the claim would be not reproduced" in why


def test_a_difference_that_only_the_last_iterates_show_is_inconclusive(evidence: Evidence) -> None:
    table = ablation(gained=0.0)
    late = (table["method"] == "pnp-gd@updated") & (table["iteration"] > 400)
    table.loc[late & (table["metric"] == "psnr"), "value"] += 1.0
    found = judged(replace(evidence, ablation=table), "update-denoiser")
    assert found["measured"] == pytest.approx(1.0)
    assert found["verdict"] == "inconclusive"
    assert "after half of the iterations by +0.00 dB" in str(found["why"])


def test_the_parts_of_a_rule_that_do_not_hold_are_named(evidence: Evidence) -> None:
    def why(**changed: object) -> str:
        table = ablation(**changed)  # type: ignore[arg-type]
        return str(judged(replace(evidence, ablation=table), "admm-convergence")["why"])

    both = "(b) in Deblurring k3, σₙ 2.55, (b) in Inpainting 20 %. "
    assert f"without bounds. Against the claim: {both}Deblurring k3" in why(floors=(1e-9, 1e-5))
    assert f"without bounds. Open: {both}Deblurring k3" in why(floors=(1e-9, 1e-9))
    assert "without bounds. Deblurring k3" in why()


def test_admm_that_converges_with_the_original_denoiser_is_no_evidence(evidence: Evidence) -> None:
    # The updated D's steps are smaller and it loses nothing, but the original one converges too.
    converges = ablation(falls=0.05, floors=(1e-7, 1e-9))
    assert judged(replace(evidence, ablation=converges), "admm-convergence")["verdict"] == (
        "not reproduced"
    )
    # Too few iterations say nothing about convergence.
    short = converges[converges["iteration"] <= 499]
    parts = (
        next(c for c in CLAIMS if c.id == "admm-convergence")
        .judge(replace(evidence, ablation=short))
        .parts
    )
    assert {part["original"]["verdict"] for part in parts.values()} == {"inconclusive"}
    some = converges.copy()
    falls = some["image"].isin(["a", "b"]) & (some["method"] == "pnp-admm-unbounded@original")
    some.loc[falls & (some["metric"] == "psnr") & (some["iteration"] > 500), "value"] -= 1
    assert judged(replace(evidence, ablation=some), "admm-convergence")["verdict"] == "inconclusive"


def test_admm_within_bounds_is_told_but_not_judged(evidence: Evidence) -> None:
    finding = judged(evidence, "admm-convergence")
    assert (
        "Kept within [0,1]: 29.10 to 27.06 dB (0 of 5 runs converge; drop 0, steps 0, second half "
        "0) and 28.90 to 28.90 dB (5 of 5 runs converge; drop 5, steps 5, second half 5)"
    ) in str(finding["why"])
    table = ablation()
    within = table["method"].str.startswith("pnp-admm@") & (table["metric"] == "psnr")
    table.loc[within, "value"] = 30.0
    changed = judged(replace(evidence, ablation=table), "admm-convergence")
    assert (changed["verdict"], changed["measured"]) == (finding["verdict"], finding["measured"])
    why = str(judged(evidence, "gd-convergence")["why"])
    assert "0 of 10 of PnP-ADMM as published" in why
    assert "10 of 10 of PnP-ADMM kept within [0,1] (largest drop 0.000 dB)" in why


@pytest.mark.parametrize(
    ("lower", "verdict"), [(0.0, "reproduced"), (-3.0, "reproduced"), (8.0, "inconclusive")]
)
def test_an_updated_denoiser_must_not_end_lower(
    evidence: Evidence, lower: float, verdict: str
) -> None:
    # The original D loses 5 dB from its best; the updated one loses nothing but may be worse.
    table = ablation()
    rows = (table["method"] == "pnp-admm-unbounded@updated") & (table["metric"] == "psnr")
    table.loc[rows, "value"] -= lower
    assert judged(replace(evidence, ablation=table), "admm-convergence")["verdict"] == verdict


def test_a_smaller_loss_is_evidence_where_the_ends_are_alike(evidence: Evidence) -> None:
    table = ablation()
    rows = (table["method"] == "pnp-admm-unbounded@updated") & (table["metric"] == "psnr")
    own = 4.8 + 0.1 * np.array([2, -1, 0, 1, -2])[table.loc[rows, "image"].map(IMAGES.index)]
    table.loc[rows, "value"] -= own  # about as low as the original D ends
    assert judged(replace(evidence, ablation=table), "admm-convergence")["verdict"] == "reproduced"


def test_a_better_start_from_the_denoiser_leaves_the_claim_open(evidence: Evidence) -> None:
    for gain, verdict in ((-0.5, "reproduced"), (0.5, "inconclusive")):
        both = unrolled(denoiser=gain)
        assert judged(replace(evidence, unrolled=both), "unrolled")["verdict"] == verdict


def test_divergence_to_infinity_is_evidence(evidence: Evidence) -> None:
    diverged = ablation()
    late = (diverged["method"] == "pnp-admm-unbounded@original") & (diverged["iteration"] > 300)
    diverged.loc[late & (diverged["metric"] == "msd"), "value"] = np.inf
    found = judged(replace(evidence, ablation=diverged), "admm-convergence")
    assert found["verdict"] == "reproduced"
    assert np.isfinite(float(str(found["measured"])))


NEEDED = [
    ("restoration", "restoration", "pnp-gd", "psnr"),
    ("restoration", "restoration", "red", "psnr"),
    ("restoration", "restoration", "pnp-admm", "psnr"),
    ("visual", "restoration", "pnp-gd", "ssim"),
    ("visual", "restoration", "red", "ssim"),
    ("gd-convergence", "convergence", "pnp-gd-plain+x1", "msd"),
    ("gd-convergence", "convergence", "pnp-gd+x1", "msd"),
    ("gd-convergence", "convergence", "pnp-admm-unbounded", "psnr"),
    ("gd-convergence", "convergence", "pnp-admm", "psnr"),
    ("update-denoiser", "ablation", "pnp-gd@fixed", "psnr"),
    ("update-denoiser", "ablation", "pnp-gd@updated", "psnr"),
    ("admm-convergence", "ablation", "pnp-admm-unbounded@original", "msd"),
    ("admm-convergence", "ablation", "pnp-admm-unbounded@updated", "psnr"),
    ("admm-convergence", "ablation", "pnp-admm@original", "msd"),
    ("admm-convergence", "ablation", "pnp-admm@updated", "psnr"),
    ("unrolled", "unrolled", "unrolled-random", "psnr"),
    ("unrolled", "unrolled", "unrolled-reg", "psnr"),
    ("unrolled", "unrolled", "unrolled-denoiser", "psnr"),
]


@pytest.mark.parametrize(("claim", "part", "method", "metric"), NEEDED)
def test_missing_rows_are_an_error_that_names_them(
    evidence: Evidence, claim: str, part: str, method: str, metric: str
) -> None:
    full = getattr(evidence, part)
    less = full[(full["method"] != method) | (full["metric"] != metric)]
    with pytest.raises(
        ClaimError, match=rf"claim {claim}.*method={re.escape(method)}, metric={metric}"
    ):
        judged(replace(evidence, **{part: less}), claim)


@pytest.mark.parametrize(("claim", "part", "method", "metric"), NEEDED)
@pytest.mark.parametrize("absent", [True, False])
def test_one_image_without_a_number_is_an_error(
    evidence: Evidence, claim: str, part: str, method: str, metric: str, absent: bool
) -> None:
    broken = getattr(evidence, part).copy()
    rows = (broken["method"] == method) & (broken["metric"] == metric) & (broken["image"] == "b")
    if absent:
        broken = broken[~rows]
    else:
        broken.loc[rows, "value"] = np.nan
    with pytest.raises(ClaimError, match=f"claim {claim}"):
        judged(replace(evidence, **{part: broken}), claim)


@pytest.mark.parametrize("task", TASKS)
def test_the_restoration_claim_needs_every_kind_of_task(evidence: Evidence, task: str) -> None:
    rows = evidence.restoration
    with pytest.raises(ClaimError, match="claim restoration"):
        judged(replace(evidence, restoration=rows[rows["task"] != task]), "restoration")


def test_unequal_budgets_are_an_error(evidence: Evidence) -> None:
    for start, budgets in (("random", (400, 300, 400)), ("denoiser", (400, 400, 300))):
        with pytest.raises(ClaimError, match=rf"400 iterations.*{start} for 300.*must be equal"):
            judged(replace(evidence, unrolled=unrolled(budgets=budgets)), "unrolled")


def test_one_image_never_decides_a_paired_claim(evidence: Evidence) -> None:
    few = restoration()
    few = few[few["image"] == "a"]
    ledger = judge_claims(replace(evidence, restoration=few), FILES)
    assert ledger[0]["verdict"] == "inconclusive"
    assert ledger[0]["interval"] is None


# --- training seeds ------------------------------------------------------------------------


def over_seeds(table: pd.DataFrame, shifts: dict[int, float], *methods: str) -> pd.DataFrame:
    """The rows of these methods once for every seed, their values shifted by so much."""
    chosen = table["method"].isin(methods)
    more = [
        table[chosen].assign(seed=seed, value=table["value"] + shift)
        for seed, shift in shifts.items()
    ]
    return pd.concat([table[~chosen], *more], ignore_index=True)


SHIFTS = {0: 0.0, 1: 0.3, 2: -0.6}  # mean −0.1


def test_a_rival_trained_once_stands_beside_every_training_seed(evidence: Evidence) -> None:
    repeated = over_seeds(evidence.restoration, SHIFTS, "pnp-gd")
    (entry, *_), one = (
        judge_claims(replace(evidence, restoration=table), FILES)
        for table in (repeated, evidence.restoration)
    )
    assert entry["seeds"] == [0, 1, 2]
    assert entry["images"] == len(IMAGES)
    assert entry["measured"] == pytest.approx(one[0]["measured"] - 0.1)
    widths = [c["interval"][1] - c["interval"][0] for c in (entry, one[0])]
    assert widths[0] > 5 * widths[1]
    assert entry["verdict"] == "inconclusive"  # −0.1 dB with one seed in every resample of three
    assert "means over 3 training seeds" in entry["evidence"]["why"]
    assert "training seeds" not in one[0]["evidence"]["why"]
    assert "only 3 training seeds" in entry["caution"]
    assert [c["seeds"] for c in one] == [[0]] * 6


def test_arms_are_paired_by_training_seed(evidence: Evidence) -> None:
    # What a seed adds to both arms cancels: the interval is that of one seed.
    arms = ("pnp-gd@updated", "pnp-gd@fixed")
    shifted = over_seeds(evidence.ablation, SHIFTS, *arms)
    found = judged(replace(evidence, ablation=shifted), "update-denoiser")
    assert found["verdict"] == "reproduced"
    assert found["measured"] == pytest.approx(1.7)
    lacking = shifted[(shifted["method"] != "pnp-gd@fixed") | (shifted["seed"] != 2)]
    with pytest.raises(ClaimError, match=r"different training seeds: \[2\]"):
        judged(replace(evidence, ablation=lacking), "update-denoiser")
    lacking = shifted[(shifted["image"] != "c") | (shifted["seed"] != 2)]
    with pytest.raises(ClaimError, match="image c of seed 2 at iteration 0"):
        judged(replace(evidence, ablation=lacking), "update-denoiser")


def test_all_claims_take_several_training_seeds(evidence: Evidence) -> None:
    same = dict.fromkeys((0, 1), 0.0)
    repeated = Evidence(
        over_seeds(evidence.restoration, same, "pnp-gd"),
        evidence.convergence,  # of the first seed
        over_seeds(
            evidence.ablation,
            same,
            "pnp-gd@updated",
            "pnp-gd@fixed",
            "pnp-admm@updated",
            "pnp-admm-unbounded@updated",
        ),
        over_seeds(evidence.unrolled, same, "unrolled-reg", "unrolled-random", "unrolled-denoiser"),
        evidence.trials,
    )
    one, two = (judge_claims(each, FILES) for each in (evidence, repeated))
    for alone, both in zip(one, two, strict=True):
        assert both["seeds"] == ([0] if both["id"] == "gd-convergence" else [0, 1])
        assert (both["verdict"], both["images"]) == (alone["verdict"], alone["images"])
        numbers = [[c["measured"], *c["interval"], c["effect_size"] or 0] for c in (both, alone)]
        np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-12)


def test_markdown_says_what_the_ledger_says(evidence: Evidence) -> None:
    ledger = judge_claims(evidence, FILES)
    text = claims_markdown(ledger, "demo")
    for c in ledger:
        assert f"## {c['id']}: {c['verdict']}" in text
        assert c["claim"] in text
        assert c["rule"] in text
        assert c["evidence"]["why"] in text
        assert f"**Changed after results were seen:** {c['rule_changed']}." in text
    unchanged = claims_markdown([c | {"rule_changed": ""} for c in ledger], "demo")
    assert "Changed after" not in unchanged
    assert "no number available" in text
    assert "+1.74 dB" in text


def test_json_is_rounded_and_free_of_infinities(tmp_path: Path) -> None:
    value = {"a": 1 / 3, "b": (np.float64(1e9) / 7, np.inf), "c": float("nan"), "d": 3, "e": "x"}
    write_json(tmp_path / "x.json", rounded(value))
    expected = {"a": 0.333333, "b": [142857000.0, None], "c": None, "d": 3, "e": "x"}
    assert json.loads((tmp_path / "x.json").read_text()) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("", "not a CSV table"),
        ("a,b\n1,2\n", "columns are a,b"),
        (HEADER, "has no rows"),
        (f"{HEADER}t,m,0,i,0,psnr,high\n", "holds text"),
        (f"{HEADER}t,m,first,i,0,psnr,1\n", "column seed holds text"),
        (HEADER + 2 * "t,m,0,i,0,psnr,1\n", "occurs twice"),
    ],
)
def test_unusable_tables_are_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "table.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_tables_keep_names_that_look_like_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"{HEADER}t,m,0,NA,0,msd,inf\nt,m,0,007,0,msd,\n")
    found = read_table(path)
    assert found["image"].tolist() == ["NA", "007"]
    assert np.isinf(found["value"][0])
    assert np.isnan(found["value"][1])


def test_methods_have_names_for_people_and_an_order() -> None:
    found = in_order(["new", "tv", "pnp-gd+x1", "another", "pnp-hqs", "start", "pnp-gd", "tv"])
    assert found == ["start", "pnp-gd", "pnp-gd+x1", "pnp-hqs", "tv", "another", "new"]
    assert [method_name(m) for m in found] == [
        "Degraded",
        "PnP-GD (ReG)",
        "PnP-GD (ReG) ×1",
        "PnP-HQS (DPIR)",
        "TV",
        "another",
        "new",
    ]


def test_every_method_that_can_be_run_has_a_name_and_a_colour() -> None:
    for method in RUNNABLE:
        assert method_name(method) != method
        assert method in COLOURS
