"""Stage `evaluate_convergence`: the paper's two settings, every iteration measured."""

import json
from pathlib import Path

from reg.checkpoints import fingerprint, forget
from reg.datasets import load_images
from reg.evaluation import Job, central_crops, evaluate, write_table
from reg.methods import CONVERGENCE, load_networks
from reg.params import Params
from reg.stage import run

DEBLUR, SUPER_RESOLUTION = CONVERGENCE


def work(params: Params) -> Path:
    """Write results/<profile>/evaluate_convergence/table.csv."""
    section, models = params.active.evaluate_convergence, params.folder("models")
    manifest = params.folder("data", "prepare", "manifest.csv")
    tuned = params.folder("results", "tune", "chosen.json")
    results = params.folder("results", "evaluate_convergence")
    chosen = json.loads(tuned.read_text())
    weights = [*sorted(models.glob("pretrain/*")), *sorted(models.glob("train_reg/*/*"))]
    key = fingerprint(
        "convergence", params.seed, section.model_dump(), files=[manifest, tuned, *weights]
    )
    # PnP-ADMM as the paper shows it: s = 30/255 throughout; falling until iteration 25, then fixed.
    admm_deblur = {**chosen[DEBLUR]["pnp-admm"], "level": 30.0}
    admm_sr = {**chosen[SUPER_RESOLUTION]["pnp-admm"], "first": 50.0, "until": 25.0}
    jobs = [
        Job(DEBLUR, "pnp-gd", chosen[DEBLUR]["pnp-gd"]),
        Job(DEBLUR, "pnp-admm", admm_deblur),
        Job(SUPER_RESOLUTION, "pnp-gd", chosen[SUPER_RESOLUTION]["pnp-gd"]),
        Job(SUPER_RESOLUTION, "pnp-admm", admm_sr),
    ]
    table = evaluate(
        jobs,
        central_crops(load_images(manifest, "test"), section.crop),
        load_networks(models),
        iterations=section.iterations,
        seed=params.seed,
        precision=section.precision,
        key=key,
        pictures=results / "images",
        every_iteration=True,
    )
    write_table(table, results / "table.csv")
    forget(key)
    return results / "table.csv"


if __name__ == "__main__":
    run("evaluate_convergence", work)
