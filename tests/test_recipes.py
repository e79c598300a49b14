from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from benchmarks import recipes
from benchmarks.recipes import TASKS, VARIANTS, WeightedRegObjective
from reg.errors import InputError
from reg.losses import RegObjective
from reg.networks import Denoiser, Regularizer, initialise
from reg.report.figures import save_figure
from reg.training import DivergenceError, seeded, train

SIZE = ((4, 4, 8, 8), 1)
BUDGET = 300 * 16 * 64**2


# --- recipes and weights -------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_the_same_compute(name: str) -> None:
    recipe = recipes.recipe_of(VARIANTS[name], BUDGET)
    pixels = recipe.iterations * recipe.batch * recipe.crop**2
    assert abs(pixels - BUDGET) <= recipe.batch * recipe.crop**2 / 2


def test_variants_differ_from_each_other() -> None:
    made = [
        (recipes.recipe_of(one, BUDGET), one.weight, one.update_denoiser)
        for one in VARIANTS.values()
    ]
    assert all(made[i] != made[j] for i in range(len(made)) for j in range(i))


def networks() -> tuple[Denoiser, Regularizer]:
    pair = Denoiser(*SIZE), Regularizer(*SIZE, "plain", 20.0)
    for seed, network in enumerate(pair):
        initialise(network, seeded(seed))
    return pair


def crops() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=seeded(2))


def generators() -> list[torch.Generator]:
    return [seeded(3, crop) for crop in range(3)]


def gradients(objective: RegObjective, iteration: int) -> tuple[Tensor, list[Tensor]]:
    loss = objective(crops(), iteration, generators())["loss"].mean()
    return loss, list(torch.autograd.grad(loss, list(objective.parameters())))


@pytest.mark.parametrize("iteration", [1, 2])
def test_equal_weights_give_the_objective_itself(iteration: int) -> None:
    weighted = WeightedRegObjective(*networks(), 0.7, lambda sigma, sigma_0: 3 + 0 * sigma)
    plain = RegObjective(*networks(), 0.7, update_denoiser=True)
    loss, found = gradients(weighted, iteration)
    expected_loss, expected = gradients(plain, iteration)
    torch.testing.assert_close(loss, expected_loss)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("iteration", [1, 2])
def test_weights_of_mean_one_multiply_the_loss_of_each_crop(iteration: int) -> None:
    weighted = WeightedRegObjective(
        *networks(), 0.7, lambda sigma, sigma_0: torch.tensor([1.0, 2.0, 6.0])
    )
    plain = RegObjective(*networks(), 0.7, update_denoiser=True)
    terms = plain(crops(), iteration, generators())
    of_denoiser = terms["loss"] - 0.7 * terms["loss_G"]
    expected = of_denoiser + 0.7 * torch.tensor([1.0, 2.0, 6.0]) / 3 * terms["loss_G"]
    torch.testing.assert_close(weighted(crops(), iteration, generators())["loss"], expected)


def test_weights_see_both_noise_levels() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def weight(sigma: Tensor, sigma_0: Tensor) -> Tensor:
        seen.append((sigma, sigma_0))
        return torch.ones_like(sigma)

    objective = WeightedRegObjective(*networks(), 0.7, weight)
    for iteration in (1, 2):
        objective(crops(), iteration, generators())
    (sigma, sigma_0), (independent, same_noise) = seen
    assert torch.equal(sigma, sigma_0)
    assert torch.equal(same_noise, sigma_0)
    assert not torch.isclose(independent, same_noise).any()


# --- table and figure ----------------------------------------------------------------------------


def table(**means: float) -> pd.DataFrame:
    rows = [
        {"variant": name, "seed": 0, **dict.fromkeys(TASKS, mean), "mean": mean}
        for name, mean in means.items()
    ]
    return pd.DataFrame(rows)


def test_the_variants_near_the_best_get_a_second_seed() -> None:
    found = table(reference=27.0, paper=27.31, residual=27.4, halving=float("nan"))
    assert recipes.near_best(found) == ["paper", "residual"]


def test_the_figure_is_sorted_and_says_what_diverged() -> None:
    found = table(reference=27.0, paper=20.0, residual=27.4, halving=float("nan"))
    (axis,) = recipes.draw(found).axes
    labels = [text.get_text() for text in axis.get_yticklabels()]
    order = ("halving", "paper", "reference", "residual")
    assert labels == [VARIANTS[name].label for name in order]
    assert [text.get_text() for text in axis.texts][:4] == ["diverged", "20.00", "27.00", "27.40"]
    # 7 dB behind is beyond the edge: three marks there, pointing outwards.
    outwards = [line for line in axis.lines if line.get_marker() == "<"]
    assert [np.asarray(line.get_xdata()).item() for line in outwards] == [-recipes.SHOWN] * 3


# --- the whole ------------------------------------------------------------------------------------


@pytest.fixture
def folder(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipes as they are, but on smaller crops: 16 of 64² take a second even here."""
    monkeypatch.setattr(recipes, "REFERENCE", {**recipes.REFERENCE, "batch": 2, "crop": 32})
    return prepared


def call(*arguments: str) -> Result:
    arguments = ("--iterations", "1", "--trials", "1", *arguments)
    return CliRunner().invoke(recipes.main, arguments, catch_exceptions=False)


def count_trainings(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[str], None] = lambda title: None
) -> list[str]:
    """The variants that are trained from now on, by name; `before` is called with each."""
    trained: list[str] = []

    def counted(*arguments: object, title: str, **options: object) -> object:
        before(title)
        trained.append(title)
        return train(*arguments, title=title, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(recipes, "train", counted)
    return trained


def keep(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(recipes, "VARIANTS", {name: VARIANTS[name] for name in names})


def test_an_interrupted_run_goes_on_and_diverged_variants_are_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(monkeypatch, "reference", "scale-80", "residual", "weight-sigma")

    def interrupt(title: str) -> None:
        if title == "scale-80":
            raise DivergenceError("the loss is not finite")
        if title == "residual":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        trained = count_trainings(patched, interrupt)
        assert call().exit_code != 0
        assert trained == ["reference"]
    assert not recipes.OUTPUT.exists()

    trained = count_trainings(monkeypatch)
    assert call().exit_code == 0
    assert trained == ["residual", "weight-sigma"]
    found = pd.read_csv(recipes.OUTPUT)
    assert found["variant"].tolist() == ["reference", "scale-80", "residual", "weight-sigma"]
    assert np.isnan(found.loc[1, [*TASKS, "mean", "denoiser_psnr25"]].to_numpy(dtype=float)).all()
    whole = found.drop(1)
    assert whole[["mean", "denoiser_psnr25"]].gt(0).to_numpy().all()
    np.testing.assert_allclose(whole["mean"], whole[list(TASKS)].mean(axis=1), rtol=1e-5)
    assert recipes.OUTPUT.with_suffix(".pdf").exists()
    assert recipes.OUTPUT.with_suffix(".png").exists()

    before = recipes.OUTPUT.read_bytes()
    assert call("--seeds", "2").exit_code == 0
    again = pd.read_csv(recipes.OUTPUT)
    assert set(again["seed"]) == {0, 1}
    assert recipes.OUTPUT.read_bytes().startswith(before)
    assert again.loc[again["seed"] == 1, "variant"].tolist() == recipes.near_best(found)


def test_one_variant_alone_is_kept_for_the_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(monkeypatch, "reference", "batch-4")
    trained = count_trainings(monkeypatch)
    assert call("--only", "batch-4").exit_code == 0
    assert not recipes.OUTPUT.exists()
    assert call().exit_code == 0
    assert trained == ["batch-4", "reference"]
    assert pd.read_csv(recipes.OUTPUT)["crop"].tolist() == [32, 128]


def test_other_errors_end_the_run_and_are_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(monkeypatch, "reference")

    def fill_the_disk(title: str) -> None:
        raise InputError("the disk is full")

    with monkeypatch.context() as patched:
        count_trainings(patched, fill_the_disk)
        assert call().stderr == "error: the disk is full\n"
    trained = count_trainings(monkeypatch)
    assert call().exit_code == 0
    assert trained == ["reference"]


def test_crops_larger_than_an_image_are_refused_before_any_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "REFERENCE", {**recipes.REFERENCE, "crop": 144})
    trained = count_trainings(monkeypatch)
    result = call()
    assert result.exit_code == 2
    assert "crop of 144x144" in result.stderr
    assert trained == []


def test_a_missing_denoiser_is_named_with_the_stage_that_makes_it(folder: Path) -> None:
    Path("models/tiny/pretrain/denoiser.safetensors").unlink()
    result = call()
    assert result.exit_code == 2
    assert "denoiser.safetensors: no such file; run `dvc repro pretrain`" in result.stderr


def test_equal_tables_give_equal_figures(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_figure(lambda: recipes.draw(table(reference=27.0, paper=20.0)), tmp_path / name)
    for kind in (".pdf", ".png"):
        files = [tmp_path.joinpath(name).with_suffix(kind) for name in ("a", "b")]
        assert files[0].read_bytes() == files[1].read_bytes()
