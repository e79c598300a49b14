"""Stage `evaluate_restoration`: every method on every task and test image."""

from pathlib import Path

import pandas as pd

from reg.checkpoints import hand_over
from reg.evaluation import evaluate, measure_degraded, write_table
from reg.params import Params
from reg.processes import leave_it_to_the_first_process
from reg.stage import inputs, run


def work(params: Params) -> Path:
    """Write results/<profile>/evaluate_restoration/table.csv and the images that figures need."""
    section = params.active.evaluate_restoration
    results = params.folder("results", "evaluate_restoration")
    given = inputs(params, "evaluate_restoration", "test")
    images = given.images
    starts = measure_degraded(
        section.tasks,
        images,
        training_seed=next(iter(given.networks)),
        seed=params.seed,
        key=given.key,
        pictures=results / "images",
        keep=section.keep_images,
        keep_every=section.keep_every,
    )
    jobs = [
        job
        for task in section.tasks
        for method in section.methods
        for job in given.jobs(task, method)
    ]
    restored = evaluate(
        jobs,
        images,
        given.networks,
        iterations=section.iterations,
        tolerance=section.tolerance,
        seed=params.seed,
        precision=section.precision,
        key=given.key,
        pictures=results / "images",
        keep=section.keep_images,
        keep_every=section.keep_every,
    )
    leave_it_to_the_first_process()
    write_table(pd.concat([starts, restored]), results / "table.csv")
    hand_over(given.key)
    return results / "table.csv"


if __name__ == "__main__":
    run("evaluate_restoration", work)
