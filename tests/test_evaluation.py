import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from reg import evaluation
from reg.checkpoints import CHECKPOINTS, forget
from reg.evaluation import (
    Job,
    batches,
    central_crops,
    curve_rows,
    denoising_validation,
    evaluate,
    every_nth,
    final_rows,
    iterations_taken,
    long_table,
    measure_degraded,
    most_at_once,
    run_job,
    trace,
    write_table,
)
from reg.images import read_image
from reg.iterations import settle
from reg.methods import Networks, iterate
from reg.metrics import psnr, ssim
from reg.networks import Denoiser, Regularizer, initialise
from reg.operators import Denoising
from reg.problems import Problem, make_problem

COLUMNS = ["task", "method", "seed", "image", "iteration", "metric", "value"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def flat_problem() -> Problem:
    """Two images of 0.5 whose measurements, and starts, are 0.3."""
    truth = torch.full((2, 3, 8, 8), 0.5)
    return Problem("denoise-51", Denoising(), truth - 0.2, 0.2, truth - 0.2, truth)


def with_errors(problem: Problem, *errors: tuple[float, float]) -> Iterator[Tensor]:
    """Iterates with constant errors per image."""
    for pair in errors:
        yield problem.truth + torch.tensor(pair).view(2, 1, 1, 1)


# --- trace ---------------------------------------------------------------------------------


def test_trace_measures_every_iterate() -> None:
    problem = flat_problem()
    iterates = with_errors(problem, (0.1, 0.2), (0.01, 0.1), (-0.1, 0.1))
    curves, last = trace(iterates, problem, 3)
    expected = torch.tensor([[20.0, 13.9794], [40.0, 20.0], [20.0, 20.0]])
    torch.testing.assert_close(curves["psnr"], expected, rtol=0, atol=1e-3)
    # The first difference is to the start, whose error is −0.2.
    squares = torch.tensor([[0.3**2, 0.4**2], [0.09**2, 0.1**2], [0.11**2, 0.0]])
    torch.testing.assert_close(curves["msd"], squares, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(last, problem.truth + torch.tensor([-0.1, 0.1]).view(2, 1, 1, 1))


def test_trace_asks_for_no_more_than_it_needs() -> None:
    problem, asked = flat_problem(), []

    def endless() -> Iterator[Tensor]:
        for k in count(1):
            asked.append(k)
            yield problem.truth + 1 / k

    curves, last = trace(endless(), problem, 5)
    assert asked == [1, 2, 3, 4, 5]
    assert curves["psnr"].shape == curves["msd"].shape == (5, 2)
    torch.testing.assert_close(last, problem.truth + 1 / 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_image_that_diverges_does_so_alone(bad: float) -> None:
    problem = flat_problem()
    iterates = with_errors(problem, (0.1, 0.1), (0.01, bad), (0.1, bad), (0.01, bad))
    curves, last = trace(iterates, problem, 4)
    expected = torch.tensor([[20.0, 20.0], [40.0, 0.0], [20.0, 0.0], [40.0, 0.0]])
    torch.testing.assert_close(curves["psnr"], expected, rtol=0, atol=1e-3)
    steps = torch.tensor([0.3**2, 0.09**2, 0.09**2, 0.09**2])
    torch.testing.assert_close(curves["msd"][:, 0], steps, rtol=1e-4, atol=1e-9)
    assert curves["msd"][0, 1].item() == pytest.approx(0.3**2, rel=1e-4)
    assert torch.all(curves["msd"][1:, 1] == math.inf)
    torch.testing.assert_close(last[0], problem.truth[0] + 0.01)
    assert torch.all(last[1] == 0)


def test_one_bad_pixel_is_a_divergence() -> None:
    problem = flat_problem()
    x = problem.truth + 0.1
    x[1, 2, 3, 4] = math.nan
    curves, last = trace(iter([x]), problem, 1)
    torch.testing.assert_close(curves["psnr"], torch.tensor([[20.0, 0.0]]), rtol=0, atol=1e-3)
    assert curves["msd"][0, 1] == math.inf
    assert torch.all(last[1] == 0)
    torch.testing.assert_close(last[0], problem.truth[0] + 0.1)


def test_what_has_diverged_does_not_come_back() -> None:
    problem = flat_problem()
    iterates = with_errors(problem, (0.1, math.nan), (0.1, 0.1), (0.1, 0.1))
    curves, last = trace(iterates, problem, 3)
    assert torch.all(curves["psnr"][:, 1] == 0)
    assert torch.all(curves["msd"][:, 1] == math.inf)
    assert torch.all(last[1] == 0)
    torch.testing.assert_close(last[0], problem.truth[0] + 0.1)


def test_a_trace_ends_where_its_iterates_do() -> None:
    problem = flat_problem()
    curves, last = trace(with_errors(problem, (0.1, 0.2), (0.01, 0.1)), problem, 100)
    assert curves["psnr"].shape == curves["msd"].shape == (2, 2)
    torch.testing.assert_close(last, problem.truth + torch.tensor([0.01, 0.1]).view(2, 1, 1, 1))


def test_hqs_ends_with_its_schedule() -> None:
    problem = make_problem("inpaint-50", IMAGES["a"], ["a"], 7)
    parameters = {"sigma": 2.55, "level": 20.0}
    iterates = iterate("pnp-hqs", problem, Shrinking().networks(), parameters)
    curves, _ = trace(iterates, problem, 100)
    assert curves["psnr"].shape == (24, 1)


def test_iterations_are_counted_for_each_image() -> None:
    differences = torch.tensor(
        [[0.1, 0.1, 0.1], [0.2, math.inf, 0.1], [0.0, math.inf, 0.1], [0.0, math.inf, 0.0]]
    )
    assert iterations_taken(differences).tolist() == [2, 1, 3]


# --- rows and tables -----------------------------------------------------------------------


def test_curve_rows_number_iterations_from_one() -> None:
    curves = {"psnr": torch.tensor([[20.0, 21.0], [22.0, 23.0]]), "msd": torch.ones(2, 2)}
    table = long_table(curve_rows(flat_problem().task, "red", 2, ["a", "b"], curves))
    assert list(table.columns) == COLUMNS
    assert len(table) == 8
    assert set(table["task"]) == {"denoise-51"}
    assert set(table["method"]) == {"red"}
    assert set(table["seed"]) == {2}
    wanted = table[(table["metric"] == "psnr") & (table["image"] == "b")]
    assert list(wanted["iteration"]) == [1, 2]
    assert list(wanted["value"]) == [21.0, 23.0]


def test_final_rows() -> None:
    measured = {"psnr": [20.0, 21.0], "ssim": [0.5, 0.75]}
    table = long_table(final_rows(flat_problem().task, "red", 2, ["a", "b"], 60, measured))
    assert list(table.columns) == COLUMNS
    assert set(table["iteration"]) == {60}
    values = table.set_index(["metric", "image"])["value"].to_dict()
    assert values == {
        ("psnr", "a"): 20.0,
        ("psnr", "b"): 21.0,
        ("ssim", "a"): 0.5,
        ("ssim", "b"): 0.75,
    }


def test_a_name_for_each_image() -> None:
    with pytest.raises(ValueError, match="argument"):
        list(final_rows(flat_problem().task, "red", 2, ["a"], 1, {"psnr": [20.0, 21.0]}))


def test_an_empty_table_has_the_columns() -> None:
    assert list(long_table([]).columns) == COLUMNS


def test_tables_are_written_alike_with_unix_line_ends(tmp_path: Path) -> None:
    table = long_table([["sr-x2-2.55", "red", 2, "a", 3, "psnr", 100 / 3]])
    one, two = tmp_path / "new" / "one.csv", tmp_path / "two.csv"
    write_table(table, one)
    write_table(table.copy(), two)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() == (
        b"task,method,seed,image,iteration,metric,value\nsr-x2-2.55,red,2,a,3,psnr,33.3333\n"
    )
    assert pd.read_csv(one)["iteration"].dtype == int


# --- batches and crops ---------------------------------------------------------------------


def test_batches_hold_every_image_once_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "BATCH", 2)
    images = {f"i{k}": image(1, 3, 8, 8, seed=k) for k in (3, 1, 2, 5, 4)}
    images["wide"] = image(1, 3, 8, 16, seed=9)
    parts = list(batches(images))
    assert [names for names, _ in parts] == [["i1", "i2"], ["i3", "i4"], ["i5"], ["wide"]]
    for names, batch in parts:
        for name, one in zip(names, batch, strict=True):
            assert torch.equal(one, images[name][0])


@pytest.mark.parametrize(
    ("device", "pixels", "most"),
    [
        ("cpu", 64**2, 8),
        ("cpu", 181**2, 8),
        ("cpu", 240 * 320, 3),
        ("cpu", 321 * 481, 1),
        ("cpu", 3000 * 4000, 1),
        ("cuda", 321 * 481, 32),
    ],
)
def test_a_cpu_takes_few_large_images_at_once(device: str, pixels: int, most: int) -> None:
    assert most_at_once(device, pixels) == most


def test_central_crops() -> None:
    images = {"a": image(1, 3, 10, 12), "small": image(1, 3, 4, 12)}
    crops = central_crops(images, 6)
    assert torch.equal(crops["a"], images["a"][..., 2:8, 3:9])
    assert torch.equal(crops["small"], images["small"][..., :, 3:9])
    assert list(every_nth({name: images["a"] for name in "dbcae"}, 2)) == [
        "a",
        "c",
        "e",
    ]
    whole = central_crops(images, None)
    assert all(torch.equal(whole[name], images[name]) for name in images)


# --- evaluate ------------------------------------------------------------------------------


class Shrinking:
    """A denoiser D_s(z) = z/(1 + s²), and its exact gradient G(x) = x; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def denoiser(self, z: Tensor, s: float) -> Tensor:
        self.calls += 1
        return z / (1 + s**2)

    def regularizer(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x

    def networks(self) -> Networks:
        return Networks({"original": self.denoiser}, {"updated": self.regularizer})


IMAGES = {
    "b": image(1, 3, 16, 16, seed=1),
    "a": image(1, 3, 16, 16, seed=2),
    "wide": image(1, 3, 12, 20, seed=3),
}
JOBS = [
    Job("deblur-k0-2.55", "pnp-gd", {"sigma": 20.0, "curvature": 2.0}),
    Job("deblur-k0-2.55", "pnp-admm", {"sigma": 2.55, "level": 20.0}),
    Job("inpaint-50", "pnp-admm", {"sigma": 2.55, "level": 20.0}),
]
ITERATIONS = 4
PERIOD = {"pnp-gd": 8, "pnp-admm": 1}  # iterations until a network is turned as before


def run(
    networks: Networks | dict[int, Networks], key: str, jobs: list[Job] = JOBS, **options: object
) -> pd.DataFrame:
    return evaluate(
        jobs,
        IMAGES,
        {0: networks} if isinstance(networks, Networks) else networks,
        iterations=ITERATIONS,
        seed=7,
        precision="fp32",
        key=key,
        pictures=Path("pictures"),
        **options,  # type: ignore[arg-type]
    )


def expected_curves(
    job: Job, name: str, tolerance: float | None = None
) -> tuple[dict[str, list[float]], Tensor, Problem]:
    """Each image on its own, by hand."""
    problem = make_problem(job.task, IMAGES[name], [name], 7)
    iterates = iterate(job.method, problem, Shrinking().networks(), job.parameters)
    if tolerance is not None:
        iterates = settle(iterates, problem.start, tolerance, PERIOD[job.method])
    xs = list(islice(iterates, ITERATIONS))
    levels = [psnr(x, IMAGES[name]).item() for x in xs]
    before = [problem.start, *xs[:-1]]
    steps = [(x - b).square().mean().item() for x, b in zip(xs, before, strict=True)]
    return {"psnr": levels, "msd": steps}, xs[-1], problem


@pytest.mark.parametrize("tolerance", [0.0, 0.02])
def test_evaluate_measures_where_an_image_has_settled_and_the_oracle(tolerance: float) -> None:
    table = run(Shrinking().networks(), "key", tolerance=tolerance)
    assert list(table.columns) == COLUMNS
    assert len(table) == len(JOBS) * len(IMAGES) * 5
    assert set(table["iteration"]) == {ITERATIONS}
    values = table.set_index(["task", "method", "image", "metric"])["value"].sort_index()
    assert values.index.is_unique
    taken = []
    for job in JOBS:
        for name in IMAGES:
            curves, last, _ = expected_curves(job, name, tolerance)
            measured = values[job.task, job.method, name]
            assert measured["psnr"] == pytest.approx(curves["psnr"][-1], abs=1e-3)
            assert measured["psnr_oracle"] == pytest.approx(max(curves["psnr"]), abs=1e-3)
            assert measured["ssim"] == pytest.approx(ssim(last, IMAGES[name])[0], abs=1e-4)
            unclipped = psnr(last, IMAGES[name], clip=False).item()
            assert measured["psnr_unclipped"] == pytest.approx(unclipped, abs=1e-3)
            assert measured["iterations"] == len(curves["psnr"])
            taken.append(len(curves["psnr"]))
    # Without a tolerance all run to the end; with one of 2 % only some do.
    assert max(taken) == ITERATIONS
    assert (min(taken) < ITERATIONS) is (tolerance > 0)


def test_without_a_tolerance_evaluate_measures_every_iteration() -> None:
    table = run(Shrinking().networks(), "key", jobs=JOBS[:2])
    per_image = table.groupby(["method", "image", "metric"])["iteration"].apply(list)
    assert set(table["metric"]) == {"psnr", "msd", "ssim"}
    for (_, _, metric), iterations in per_image.items():  # type: ignore[misc]
        assert iterations == ([4] if metric == "ssim" else [1, 2, 3, 4])
    for job in JOBS[:2]:
        for name in IMAGES:
            curves, last, _ = expected_curves(job, name)
            for metric, expected in {**curves, "ssim": ssim(last, IMAGES[name])}.items():
                rows = table[
                    (table["method"] == job.method)
                    & (table["image"] == name)
                    & (table["metric"] == metric)
                ]
                assert list(rows["value"]) == pytest.approx(expected, rel=1e-4)


def test_pictures_are_the_last_iterates_of_the_tasks_to_keep() -> None:
    run(Shrinking().networks(), "key", keep={"inpaint-50"})
    folder = Path("pictures/inpaint-50")
    files = sorted(str(path) for path in Path("pictures").rglob("*.png"))
    assert files == [
        f"{folder}/{kind}/{name}.png" for kind in ("pnp-admm", "truth") for name in sorted(IMAGES)
    ]
    for name in IMAGES:
        _, last, _ = expected_curves(JOBS[2], name)
        shown = read_image(folder / "pnp-admm" / f"{name}.png")
        torch.testing.assert_close(shown, last.clamp(0, 1), rtol=0, atol=0.51 / 255)
        truth = read_image(folder / "truth" / f"{name}.png")
        torch.testing.assert_close(truth, IMAGES[name], rtol=0, atol=0.51 / 255)


def test_jobs_run_on_the_networks_of_their_seed_and_pictures_are_those_of_the_first() -> None:
    other, job = Networks({}, {"updated": lambda x: 3 * x}), JOBS[0]
    networks = {4: Shrinking().networks(), 5: other}
    jobs = [job, replace(job, seed=4), replace(job, seed=5)]
    table = run(networks, "key", jobs, keep={job.task})
    untold, first, second = (table[k * len(table) // 3 :][: len(table) // 3] for k in range(3))
    assert [set(part["seed"]) for part in (untold, first, second)] == [{4}, {4}, {5}]
    for part, seed in ((untold, 4), (first, 4), (second, 5)):
        alone = run({seed: networks[seed]}, f"alone {seed}", [replace(job, seed=seed)])
        pd.testing.assert_frame_equal(part.reset_index(drop=True), alone, check_exact=True)
    assert not second["value"].equals(first["value"])
    for name in IMAGES:
        shown = read_image(Path("pictures", job.task, "pnp-gd", f"{name}.png"))
        last = expected_curves(job, name)[1].clamp(0, 1)
        torch.testing.assert_close(shown, last, rtol=0, atol=0.51 / 255)


def test_an_interrupted_evaluation_goes_on_where_it_ended() -> None:
    whole = Shrinking()
    expected = run(whole.networks(), "whole")

    class PowerCutError(Exception):
        pass

    class Ending(Shrinking):
        def denoiser(self, z: Tensor, s: float) -> Tensor:
            if self.calls == whole.calls // 2 + 1:
                raise PowerCutError
            return super().denoiser(z, s)

    first, second = Ending(), Shrinking()
    with pytest.raises(PowerCutError):
        run(first.networks(), "key")
    table = run(second.networks(), "key")
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert 0 < second.calls < whole.calls
    assert first.calls + second.calls <= whole.calls + ITERATIONS
    again = Shrinking()
    pd.testing.assert_frame_equal(run(again.networks(), "key"), expected, check_exact=True)
    assert again.calls == 0
    forget("key")
    assert not (CHECKPOINTS / "key").exists()


def test_an_evaluation_goes_on_with_batches_of_another_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As on an accelerator after the CPU; `a` and `b` are of one size.
    expected = run(Shrinking().networks(), "key")
    monkeypatch.setattr(evaluation, "BATCH", 1)
    table = run(Shrinking().networks(), "key")
    columns = COLUMNS[:-1]
    pd.testing.assert_frame_equal(
        table.sort_values(columns, ignore_index=True),
        expected.sort_values(columns, ignore_index=True),
    )


@pytest.mark.parametrize("tolerance", [None, 1e-3])
def test_a_method_that_diverges_is_measured_too(tolerance: float | None) -> None:
    def broken(x: Tensor) -> Tensor:
        return x * math.nan

    networks, keep = Networks({}, {"updated": broken}), {"deblur-k0-2.55"}
    table = run(networks, "key", jobs=JOBS[:1], keep=keep, tolerance=tolerance)
    for name in IMAGES:
        of = table[table["image"] == name].groupby("metric")["value"].apply(list)
        assert set(of["psnr"]) == {0}
        assert all(math.isfinite(value) for value in of["ssim"])
        if tolerance is not None:
            assert of["psnr_unclipped"] == [0]
            assert of["iterations"] == [0]
        assert Path("pictures/deblur-k0-2.55/pnp-gd", f"{name}.png").exists()


def test_what_is_measured_of_an_image_does_not_depend_on_its_batch() -> None:
    # Image `a` diverges at once; `b` beside it goes on to the end, and is measured as alone.
    def breaking(x: Tensor) -> Tensor:
        return torch.where(x.mean(dim=(1, 2, 3), keepdim=True) > 0.5, math.nan, x)

    networks = Networks({}, {"updated": breaking})
    images = {"a": 0.5 + IMAGES["a"] / 2, "b": IMAGES["b"] / 2}

    def measured(names: str) -> pd.DataFrame:
        table = evaluate(
            JOBS[:1],
            {name: images[name] for name in names},
            {0: networks},
            iterations=ITERATIONS,
            seed=7,
            precision="fp32",
            key=names,
            pictures=Path("pictures"),
            tolerance=1e-6,
        )
        return table.set_index(["image", "metric"])["value"].sort_index()

    together = measured("ab")
    assert together["a", "psnr"] == 0 < together["b", "psnr"]
    for name in "ab":
        alone = measured(name)[name]
        assert together[name].to_dict() == pytest.approx(alone.to_dict(), abs=1e-3)


def test_degraded_images_are_measured_as_a_method() -> None:
    table = measure_degraded(
        ["deblur-k0-2.55", "inpaint-50"],
        IMAGES,
        training_seed=3,
        seed=7,
        key="degraded",
        pictures=Path("pictures"),
        keep=["inpaint-50"],
    )
    assert set(table["method"]) == {"start"}
    assert set(table["seed"]) == {3}
    assert set(table["iteration"]) == {0}
    assert len(table) == 3 * len(IMAGES) * 2  # degraded by two tasks, and with holes filled
    values = table.set_index(["task", "image", "metric"])["value"].sort_index()
    for job in (JOBS[0], JOBS[2]):
        for name in IMAGES:
            problem, measured = expected_curves(job, name)[2], values[job.task, name]
            for suffix, x in {"": problem.degraded, "_filled": problem.start}.items():
                if suffix and job.task != "inpaint-50":
                    assert f"psnr{suffix}" not in measured
                    continue
                level, similarity = psnr(x, IMAGES[name]).item(), ssim(x, IMAGES[name])[0]
                assert measured[f"psnr{suffix}"] == pytest.approx(level, abs=1e-3)
                assert measured[f"ssim{suffix}"] == pytest.approx(similarity, abs=1e-4)
    for name in IMAGES:
        shown = read_image(Path("pictures/inpaint-50/start", f"{name}.png"))
        start = expected_curves(JOBS[2], name)[2].degraded
        torch.testing.assert_close(shown, start.clamp(0, 1), rtol=0, atol=0.51 / 255)
    assert not Path("pictures/deblur-k0-2.55").exists()


def test_the_first_step_is_measured_from_where_the_method_begins() -> None:
    # Adam's first step is its rate, whatever the gradient.
    network = Regularizer((4, 4, 8, 8), 1)
    initialise(network, torch.Generator().manual_seed(0))
    networks, batch = Networks(regularizers={"updated": network}), image(1, 3, 24, 24)
    for method in ("pnp-gd-adam", "pnp-gd-published"):
        job = Job("inpaint-20", method, {"sigma": 1.0, "step": 0.01})
        state, _ = run_job(job, ["a"], batch, networks, 1, None, 0, "fp32")
        assert 0 < state["curves"]["msd"].item() <= 1.001e-4


# --- validation of a denoiser --------------------------------------------------------------


def test_denoising_validation_of_the_identity_measures_the_noise() -> None:
    class Identity(Denoiser):
        def forward(self, z: Tensor, sigma: float | Tensor) -> Tensor:
            return z

    images = {name: 0.5 + 0 * image(1, 3, 64, 64) for name in ("a", "b")}
    measured = denoising_validation(Identity((4, 4, 4, 4), 1), images, 3, "fp32")()
    assert list(measured) == ["psnr15", "psnr25", "psnr50"]
    for sigma in (15, 25, 50):
        expected = -20 * math.log10(sigma / 255)
        assert measured[f"psnr{sigma}"] == pytest.approx(expected, abs=0.3)


def test_denoising_validation_follows_the_network_on_fixed_noise() -> None:
    denoiser = Denoiser((4, 4, 4, 4), 1)
    validate = denoising_validation(denoiser, IMAGES, 3, "fp32")
    first = validate()
    assert validate() == first
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.zero_()
    black = validate()
    assert black != first
    levels = [psnr(torch.zeros_like(one), one) for one in IMAGES.values()]
    assert black["psnr25"] == pytest.approx(torch.cat(levels).mean().item(), abs=1e-3)
