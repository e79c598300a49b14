import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from reg import finetuning
from reg.errors import InputError
from reg.evaluation import restoration_validation
from reg.finetuning import (
    RESIDUAL_SCALE,
    Bench,
    Plan,
    Training,
    begin,
    choose_rate,
    finetune,
    finetune_stably,
    measure_all,
)
from reg.iterations import pnp_gd
from reg.metrics import psnr
from reg.networks import Denoiser, Form, Regularizer, initialise
from reg.problems import make_problem
from reg.recipe import Recipe
from reg.training import DivergenceError, seeded
from reg.unrolled import EndToEnd, Unrolled

CHANNELS = (4, 4, 8, 8)
TASK = "deblur-k5-2.55"
TRAINING = Training(TASK, 2, 0, 4, 1e-3)


def denoiser() -> Denoiser:
    network = Denoiser(CHANNELS, 1)
    initialise(network, seeded(1))
    return network


def trained() -> Regularizer:
    network = Regularizer(CHANNELS, 1, scale=20.0)
    initialise(network, seeded(2))
    return network


def images(count: int, side: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return {f"image {k}": torch.rand(1, 3, side, side, generator=draw) for k in range(count)}


def bench(key: str = "key") -> Bench:
    draw = np.random.default_rng(0)
    return Bench(
        title="reg",
        recipe=Recipe(
            iterations=9, batch=2, crop=16, learning_rate=1.0, validate_every=2, precision="fp32"
        ),
        build=lambda training: Unrolled(trained(), training.steps, step=1.0, sigma=0.02),
        images=list(draw.integers(256, size=(2, 24, 24, 3), dtype=np.uint8)),
        validation=images(1, 24),
        supervision=0.0,
        seed=5,
        key=key,
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights(network: torch.nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


# --- starts --------------------------------------------------------------------------------


def test_reg_begins_with_a_copy_of_the_trained_weights() -> None:
    source = trained()
    found = begin(source, "reg", "plain", 1.0, 0)
    assert torch.equal(weights(found), weights(source))
    assert (found.form, found.scale) == ("plain", 20.0)
    with torch.no_grad():
        next(found.parameters()).zero_()
    assert not torch.equal(weights(found), weights(source))


@pytest.mark.parametrize(("form", "scale"), [("residual", 20.0), ("plain", RESIDUAL_SCALE)])
def test_denoiser_begins_as_the_residual_of_red(form: Form, scale: float) -> None:
    source, image = denoiser(), images(1, 24)["image 0"]
    found = begin(source, "denoiser", form, 20.0, 0)  # of the plain form 20 means another thing
    with torch.no_grad():
        torch.testing.assert_close(found(image), scale * (image - source(image, 0.0)))


@pytest.mark.parametrize("start", ["random", "end-to-end"])
def test_random_starts_have_the_size_of_the_denoiser_and_weights_of_the_seed(start: str) -> None:
    one, same, other = (
        begin(denoiser(), start, "plain", 20.0, seed)  # type: ignore[arg-type]
        for seed in (7, 7, 8)
    )
    assert torch.equal(weights(one), weights(same))
    assert not torch.equal(weights(one), weights(other))
    assert (one.network.channels, one.network.blocks) == (CHANNELS, 1)
    assert (one.form, one.scale) == ("plain", 20.0)


# --- training ------------------------------------------------------------------------------


def test_the_log_begins_before_training() -> None:
    restore, log = finetune(bench(), replace(TRAINING, learning_rate=0.1))
    assert log["iteration"].tolist() == [0, 2, 4]
    untrained = bench().build(TRAINING)
    begun, ended = (
        restoration_validation(network, TASK, bench().validation, 5, "fp32")()["psnr"]
        for network in (untrained, restore)
    )
    assert log["psnr"].iloc[0] == pytest.approx(begun, abs=1e-4)
    assert log["psnr"].iloc[-1] == pytest.approx(ended, abs=1e-4)
    assert begun != pytest.approx(ended, abs=1e-3)


def test_a_finished_training_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    restore, log = finetune(bench(), TRAINING)
    assert not list(Path(".checkpoints/key").glob("*/*.pt"))  # the unfinished part of it is gone
    monkeypatch.setattr(finetuning, "train", lambda *_, **__: pytest.fail("trained again"))
    again, same = finetune(bench(), TRAINING)
    assert torch.equal(weights(restore), weights(again))
    pd.testing.assert_frame_equal(log, same)


def test_trainings_differ_by_seed_and_by_nothing_that_was_run_before() -> None:
    first, _ = finetune(bench(), TRAINING)
    other, _ = finetune(bench(), Training(TASK, 2, 1, 4, 1e-3))
    again, _ = finetune(bench("another"), TRAINING)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_the_seed_of_the_parameters_decides_every_training() -> None:
    first, _ = finetune(bench(), TRAINING)
    shifted, _ = finetune(replace(bench("another"), seed=6), TRAINING)
    assert not torch.equal(weights(first), weights(shifted))


def test_the_rate_of_the_best_trial_is_chosen() -> None:
    rates = [1e-5, 1e-3, 1e9]
    rate, trials = choose_rate(bench(), Training(TASK, 2, 0, 3, 0.0), rates)
    assert trials["learning_rate"].tolist() == rates
    assert rate == trials.loc[trials["psnr"].fillna(-math.inf).idxmax(), "learning_rate"]
    assert rate < 1
    assert set(trials["task"]) == {TASK}


def test_a_rate_at_which_the_network_diverges_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    levels = {0.1: math.nan, 0.2: 20.0, 0.3: 25.0, 0.4: math.nan}

    def logged(_: Bench, training: Training) -> tuple[None, pd.DataFrame]:
        if training.learning_rate == 0.4:
            raise DivergenceError("the loss is not finite")
        return None, pd.DataFrame({"psnr": [10.0, levels[training.learning_rate]]})

    monkeypatch.setattr(finetuning, "finetune", logged)
    assert choose_rate(bench(), TRAINING, list(levels))[0] == 0.3
    with pytest.raises(InputError, match=r"at every rate of rate_factors"):
        choose_rate(bench(), TRAINING, [0.1, 0.4])


def test_a_training_that_diverges_goes_on_at_the_next_lower_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[float] = []

    def logged(_: Bench, training: Training, log: Path | None) -> tuple[str, pd.DataFrame]:
        tried.append(training.learning_rate)
        if training.learning_rate > 0.2:
            raise DivergenceError("the loss is not finite")
        return "network", pd.DataFrame()

    monkeypatch.setattr(finetuning, "finetune", logged)
    rates = [0.3, 0.1, 0.4, 0.2]
    done, network, _ = finetune_stably(bench(), replace(TRAINING, learning_rate=0.4), rates)
    assert (tried, network) == ([0.4, 0.3, 0.2], "network")
    assert done == replace(TRAINING, learning_rate=0.2)
    with pytest.raises(DivergenceError, match="not finite"):
        finetune_stably(bench(), replace(TRAINING, learning_rate=0.4), [0.4, 0.3])


def test_a_trial_is_no_training_of_equal_length() -> None:
    # Else a process could find the one where another is still at the other.
    plan = replace(PLAN, trial_iterations=PLAN.iterations)
    trial = replace(plan.trial(TASK), learning_rate=0.1)
    assert trial.name not in [one.name for one in plan.trainings(TASK, 0.1)]


# --- measuring -----------------------------------------------------------------------------


PLAN = Plan(
    tasks=[TASK],
    steps=2,
    seeds=[0, 1],
    sweep=[1, 2],
    iterations=4,
    rates=[1e-3],
    trial_iterations=2,
)


def test_the_plan_has_every_seed_and_further_numbers_of_steps_once() -> None:
    found = PLAN.trainings(TASK, 0.1)
    assert [(one.steps, one.seed) for one in found] == [(2, 0), (2, 1), (1, 0)]
    assert {(one.task, one.iterations, one.learning_rate) for one in found} == {(TASK, 4, 0.1)}
    assert [PLAN.kept(one) for one in found] == [True, False, False]
    assert [list(PLAN.counts(one)) for one in found] == [[0, 1, 2, 3, 4], [], [1]]


def measured(networks: dict[Training, Unrolled | EndToEnd], tests: dict[str, Tensor]) -> Path:
    measure_all(networks, PLAN, tests, Path("results"), "unrolled-x", 5, "fp32")
    return Path("results")


@pytest.mark.parametrize("task", [TASK, "inpaint-50"])
def test_networks_are_measured_as_the_descents_that_they_are(task: str) -> None:
    tests = images(3, 24)
    networks = {training: bench().build(training) for training in PLAN.trainings(task, 0.1)}
    results = measured(networks, tests)
    table, steps = pd.read_csv(results / "table.csv"), pd.read_csv(results / "steps.csv")
    for name, image in tests.items():
        problem = make_problem(task, image, [name], 5)
        problem = replace(problem, start=problem.degraded)
        with torch.no_grad():
            descent = islice(pnp_gd(problem, trained(), sigma=0.02, step=1.0), 4)
            levels = [float(psnr(x, image)) for x in (problem.start, *descent)]
        rows = steps[(steps["image"] == name)].set_index(["trained", "steps"])["psnr"]
        assert rows.loc[2].to_numpy() == pytest.approx(levels, abs=1e-3)
        assert rows.loc[1].to_dict() == pytest.approx({1: levels[1]}, abs=1e-3)
        final = table[(table["image"] == name) & (table["metric"] == "psnr")]
        assert final["value"].to_numpy() == pytest.approx(2 * [levels[2]], abs=1e-3)
    assert sorted(set(table["seed"])) == [0, 1]
    assert set(table["iteration"]) == {PLAN.iterations}
    assert sorted(path.stem for path in (results / "images" / task).iterdir()) == sorted(tests)


def test_a_network_without_steps_has_no_table_of_them() -> None:
    network = EndToEnd(trained().network)
    plan, tests = replace(PLAN, steps=1), images(1, 24)
    measure_all({replace(TRAINING, steps=1): network}, plan, tests, Path("results"), "x", 5, "fp32")
    assert not Path("results/steps.csv").exists()
    table = pd.read_csv("results/table.csv").set_index("metric")["value"]
    problem = make_problem(TASK, tests["image 0"], ["image 0"], 5)
    with torch.no_grad():
        assert table["psnr"] == pytest.approx(
            float(psnr(network(problem), problem.truth)), abs=1e-3
        )


def test_each_network_is_run_once_for_all_its_tables() -> None:
    passes = []
    network = bench().build(TRAINING)
    network.register_forward_pre_hook(lambda *_: pytest.fail("run apart from its iterates"))
    assert isinstance(network, Unrolled)
    network.regularizer.register_forward_hook(lambda *_: passes.append(1))
    measured({TRAINING: network}, images(1, 24))
    assert len(passes) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_networks_are_measured_on_the_accelerator() -> None:
    on_cpu = {TRAINING: bench().build(TRAINING)}
    results = measured(on_cpu, images(3, 24))
    found = pd.read_csv(results / "table.csv").set_index(["image", "metric"])["value"]
    network = on_cpu[TRAINING].cpu()
    for name, image in images(3, 24).items():
        problem = make_problem(TASK, image, [name], 5)
        with torch.no_grad():
            level = float(psnr(network(problem), image))
        assert found[name, "psnr"] == pytest.approx(level, abs=0.01)
