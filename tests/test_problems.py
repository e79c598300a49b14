import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reg.errors import InputError
from reg.operators import Blur, Denoising, Downsampling, Inpainting, gaussian_kernel
from reg.problems import Problem, Task, fill_holes, make_problem, parse_task, task_label

TASKS = ["deblur-k5-2.55", "sr-x2-2.55", "sr-x3-0", "inpaint-20", "denoise-25"]


def images(count: int = 3, height: int = 24, width: int = 36) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "task", "label"),
    [
        (
            "deblur-k5-2.55",
            Task("deblur-k5-2.55", "deblur", sigma_n=2.55 / 255, kernel="k5"),
            "Deblurring k5, σₙ 2.55",
        ),
        (
            "deblur-k0-1.414",
            Task("deblur-k0-1.414", "deblur", sigma_n=1.414 / 255, kernel="k0"),
            "Deblurring k0, σₙ 1.414",
        ),
        (
            "sr-x3-0",
            Task("sr-x3-0", "sr", sigma_n=0.0, factor=3),
            "Super-resolution ×3, σₙ 0",
        ),
        ("inpaint-20", Task("inpaint-20", "inpaint", percent=20.0), "Inpainting 20 %"),
        ("inpaint-0.5", Task("inpaint-0.5", "inpaint", percent=0.5), "Inpainting 0.5 %"),
        ("denoise-25", Task("denoise-25", "denoise", sigma_n=25 / 255), "Denoising, σₙ 25"),
    ],
)
def test_names_and_labels(name: str, task: Task, label: str) -> None:
    assert parse_task(name) == task
    assert task_label(task) == label


@settings(max_examples=50, deadline=None, derandomize=True)
@given(hundredths=st.integers(0, 25_500))
def test_labels_repeat_the_noise_level_of_the_name(hundredths: int) -> None:
    level = f"{hundredths / 100:g}"
    assert task_label(parse_task(f"denoise-{level}")) == f"Denoising, σₙ {level}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "deblur",
        "deblur-k8-2.55",
        "deblur-k5",
        "deblur-k5--1",
        "deblur-k5-nan",
        "deblur-k5-2.55 ",
        "deblur-k5-2.55-inpaint-20",
        "sr-x5-2.55",
        "sr-2-2.55",
        "inpaint-0",
        "inpaint-101",
        "inpaint-20%",
        "denoise-1e1",
        "Denoise-25",
    ],
)
def test_unknown_names_are_told_the_grammar(name: str) -> None:
    with pytest.raises(InputError, match=rf"task '{name}': must be deblur-<k0…k7>-<sigma>"):
        parse_task(name)


@pytest.mark.parametrize("task", TASKS)
def test_measurements_do_not_depend_on_the_batch(task: str) -> None:
    x = images()
    whole = make_problem(task, x, ["a", "b", "c"], seed=7)
    part = make_problem(task, x[[2, 1]], ["c", "b"], seed=7)
    torch.testing.assert_close(part.y, whole.y[[2, 1]])
    torch.testing.assert_close(part.start, whole.start[[2, 1]])


@pytest.mark.parametrize("task", ["deblur-k5-2.55", "sr-x2-2.55", "inpaint-20", "denoise-25"])
def test_seed_and_name_change_the_measurement(task: str) -> None:
    x = images(1)
    first = make_problem(task, x, ["a"], seed=7)
    assert torch.equal(first.y, make_problem(task, x, ["a"], seed=7).y)
    assert not torch.equal(first.y, make_problem(task, x, ["b"], seed=7).y)
    assert not torch.equal(first.y, make_problem(task, x, ["a"], seed=8).y)


def test_different_tasks_draw_different_noise() -> None:
    x = torch.zeros(1, 3, 24, 36)
    deblur, denoise = (make_problem(t, x, ["a"], 7) for t in ("deblur-k0-10", "denoise-10"))
    assert (
        abs(float(torch.corrcoef(torch.stack([deblur.y.ravel(), denoise.y.ravel()]))[0, 1])) < 0.1
    )


@pytest.mark.parametrize("task", ["deblur-k3-2.55", "sr-x2-7.65", "denoise-25"])
def test_noise_is_white_with_the_stated_level(task: str) -> None:
    problem = make_problem(task, images(4, 96, 96), ["a", "b", "c", "d"], seed=0)
    noise = problem.y - problem.operator.A(problem.truth)
    assert problem.sigma_n == parse_task(task).sigma_n
    assert float(noise.std()) == pytest.approx(problem.sigma_n, rel=0.02)
    assert abs(float(noise.mean())) < 0.02 * problem.sigma_n
    flat = noise.flatten(1)
    assert float((torch.corrcoef(flat) - torch.eye(4)).abs().max()) < 0.05
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean()
    assert abs(float(neighbours)) < 0.03


@pytest.mark.parametrize("percent", [10, 20, 50])
def test_masks_know_the_stated_share_in_all_channels_at_once(percent: int) -> None:
    problem = make_problem(f"inpaint-{percent}", images(2, 128, 128) + 0.1, ["a", "b"], seed=3)
    assert isinstance(problem.operator, Inpainting)
    mask = problem.operator.mask
    assert mask.shape == (2, 1, 128, 128)
    assert mask.float().mean(dim=(1, 2, 3)).tolist() == pytest.approx([percent / 100] * 2, abs=0.02)
    assert not torch.equal(mask[0], mask[1])
    assert torch.equal(problem.y > 0, mask.expand(2, 3, 128, 128))
    assert problem.sigma_n == 0


def test_starts() -> None:
    x = images()
    names = ["a", "b", "c"]
    for task in ("deblur-k5-2.55", "denoise-25"):
        problem = make_problem(task, x, names, seed=0)
        assert torch.equal(problem.start, problem.y)
        assert torch.equal(problem.degraded, problem.y)
    problem = make_problem("inpaint-20", x, names, seed=0)
    known = problem.operator.A(torch.ones_like(x)) == 1
    assert torch.equal(problem.degraded, torch.where(known, x, torch.full_like(x, 0.5)))
    assert torch.equal(problem.start, fill_holes(problem.y, known[:, :1]))


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    percent=st.integers(0, 100),
    seed=st.integers(0, 99),
)
def test_holes_are_filled_between_the_known_pixels(
    height: int, width: int, percent: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    y = 2 * torch.rand(2, 3, height, width, generator=draw, dtype=torch.float64) - 0.5
    known = torch.rand(2, 1, height, width, generator=draw) < percent / 100
    unseen = torch.where(known, y, torch.nan)
    filled = fill_holes(unseen, known)
    assert torch.equal(filled[known.expand_as(y)], y[known.expand_as(y)])
    for one, seen, mask in zip(filled, y, known, strict=True):
        for channel, values in zip(one, seen, strict=True):
            given_ = values[mask[0]] if mask.any() else torch.tensor([0.5])
            assert given_.min() - 1e-9 <= channel.min() <= channel.max() <= given_.max() + 1e-9
    alone = [fill_holes(unseen[i : i + 1], known[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(torch.cat(alone), filled, rtol=0, atol=1e-12)


def test_a_hole_takes_what_surrounds_it() -> None:
    column = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    known = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    known[..., 20:37, 22:35] = False  # of 13 columns, in which the ramp rises by 0.2
    assert (fill_holes(column, known) - column).abs().max() < 0.03
    scattered = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.2
    assert (fill_holes(column, scattered) - column).square().mean().sqrt() < 0.01


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_super_resolution_starts_aligned_with_the_truth(factor: int) -> None:
    row, column = torch.arange(48.0)[:, None], torch.arange(60.0)[None, :]
    bump = torch.exp(-((row - 20.3) ** 2 + (column - 33.6) ** 2) / (2 * 5.0**2))
    start = make_problem(f"sr-x{factor}-0", bump.expand(1, 3, 48, 60), ["bump"], seed=0).start
    assert start.shape == (1, 3, 48, 60)
    centre = [float((start * axis).sum() / start.sum()) for axis in (row, column)]
    assert centre == pytest.approx([20.3, 33.6], abs=0.02)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("deblur-k5-2.55", Blur),
        ("sr-x2-2.55", Downsampling),
        ("inpaint-20", Inpainting),
        ("denoise-25", Denoising),
    ],
)
def test_operators(task: str, kind: type) -> None:
    x = images()
    problem = make_problem(task, x, ["a", "b", "c"], seed=0)
    assert isinstance(problem, Problem)
    assert isinstance(problem.operator, kind)
    assert problem.truth is x
    if isinstance(problem.operator, Blur):
        assert torch.equal(problem.operator.kernel, gaussian_kernel("k5"))
    if isinstance(problem.operator, Downsampling):
        assert problem.operator.factor == 2


def test_double_precision_measures_the_same() -> None:
    x = images()
    single = make_problem("deblur-k5-2.55", x, ["a", "b", "c"], seed=0)
    double = make_problem("deblur-k5-2.55", x.double(), ["a", "b", "c"], seed=0)
    assert double.y.dtype == torch.float64
    torch.testing.assert_close(double.y.float(), single.y)


def test_sizes_that_do_not_suit_the_factor_are_refused() -> None:
    with pytest.raises(InputError, match="35×24 pixels: crop both sides"):
        make_problem("sr-x2-2.55", images(1, 24, 35), ["a"], seed=0)


def test_one_name_for_each_image() -> None:
    with pytest.raises(InputError, match="2 names"):
        make_problem("denoise-25", images(3), ["a", "b"], seed=0)
    with pytest.raises(InputError, match="one name for each image"):
        make_problem("denoise-25", images(1)[0], ["a", "b", "c"], seed=0)
