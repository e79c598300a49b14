"""PnP-GD by accelerated spectral steps against the official 1,500 Adam iterations.

`python -m benchmarks.acceleration` needs the networks and tuned parameters of the active profile.
Both minimise ½‖Ax − y‖² + σ²φ(x) with the same σ (the tuned one) from the same start on the
validation images; Adam has the official learning rate of the task. Writes
reports/benchmarks/acceleration.csv.
"""

import json
from pathlib import Path

import pandas as pd

from reg.datasets import load_images
from reg.evaluation import batches, central_crops, trace, write_table
from reg.iterations import pnp_gd
from reg.methods import load_networks
from reg.networks import inference
from reg.params import read_params
from reg.problems import make_problem, parse_task

OUTPUT = Path("reports/benchmarks/acceleration.csv")
ADAM_ITERATIONS, SPECTRAL_ITERATIONS = 1500, 150
ADAM_RATE = {"deblur": 0.004, "sr": 0.002, "inpaint": 0.01, "denoise": 0.004}


def main() -> None:
    """Run every task of the profile by both and write PSNR in dB and the difference."""
    params = read_params()
    regularizer = load_networks(params.folder("models")).regularizers["updated"]
    chosen = json.loads(params.folder("results", "tune", "chosen.json").read_text())
    manifest = params.folder("data", "prepare", "manifest.csv")
    images = central_crops(load_images(manifest, "validation"), params.active.tune.crop)
    rows = []
    for task in params.active.evaluate_restoration.tasks:
        tuned = chosen[task]["pnp-gd"]
        sigma = tuned["sigma"] / 255
        ((names, batch),) = batches(images)
        problem = make_problem(task, batch, names, params.seed)
        rate = ADAM_RATE[parse_task(task).kind]
        step = 1 / (sigma**2 * tuned["curvature"])
        with inference("fp32"):
            adam, _ = trace(
                pnp_gd(problem, regularizer, sigma=sigma, step=rate, descent="adam"),
                problem,
                ADAM_ITERATIONS,
            )
            spectral, _ = trace(
                pnp_gd(problem, regularizer, sigma=sigma, step=step, descent="accelerated"),
                problem,
                SPECTRAL_ITERATIONS,
            )
        by_adam, by_spectral = adam["psnr"].mean(dim=1), spectral["psnr"].mean(dim=1)
        last = by_adam[-1].item()
        near = (by_spectral >= last - 0.05).nonzero()
        rows.append(
            {
                "task": task,
                "sigma": tuned["sigma"],
                "adam_150": by_adam[149].item(),
                "adam_1500": last,
                "spectral_150": by_spectral[-1].item(),
                "difference": by_spectral[-1].item() - last,
                "spectral_iterations_to_within_0.05_dB": int(near[0]) + 1 if len(near) else -1,
            }
        )
        print(rows[-1])
    write_table(pd.DataFrame(rows), OUTPUT)


if __name__ == "__main__":
    main()
