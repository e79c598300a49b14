"""The report: pure functions of result tables, kept images and logs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reg.claims import claims_markdown, judge_claims, rounded, write_json
from reg.params import Profile
from reg.provenance import Code
from reg.report import figures, page
from reg.report.captions import origins
from reg.report.document import document_latex
from reg.report.figure_entries import figure_entries
from reg.report.inputs import Inputs, read_inputs
from reg.report.sheets import Sheet, to_latex
from reg.report.table_entries import paper_entry, table_entries
from reg.report.web import web_page


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
        lambda_,
    )
    # The claims come first: nothing is drawn from evidence that has gaps.
    ledger = judge_claims(inputs.evidence, _claim_files(inputs))

    for folder in (reports / "figures", reports / "tables"):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(reports / "claims.json", ledger)
    _write(reports / "claims.md", claims_markdown(ledger, profile))
    metrics = page.headline_metrics(ledger, inputs.evidence.restoration, inputs.evidence.ablation)
    write_json(reports / "metrics.json", rounded(metrics))

    drawn = figure_entries(inputs)
    for figure, draw in drawn:
        figures.save_figure(draw, reports / "figures" / figure.name)
    shown = [figure for figure, _ in drawn]
    listed = table_entries(inputs, tuning_trials)
    paper = paper_entry(inputs, models)
    for table in [*listed, *([paper] if paper else [])]:
        _write_table(table.sheet, reports / "tables")
    weights = page.list_weights(models)
    again = page.how_to_make(profile, _folders(inputs))
    text = page.index_markdown(
        profile,
        ledger,
        shown,
        listed,
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
        shown,
        listed,
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
        shown,
        listed,
        weights,
        figure_folder=reports / "figures",
        results=results,
        restoration=evidence.restoration,
        curves={"evaluate_convergence": evidence.convergence, "ablate": evidence.ablation},
        manifest=inputs.manifest_file,
        parameters=parameters or {},
        code=code or {},
        cropped_from=origins(inputs, evidence.restoration["image"]) if cropped else "",
        paper=paper,
        again=again,
    )
    _write(reports / "index.html", html)
    return ledger


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _write_table(sheet: Sheet, folder: Path) -> None:
    """Its LaTeX, without and with intervals where it has them, and its numbers."""
    stem = folder / sheet.name
    _write(stem.with_suffix(".tex"), to_latex(sheet))
    if sheet.intervals:
        with_intervals = to_latex(sheet, intervals=True)
        _write(stem.with_name(f"{stem.name}_intervals.tex"), with_intervals)
    sheet.numbers.to_csv(
        stem.with_suffix(".csv"), index=False, lineterminator="\n", float_format="%.6g"
    )


def _claim_files(inputs: Inputs) -> dict[str, list[str]]:
    restoration = [
        inputs.file("evaluate_restoration", "table.csv"),
        inputs.file("tune", "trials.csv"),
    ]
    ablation = [inputs.file("ablate", "table.csv")]
    return {
        "restoration": restoration,
        "visual": restoration,
        "gd-convergence": [inputs.file("evaluate_convergence", "table.csv")],
        "update-denoiser": ablation,
        "admm-convergence": ablation,
        "unrolled": [
            inputs.file("finetune_unrolled", start, "table.csv")
            for start in ("reg", "random", "denoiser")
        ],
    }


def _folders(inputs: Inputs) -> list[str]:
    """The image folders that `data.root` must hold, where photographs come from there."""
    if inputs.active is None or not inputs.cropped:
        return []
    by_role = inputs.active.prepare.folders.values()
    return [folder for folders in by_role if isinstance(folders, list) for folder in folders]
