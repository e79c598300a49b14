from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from benchmarks import sweep
from benchmarks.recipes import TASKS, train_pair
from reg.errors import InputError
from reg.params import read_params
from reg.report.findings import SWEEP_COLUMNS, SWEPT_ADMM, of_lambda
from reg.training import DivergenceError

ROOT = Path(__file__).parents[1]
OUTPUT = Path("reports/tiny/sweep/lambda.csv")


def call(*arguments: str) -> Result:
    arguments = ("--trials", "1", *arguments)
    return CliRunner().invoke(sweep.main, arguments, catch_exceptions=False)


def count_trainings(
    monkeypatch: pytest.MonkeyPatch, ends: dict[float, BaseException] | None = None
) -> list[tuple[float, int]]:
    """(λ, iterations) of what is trained from now on; some end in an exception instead."""
    trained: list[tuple[float, int]] = []

    def counted(recipe: sweep.TrainReg, *arguments: object) -> object:
        if recipe.lambda_ in (ends or {}):
            raise (ends or {})[recipe.lambda_]
        trained.append((recipe.lambda_, recipe.iterations))
        return train_pair(recipe, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep, "train_pair", counted)
    return trained


def test_an_interrupted_sweep_goes_on_and_a_diverged_training_has_no_numbers(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "LAMBDAS", (0.01, 1.0, 16.0))
    monkeypatch.setattr(sweep, "HELD", 3)
    diverged = DivergenceError("the loss is not finite")
    with monkeypatch.context() as patched:
        trained = count_trainings(patched, {1.0: KeyboardInterrupt()})
        assert call("--iterations", "1").exit_code != 0
        assert trained == [(0.01, 1)]
    assert not OUTPUT.exists()

    trained = count_trainings(monkeypatch, {16.0: diverged})
    assert call("--iterations", "1").exit_code == 0
    assert trained == [(1.0, 1)]
    found = pd.read_csv(OUTPUT)
    assert tuple(found.columns) == SWEEP_COLUMNS
    assert set(found["iterations"]) == {1}
    assert not list(Path(".checkpoints").iterdir())
    for method in ("pnp-gd", SWEPT_ADMM):
        levels = of_lambda(found, method, "psnr")
        assert list(levels.columns) == list(TASKS)
        assert levels.loc[[0.01, 1.0]].gt(0).to_numpy().all()
        assert levels.loc[16.0].isna().all()
    best, last = (of_lambda(found, SWEPT_ADMM, metric) for metric in ("psnr_oracle", "psnr"))
    assert (best - last).loc[[0.01, 1.0]].ge(0).to_numpy().all()
    for metric in ("psnr", "map_residual"):
        values = of_lambda(found, "denoiser", metric).iloc[:, 0].to_numpy(dtype=float)
        assert np.isfinite(values).tolist() == [True, True, False]


def test_other_errors_end_the_sweep(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count_trainings(monkeypatch, {sweep.LAMBDAS[0]: InputError("the disk is full")})
    result = call()
    assert result.exit_code == 2
    assert result.stderr == "error: the disk is full\n"
    assert not OUTPUT.exists()


def test_each_value_has_the_recipe_of_the_profile(prepared: Path) -> None:
    params = read_params()
    own = params.active.train_reg
    recipe = sweep.recipe_of(params, 4.0, None)
    assert (recipe.lambda_, recipe.iterations) == (4.0, own.iterations)
    kept = {"learning_rate", "batch", "crop", "form", "scale", "start", "schedule"}
    for iterations in (None, 7):
        recipe = sweep.recipe_of(params, 4.0, iterations)
        assert recipe.model_dump(include=kept) == own.model_dump(include=kept)
    assert recipe.iterations == 7
    assert len(set(sweep.LAMBDAS)) >= 5


def test_a_missing_denoiser_is_named_with_the_stage_that_makes_it(prepared: Path) -> None:
    Path("models/tiny/pretrain/denoiser.safetensors").unlink()
    result = call()
    assert result.exit_code == 2
    assert "denoiser.safetensors: no such file; run `dvc repro pretrain`" in result.stderr


def test_every_profile_has_the_folder_that_dvc_watches() -> None:
    yaml = YAML(typ="safe", pure=True)
    for profile in yaml.load(ROOT / "params.yaml")["profiles"]:
        assert (ROOT / "reports" / profile / "sweep" / ".gitkeep").is_file()
    report = yaml.load(ROOT / "dvc.yaml")["stages"]["report"]
    assert "reports/${profile}/sweep" in report["deps"]
