"""The report: pure functions of result tables, kept images and logs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.api.types import is_numeric_dtype

from reg.claims import (
    CONVERGENCE_TASKS,
    PSNR_DROP,
    VISUAL_TASK,
    Evidence,
    best_rival,
    claims_markdown,
    in_order,
    judge_claims,
    last,
    method_name,
    read_csv,
    read_table,
    rounded,
    task_name,
    tasks_in_order,
    write_json,
)
from reg.diagnostics import COLUMNS as DIAGNOSTICS_COLUMNS
from reg.errors import InputError
from reg.images import Pixels, read_pixels
from reg.methods import EQUIVARIANT
from reg.report import figures, findings, page, tables
from reg.report.findings import BOUND, NEAR
from reg.report.page import FigureEntry, TableEntry

MANIFEST_COLUMNS = ("name", "role", "source", "path", "width", "height", "sha256")
THUMBNAILS = 18  # per group of the data sheet


@dataclass(frozen=True)
class Inputs:
    """Everything the report reads, loaded."""

    results: Path
    manifest_file: Path
    manifest: pd.DataFrame
    evidence: Evidence
    acceleration: pd.DataFrame
    pretrain: pd.DataFrame
    gradient_step: pd.DataFrame
    arms: dict[str, pd.DataFrame]
    unrolled_logs: dict[str, pd.DataFrame]
    diagnostics: pd.DataFrame
    trials: pd.DataFrame
    chosen: dict[str, dict[str, dict[str, float]]]

    def file(self, *parts: str) -> str:
        """A result file as a reader finds it."""
        return self.results.joinpath(*parts).as_posix()


def make_report(
    profile: str,
    results: Path,
    models: Path,
    data: Path,
    reports: Path,
    *,
    tuning_trials: int,
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, object] | None = None,
) -> list[dict[str, Any]]:
    """Write claims, figures, tables, metrics.json and index.md into `reports`; return the ledger.

    The same inputs give the same bytes. Paths are printed as they are given, so give them
    relative to the repository.

    Args:
        profile: its name, for headings.
        results: the profile's results, as `results/demo`.
        models: the profile's weights, as `models/demo`; what is found there is listed.
        data: the profile's data, as `data/demo`, with `prepare/manifest.csv`.
        reports: the folder to write into, as `reports/demo`; made if missing.
        tuning_trials: how many trials the tuning of a method was allowed.
        seeds: training seeds behind the results.
        settings: what the page says of the settings, in this order.

    Raises:
        ClaimError: evidence for a claim is missing or not a number.
        InputError: a file is missing or not what it should be.
    """
    inputs = read_inputs(results, data / "prepare" / "manifest.csv")
    # The claims come first: nothing is drawn from evidence that has gaps.
    ledger = judge_claims(inputs.evidence, _claim_files(inputs), seeds)

    for folder in (reports / "figures", reports / "tables"):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(reports / "claims.json", ledger)
    _write(reports / "claims.md", claims_markdown(ledger, profile))
    metrics = page.headline_metrics(ledger, inputs.evidence.restoration, inputs.evidence.ablation)
    write_json(reports / "metrics.json", rounded(metrics))

    figure_entries = []
    for entry, draw in _figures(inputs):
        figures.save_figure(draw, reports / "figures" / entry.name)
        figure_entries.append(entry)
    table_entries = _tables(inputs, tuning_trials)
    for table in table_entries:
        stem = reports / "tables" / table.sheet.name
        _write(stem.with_suffix(".tex"), tables.to_latex(table.sheet))
        table.sheet.numbers.to_csv(
            stem.with_suffix(".csv"), index=False, lineterminator="\n", float_format="%.6g"
        )
    text = page.index_markdown(
        profile, ledger, figure_entries, table_entries, page.list_weights(models), settings or {}
    )
    _write(reports / "index.md", text)
    return ledger


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def read_inputs(results: Path, manifest: Path) -> Inputs:
    """Load every table and log below `results`; InputError names what is missing."""
    unrolled = results / "finetune_unrolled"
    unrolled_tables = sorted(unrolled.glob("*/table.csv"))
    if not unrolled_tables:
        raise InputError(f"{unrolled}: no */table.csv; run dvc repro finetune_unrolled")
    trials = read_csv(results / "tune" / "trials.csv", ("task", "method", "parameters", "psnr"))
    return Inputs(
        results=results,
        manifest_file=manifest,
        manifest=read_csv(manifest, MANIFEST_COLUMNS),
        evidence=Evidence(
            restoration=read_table(results / "evaluate_restoration" / "table.csv"),
            convergence=read_table(results / "evaluate_convergence" / "table.csv"),
            ablation=read_table(results / "ablate" / "table.csv"),
            unrolled=pd.concat([read_table(t) for t in unrolled_tables], ignore_index=True),
        ),
        acceleration=read_table(results / "accelerate" / "table.csv"),
        pretrain=_log(results / "pretrain" / "log.csv"),
        gradient_step=_log(results / "train_gs" / "log.csv"),
        arms=_logs(results / "train_reg", ("updated", "fixed")),
        unrolled_logs=_logs(unrolled, ("reg", "random")),
        diagnostics=read_csv(results / "diagnose" / "table.csv", DIAGNOSTICS_COLUMNS),
        trials=trials,
        chosen=_chosen(results / "tune" / "chosen.json", trials),
    )


def _chosen(path: Path, trials: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """The tuned parameters by task and method, of every search among the trials."""
    try:
        chosen: dict[str, dict[str, dict[str, float]]] = json.loads(
            path.read_text(encoding="utf-8")
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run dvc repro tune") from None
    for task, method in zip(trials["task"], trials["method"], strict=True):
        if method not in chosen.get(task, {}):
            raise InputError(f"{path}: has nothing for {method} on {task}; run dvc repro tune")
    return chosen


def _log(path: Path) -> pd.DataFrame:
    """A training log as the table iteration, metric, value; on disk it has a column per metric."""
    try:
        log = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV table ({error}); rerun its stage") from None
    if "iteration" not in log or log.empty or not all(map(is_numeric_dtype, log.dtypes)):
        raise InputError(
            f"{path}: not a training log, a row of numbers per iteration; rerun its stage"
        )
    return log.melt("iteration", var_name="metric").dropna()


def _logs(folder: Path, obligatory: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """Training logs by name, the obligatory ones first, others by name."""
    others = {p.parent.name for p in folder.glob("*/log.csv")} - set(obligatory)
    names = [*obligatory, *sorted(others)]
    return {name: _log(folder / name / "log.csv") for name in names}


def _claim_files(inputs: Inputs) -> dict[str, list[str]]:
    restoration = [inputs.file("evaluate_restoration", "table.csv")]
    ablation = [inputs.file("ablate", "table.csv")]
    return {
        "restoration": restoration,
        "visual": restoration,
        "gd-convergence": [inputs.file("evaluate_convergence", "table.csv")],
        "update-denoiser": ablation,
        "admm-convergence": ablation,
        "unrolled": [
            inputs.file("finetune_unrolled", start, "table.csv") for start in ("reg", "random")
        ],
    }


# --- figures ----------------------------------------------------------------------------------


def _figures(inputs: Inputs) -> list[tuple[FigureEntry, Callable[[], Figure]]]:
    """Every figure with its entry on the page, in the order of the page."""
    evidence = inputs.evidence
    restored = evidence.restoration["image"].unique().tolist()
    convergence = evidence.convergence
    admm = evidence.ablation[evidence.ablation["method"].str.startswith("pnp-admm@")]
    rows, shown, limit = _update_denoiser(inputs)
    pictures, truth, visual_caption = _inpainting(inputs)
    restoration_file = inputs.file("evaluate_restoration", "table.csv")
    return [
        (
            FigureEntry(
                "restoration",
                "All tasks and methods",
                f"PSNR of the last iterate minus that of PnP-GD with ReG, the paper's PnP-ReG, on "
                f"the same image, so what lies left of the line is behind it; {_named(restored)}. "
                "Small dots are images, large ones means, bars 95 % paired bootstrap intervals of "
                "the mean. Beside a task stands the mean PSNR of PnP-GD.",
                (restoration_file,),
                ("evaluate_restoration",),
            ),
            partial(figures.draw_restoration, evidence.restoration),
        ),
        (
            FigureEntry(
                "inpainting",
                "Inpainting from 20 % of the pixels",
                visual_caption,
                (restoration_file, inputs.file("evaluate_restoration", "images", VISUAL_TASK)),
                ("evaluate_restoration",),
            ),
            partial(figures.draw_comparison, pictures, truth),
        ),
        (
            FigureEntry(
                "convergence",
                "Convergence of PnP-GD, beside PnP-ADMM",
                f"PSNR (top) and mean squared difference of consecutive iterates (bottom) against "
                f"iteration; mean over {_named(convergence['image'].unique())}, geometric for "
                "the step; bands go from the least to the greatest image, a circle marks the peak "
                f"of a mean PSNR that ends more than {PSNR_DROP} dB lower, labels give the end.",
                (inputs.file("evaluate_convergence", "table.csv"),),
                ("evaluate_convergence",),
            ),
            partial(figures.draw_iterations, convergence, CONVERGENCE_TASKS),
        ),
        (
            FigureEntry(
                "acceleration",
                "PnP-GD by four schedules",
                "PSNR minus that of Adam's last iterate, mean over "
                f"{_named(inputs.acceleration['image'].unique())}, against iteration. All four "
                "descend the same objective with the same σ from the same start: Adam with the "
                "learning rates of the official code, the plain step of the paper's equation, the "
                "spectral step (the metric of the operator) and, accelerated, the same with "
                f"Nesterov's momentum, which is PnP-GD elsewhere on this page. Within ±{NEAR:g} "
                "dB, the band, the axis is linear, beyond it logarithmic; dots and numbers say "
                f"from which iteration on a schedule stays at most {NEAR:g} dB below or above.",
                (inputs.file("accelerate", "table.csv"),),
                ("accelerate",),
                findings.acceleration_says(inputs.acceleration),
            ),
            partial(figures.draw_acceleration, inputs.acceleration),
        ),
        (
            FigureEntry(
                "admm",
                "PnP-ADMM with the original and the updated denoiser",
                "The same quantities for PnP-ADMM with the pre-trained denoiser (dashed) and with "
                f"the one updated by ReG training, mean over {_named(admm['image'].unique())}.",
                (inputs.file("ablate", "table.csv"),),
                ("ablate",),
            ),
            partial(figures.draw_iterations, admm, tasks_in_order(admm["task"].tolist())),
        ),
        (
            FigureEntry(
                "diagnostics",
                "What updating D changes in the networks",
                "Mean over central crops of "
                f"{_named(inputs.diagnostics['image'].unique(), noun='validation image')}. "
                "The pair is D original with G fixed (dashed, hollow) or both updated (solid, "
                "filled). MAP residual: "
                "‖σ²G(D(z)) − (z − D(z))‖ / ‖z − D(z)‖, z with noise σ₀; 0 for an exact pair, 1 "
                "for G = 0. Asymmetry: Frobenius norms by Hutchinson's estimator; G is a gradient "
                "and D a prox only where it is 0. Spectral norms, which are local Lipschitz "
                "constants: I − D is nonexpansive where its norm is at most 1, and D firmly "
                "nonexpansive, of which PnP-ADMM's convergence follows, where that of 2D − I is. "
                f"PnP-GD's step μ = 1/(σ²c): a curvature c above {BOUND}, with L the spectral norm "
                "of G's Jacobian, would suffice for stability near the iterate if that were "
                "symmetric with no negative eigenvalue.",
                (inputs.file("diagnose", "table.csv"),),
                ("diagnose",),
                findings.diagnostics_says(inputs.diagnostics),
            ),
            partial(figures.draw_diagnostics, inputs.diagnostics),
        ),
        (
            FigureEntry(
                "update_denoiser",
                "Training G with D fixed or updated",
                f"Last iterate of PnP-GD on {shown}: each row shows the kept image with the "
                "median PSNR difference between the two (the lower one of an even number), the "
                "square with the strongest gradients of the truth enlarged; PSNR is that of the "
                f"whole image. Error maps: mean absolute error over colours, up to {limit:g}/255.",
                (inputs.file("ablate", "table.csv"), inputs.file("ablate", "images")),
                ("ablate",),
            ),
            partial(figures.draw_update_denoiser, rows, limit),
        ),
        (
            FigureEntry(
                "unrolled",
                "Unrolled gradient descent from two starts",
                "Left: PSNR on the validation images during training. Right: the "
                f"{len(evidence.unrolled['image'].unique())} test images after training, one "
                "line each.",
                (inputs.file("finetune_unrolled", "*"),),
                ("finetune_unrolled@reg", "finetune_unrolled@random"),
            ),
            partial(figures.draw_unrolled, inputs.unrolled_logs, evidence.unrolled),
        ),
        (
            FigureEntry(
                "training",
                "Training curves",
                "All on validation images or training crops, none on test images. The relative "
                "MAP residual ‖σ²G(D(z)) − (z − D(z))‖² / ‖z − D(z)‖² is 0 for a perfect pair "
                "(D, G) and 1 for G = 0; long noisy curves show a running median.",
                tuple(
                    inputs.file(*parts, "log.csv")
                    for parts in (("pretrain",), ("train_gs",), ("train_reg", "*"))
                ),
                ("pretrain", "train_gs", "train_reg"),
            ),
            partial(figures.draw_training, inputs.pretrain, inputs.gradient_step, inputs.arms),
        ),
        (
            FigureEntry(
                "data",
                "Images by role",
                "Every validation and test image, and the training images or an even choice of "
                "them. No photograph has two roles.",
                (inputs.manifest_file.as_posix(),),
                ("prepare",),
            ),
            partial(figures.draw_data_sheet, _data_groups(inputs)),
        ),
    ]


def _named(names: Sequence[str] | np.ndarray, most: int = 6, noun: str = "test image") -> str:
    """`4 test images (a, b, c, d)`; long lists are counted only."""
    listed = sorted(map(str, names))
    plural = "" if len(listed) == 1 else "s"
    shown = f" ({', '.join(listed)})" if len(listed) <= most else ""
    return f"{len(listed)} {noun}{plural}{shown}"


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


def _update_denoiser(
    inputs: Inputs,
) -> tuple[list[tuple[str, Pixels, list[tuple[str, Pixels, str]]]], str, float]:
    """Rows of the figure, which images they show, and the upper end of the error scale."""
    methods = {"pnp-gd@fixed": "D fixed", "pnp-gd@updated": "D updated"}
    table = inputs.evidence.ablation
    claim = "update-denoiser"
    of_claim = table[table["method"] == "pnp-gd@updated"]
    rows, shown, errors = [], [], []
    for task in tasks_in_order(of_claim["task"].tolist()):
        folder = inputs.results / "ablate" / "images" / task
        psnr = {m: last(table, claim, task, m, "psnr") for m in methods}
        difference = psnr["pnp-gd@updated"] - psnr["pnp-gd@fixed"]
        image = _median_image(difference, _kept(folder, list(methods)))
        truth = read_pixels(folder / "truth" / f"{image}.png")
        pictures = [
            (name, _same_size(folder / m / f"{image}.png", truth), f"{psnr[m][image]:.2f} dB")
            for m, name in methods.items()
        ]
        rows.append((task_name(task), truth, pictures))
        shown.append(f"{image} ({task_name(task)})")
        errors += [np.abs(p.astype(float) - truth).mean(axis=2) for _, p, _ in pictures]
    limit = max(10.0, 10 * np.ceil(max(np.quantile(e, 0.98) for e in errors) / 10))
    return rows, "; ".join(shown), float(limit)


def _inpainting(inputs: Inputs) -> tuple[list[tuple[str, Pixels, str]], Pixels, str]:
    """Pictures of the visual comparison, the truth, and the caption."""
    table = inputs.evidence.restoration
    claim = "visual"
    folder = inputs.results / "evaluate_restoration" / "images" / VISUAL_TASK
    present = table.loc[table["task"] == VISUAL_TASK, "method"].unique().tolist()
    # PnP-GD stands last, beside its strongest neighbours, as figures of the field have it
    methods = sorted(in_order(present), key=lambda m: m.removesuffix(EQUIVARIANT) == "pnp-gd")
    rival = best_rival(table, claim, VISUAL_TASK, "ssim")
    ssim = {m: last(table, claim, VISUAL_TASK, m, "ssim") for m in methods}
    psnr = {m: last(table, claim, VISUAL_TASK, m, "psnr") for m in methods}
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
        f"PnP-GD and {method_name(rival)}, the best rival by mean SSIM (the lower one of an even "
        "number). Below, the square with the strongest gradients of the truth. PSNR and SSIM are "
        "those of the whole image, last iterate."
    )
    return pictures, truth, caption


def _data_groups(inputs: Inputs) -> list[tuple[str, list[tuple[str, Pixels]]]]:
    manifest = inputs.manifest
    leaves = manifest["source"].str.startswith("dead leaves")
    groups = {
        "Training, photographs": manifest[(manifest["role"] == "train") & ~leaves],
        "Training, dead leaves": manifest[(manifest["role"] == "train") & leaves],
        "Validation": manifest[manifest["role"] == "validation"],
        "Test": manifest[manifest["role"] == "test"],
    }
    sheet = []
    for heading, rows in groups.items():
        if rows.empty:
            continue
        n = len(rows)
        chosen = rows
        if n > THUMBNAILS and heading.startswith("Training"):
            chosen = rows.iloc[np.arange(THUMBNAILS) * n // THUMBNAILS]
        count = f"{n}" if len(chosen) == n else f"{len(chosen)} of {n} shown"
        pictures = [
            (
                str(name).removeprefix("dead_leaves_"),
                read_pixels(inputs.manifest_file.parent / str(path)),
            )
            for name, path in zip(chosen["name"], chosen["path"], strict=True)
        ]
        sheet.append((f"{heading} ({count})", pictures))
    return sheet


# --- tables -----------------------------------------------------------------------------------


def _tables(inputs: Inputs, tuning_trials: int) -> list[TableEntry]:
    evidence = inputs.evidence
    return [
        TableEntry(
            "Restoration",
            tables.restoration_sheet(evidence.restoration),
            (inputs.file("evaluate_restoration", "table.csv"),),
            ("evaluate_restoration",),
        ),
        TableEntry(
            "Convergence",
            tables.iterations_sheet(
                evidence.convergence,
                "convergence",
                "Convergence over {iterations} iterations, mean over {images} test images. The "
                "best iterate is chosen by an oracle that knows the truth.",
            ),
            (inputs.file("evaluate_convergence", "table.csv"),),
            ("evaluate_convergence",),
        ),
        TableEntry(
            "Acceleration",
            tables.acceleration_sheet(inputs.acceleration),
            (inputs.file("accelerate", "table.csv"),),
            ("accelerate",),
        ),
        TableEntry(
            "Ablation",
            tables.iterations_sheet(
                evidence.ablation,
                "ablation",
                "PnP-GD with G trained beside a fixed or an updated denoiser D, and PnP-ADMM with "
                "the original or the updated D: mean over {images} test images, up to {iterations} "
                "iterations. Best of each pair in bold; the best iterate is chosen by an oracle.",
            ),
            (inputs.file("ablate", "table.csv"),),
            ("ablate",),
        ),
        TableEntry(
            "Diagnostics",
            tables.diagnostics_sheet(inputs.diagnostics),
            (inputs.file("diagnose", "table.csv"),),
            ("diagnose",),
        ),
        TableEntry(
            "Unrolled networks",
            tables.unrolled_sheet(evidence.unrolled),
            (inputs.file("finetune_unrolled", "*", "table.csv"),),
            ("finetune_unrolled@reg", "finetune_unrolled@random"),
        ),
        TableEntry(
            "Denoisers",
            tables.denoiser_sheet(inputs.pretrain, inputs.gradient_step, inputs.arms),
            (
                inputs.file("pretrain", "log.csv"),
                inputs.file("train_reg", "*", "log.csv"),
                inputs.file("train_gs", "log.csv"),
            ),
            ("pretrain", "train_reg", "train_gs"),
        ),
        TableEntry(
            "Tuning",
            tables.tuning_sheet(inputs.trials, inputs.chosen, tuning_trials),
            (inputs.file("tune", "trials.csv"), inputs.file("tune", "chosen.json")),
            ("tune",),
        ),
    ]
