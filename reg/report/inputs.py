"""Everything the report reads: result tables, training logs, the manifest and tuned parameters."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from reg.claims import Evidence, read_csv, read_table
from reg.datasets import Row
from reg.denoising import COST_COLUMNS
from reg.diagnostics import COLUMNS as DIAGNOSTICS_COLUMNS
from reg.errors import InputError
from reg.params import Profile
from reg.report import unrolled
from reg.report.findings import SWEEP_COLUMNS


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
    chosen: dict[str, dict[str, dict[str, float]]]
    sweep_file: Path
    sweep: pd.DataFrame | None  # where `make sweep` was run
    cropped: bool  # photographs are not ours to show whole
    central: Mapping[str, int | None]  # side of the test images' central crops, by stage
    active: Profile | None  # the parameters that captions speak of
    lambda_: float | None  # in use

    def file(self, *parts: str) -> str:
        """A result file as a reader finds it."""
        return self.results.joinpath(*parts).as_posix()


def read_inputs(
    results: Path,
    manifest: Path,
    sweep: Path,
    cropped: bool,
    central: Mapping[str, int | None],
    active: Profile | None,
    lambda_: float | None,
) -> Inputs:
    """Load every table and log below `results`; InputError names what is missing.

    The table `sweep` is optional. `cropped` says that photographs are shown as crops only;
    `central`,
    `active` and `lambda_` are as in `make_report`.
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
            trials=trials,
        ),
        acceleration=read_table(results / "accelerate" / "table.csv"),
        pretrain=_log(results / "pretrain" / "log.csv"),
        gradient_step=_log(results / "train_gs" / "log.csv"),
        arms=_logs_by_seed(results / "train_reg", ("updated", "fixed")),
        unrolled_logs=unrolled.read_logs(finetuned),
        diagnostics=read_csv(results / "diagnose" / "table.csv", DIAGNOSTICS_COLUMNS),
        denoising=read_table(results / "evaluate_denoising" / "table.csv"),
        denoiser_costs=read_csv(results / "evaluate_denoising" / "costs.csv", COST_COLUMNS),
        chosen=_chosen(results / "tune" / "chosen.json", trials),
        sweep_file=sweep,
        sweep=read_csv(sweep, SWEEP_COLUMNS) if sweep.exists() else None,
        cropped=cropped,
        central=central,
        active=active,
        lambda_=lambda_,
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
