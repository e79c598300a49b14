"""Stage `tune`: step sizes and weights of every method, on validation images, equal budgets.

Methods that use ReG are tuned on all its training seeds at once.
"""

import json
from pathlib import Path

from reg.checkpoints import hand_over, write_whole
from reg.evaluation import central_crops, write_table
from reg.methods import ABLATION, CONVERGENCE, canonical
from reg.params import Params
from reg.processes import leave_it_to_the_first_process
from reg.stage import inputs, run
from reg.tuning import tune


def pairs(params: Params) -> list[tuple[str, str]]:
    """Every (task, method) whose parameters a later stage needs, once."""
    restoration, ablation = params.active.evaluate_restoration, params.active.ablate
    wanted = [(task, method) for task in restoration.tasks for method in restoration.methods]
    beside = ("pnp-gd", "pnp-admm-unbounded", "pnp-admm")
    wanted += [(task, method) for task in CONVERGENCE for method in beside]
    wanted += [(task, method) for task in ablation.tasks for method in ABLATION]
    wanted += [(task, "pnp-gd") for task in params.active.accelerate.tasks]
    return list(dict.fromkeys((task, canonical(method)) for task, method in wanted))


def work(params: Params) -> Path:
    """Write results/<profile>/tune/{trials.csv,chosen.json}."""
    section, results = params.active.tune, params.folder("results", "tune")
    given = inputs(params, "tune", "validation", tuned=False)
    trials, chosen = tune(
        pairs(params),
        central_crops(given.images, section.crop),
        given.networks,
        trials=section.trials,
        iterations=section.iterations,
        tolerance=section.tolerance,
        seed=params.seed,
        precision=section.precision,
        key=given.key,
    )
    leave_it_to_the_first_process()
    write_table(trials, results / "trials.csv")
    text = json.dumps(chosen, indent=2, sort_keys=True) + "\n"
    write_whole(results / "chosen.json", text.encode())
    hand_over(given.key)
    return results / "chosen.json"


if __name__ == "__main__":
    run("tune", work)
