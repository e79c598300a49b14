"""Stage `accelerate`: schedules that follow PnP-GD's gradient."""

from pathlib import Path

import pandas as pd

from reg.checkpoints import hand_over
from reg.evaluation import central_crops, evaluate, write_table
from reg.methods import SPECTRAL
from reg.params import Params
from reg.processes import leave_it_to_the_first_process
from reg.stage import inputs, run


def work(params: Params) -> Path:
    """Write results/<profile>/accelerate/table.csv."""
    section, results = params.active.accelerate, params.folder("results", "accelerate")
    given = inputs(params, "accelerate", "test")
    tables = []
    for iterations, spectral in ((section.iterations, False), (section.short, True)):
        jobs = [
            job
            for task in section.tasks
            for job in given.schedules(task).values()
            if (job.method in SPECTRAL) == spectral
        ]
        tables.append(
            evaluate(
                jobs,
                central_crops(given.images, section.crop),
                given.networks,
                iterations=iterations,
                seed=params.seed,
                precision=section.precision,
                key=given.key,
                pictures=results / "images",
            )
        )
    leave_it_to_the_first_process()
    write_table(pd.concat(tables), results / "table.csv")
    hand_over(given.key)
    return results / "table.csv"


if __name__ == "__main__":
    run("accelerate", work)
