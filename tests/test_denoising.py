import math
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from reg.denoising import Cost, cost, measure_denoising, published, trained_costs
from reg.gradient_step import GradientStepDenoiser, save_gradient_step
from reg.methods import Networks, load_networks
from reg.metrics import psnr
from reg.networks import Denoiser, Regularizer, initialise, save_network
from reg.problems import make_problem

COLUMNS = ["task", "method", "seed", "image", "iteration", "metric", "value"]
TINY = (4, 4, 8, 8)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed))


# --- quality -------------------------------------------------------------------------------


def with_functions(updated: float) -> Networks:
    """Denoisers that know nothing: z itself, a scaled z, and z less a gradient."""
    return Networks(
        denoisers={
            "original": lambda z, sigma: z,
            "updated": lambda z, sigma: updated * z,
            "fixed": lambda z, sigma: z,
        },
        potentials={"gradient-step": lambda z, sigma: (z.sum(dim=(1, 2, 3)), sigma * z)},
    )


def measured(images: dict[str, Tensor], **networks: Networks) -> pd.DataFrame:
    return measure_denoising(
        [25, 2.5],
        images,
        {int(seed.removeprefix("seed")): each for seed, each in networks.items()},
        seed=3,
        precision="fp32",
    )


def test_every_denoiser_is_measured_on_the_same_noise() -> None:
    images = {"a": image(1, 3, 16, 16), "b": image(1, 3, 16, 16, seed=1), "c": image(1, 3, 8, 24)}
    table = measured(images, seed0=with_functions(0.9), seed1=with_functions(0.8))
    assert list(table.columns) == [
        "task",
        "method",
        "seed",
        "image",
        "iteration",
        "metric",
        "value",
    ]
    keys = ["task", "method", "seed", "image", "metric"]
    assert not table.duplicated(keys).any()
    found = table.set_index(keys)["value"]
    assert len(found) == 2 * 4 * 3 * 3  # noise levels, denoisers with seeds, images, metrics
    for task, sigma in (("denoise-25", 25 / 255), ("denoise-2.5", 2.5 / 255)):
        for name, truth in images.items():
            y = make_problem(task, truth, [name], 3).y
            expected = {
                ("denoiser@original", 0): y,
                ("denoiser@updated", 0): 0.9 * y,
                ("denoiser@updated", 1): 0.8 * y,
                ("denoiser@gradient-step", 0): y - sigma * y,
            }
            for (method, seed), x in expected.items():
                clipped = x.clamp(0, 1)
                by_metric = {
                    "psnr": psnr(clipped, truth),
                    "psnr_8bit": psnr((255 * clipped).round() / 255, truth),
                    "psnr_unclipped": psnr(x, truth, clip=False),
                }
                for metric, value in by_metric.items():
                    key = (task, method, seed, name, metric)
                    assert found[key] == pytest.approx(value.item(), abs=1e-4), key


def test_what_is_rounded_and_clipped_differs_from_what_is_not() -> None:
    found = measured({"a": image(1, 3, 128, 128)}, seed0=with_functions(1.0))
    means = found[found["method"] == "denoiser@original"].groupby(["task", "metric"])["value"]
    by_metric = means.mean().unstack("metric")
    assert (by_metric["psnr"] > by_metric["psnr_unclipped"] + 0.05).any()
    # Rounding adds an error of variance 1/12 to the noise, which has 2.5² before it is clipped.
    fine = by_metric.loc["denoise-2.5"]
    lost = 10 * math.log10(1 + 1 / (12 * 2.5**2))
    assert fine["psnr"] - fine["psnr_8bit"] == pytest.approx(lost, rel=0.2)


# --- cost ----------------------------------------------------------------------------------


def test_the_cost_of_the_published_network() -> None:
    with torch.device("meta"):
        found = cost(Denoiser())
    assert found.weights == 32_640_960
    assert found.multiply_adds == pytest.approx(2.12e6, rel=2e-3)


def multiply_adds_by_hand(c1: int, c2: int, c3: int, c4: int, blocks: int) -> float:
    """Per pixel, from the equations of the layers: at scale k there is one place in 4ᵏ pixels."""
    total = 9 * (4 * c1 + c1 * 3)
    for k, (fine, coarse) in enumerate(((c1, c2), (c2, c3), (c3, c4))):
        total += 2 * blocks * 2 * 9 * fine**2 / 4**k  # on the way down and up
        # each output of the strided convolution has 4 · fine inputs, each output of the transposed
        # one, of which there are four times as many, has `coarse`
        total += 4 * fine * coarse / 4 ** (k + 1) + coarse * fine / 4**k
    return total + blocks * 2 * 9 * c4**2 / 4**3


@pytest.mark.parametrize(("channels", "blocks"), [((64, 128, 256, 512), 4), ((8, 16, 24, 40), 3)])
def test_multiply_adds_are_those_of_the_layers(channels: tuple[int, ...], blocks: int) -> None:
    with torch.device("meta"):
        found = cost(Denoiser(channels, blocks))
    assert found.multiply_adds == round(multiply_adds_by_hand(*channels, blocks))


def test_the_gradient_step_pays_for_its_way_back() -> None:
    denoiser, gradient_step = cost(Denoiser(TINY, 2)), cost(GradientStepDenoiser(TINY, 2))
    assert gradient_step.weights == denoiser.weights
    assert gradient_step.multiply_adds == pytest.approx(2 * denoiser.multiply_adds, abs=1)


def test_counting_leaves_the_network_as_it_was() -> None:
    denoiser = Denoiser(TINY, 1)
    initialise(denoiser, generator(0))
    before = denoiser(image(1, 3, 8, 8), 0.1)
    cost(denoiser)
    assert all(weight.requires_grad for weight in denoiser.parameters())
    assert torch.equal(denoiser(image(1, 3, 8, 8), 0.1), before)


def plain_network(*channels: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels)))


@pytest.mark.parametrize(
    ("name", "channels", "pixels"),
    [
        ("IRCNN", (3, 64, 64, 64, 64, 64, 64, 3), 1),
        ("FFDNet", (13, *[96] * 11, 12), 4),
        ("DnCNN", (3, *[64] * 19, 3), 1),
    ],
)
def test_costs_of_published_networks_are_those_of_their_layers(
    name: str, channels: tuple[int, ...], pixels: int
) -> None:
    network = plain_network(*channels)
    weights = sum(weight.numel() for weight in network.parameters())
    products = sum(weight.numel() for weight in network.parameters() if weight.ndim == 4)
    other = next(other for other in published() if other.name == name)
    assert other.cost == Cost(weights, products // pixels)


def test_costs_of_trained_networks(tmp_path: Path) -> None:
    folder = tmp_path / "train_reg" / "updated" / "0"
    denoiser, updated, regularizer = Denoiser(TINY, 1), Denoiser(TINY, 2), Regularizer(TINY, 2)
    gradient_step = GradientStepDenoiser(TINY, 1)
    for seed, network in enumerate((denoiser, updated, regularizer, gradient_step)):
        initialise(network, generator(seed))
    save_network(denoiser, tmp_path / "pretrain" / "denoiser.safetensors")
    save_network(updated, folder / "denoiser.safetensors")
    save_network(regularizer, folder / "regularizer.safetensors")
    save_gradient_step(gradient_step, tmp_path / "train_gs" / "denoiser.safetensors", {})
    table = trained_costs(tmp_path)
    expected = {
        "denoiser@original": cost(denoiser),
        "denoiser@updated": cost(updated),
        "denoiser@gradient-step": cost(gradient_step),
    }
    assert table.to_numpy().tolist() == [
        [method, each.weights, each.multiply_adds] for method, each in expected.items()
    ]
    # the same files can be measured
    rows = measure_denoising(
        [15], {"a": image(1, 3, 16, 16)}, load_networks(tmp_path), seed=0, precision="fp32"
    )
    assert rows["method"].unique().tolist() == list(expected)
    assert rows["value"].between(0, 60).all()
