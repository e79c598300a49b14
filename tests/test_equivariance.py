from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from reg.equivariance import SYMMETRIES, equivariant, transform, transform_back
from reg.iterations import pnp_gd
from reg.methods import Networks, iterate
from reg.networks import Denoiser, Regularizer, initialise
from reg.problems import make_problem

every_symmetry = pytest.mark.parametrize("symmetry", range(SYMMETRIES))


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# --- the group -----------------------------------------------------------------------------


@every_symmetry
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (6, 2), (1, 7)])
def test_what_is_transformed_comes_back(symmetry: int, size: tuple[int, int]) -> None:
    x = image(2, 3, *size)
    turned = transform(x, symmetry)
    assert turned.shape[-2:] in (size, size[::-1])
    assert torch.equal(transform_back(turned, symmetry), x)
    assert torch.equal(transform(transform_back(x, symmetry), symmetry), x)


def test_the_first_is_the_identity() -> None:
    x = image(1, 3, 4, 6)
    assert torch.equal(transform(x, 0), x)


def table() -> list[list[int]]:
    """Which symmetry is the one after the other; ValueError where it is none of the eight."""
    x = image(1, 1, 5, 5)
    seen = [transform(x, k).flatten().tolist() for k in range(SYMMETRIES)]
    return [
        [seen.index(transform(transform(x, a), b).flatten().tolist()) for b in range(SYMMETRIES)]
        for a in range(SYMMETRIES)
    ]


def test_they_are_the_eight_symmetries_of_the_square() -> None:
    x, products = image(1, 1, 5, 5), table()
    every = {tuple(transform(x, k).flatten().tolist()) for k in range(SYMMETRIES)}
    flips_and_rotations = [one.rot90(k, (-2, -1)) for one in (x, x.flip(-1)) for k in range(4)]
    assert every == {tuple(one.flatten().tolist()) for one in flips_and_rotations}
    assert all(sorted(row) == list(range(SYMMETRIES)) for row in products)
    # Two of them are rotations by a quarter, of order four; the others are their own inverses.
    orders = [products[k][k] == 0 for k in range(SYMMETRIES)]
    assert orders.count(True) == 6
    assert products != [list(row) for row in zip(*products, strict=True)]


def test_channels_and_images_stay_where_they_are() -> None:
    x = torch.arange(6.0).view(2, 3, 1, 1).expand(2, 3, 4, 4)
    assert all(torch.equal(transform(x, k), x) for k in range(SYMMETRIES))


# --- networks ------------------------------------------------------------------------------


def ramp(x: Tensor) -> Tensor:
    """A map that knows left from right and up from down."""
    height, width = x.shape[-2:]
    rows = torch.arange(height, dtype=x.dtype)[:, None]
    columns = torch.arange(width, dtype=x.dtype)
    return x + rows + 0.1 * columns


@pytest.mark.parametrize("size", [(5, 5), (4, 6)])
def test_each_call_takes_the_next_symmetry_and_begins_again_after_the_eighth(
    size: tuple[int, int],
) -> None:
    x, turned = image(2, 3, *size), equivariant(ramp)
    results = [turned(x) for _ in range(20)]
    for k, result in enumerate(results):
        expected = transform_back(ramp(transform(x, k % 8)), k % 8)
        assert torch.equal(result, expected)
        assert result.shape == x.shape
    assert torch.equal(results[0], ramp(x))
    assert not torch.equal(results[1], results[0])


def test_two_of_a_network_take_their_turns_apart() -> None:
    x, one, other = image(1, 3, 4, 4), equivariant(ramp), equivariant(ramp)
    first = [one(x) for _ in range(3)]
    assert all(torch.equal(a, other(x)) for a in first)


def test_the_identity_and_what_treats_all_orientations_alike_are_unchanged() -> None:
    x = image(2, 3, 6, 9)
    same, pointwise = equivariant(lambda x: x), equivariant(torch.sin)
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 0.0]]).expand(3, 1, 3, 3)

    def symmetric(x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, kernel, padding=1, groups=3)

    filtered = equivariant(symmetric)
    for _ in range(9):
        assert torch.equal(same(x), x)
        assert torch.equal(pointwise(x), x.sin())
        torch.testing.assert_close(filtered(x), symmetric(x))


def test_eight_calls_together_commute_with_every_symmetry() -> None:
    x = image(1, 3, 5, 5)

    def mean(x: Tensor) -> Tensor:
        turned = equivariant(ramp)
        return sum(turned(x) for _ in range(SYMMETRIES)) / SYMMETRIES  # type: ignore[return-value]

    assert not torch.allclose(ramp(transform(x, 1)), transform(ramp(x), 1))
    for k in range(SYMMETRIES):
        torch.testing.assert_close(mean(transform(x, k)), transform(mean(x), k))


def test_a_denoiser_gets_its_noise_level_and_a_regularizer_is_taken_too() -> None:
    x = image(2, 3, 16, 24)
    denoiser, regularizer = Denoiser((4, 4, 8, 8), 1), Regularizer((4, 4, 8, 8), 1)
    for seed, network in enumerate((denoiser, regularizer)):
        initialise(network, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        D, G, levels = equivariant(denoiser), equivariant(regularizer), torch.tensor([0.05, 0.2])
        for k in range(9):
            turned, sigma = transform(x, k % 8), 0.1 if k % 2 else levels
            denoised = transform_back(denoiser(turned, sigma), k % 8)
            torch.testing.assert_close(D(x, sigma), denoised)
            torch.testing.assert_close(G(x), transform_back(regularizer(turned), k % 8))


# --- methods -------------------------------------------------------------------------------


def test_a_method_with_x8_turns_its_network_once_an_iteration_from_its_beginning() -> None:
    truth = image(1, 3, 12, 18)
    problem = make_problem("inpaint-20", truth, ["a"], 0)
    networks = Networks(regularizers={"updated": ramp})
    parameters = {"sigma": 10.0, "curvature": 5.0}
    sigma = 10 / 255
    for _ in range(2):  # a second run begins with the identity again
        found = islice(iterate("pnp-gd+x8", problem, networks, parameters), 10)
        expected = pnp_gd(
            problem,
            equivariant(ramp),
            sigma=sigma,
            step=1 / (sigma**2 * 5.0),
            descent="accelerated",
            bounds=(0, 1),
        )
        for x, wanted in zip(found, expected, strict=False):
            assert torch.equal(x, wanted)
