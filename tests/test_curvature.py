import pytest
import torch
from torch import Tensor

from reg.curvature import carry_over
from reg.evaluation import Job
from reg.methods import Networks


class Scaled:
    """G(x) = c·x, whose Jacobian has the norm |c|; it counts how often it was run."""

    def __init__(self, c: float) -> None:
        self.c, self.runs = c, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.c * x


IMAGES = {"a": torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


def networks(*scales: tuple[float, float]) -> dict[int, Networks]:
    return {
        seed: Networks(regularizers={"updated": Scaled(c), "fixed": Scaled(d)})
        for seed, (c, d) in enumerate(scales)
    }


def job(method: str, seed: int | None, **parameters: float) -> Job:
    return Job("deblur-k5-2.55", method, parameters, seed)


def test_the_step_is_as_far_from_its_bound_as_it_was_with_the_tuned_network() -> None:
    given = networks((2.0, 5.0), (3.0, 4.0), (-1.0, 5.0))
    jobs = [job("pnp-gd", seed, sigma=2.0, curvature=800.0) for seed in range(3)]
    jobs += [job("pnp-gd@fixed+x8", seed, sigma=1.0, curvature=100.0) for seed in range(3)]
    carried = carry_over(jobs, given, IMAGES, seed=0)
    found = [one.parameters["curvature"] for one in carried]
    assert found == pytest.approx([800, 1200, 400, 100, 80, 100], rel=1e-3)
    assert [(one.method, one.seed, one.parameters["sigma"]) for one in carried] == [
        (one.method, one.seed, one.parameters["sigma"]) for one in jobs
    ]


def test_what_has_no_such_step_or_one_seed_stays_and_costs_nothing() -> None:
    given = networks((2.0, 2.0), (3.0, 3.0))
    jobs = [
        job("pnp-gd", 0, sigma=2.0, curvature=800.0),
        job("pnp-gd", None, sigma=2.0, curvature=800.0),
        job("pnp-admm@updated", 1, sigma=2.0, level=20.0),
    ]
    assert carry_over(jobs, given, IMAGES, seed=0) == jobs
    assert not any(g.runs for each in given.values() for g in each.regularizers.values())
