"""The report: pure functions of result tables, kept images and logs."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    MSD_RANGE,
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
from reg.datasets import Row, set_of
from reg.denoising import COST_COLUMNS
from reg.diagnostics import COLUMNS as DIAGNOSTICS_COLUMNS
from reg.errors import InputError
from reg.images import Pixels, read_pixels
from reg.methods import EQUIVARIANT
from reg.params import Profile
from reg.provenance import Code
from reg.report import figures, findings, page, tables, unrolled
from reg.report.document import document_latex
from reg.report.findings import BOUND, MAP_RESIDUAL, NEAR, SWEEP_COLUMNS
from reg.report.page import FigureEntry, TableEntry
from reg.report.paper import paper_sheet
from reg.report.web import web_page

Picture = tuple[str, Pixels, str]  # name above, pixels, text beneath
THUMBNAILS = 18  # per group of the data sheet
CROPS = 6  # per group of photographs that are not ours to show whole
LISTED = 6  # images whose names a caption lists
ADMM_FALLS = 25  # iterations in which evaluate_convergence lets PnP-ADMM's s_k fall, as the paper
# Of mean squared steps.
ROUNDING = f" Steps below {MSD_RANGE[0]:.0e}, which are float32's rounding, are {{}} at that."


GEOMETRIC = f"The mean of the step is geometric.{ROUNDING.format('listed')}"


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
    unrolled_logs: unrolled.Logs
    diagnostics: pd.DataFrame
    denoising: pd.DataFrame
    denoiser_costs: pd.DataFrame
    trials: pd.DataFrame
    chosen: dict[str, dict[str, dict[str, float]]]
    sweep_file: Path
    sweep: pd.DataFrame | None  # where `make sweep` was run
    cropped: bool  # photographs are not ours to show whole
    central: Mapping[str, int | None]  # side of the test images' central crops, by stage
    active: Profile | None  # the parameters that captions speak of

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
    settings: Mapping[str, object] | None = None,
    parameters: Mapping[str, object] | None = None,
    code: Mapping[str, Code] | None = None,
    lambda_: float | None = None,
    cropped: bool = False,
    central: Mapping[str, int | None] | None = None,
    active: Profile | None = None,
) -> list[dict[str, Any]]:
    """Write claims, figures, tables, metrics.json and the documents; return the ledger.

    The same inputs give the same bytes. Paths are printed as they are given, so give them
    relative to the repository.

    Args:
        profile: its name, for headings.
        results: the profile's results, as `results/demo`.
        models: the profile's weights, as `models/demo`; what is found there is listed.
        data: the profile's data, as `data/demo`, with `prepare/manifest.csv`.
        reports: the folder to write into, as `reports/demo`; made if missing.
        tuning_trials: how many trials the tuning of a method was allowed.
        settings: what the page says of the settings, in this order.
        parameters: those of the profile by stage, for `index.html` and `report.tex`.
        code: that of every stage, for `index.html`.
        lambda_: the λ in use, marked in the figure of the sweep.
        cropped: photographs are not ours to show whole: figures and `index.html` have crops of at
            most 160 × 160 pixels only.
        central: by stage, the side in pixels of the central crops of the test images that it is
            run on; None, or no such stage, for whole images.
        active: the profile's parameters; captions say how long runs and trainings were, and a
            table stands beside the paper. Without it both are left out.

    Raises:
        ClaimError: evidence for a claim is missing or not a number.
        InputError: a file is missing or not what it should be.
    """
    inputs = read_inputs(
        results,
        data / "prepare" / "manifest.csv",
        reports / "sweep" / "lambda.csv",
        cropped,
        central or {},
        active,
    )
    # The claims come first: nothing is drawn from evidence that has gaps.
    ledger = judge_claims(inputs.evidence, _claim_files(inputs))

    for folder in (reports / "figures", reports / "tables"):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(reports / "claims.json", ledger)
    _write(reports / "claims.md", claims_markdown(ledger, profile))
    metrics = page.headline_metrics(ledger, inputs.evidence.restoration, inputs.evidence.ablation)
    write_json(reports / "metrics.json", rounded(metrics))

    figure_entries = []
    for entry, draw in _figures(inputs, lambda_):
        figures.save_figure(draw, reports / "figures" / entry.name)
        figure_entries.append(entry)
    table_entries = _tables(inputs, tuning_trials)
    paper = _paper(inputs, models)
    for table in [*table_entries, *([paper] if paper else [])]:
        stem = reports / "tables" / table.sheet.name
        _write(stem.with_suffix(".tex"), tables.to_latex(table.sheet))
        if table.sheet.intervals:
            with_intervals = tables.to_latex(table.sheet, intervals=True)
            _write(stem.with_name(f"{stem.name}_intervals.tex"), with_intervals)
        table.sheet.numbers.to_csv(
            stem.with_suffix(".csv"), index=False, lineterminator="\n", float_format="%.6g"
        )
    weights = page.list_weights(models)
    again = page.how_to_make(profile, _folders(inputs))
    text = page.index_markdown(
        profile,
        ledger,
        figure_entries,
        table_entries,
        weights,
        settings or {},
        paper=paper,
        again=again,
    )
    _write(reports / "index.md", text)
    evidence = inputs.evidence
    latex = document_latex(
        profile,
        ledger,
        figure_entries,
        table_entries,
        weights,
        restoration=evidence.restoration,
        manifest=inputs.manifest_file,
        parameters=parameters or {},
        paper=paper,
        again=again,
    )
    _write(reports / "report.tex", latex)
    html = web_page(
        profile,
        ledger,
        figure_entries,
        table_entries,
        weights,
        figure_folder=reports / "figures",
        results=results,
        restoration=evidence.restoration,
        curves={"evaluate_convergence": evidence.convergence, "ablate": evidence.ablation},
        manifest=inputs.manifest_file,
        parameters=parameters or {},
        code=code or {},
        cropped_from=_origins(inputs, evidence.restoration["image"]) if cropped else "",
        paper=paper,
        again=again,
    )
    _write(reports / "index.html", html)
    return ledger


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def read_inputs(
    results: Path,
    manifest: Path,
    sweep: Path,
    cropped: bool,
    central: Mapping[str, int | None],
    active: Profile | None,
) -> Inputs:
    """Load every table and log below `results`; InputError names what is missing.

    The table `sweep` is optional. `cropped` says that photographs are shown as crops only;
    `central` and `active` are as in `make_report`.
    """
    finetuned = results / "finetune_unrolled"
    trials = read_csv(results / "tune" / "trials.csv", ("task", "method", "parameters", "psnr"))
    return Inputs(
        results=results,
        manifest_file=manifest,
        manifest=read_csv(manifest, Row._fields),
        evidence=Evidence(
            restoration=read_table(results / "evaluate_restoration" / "table.csv"),
            convergence=read_table(results / "evaluate_convergence" / "table.csv"),
            ablation=read_table(results / "ablate" / "table.csv"),
            unrolled=pd.concat(
                [read_table(finetuned / start / "table.csv") for start in unrolled.STARTS],
                ignore_index=True,
            ),
        ),
        acceleration=read_table(results / "accelerate" / "table.csv"),
        pretrain=_log(results / "pretrain" / "log.csv"),
        gradient_step=_log(results / "train_gs" / "log.csv"),
        arms=_logs_by_seed(results / "train_reg", ("updated", "fixed")),
        unrolled_logs=unrolled.read_logs(finetuned),
        diagnostics=read_csv(results / "diagnose" / "table.csv", DIAGNOSTICS_COLUMNS),
        denoising=read_table(results / "evaluate_denoising" / "table.csv"),
        denoiser_costs=read_csv(results / "evaluate_denoising" / "costs.csv", COST_COLUMNS),
        trials=trials,
        chosen=_chosen(results / "tune" / "chosen.json", trials),
        sweep_file=sweep,
        sweep=read_csv(sweep, SWEEP_COLUMNS) if sweep.exists() else None,
        cropped=cropped,
        central=central,
        active=active,
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


def _logs_by_seed(folder: Path, arms: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The training logs of each arm, which has one per training seed: with a column `seed`."""
    logs = {}
    for name in arms:
        by_seed = {int(p.parent.name): _log(p) for p in (folder / name).glob("*/log.csv")}
        if not by_seed:
            raise InputError(f"{folder / name}: no */log.csv; run the stage that writes it")
        logs[name] = pd.concat(
            [by_seed[seed].assign(seed=seed) for seed in sorted(by_seed)], ignore_index=True
        )
    return logs


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


def _figures(
    inputs: Inputs, lambda_: float | None
) -> list[tuple[FigureEntry, Callable[[], Figure]]]:
    """Every figure with its entry on the page, in the order of the page."""
    evidence = inputs.evidence
    named = partial(_named, inputs.manifest)
    restored = evidence.restoration["image"].unique().tolist()
    convergence = evidence.convergence
    admm = evidence.ablation[evidence.ablation["method"].str.startswith("pnp-admm@")]
    rows, shown, limits, crops = _update_denoiser(inputs)
    pictures, truth, visual_caption = _inpainting(inputs)
    restoration_file = inputs.file("evaluate_restoration", "table.csv")
    return [
        (
            FigureEntry(
                "restoration",
                "All tasks and methods",
                f"PSNR of the last iterate minus that of PnP-GD with ReG, the paper's PnP-ReG, on "
                f"the same image, so what lies left of the line is behind it; {named(restored)}. "
                f"The axis is linear within ±{figures.RESTORATION_LINEAR:g} dB and logarithmic "
                "beyond. Small dots are images, large ones means, bars 95 % paired bootstrap "
                "intervals of the mean. Beside a task stands the mean PSNR of PnP-GD."
                f"{_until_say(inputs)}{findings.seeds_say(evidence.restoration)}",
                (restoration_file,),
                ("evaluate_restoration",),
                findings.restoration_says(evidence.restoration),
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
                f"{_curves_say('pnp-gd')} mean over {named(convergence['image'].unique())}"
                f"{_central_say(inputs, 'evaluate_convergence')}. As in the paper, the level s_k "
                "that PnP-ADMM gives D is fixed in deblurring and falls until iteration "
                f"{ADMM_FALLS} in super-resolution, where its end makes the step jump."
                f"{ROUNDING.format('drawn')}{_first_of_seeds(evidence.restoration)}",
                (inputs.file("evaluate_convergence", "table.csv"),),
                ("evaluate_convergence",),
            ),
            partial(figures.draw_iterations, convergence, CONVERGENCE_TASKS, "pnp-gd"),
        ),
        (
            FigureEntry(
                "acceleration",
                "PnP-GD by four schedules",
                "PSNR minus that of Adam's last iterate, mean over "
                f"{named(inputs.acceleration['image'].unique())}"
                f"{_central_say(inputs, 'accelerate')}, against iteration. All four "
                "follow the same gradient field with the same σ from the same start; G's Jacobian "
                "is not symmetric, so that there need be no objective: Adam with the "
                "learning rates of the official code, the plain step of the paper's equation, the "
                "spectral step (the metric of the operator) and, accelerated, the same with "
                "Nesterov's momentum, which is PnP-GD elsewhere in this report. The last two keep "
                "every iterate within [0,1], the first two have no bounds: where iterates reach "
                f"one, the limits of both kinds can differ. Within ±{NEAR:g} dB, the band, the "
                "axis is linear, beyond it logarithmic; dots and numbers say from which iteration "
                f"on a schedule stays at most {NEAR:g} dB below or above."
                f"{_first_of_seeds(evidence.restoration)}",
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
                "PnP-ADMM with the pre-trained denoiser (dashed) and with the one updated by ReG "
                f"training. {_curves_say('pnp-admm@updated')} mean over "
                f"{named(admm['image'].unique())}{_central_say(inputs, 'ablate')}."
                f"{ROUNDING.format('drawn')}{findings.seeds_say(evidence.ablation)}",
                (inputs.file("ablate", "table.csv"),),
                ("ablate",),
            ),
            partial(
                figures.draw_iterations,
                admm,
                tasks_in_order(admm["task"].tolist()),
                "pnp-admm@updated",
            ),
        ),
        (
            FigureEntry(
                "diagnostics",
                "What updating D changes in the networks",
                "Mean over central crops of "
                f"{named(inputs.diagnostics['image'].unique(), 'validation')}. "
                "The pair is D original with G fixed (dashed, hollow) or both updated (solid, "
                f"filled). MAP residual: {MAP_RESIDUAL}, z with noise σ₀; 0 for an exact pair, 1 "
                "for G = 0. Asymmetry: Frobenius norms by Hutchinson's estimator; G is a gradient "
                "and D a prox only where it is 0. Spectral norms, which are local Lipschitz "
                "constants: I − D is nonexpansive where its norm is at most 1, and D firmly "
                "nonexpansive, of which PnP-ADMM's convergence follows, where that of 2D − I is. "
                f"PnP-GD's step μ = 1/(σ²c): a curvature c above {BOUND}, with L the spectral norm "
                "of G's Jacobian, would suffice for stability near the iterate if that were "
                f"symmetric with no negative eigenvalue.{_first_of_seeds(evidence.restoration)}",
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
                f"square with the strongest gradients of the truth enlarged. {_whole(inputs)} "
                "Error maps: mean absolute error over colours, each row on a scale of its own."
                f"{_first_of_seeds(evidence.restoration)}{crops}",
                (inputs.file("ablate", "table.csv"), inputs.file("ablate", "images")),
                ("ablate",),
            ),
            partial(figures.draw_update_denoiser, rows, limits),
        ),
        (
            FigureEntry(
                "unrolled",
                "Unrolled gradient descent from four starts",
                "Left: PSNR on the validation images during training, mean over "
                f"{_trainings(inputs)} and the range of them; end to end is a DRUNet of the same "
                f"size without unrolling. Right: {named(evidence.unrolled['image'].unique())}, "
                "first seed: networks that were trained from ReG for each number of steps K; one "
                "of them run for other numbers (dashed); and PnP-GD with the same ReG run until it "
                "settles (black).",
                (inputs.file("finetune_unrolled", "*"),),
                tuple(f"finetune_unrolled@{start}" for start in unrolled.STARTS),
                unrolled.unrolled_says(inputs.unrolled_logs),
            ),
            partial(unrolled.draw_unrolled, inputs.unrolled_logs, _descents(evidence)),
        ),
        *_unrolled_crops(inputs),
        *_lambda_figure(inputs, lambda_),
        (
            FigureEntry(
                "training",
                "Training curves",
                "All on validation images or training crops, none on test images. The relative "
                f"MAP residual {MAP_RESIDUAL}, its norms over all crops of a mean together, is 0 "
                "for an exact pair (D, G) and 1 for G = 0; long noisy curves show a running "
                "median. Thin lines, where there are any, are training seeds.",
                tuple(
                    inputs.file(*parts, "log.csv")
                    for parts in (("pretrain",), ("train_gs",), ("train_reg", "*", "*"))
                ),
                ("pretrain", "train_gs", "train_reg"),
            ),
            partial(figures.draw_training, inputs.pretrain, inputs.gradient_step, inputs.arms),
        ),
        (
            FigureEntry(
                "data",
                "Images by role",
                f"{_data_says(inputs)} No photograph has two roles.",
                (inputs.manifest_file.as_posix(),),
                ("prepare",),
            ),
            partial(figures.draw_data_sheet, _data_groups(inputs)),
        ),
    ]


def _named(manifest: pd.DataFrame, names: Iterable[object], role: str = "test") -> str:
    """`4 test images (a, b, c, d)`; of many the sets are counted: `(cbsd68: 68, set5: 3 of 5)`."""
    listed = sorted(map(str, names))
    of_role = manifest[manifest["role"] == role]
    there = Counter(of_role["source"].map(set_of))
    used = Counter(of_role.loc[of_role["name"].isin(listed), "source"].map(set_of))
    counts = [f"{s}: {n}" + (f" of {there[s]}" if n < there[s] else "") for s, n in used.items()]
    shown = ", ".join(listed if len(listed) <= LISTED else counts)
    return f"{len(listed)} {role} image{'' if len(listed) == 1 else 's'} ({shown})"


def _curves_say(reference: str) -> str:
    """What the two kinds of curves of `figures.draw_iterations` are, up to what they are means of.

    `reference` is the method whose end PSNR is measured from.
    """
    return (
        f"Top: PSNR minus that of the last iterate of {method_name(reference)} on the same image, "
        f"linear within ±{figures.GAP_LINEAR:g} dB and logarithmic beyond. Bottom: mean squared "
        "difference of consecutive iterates. Bands go from the least to the greatest image, a "
        f"circle marks the peak of a mean PSNR that ends more than {PSNR_DROP} dB lower, labels "
        "give the mean PSNR at the end. Lines, geometric for the step, are the"
    )


def _until_say(inputs: Inputs) -> str:
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


def _central_say(inputs: Inputs, stage: str) -> str:
    """What a caption adds after the images where a stage was run on their central crops."""
    side = inputs.central.get(stage)
    return f", their central {side} × {side} pixels" if side else ""


def _whole(inputs: Inputs) -> str:
    """Of what PSNR is in the figure of the stage `ablate`."""
    side = inputs.central.get("ablate")
    return (
        f"Shown and measured are the central {side} × {side} pixels of an image."
        if side
        else "PSNR is that of the whole image."
    )


def _crops_say(inputs: Inputs, images: Iterable[str], shown: int | None = None) -> str:
    """What a caption adds where photographs are shown as crops: their size, and whence they are.

    `shown` is the side of the crops that pictures are of anyway.
    """
    if not inputs.cropped:
        return ""
    if shown is not None and shown <= figures.CROP_SIDE:
        return f" The photographs are from {_origins(inputs, images)}."
    return (
        f" Photographs are not shown whole but as crops of at most {figures.CROP_SIDE} × "
        f"{figures.CROP_SIDE} pixels, those with the strongest gradients of the truth; they are "
        f"from {_origins(inputs, images)}."
    )


def _origins(inputs: Inputs, images: Iterable[str]) -> str:
    """The folders that images come from, as the manifest names them."""
    manifest = inputs.manifest
    sources = manifest.loc[manifest["name"].isin(list(images)), "source"]
    return ", ".join(sorted(set(sources.map(set_of))))


def _shown(
    truth: Pixels, pictures: Sequence[Picture], cropped: bool
) -> tuple[Pixels, list[Picture]]:
    """The truth and pictures of it, whole or the same crop of all."""
    window = figures.busiest_crop(truth) if cropped else (slice(None), slice(None))
    return truth[window], [(name, pixels[window], text) for name, pixels, text in pictures]


def _lambda_figure(
    inputs: Inputs, chosen: float | None
) -> list[tuple[FigureEntry, Callable[[], Figure]]]:
    """The figure of the sweep of λ, where that was run."""
    if inputs.sweep is None:
        return []
    iterations = int(inputs.sweep["iterations"].max())
    own = inputs.active.train_reg.iterations if inputs.active else iterations
    against = "" if own == iterations else f" (the profile's own training has {own:,})"
    line = "" if chosen is None else " The dotted line is the λ in use."
    entry = FigureEntry(
        "lambda",
        "How much λ matters",
        f"G and D trained together from the same start with {inputs.sweep['lambda'].nunique()} "
        f"weights λ of L_G, {iterations:,} iterations each{against}, and measured on the "
        "validation images. "
        "Top: PSNR of PnP-GD by task (filled), of PnP-ADMM with that D at its last iterate "
        "(hollow), both tuned for each λ by equally many trials, and of D itself (dashed); bottom: "
        f"relative MAP residual {MAP_RESIDUAL} of the pair at σ = 25/255.{line} The numbers come "
        "from `make sweep`.",
        (inputs.sweep_file.as_posix(),),
        ("report",),
        findings.lambda_says(inputs.sweep),
    )
    return [(entry, partial(figures.draw_lambda, inputs.sweep, chosen))]


def _first_of_seeds(table: pd.DataFrame) -> str:
    """What a caption adds where only the first of several trainings, as in `table`, is shown."""
    seeds = table["seed"].nunique()
    return f" ReG is that of the first of {seeds} training seeds." if seeds > 1 else ""


def _kept(folder: Path, methods: Sequence[str]) -> list[str]:
    """Names of images that were kept of every method, sorted."""
    names = [{p.stem for p in (folder / m).glob("*.png")} for m in methods]
    common = sorted(set.intersection(*names))
    if not common:
        raise InputError(f"{folder}: no image was kept of all of {', '.join(methods)}")
    return common


def _trainings(inputs: Inputs) -> str:
    seeds = inputs.unrolled_logs.trainings["seed"].nunique()
    return f"{seeds} training seed{'s' if seeds > 1 else ''}"


def _descents(evidence: Evidence) -> dict[str, tuple[float, float]]:
    """PSNR of PnP-GD and its iterations, on the tasks and images of the unrolled networks."""
    rows = unrolled.pnp_gd_beside(evidence.unrolled, evidence.restoration)
    means = rows.pivot_table(index="task", columns="metric", values="value")
    return {str(task): (row["psnr"], row["iterations"]) for task, row in means.iterrows()}


def _unrolled_crops(inputs: Inputs) -> list[tuple[FigureEntry, Callable[[], Figure]]]:
    """One figure for every task whose degraded images were kept."""
    table = inputs.evidence.unrolled
    entries: list[tuple[FigureEntry, Callable[[], Figure]]] = []
    for task in tasks_in_order(table["task"].tolist()):
        if not (inputs.results / "evaluate_restoration" / "images" / task).exists():
            continue
        image, pictures = unrolled.crops(inputs.results, table, task)
        entry = FigureEntry(
            f"unrolled_{task.replace('.', '_')}",
            f"Unrolled networks: {task_name(task)}",
            f"Test image {image}, of those kept the one with the median PSNR of ReG's start (the "
            "lower one of an even number), first training seed. Below, the square with the "
            f"strongest gradients of the truth.{_crops_say(inputs, [image])}",
            (inputs.file("finetune_unrolled", "*", "images"),),
            tuple(f"finetune_unrolled@{start}" for start in unrolled.STARTS),
        )
        truth, pictures = _shown(pictures[0][1], pictures, inputs.cropped)
        draw = partial(figures.draw_comparison, pictures, truth, per_row=len(pictures))
        entries.append((entry, draw))
    return entries


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
) -> tuple[list[tuple[str, Pixels, list[Picture]]], str, list[float], str]:
    """Rows of the figure, which images they show, ends of their error scales, what crops say."""
    methods = {"pnp-gd@fixed": "D fixed", "pnp-gd@updated": "D updated"}
    table = inputs.evidence.ablation
    claim = "update-denoiser"
    of_claim = table[table["method"] == "pnp-gd@updated"]
    rows, shown, limits, images = [], [], [], []
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
        truth, pictures = _shown(truth, pictures, inputs.cropped)
        rows.append((task_name(task), truth, pictures))
        images.append(image)
        shown.append(f"{image} ({task_name(task)})")
        errors = [np.abs(p.astype(float) - truth).mean(axis=2) for _, p, _ in pictures]
        limits.append(max(10.0, 10.0 * np.ceil(max(np.quantile(e, 0.98) for e in errors) / 10)))
    crops = _crops_say(inputs, images, inputs.central.get("ablate"))
    return rows, "; ".join(shown), limits, crops


def _inpainting(inputs: Inputs) -> tuple[list[Picture], Pixels, str]:
    """Pictures of the visual comparison, the truth, and the caption."""
    table = inputs.evidence.restoration
    claim = "visual"
    folder = inputs.results / "evaluate_restoration" / "images" / VISUAL_TASK
    present = table.loc[table["task"] == VISUAL_TASK, "method"].unique().tolist()
    # PnP-GD stands last, beside its strongest neighbours, as figures of the field have it
    methods = sorted(in_order(present), key=lambda m: m.removesuffix(EQUIVARIANT) == "pnp-gd")
    rival = best_rival(table, claim, VISUAL_TASK, "ssim")
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
        f"PnP-GD and {method_name(rival)}, the best rival by mean SSIM (the lower one of an even "
        "number). Below, the square with the strongest gradients of the truth. PSNR and SSIM are "
        f"those of the whole image, last iterate.{_first_of_seeds(table)}"
        f"{_crops_say(inputs, [image])}"
    )
    truth, pictures = _shown(truth, pictures, inputs.cropped)
    return pictures, truth, caption


def _data_says(inputs: Inputs) -> str:
    if inputs.cropped:
        shown = pd.concat([chosen for _, _, chosen in _shown_rows(inputs)])
        photographs = shown.loc[~_leaves(shown), "name"]
        return f"An even choice of the images of each role.{_crops_say(inputs, photographs)}"
    return "Every validation and test image, and the training images or an even choice of them."


def _leaves(manifest: pd.DataFrame) -> pd.Series:
    """Which of the images are no photographs."""
    return manifest["source"].str.startswith("dead leaves")


def _shown_rows(inputs: Inputs) -> list[tuple[str, int, pd.DataFrame]]:
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


def _data_groups(inputs: Inputs) -> list[tuple[str, list[tuple[str, Pixels]]]]:
    sheet = []
    for heading, n, chosen in _shown_rows(inputs):
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


def _crop_of(pixels: Pixels, cropped: bool) -> Pixels:
    return pixels[figures.busiest_crop(pixels)] if cropped else pixels


# --- tables -----------------------------------------------------------------------------------


def _paper(inputs: Inputs, models: Path) -> TableEntry | None:
    """What was done here beside what the paper did, where the profile's parameters are given."""
    if inputs.active is None:
        return None
    sheet = paper_sheet(inputs.active, models, inputs.manifest, inputs.evidence.restoration)
    files = (
        inputs.manifest_file.as_posix(),
        (models / "pretrain" / "denoiser.safetensors").as_posix(),
        (models / "train_reg" / "updated" / "*" / "regularizer.safetensors").as_posix(),
    )
    return TableEntry("How far this is from the paper", sheet, files, ("report",))


def _folders(inputs: Inputs) -> list[str]:
    """The image folders that `data.root` must hold, where photographs come from there."""
    if inputs.active is None or not inputs.cropped:
        return []
    by_role = inputs.active.prepare.folders.values()
    return [folder for folders in by_role if isinstance(folders, list) for folder in folders]


def _tables(inputs: Inputs, tuning_trials: int) -> list[TableEntry]:
    evidence = inputs.evidence
    return [
        TableEntry(
            "Restoration",
            tables.restoration_sheet(evidence.restoration, _until_say(inputs)),
            (inputs.file("evaluate_restoration", "table.csv"),),
            ("evaluate_restoration",),
        ),
        TableEntry(
            "Where runs end",
            tables.falls_sheet(
                evidence.restoration,
                _until_say(inputs),
                int(evidence.ablation["iteration"].max()),
            ),
            (inputs.file("evaluate_restoration", "table.csv"),),
            ("evaluate_restoration",),
        ),
        TableEntry(
            "Convergence",
            tables.iterations_sheet(
                evidence.convergence,
                "convergence",
                "Convergence over {iterations} iterations, mean over {images} test images"
                f"{_central_say(inputs, 'evaluate_convergence')}. The best iterate is chosen by an "
                f"oracle that knows the truth. {GEOMETRIC}",
            ),
            (inputs.file("evaluate_convergence", "table.csv"),),
            ("evaluate_convergence",),
        ),
        TableEntry(
            "Acceleration",
            tables.acceleration_sheet(inputs.acceleration, _central_say(inputs, "accelerate")),
            (inputs.file("accelerate", "table.csv"),),
            ("accelerate",),
        ),
        TableEntry(
            "Ablation",
            tables.iterations_sheet(
                evidence.ablation,
                "ablation",
                "PnP-GD with G trained beside a fixed or an updated denoiser D, and PnP-ADMM with "
                "the original or the updated D: mean over {images} test images"
                f"{_central_say(inputs, 'ablate')}, up to "
                "{iterations} iterations. Best of each pair in bold; the best iterate is chosen by "
                f"an oracle. {GEOMETRIC}"
                f"{findings.seeds_say(evidence.ablation)}",
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
            unrolled.unrolled_sheet(
                evidence.unrolled, evidence.restoration, inputs.unrolled_logs.main_steps
            ),
            (inputs.file("finetune_unrolled", "*", "table.csv"),),
            tuple(f"finetune_unrolled@{start}" for start in unrolled.STARTS),
        ),
        TableEntry(
            "What pre-training is worth",
            unrolled.worth_sheet(inputs.unrolled_logs),
            (inputs.file("finetune_unrolled", "*", "logs.csv"),),
            ("finetune_unrolled@reg", "finetune_unrolled@random"),
        ),
        TableEntry(
            "Denoisers",
            tables.denoiser_sheet(inputs.pretrain, inputs.gradient_step, inputs.arms),
            (
                inputs.file("pretrain", "log.csv"),
                inputs.file("train_reg", "*", "*", "log.csv"),
                inputs.file("train_gs", "log.csv"),
            ),
            ("pretrain", "train_reg", "train_gs"),
        ),
        TableEntry(
            "Denoising",
            tables.denoising_sheet(inputs.denoising, inputs.denoiser_costs),
            (
                inputs.file("evaluate_denoising", "table.csv"),
                inputs.file("evaluate_denoising", "costs.csv"),
            ),
            ("evaluate_denoising",),
        ),
        TableEntry(
            "Tuning",
            tables.tuning_sheet(inputs.trials, inputs.chosen, tuning_trials),
            (inputs.file("tune", "trials.csv"), inputs.file("tune", "chosen.json")),
            ("tune",),
        ),
    ]
