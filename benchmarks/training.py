"""Throughput of training: `python -m benchmarks.training`.

The joint step of ReG training on random images, as `reg.training.train` takes it (checked for
finite values, logged by noise level, crops cut from images), against a plain loop over the same
networks and crops: float32, contiguous, eager, Adam as it comes. Each side has a process of its
own, since the way a stage treats memory holds for a whole process; they run in turn.

On a GPU with the paper's networks and achieved TFLOP/s; else on the CPU with those of the demo, and
what share of a step waits for crops. Ours is measured as it is and by `compile: true`, for which
the CPU takes a C++ compiler. Adds its rows to reports/benchmarks/benchmarks.json (see
`benchmarks.rows`).
"""

import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from multiprocessing import get_context
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rows import Row, row, save
from reg.cpu import keep_freed_memory
from reg.losses import RegObjective
from reg.networks import Denoiser, Regularizer, initialise
from reg.patches import Patches
from reg.recipe import Recipe
from reg.training import seeded, train

WARM_UP = 3  # steps of every turn that are not counted
IMAGES, SIDE = 24, 512


@dataclass(frozen=True)
class Scale:
    """Networks, crops, and how often what is timed."""

    name: str
    channels: tuple[int, int, int, int]
    blocks: int
    batch: int
    crop: int
    steps: int
    turns: int


DEMO = Scale("1.06 M", (16, 32, 64, 128), 2, batch=16, crop=64, steps=8, turns=9)
PAPER = Scale("32.6 M", (64, 128, 256, 512), 4, batch=16, crop=128, steps=12, turns=3)


@dataclass(frozen=True)
class Turn:
    """Seconds per step of one turn, and the share of them that went into crops."""

    step: float
    waiting: float = 0.0


class TimedPatches(Patches):
    """Crops that note when each batch was asked for, once per step, and how long it took."""

    def __init__(self, scale: Scale) -> None:
        draw = np.random.default_rng(0)
        images = draw.integers(256, size=(IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
        super().__init__(list(images), scale.crop, scale.batch, seed=0)
        self.asked: list[float] = []
        self.taken: list[float] = []

    def batch(self, iteration: int, share: slice = slice(None)) -> Tensor:
        self.asked.append(time.perf_counter())
        crops = super().batch(iteration, share)
        self.taken.append(time.perf_counter() - self.asked[-1])
        return crops

    def turn(self) -> Turn:
        steps = np.diff(self.asked)[WARM_UP:].tolist()
        return Turn(median(steps), median(self.taken[WARM_UP:]) / median(steps))


def pair(scale: Scale) -> tuple[Denoiser, Regularizer]:
    """D and G of the same random weights on either side."""
    denoiser = Denoiser(scale.channels, scale.blocks)
    regularizer = Regularizer(scale.channels, scale.blocks, scale=20.0)
    initialise(denoiser, seeded(1))
    initialise(regularizer, seeded(2))
    return denoiser, regularizer


def ours(scale: Scale, compiled: bool = False) -> Turn:
    """A turn of `train`, without validations."""
    recipe = Recipe(
        iterations=scale.steps + WARM_UP + 1,
        batch=scale.batch,
        crop=scale.crop,
        learning_rate=1e-4,
        clip_gradient=1.0,
        validate_every=scale.steps + WARM_UP + 1,
        devices=1,
        compile=compiled,
    )
    patches = TimedPatches(scale)
    objective = RegObjective(*pair(scale), lambda_=1.0, update_denoiser=True)
    with tempfile.TemporaryDirectory() as folder:  # for its last checkpoint
        os.chdir(folder)
        with redirect_stdout(StringIO()):
            train(objective, patches, recipe, title="turn", seed=0, checkpoint="turn")
        os.chdir("/")
    return patches.turn()


def plain_step(
    networks: tuple[nn.Module, nn.Module],
    optimiser: torch.optim.Optimizer,
    clean: Tensor,
    iteration: int,
) -> None:
    """One step of the joint objective, as one writes it down first."""
    denoiser, regularizer = networks
    weights = [*denoiser.parameters(), *regularizer.parameters()]
    sigma_0 = torch.rand(len(clean), device=clean.device) * 50 / 255
    noisy = clean + sigma_0.view(-1, 1, 1, 1) * torch.randn_like(clean)
    matched = iteration % 2 == 1
    sigma = sigma_0 if matched else torch.rand_like(sigma_0) * 50 / 255
    denoised = denoiser(noisy, sigma)
    error = sigma.view(-1, 1, 1, 1) ** 2 * regularizer(denoised) - (noisy - denoised)
    loss = error.square().mean()
    if matched:
        loss = loss + (denoised - clean).abs().mean()
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimiser.step()
    loss.item()  # as one logs it; on a GPU it waits for the step


def plain(scale: Scale, device: str) -> Turn:
    """A turn of the plain loop."""
    networks, patches = pair(scale), TimedPatches(scale)
    for network in networks:
        network.to(device)
    optimiser = torch.optim.Adam([w for network in networks for w in network.parameters()], lr=1e-4)
    for iteration in range(1, scale.steps + WARM_UP + 2):
        clean = patches.batch(iteration).contiguous().to(device)
        plain_step(networks, optimiser, clean, iteration)
    return patches.turn()


def flops(scale: Scale) -> int:
    """Floating-point operations of one plain step, forward and backward."""
    networks = pair(scale)
    optimiser = torch.optim.SGD([w for network in networks for w in network.parameters()], lr=0.0)
    with FlopCounterMode(display=False) as counter:
        plain_step(networks, optimiser, torch.rand(1, 3, scale.crop, scale.crop), 1)
    return scale.batch * int(counter.get_total_flops())


def compare(
    scale: Scale, device: str, name: str, compiled: bool = False
) -> tuple[Row, list[float]]:
    """The row of one scale, and the shares of our steps that went into crops."""
    spawn = get_context("spawn")
    with (
        ProcessPoolExecutor(1, spawn) as theirs_process,
        ProcessPoolExecutor(1, spawn, initializer=keep_freed_memory) as our_process,
    ):

        def both() -> tuple[Turn, Turn]:
            theirs = theirs_process.submit(plain, scale, device).result()
            return theirs, our_process.submit(ours, scale, compiled).result()

        both()
        turns = [both() for _ in range(scale.turns)]
    found = row(name, [theirs.step / mine.step for theirs, mine in turns], "≥ 3")
    steps = [median(turn.step for turn in side) for side in zip(*turns, strict=True)]
    found["crops_per_second"] = [round(scale.batch / step, 1) for step in steps]
    print(f"  crops/s, plain and ours: {found['crops_per_second']}")
    if device == "cuda":
        found["tflops"] = [round(flops(scale) / step / 1e12, 1) for step in steps]
        print(f"  TFLOP/s, plain and ours: {found['tflops']}")
    return found, [mine.waiting for _, mine in turns]


def main() -> None:
    """Measure what this machine has, and write each row when it is there."""
    on_gpu = torch.cuda.is_available()
    scale, device, kind = (PAPER, "cuda", "GPU") if on_gpu else (DEMO, "cpu", "CPU")
    for side, compiled in (("ours", False), ("ours compiled", True)):
        name = f"training, plain / {side}, {kind}, {scale.name} pair"
        found, waiting = compare(scale, device, name, compiled)
        save([found])
        if not on_gpu and not compiled:
            waits = "share of a training step that waits for crops, CPU"
            save([row(waits, waiting, "≤ 0.05")])


if __name__ == "__main__":
    main()
