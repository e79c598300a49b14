import numpy as np
import pytest
from scipy import stats

from reg import dead_leaves as module
from reg.dead_leaves import dead_leaves, sample_discs, sample_radii, visible_leaves
from reg.errors import InputError

PRIMARIES = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)


@pytest.mark.parametrize("exponent", [1, 2, 3])
def test_radii_follow_the_power_law(exponent: int) -> None:
    r_min, r_max = 1.5, 40.0
    radii = sample_radii(20_000, exponent, r_min, r_max, np.random.default_rng(1))

    def cumulative(r: np.ndarray) -> np.ndarray:
        if exponent == 1:
            return np.log(r / r_min) / np.log(r_max / r_min)
        p = 1 - exponent
        return (r**p - r_min**p) / (r_max**p - r_min**p)

    assert stats.kstest(radii, cumulative).pvalue > 0.01
    assert r_min <= radii.min() <= radii.max() <= r_max


def test_log_log_slope_of_the_radius_density_is_minus_3() -> None:
    radii = sample_radii(200_000, 3, 1.0, 100.0, np.random.default_rng(2))
    edges = np.geomspace(1.0, 10.0, 11)
    density = np.histogram(radii, edges)[0] / np.diff(edges)
    slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(density), 1)[0]
    assert slope == pytest.approx(-3, abs=0.1)


def test_discs_are_those_of_the_planar_process() -> None:
    """Thinning r^-3 discs of a far wider square gives the same radii and centres."""
    size, r_min, r_max = 30, 2.0, 25.0
    generator = np.random.default_rng(3)
    count = 400_000
    radius = sample_radii(count, 3, r_min, r_max, generator)
    x, y = generator.uniform(-r_max, size + r_max, (2, count))
    near = (np.abs(x - size / 2) < size / 2 + radius) & (np.abs(y - size / 2) < size / 2 + radius)

    discs = sample_discs(50_000, size, r_min, r_max, generator)
    assert stats.ks_2samp(discs.radius, radius[near]).pvalue > 0.01
    assert stats.ks_2samp(discs.x, x[near]).pvalue > 0.01
    assert stats.ks_2samp(discs.y, y[near]).pvalue > 0.01
    # Front and back discs have the same law.
    assert stats.ks_2samp(discs.radius[:25_000], discs.radius[25_000:]).pvalue > 0.01


def test_every_pixel_shows_the_front_most_disc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a direct search through all discs that were drawn, pixel by pixel."""
    drawn = []

    def recorded(*arguments: object) -> module.Discs:
        drawn.append(sample_discs(*arguments))
        return drawn[-1]

    monkeypatch.setattr(module, "sample_discs", recorded)
    leaf = visible_leaves(48, 2.0, 48.0, np.random.default_rng(4))

    x, y, radius = (
        np.concatenate([getattr(d, name) for d in drawn]) for name in ("x", "y", "radius")
    )
    centres = np.arange(48) + 0.5
    inside = (centres[None, :, None] - x) ** 2 + (centres[:, None, None] - y) ** 2 <= radius**2
    assert inside.any(axis=2).all()
    # Sums of squares in single and double precision may differ at the very edge of a disc.
    assert (leaf == inside.argmax(axis=2)).mean() > 0.999


def test_colours_are_from_the_palette_before_averaging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SUPERSAMPLING", 1)
    image = dead_leaves(64, PRIMARIES, np.random.default_rng(5))
    seen = {tuple(colour) for colour in image.reshape(-1, 3).tolist()}
    assert seen == {tuple(colour) for colour in PRIMARIES.tolist()}


def test_averaging_mixes_four_pixels_and_keeps_flat_ones() -> None:
    image = dead_leaves(64, PRIMARIES, np.random.default_rng(5))
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert set(np.unique(image)) == {0, 64, 128, 191, 255}
    assert (image.max(axis=2) == 255).mean() > 0.2
    # Every colour is one quarter, two or three of a primary: channels add up to one up to rounding.
    assert np.abs(image.sum(axis=2, dtype=int) - 255).max() <= 2


def test_borders_are_like_the_middle() -> None:
    """The front-most radius does not depend on the place: the process is stationary."""
    edges = {"border": [], "middle": []}
    for seed in range(30):
        leaf = visible_leaves(64, 2.0, 64.0, np.random.default_rng(seed))
        change = leaf[:, 1:] != leaf[:, :-1]
        edges["border"].append(np.r_[change[:6], change[-6:]].mean())
        edges["middle"].append(change[26:38].mean())
    assert stats.ttest_rel(edges["border"], edges["middle"]).pvalue > 0.01


def test_equal_seeds_give_equal_images() -> None:
    first, second, other = (
        dead_leaves(40, PRIMARIES, np.random.default_rng(seed)) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("size", "colours", "r_min", "message"),
    [
        (0, PRIMARIES, 1.0, "at least 1"),
        (8, PRIMARIES[:0], 1.0, "at least one colour"),
        (8, PRIMARIES, 8.0, "r_min < r_max"),
        (8, PRIMARIES, 0.0, "0 < r_min"),
    ],
)
def test_unusable_arguments_are_named(
    size: int, colours: np.ndarray, r_min: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        dead_leaves(size, colours, np.random.default_rng(0), r_min)
