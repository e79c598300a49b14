"""Stage `diagnose`: MAP residual, Jacobians and step bounds of (D, G) on validation images.

Of the first training seed.
"""

from pathlib import Path

from reg.checkpoints import hand_over
from reg.diagnostics import Effort, diagnose
from reg.evaluation import central_crops, write_table
from reg.params import Params
from reg.processes import leave_it_to_the_first_process
from reg.stage import inputs, run


def work(params: Params) -> Path:
    """Write results/<profile>/diagnose/table.csv."""
    leave_it_to_the_first_process()
    section, table = params.active.diagnose, params.folder("results", "diagnose", "table.csv")
    given = inputs(params, "diagnose", "validation")
    measured = diagnose(
        central_crops(given.images, section.crop),
        given.first,
        given.tuned,
        sigmas=section.sigmas,
        iterations=section.iterations,
        effort=Effort(section.probes, section.power_iterations, params.seed),
        precision=section.precision,
        key=given.key,
    )
    write_table(measured, table)
    hand_over(given.key)
    return table


if __name__ == "__main__":
    run("diagnose", work)
