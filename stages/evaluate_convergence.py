"""Stage `evaluate_convergence`: the paper's two settings, every iteration measured."""

from dataclasses import replace
from pathlib import Path

from reg.checkpoints import hand_over
from reg.evaluation import central_crops, evaluate, write_table
from reg.methods import CONVERGENCE
from reg.params import Params
from reg.processes import leave_it_to_the_first_process
from reg.stage import inputs, run

DEBLUR, SUPER_RESOLUTION = CONVERGENCE
ADMM = ("pnp-admm-unbounded", "pnp-admm")


def work(params: Params) -> Path:
    """Write results/<profile>/evaluate_convergence/table.csv."""
    section = params.active.evaluate_convergence
    results = params.folder("results", "evaluate_convergence")
    given = inputs(params, "evaluate_convergence", "test")
    # PnP-GD with G in one orientation: another at each iteration would end in a cycle, at no point.
    # PnP-ADMM as the paper shows it: s = 30/255 throughout; falling until iteration 25, then fixed.
    jobs = [
        *(
            replace(given.schedules(task)[method], method=f"{method}+x1")
            for method in ("pnp-gd-plain", "pnp-gd")
            for task in CONVERGENCE
        ),
        *(given.job(DEBLUR, method, level=30.0) for method in ADMM),
        *(given.job(SUPER_RESOLUTION, method, first=50.0, until=25.0) for method in ADMM),
    ]
    table = evaluate(
        jobs,
        central_crops(given.images, section.crop),
        given.networks,
        iterations=section.iterations,
        seed=params.seed,
        precision=section.precision,
        key=given.key,
        pictures=results / "images",
    )
    leave_it_to_the_first_process()
    write_table(table, results / "table.csv")
    hand_over(given.key)
    return results / "table.csv"


if __name__ == "__main__":
    run("evaluate_convergence", work)
