"""Stage `tune`: step sizes and weights of every method, on validation images, equal budgets."""

import json
from pathlib import Path

from reg.checkpoints import fingerprint, forget
from reg.datasets import load_images
from reg.evaluation import central_crops, write_table
from reg.methods import ABLATION, CONVERGENCE, canonical, load_networks
from reg.params import Params
from reg.stage import run
from reg.tuning import tune


def pairs(params: Params) -> list[tuple[str, str]]:
    """Every (task, method) whose parameters a later stage needs, once."""
    restoration, ablation = params.active.evaluate_restoration, params.active.ablate
    wanted = [(task, method) for task in restoration.tasks for method in restoration.methods]
    wanted += [(task, method) for task in CONVERGENCE for method in ("pnp-gd", "pnp-admm")]
    wanted += [(task, method) for task in ablation.tasks for method in ABLATION]
    return list(dict.fromkeys((task, canonical(method)) for task, method in wanted))


def work(params: Params) -> Path:
    """Write results/<profile>/tune/{trials.csv,chosen.json}."""
    section, models = params.active.tune, params.folder("models")
    manifest = params.folder("data", "prepare", "manifest.csv")
    results = params.folder("results", "tune")
    key = fingerprint(
        "tune",
        params.seed,
        section.model_dump(),
        files=[manifest, *sorted(models.glob("pretrain/*")), *sorted(models.glob("train_reg/*/*"))],
    )
    trials, chosen = tune(
        pairs(params),
        central_crops(load_images(manifest, "validation"), section.crop),
        load_networks(models),
        trials=section.trials,
        iterations=section.iterations,
        seed=params.seed,
        precision=section.precision,
        key=key,
    )
    write_table(trials, results / "trials.csv")
    (results / "chosen.json").write_text(json.dumps(chosen, indent=2, sort_keys=True) + "\n")
    forget(key)
    return results / "chosen.json"


if __name__ == "__main__":
    run("tune", work)
