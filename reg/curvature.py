"""The step of PnP-GD, tuned with one network, carried over to another of its kind.

The step is μ = 1/(σ²c), and what c must exceed is proportional to L = ‖J_G‖₂
(`iterations.curvature_bound`). Networks that were trained alike from other seeds differ in L, so
that a c tuned for one may be unstable for the next; c·L_next/L is as far from its bound as c was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from reg.diagnostics import jacobian, spectral_norm
from reg.evaluation import Job, central_crops, every_nth
from reg.methods import ARMS, Networks
from reg.networks import inference

POWER_ITERATIONS = 15
CROP = 96


def carry_over(
    jobs: Sequence[Job],
    networks: Mapping[int, Networks],
    validation: Mapping[str, Tensor],
    seed: int,
) -> list[Job]:
    """The jobs, with a curvature c multiplied by L_seed/L_first where another seed's G is used.

    L is measured at the central 96² pixels of the first of the `validation` images by power
    iteration from a vector drawn by `seed`. `networks` are by training seed; the first one was
    tuned.
    """
    first = next(iter(networks))
    (image,) = central_crops(every_nth(validation, len(validation)), CROP).values()
    norms: dict[tuple[str, int], float] = {}

    def norm(arm: str, training_seed: int) -> float:
        if (arm, training_seed) not in norms:
            use = networks[training_seed]
            x = image.to(use.device)
            with inference("fp32", use.device):
                J = jacobian(use.regularizers[arm], x)
                norms[arm, training_seed] = spectral_norm(J, x, POWER_ITERATIONS, seed).item()
        return norms[arm, training_seed]

    def carried(job: Job) -> Job:
        if "curvature" not in job.parameters or job.seed in (None, first):
            return job
        arm = job.method.partition("+")[0].partition("@")[2] or ARMS["regularizers"][0]
        factor = norm(arm, job.seed or first) / norm(arm, first)
        curvature = float(f"{factor * job.parameters['curvature']:.4g}")
        return replace(job, parameters={**job.parameters, "curvature": curvature})

    return [carried(job) for job in jobs]
