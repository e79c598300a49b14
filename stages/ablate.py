"""Stage `ablate`: what updating the denoiser changes, in PnP-GD and in PnP-ADMM."""

import json
from pathlib import Path

from reg.checkpoints import fingerprint, forget
from reg.datasets import load_images
from reg.evaluation import Job, central_crops, evaluate, write_table
from reg.methods import ABLATION, canonical, load_networks
from reg.params import Params
from reg.stage import run


def work(params: Params) -> Path:
    """Write results/<profile>/ablate/table.csv and the last iterates."""
    section, models = params.active.ablate, params.folder("models")
    manifest = params.folder("data", "prepare", "manifest.csv")
    tuned = params.folder("results", "tune", "chosen.json")
    results = params.folder("results", "ablate")
    chosen = json.loads(tuned.read_text())
    weights = [*sorted(models.glob("pretrain/*")), *sorted(models.glob("train_reg/*/*"))]
    key = fingerprint(
        "ablate", params.seed, section.model_dump(), files=[manifest, tuned, *weights]
    )
    table = evaluate(
        [
            Job(task, method, chosen[task][canonical(method)])
            for task in section.tasks
            for method in ABLATION
        ],
        central_crops(load_images(manifest, "test"), section.crop),
        load_networks(models),
        iterations=section.iterations,
        seed=params.seed,
        precision=section.precision,
        key=key,
        pictures=results / "images",
        keep=section.tasks,
        every_iteration=True,
    )
    write_table(table, results / "table.csv")
    forget(key)
    return results / "table.csv"


if __name__ == "__main__":
    run("ablate", work)
