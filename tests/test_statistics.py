import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from reg.errors import InputError
from reg.statistics import FEW_IMAGES, mean_over_tasks, paired_difference

numbers = st.lists(st.floats(-50, 50), min_size=2, max_size=12)


@given(numbers, st.floats(-10, 10))
@settings(max_examples=20)
def test_interval_contains_the_mean_and_follows_a_shift(values: list[float], shift: float) -> None:
    zeros = np.zeros(len(values))
    found = paired_difference(values, zeros, resamples=500)
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    moved = paired_difference(np.add(values, shift), zeros, resamples=500)
    np.testing.assert_allclose(
        [moved.mean, moved.low, moved.high],
        np.add([found.mean, found.low, found.high], shift),
        atol=1e-9,
    )


@given(numbers)
@settings(max_examples=20)
def test_what_is_common_to_both_methods_cancels(difficulty: list[float]) -> None:
    found = paired_difference(np.add(difficulty, 0.5), difficulty, resamples=500)
    np.testing.assert_allclose([found.mean, found.low, found.high], 0.5, atol=1e-9)
    assert found.effect_size is None


def test_interval_of_many_images_agrees_with_the_normal_one() -> None:
    d = np.random.default_rng(1).normal(0.3, 1.0, size=400)
    found = paired_difference(d, np.zeros(400))
    assert found.caution == "one training seed: how much trainings differ is not known"
    half = 1.96 * d.std(ddof=1) / 20
    assert found.low == pytest.approx(d.mean() - half, abs=0.015)
    assert found.high == pytest.approx(d.mean() + half, abs=0.015)
    assert found.effect_size == pytest.approx(d.mean() / d.std(ddof=1))


@pytest.mark.parametrize("n", [4, 8, 30])
def test_coverage_is_near_what_is_aimed_at(n: int) -> None:
    draw = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        found = paired_difference(draw.normal(1, 1, n), np.zeros(n), resamples=500)
        hits += found.low <= 1 <= found.high
    assert 0.925 <= hits / 400 <= 0.98


def test_the_seed_decides_the_interval() -> None:
    d = np.random.default_rng(3).normal(size=20)
    first = paired_difference(d, np.zeros(20), seed=5)
    assert first == paired_difference(d, np.zeros(20), seed=5)
    assert first.interval != paired_difference(d, np.zeros(20), seed=6).interval


def test_exchanging_the_methods_mirrors_the_result() -> None:
    a, b = np.random.default_rng(4).normal(size=(2, 15))
    ours, theirs = paired_difference(a, b), paired_difference(b, a)
    np.testing.assert_allclose(
        [ours.mean, ours.low, ours.high], [-theirs.mean, -theirs.high, -theirs.low], atol=1e-12
    )


def test_one_image_has_no_interval_and_cannot_decide() -> None:
    found = paired_difference([31.0], [30.0])
    assert found.interval is None
    assert found.effect_size is None
    assert found.low < 0 < found.high
    assert "one image" in found.caution
    assert "no interval" in found.text("dB")


def test_few_images_are_said_to_be_few() -> None:
    few = paired_difference(np.arange(4.0), np.zeros(4))
    assert "only 4 images" in few.caution
    enough = paired_difference(np.arange(float(FEW_IMAGES)), np.zeros(FEW_IMAGES))
    assert "images" not in enough.caution
    assert few.text("dB").startswith("+1.50 dB [")


# --- training seeds ------------------------------------------------------------------------


def one_way(difference: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The widened bootstrap over images alone, as one seed must have it."""
    n, mean = difference.size, difference.mean()
    drawn = np.random.default_rng(seed).integers(0, n, size=(10_000, n))
    low, high = np.quantile(difference[drawn].mean(axis=1), [(1 - 0.95) / 2, (1 + 0.95) / 2])
    longer = t.ppf(0.975, n - 1) / norm.ppf(0.975) * np.sqrt(n / (n - 1))
    return mean - longer * (mean - low), mean + longer * (high - mean)


@given(numbers)
@settings(max_examples=10)
def test_one_seed_is_the_bootstrap_over_images_exactly(values: list[float]) -> None:
    d = np.asarray(values)
    expected = d.mean(), *one_way(d)
    for given_d in (d, d[None]):
        found = paired_difference(given_d, np.zeros_like(given_d))
        np.testing.assert_allclose((found.mean, found.low, found.high), expected, atol=1e-12)
        assert (found.images, found.seeds) == (len(values), 1)


def test_seeds_that_agree_change_nothing() -> None:
    d = np.random.default_rng(5).normal(size=12)
    one, three = paired_difference(d, 0 * d), paired_difference([d] * 3, [0 * d] * 3)
    np.testing.assert_allclose(
        [three.mean, three.low, three.high, three.effect_size],
        [one.mean, one.low, one.high, one.effect_size],
        rtol=1e-12,
    )
    assert three.seeds == 3


def test_the_interval_of_crossed_seeds_and_images_agrees_with_the_normal_one() -> None:
    # d_si = μ + seed effect + image effect: the mean's variance is the sum of both.
    draw = np.random.default_rng(6)
    seeds, images = draw.normal(0, 1, size=(40, 1)), draw.normal(0, 2, size=(1, 80))
    d = 0.3 + seeds + images
    found = paired_difference(d, 0 * d)
    half = 1.96 * np.sqrt(seeds.var() / 40 + images.var() / 80)
    assert found.low == pytest.approx(d.mean() - half, abs=0.05)
    assert found.high == pytest.approx(d.mean() + half, abs=0.05)


def test_seeds_widen_the_interval_and_effect_sizes_speak_of_images() -> None:
    of_images = np.random.default_rng(7).normal(1.0, 0.1, size=30)
    d = of_images + np.array([[-0.5], [0.0], [0.5]])
    found = paired_difference(d, 0 * d)
    alone = paired_difference(of_images, 0 * of_images)
    assert found.high - found.low > 5 * (alone.high - alone.low)
    assert found.effect_size == pytest.approx(of_images.mean() / of_images.std(ddof=1))


def test_one_image_has_no_interval_however_many_seeds() -> None:
    found = paired_difference([[1.0], [2.0]], [[0.0], [0.0]])
    assert (found.mean, found.interval, found.effect_size) == (1.5, None, None)


def test_few_seeds_are_said_to_be_few() -> None:
    d = np.random.default_rng(8).normal(size=(3, 40))
    assert "only 3 training seeds" in paired_difference(d, 0 * d).caution
    for seeds, caution in ((4, "only 4 training seeds"), (5, "")):
        many = np.zeros((seeds, 40))
        assert paired_difference(many, many).caution.partition(":")[0] == caution
    both = paired_difference(d[:, :4], 0 * d[:, :4]).caution
    assert "only 4 images" in both
    assert "only 3 training seeds" in both


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0, 2.0], [1.0]),
        ([], []),
        ([[[1.0]]], [[[1.0]]]),
        ([[1.0], [2.0]], [1.0]),
        ([np.nan], [1.0]),
        ([np.inf], [1.0]),
    ],
)
def test_unusable_numbers_are_refused(a: object, b: object) -> None:
    with pytest.raises(InputError, match="paired comparison needs"):
        paired_difference(a, b)  # type: ignore[arg-type]


def test_mean_over_tasks_is_taken_per_image() -> None:
    np.testing.assert_allclose(mean_over_tasks([[1.0, 2.0], [3.0, 6.0]]), [2.0, 4.0])
