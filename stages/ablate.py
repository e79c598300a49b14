"""Stage `ablate`: what updating the denoiser changes, in PnP-GD and in PnP-ADMM."""

from pathlib import Path

from reg.checkpoints import hand_over
from reg.evaluation import central_crops, evaluate, write_table
from reg.methods import ABLATION
from reg.params import Params
from reg.processes import leave_it_to_the_first_process
from reg.stage import inputs, run


def work(params: Params) -> Path:
    """Write results/<profile>/ablate/table.csv and the last iterates."""
    section, results = params.active.ablate, params.folder("results", "ablate")
    given = inputs(params, "ablate", "test")
    table = evaluate(
        [job for task in section.tasks for method in ABLATION for job in given.jobs(task, method)],
        central_crops(given.images, section.crop),
        given.networks,
        iterations=section.iterations,
        seed=params.seed,
        precision=section.precision,
        key=given.key,
        pictures=results / "images",
        keep=section.tasks,
    )
    leave_it_to_the_first_process()
    write_table(table, results / "table.csv")
    hand_over(given.key)
    return results / "table.csv"


if __name__ == "__main__":
    run("ablate", work)
