"""Stage `evaluate_restoration`: every method on every task and test image."""

import json
from pathlib import Path

import pandas as pd

from reg.checkpoints import fingerprint, forget
from reg.datasets import load_images
from reg.evaluation import Job, evaluate, measure_starts, write_table
from reg.methods import canonical, load_networks
from reg.params import Params
from reg.stage import run


def work(params: Params) -> Path:
    """Write results/<profile>/evaluate_restoration/table.csv and the images that figures need."""
    section, models = params.active.evaluate_restoration, params.folder("models")
    manifest = params.folder("data", "prepare", "manifest.csv")
    tuned = params.folder("results", "tune", "chosen.json")
    results = params.folder("results", "evaluate_restoration")
    chosen = json.loads(tuned.read_text())
    images = load_images(manifest, "test")
    weights = [*sorted(models.glob("pretrain/*")), *sorted(models.glob("train_reg/*/*"))]
    key = fingerprint(
        "restoration", params.seed, section.model_dump(), files=[manifest, tuned, *weights]
    )
    jobs = [
        Job(task, method, chosen[task][canonical(method)])
        for task in section.tasks
        for method in section.methods
    ]
    starts = measure_starts(
        section.tasks,
        images,
        seed=params.seed,
        pictures=results / "images",
        keep=section.keep_images,
    )
    restored = evaluate(
        jobs,
        images,
        load_networks(models),
        iterations=section.iterations,
        seed=params.seed,
        precision=section.precision,
        key=key,
        pictures=results / "images",
        keep=section.keep_images,
    )
    write_table(pd.concat([starts, restored]), results / "table.csv")
    forget(key)
    return results / "table.csv"


if __name__ == "__main__":
    run("evaluate_restoration", work)
