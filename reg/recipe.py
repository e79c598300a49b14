"""How a network is trained: what the stages that train read of params.yaml."""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from reg.networks import Precision, best_device, resolve_precision


class Recipe(BaseModel):
    """How long, on what and how fast a network is trained, and on which devices.

    `batch` crops make an iteration, however many devices share them; `micro_batch` is how many
    of its share a device takes at once (null: all), which bounds memory. `devices` (per node) and
    `nodes` count where this process starts the others; under torchrun or srun these say how many
    there are. How a training is spread over the hardware decides its result only up to rounding,
    so these fields and `compile` are no part of what is dumped: a checkpoint of one device is
    resumed by eight.

    `beta2` is the decay of Adam's mean of squared gradients. A short training at a high rate is
    steadier, and gets further, with less than Adam's own 0.999: a gradient clipped to a constant
    norm does not show that it grows, so that a long memory keeps steps long where they no longer
    may be.

    With `ema` = d > 0 the result is the exponential moving average of the weights,
    w̄ ← dₖw̄ + (1−dₖ)w with dₖ = min(d, (1+k)/(10+k)) at iteration k: the ramp lets the average
    forget its start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    iterations: int = Field(gt=0)
    batch: int = Field(gt=0)
    crop: int = Field(ge=16, multiple_of=8)
    learning_rate: float = Field(gt=0)
    schedule: Literal["cosine", "halving"] = "cosine"
    halve_every: int = Field(default=100_000, gt=0)
    warmup: int = Field(default=0, ge=0)
    clip_gradient: float | None = Field(default=None, gt=0)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    validate_every: int = Field(gt=0)
    precision: Precision = "auto"
    micro_batch: PositiveInt | None = Field(default=None, exclude=True)
    devices: PositiveInt | Literal["auto"] = Field(default="auto", exclude=True)
    nodes: PositiveInt = Field(default=1, exclude=True)
    compile: bool = Field(default=False, exclude=True)

    def record(self) -> dict[str, Any]:
        """All that decides a result, as plain values, with the precision that `auto` means here."""
        return {**self.model_dump(mode="json", by_alias=True), "precision": self.resolved_precision}

    @property
    def resolved_precision(self) -> str:
        """bf16 or fp32: what the training computes in on this machine."""
        return resolve_precision(self.precision, best_device())

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 1."""
        warm = min(1.0, iteration / (self.warmup + 1))
        if self.schedule == "halving":
            return warm * self.learning_rate * 0.5 ** ((iteration - 1) // self.halve_every)
        return (
            warm
            * self.learning_rate
            * 0.5
            * (1 + math.cos(math.pi * (iteration - 1) / self.iterations))
        )

    def decay(self, iteration: int) -> float:
        """The decay dₖ of the average of weights at an iteration, counted from 1."""
        return min(self.ema, (1 + iteration) / (10 + iteration))
