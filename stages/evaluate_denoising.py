"""Stage `evaluate_denoising`: the denoisers as denoisers, on the test images."""

from pathlib import Path

from reg.denoising import measure_denoising, trained_costs
from reg.evaluation import write_table
from reg.params import Params
from reg.processes import leave_it_to_the_first_process
from reg.stage import inputs, run


def work(params: Params) -> Path:
    """Write table.csv and costs.csv into results/<profile>/evaluate_denoising/."""
    leave_it_to_the_first_process()
    section = params.active.evaluate_denoising
    results = params.folder("results", "evaluate_denoising")
    given = inputs(params, "evaluate_denoising", "test", tuned=False)
    table = measure_denoising(
        section.sigmas,
        given.images,
        given.networks,
        seed=params.seed,
        precision=section.precision,
    )
    write_table(table, results / "table.csv")
    write_table(trained_costs(params.folder("models")), results / "costs.csv")
    return results / "table.csv"


if __name__ == "__main__":
    run("evaluate_denoising", work)
