"""How well the denoisers denoise, what a pixel costs them, and what was published of others."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reg.console import progress
from reg.evaluation import Row, batches, final_rows, long_table
from reg.gradient_step import load_gradient_step
from reg.iterations import DenoiserFunction, PotentialAndGradient
from reg.methods import Networks, arm_folder
from reg.metrics import psnr
from reg.networks import STRIDE, Denoiser, Precision, inference, load_denoiser
from reg.problems import make_problem

ORIGINAL, UPDATED, GRADIENT_STEP = (
    "denoiser@original",
    "denoiser@updated",
    "denoiser@gradient-step",
)
COST_COLUMNS = ["method", "weights", "multiply_adds"]
CBSD68, CBSD68_IMAGES = "cbsd68-", 68  # how names begin of images from a folder cbsd68, their count


# --- quality --------------------------------------------------------------------------------


def measure_denoising(
    sigmas: Sequence[float],
    images: Mapping[str, Tensor],
    networks: Mapping[int, Networks],
    *,
    seed: int,
    precision: Precision,
) -> pd.DataFrame:
    """PSNR of every denoiser on noisy images, as the long table with tasks `denoise-<sigma>`.

    `sigmas` are noise levels in /255, which the denoisers are told; `networks` are by training
    seed, the first one first; `seed` is that of the noise, which all denoisers share. Metrics:
    `psnr` of the result clipped to [0,1], `psnr_8bit` of the same rounded to 8 bits, and
    `psnr_unclipped`, in dB.
    """
    device = next(iter(networks.values())).device
    held = list(batches(images))
    parts = [(f"denoise-{sigma:g}", *part) for sigma in sigmas for part in held]
    rows: list[Row] = []
    with progress("batches", len(parts)) as shown:
        for task, names, batch in parts:
            problem = make_problem(task, batch.to(device), names, seed)
            for method, training_seed, denoise in _denoisers(networks):
                with inference(precision, device):
                    x = denoise(problem.y, problem.sigma_n).float()
                measured = {
                    "psnr": psnr(x, problem.truth),
                    "psnr_8bit": psnr((255 * x).round() / 255, problem.truth),
                    "psnr_unclipped": psnr(x, problem.truth, clip=False),
                }
                values = {metric: each.tolist() for metric, each in measured.items()}
                rows += final_rows(problem.task, method, training_seed, names, 1, values)
            shown.step(task)
    return long_table(rows)


def _denoisers(networks: Mapping[int, Networks]) -> Iterator[tuple[str, int, DenoiserFunction]]:
    """Method, training seed and function of each; those that were trained once come once."""
    first, once = next(iter(networks.items()))
    yield ORIGINAL, first, once.denoisers["original"]
    for training_seed, each in networks.items():
        yield UPDATED, training_seed, each.denoisers["updated"]
    yield GRADIENT_STEP, first, _gradient_step(once.potentials["gradient-step"])


def _gradient_step(potential: PotentialAndGradient) -> DenoiserFunction:
    return lambda z, sigma: z - potential(z, sigma)[1]


# --- cost -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """How many weights a network has, and how many multiply-adds it takes per pixel."""

    weights: int
    multiply_adds: int


def cost(denoiser: nn.Module) -> Cost:
    """Cost of `denoiser(z, sigma)`, counted while a copy without its weights runs on 8 × 8 pixels.

    Convolutions count, those of a backward pass inside the denoiser too; additions of skips and
    biases, and activations do not.
    """
    shape_only = deepcopy(denoiser).requires_grad_(False).to_empty(device="cpu")
    z = torch.zeros(1, 3, STRIDE, STRIDE, device="cpu")
    with FlopCounterMode(display=False) as counter:
        shape_only(z, 0.1)
    weights = sum(weight.numel() for weight in shape_only.parameters())
    return Cost(weights, round(counter.get_total_flops() / 2 / STRIDE**2))


def trained_costs(models: Path) -> pd.DataFrame:
    """Costs of the denoisers below `models/<profile>`: method, weights, multiply_adds."""
    networks = {
        ORIGINAL: load_denoiser(models / "pretrain" / "denoiser.safetensors"),
        UPDATED: load_denoiser(arm_folder(models, "updated") / "denoiser.safetensors"),
        GRADIENT_STEP: load_gradient_step(models / "train_gs" / "denoiser.safetensors"),
    }
    found = {method: cost(network) for method, network in networks.items()}
    rows = [(method, each.weights, each.multiply_adds) for method, each in found.items()]
    return pd.DataFrame(rows, columns=COST_COLUMNS)


# --- published ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """A network of the literature: PSNR on CBSD68 by task, in dB, and its cost."""

    name: str
    psnr: Mapping[str, float]
    cost: Cost


def published() -> tuple[Published, ...]:
    """PSNR of four colour denoisers on CBSD68, and what their architectures cost.

    The numbers are those of Zhang, Li, Zuo, Zhang, Van Gool & Timofte, "Plug-and-play image
    restoration with deep denoiser prior", IEEE TPAMI 2022, as later papers repeat them (Restormer,
    CVPR 2022, among others). The code of its authors (cszn/DPIR, cszn/KAIR) does not clip the noisy
    image, rounds the result to 8 bits in [0,255], and takes PSNR over RGB without a border, mean
    over images. Costs are ours, from the architectures of that code.
    """
    with torch.device("meta"):
        drunet = Denoiser()
    return (
        # one network for each of 25 noise levels
        Published("IRCNN", _levels(33.86, 31.16, 27.86), _chain(3, *[64] * 6, 3)),
        # on images folded to a quarter of their pixels, with the noise level as 13th channel
        Published("FFDNet", _levels(33.87, 31.21, 27.96), _chain(13, *[96] * 11, 12, fold=2)),
        Published("DnCNN", _levels(33.90, 31.24, 27.95), _chain(3, *[64] * 19, 3)),
        Published("DRUNet", _levels(34.30, 31.69, 28.51), cost(drunet)),
    )


def _levels(*psnr: float) -> dict[str, float]:
    return dict(zip(("denoise-15", "denoise-25", "denoise-50"), psnr, strict=True))


def _chain(*channels: int, fold: int = 1) -> Cost:
    """3 × 3 convolutions with biases, one after the other, at 1/`fold` of the image's sides."""
    weights = [9 * c_in * c_out for c_in, c_out in pairwise(channels)]
    return Cost(sum(weights) + sum(channels[1:]), round(sum(weights) / fold**2))
