"""Stage `accelerate`: schedules that follow PnP-GD's gradient."""

from pathlib import Path

import pandas as pd

from reg.checkpoints import hand_over
from reg.evaluation import central_crops, evaluate, every_nth, write_table
from reg.params import Params
from reg.problems import parse_task
from reg.processes import leave_it_to_the_first_process
from reg.stage import inputs, run


def work(params: Params) -> Path:
    """Write results/<profile>/accelerate/table.csv."""
    section, results = params.active.accelerate, params.folder("results", "accelerate")
    given = inputs(params, "accelerate", "test")
    tables = []
    for iterations, methods in (
        (section.iterations, ("pnp-gd-adam", "pnp-gd-plain", "pnp-gd-published")),
        (section.short, ("pnp-gd-spectral", "pnp-gd")),
    ):
        jobs = [
            given.schedule(task, method)
            for task in section.tasks
            for method in methods
            # It differs in inpainting alone.
            if method != "pnp-gd-published" or parse_task(task).kind == "inpaint"
        ]
        tables.append(
            evaluate(
                jobs,
                central_crops(every_nth(given.images, section.every), section.crop),
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
