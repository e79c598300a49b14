"""Stage `diagnose`: MAP residual, Jacobians and step bounds of (D, G) on validation images."""

import json
from pathlib import Path

from reg.datasets import load_images
from reg.diagnostics import Effort, diagnose
from reg.evaluation import central_crops, write_table
from reg.methods import load_networks
from reg.params import Params
from reg.stage import run


def work(params: Params) -> Path:
    """Write results/<profile>/diagnose/table.csv."""
    section = params.active.diagnose
    manifest = params.folder("data", "prepare", "manifest.csv")
    table = params.folder("results", "diagnose", "table.csv")
    chosen = json.loads(params.folder("results", "tune", "chosen.json").read_text())
    measured = diagnose(
        central_crops(load_images(manifest, "validation"), section.crop),
        load_networks(params.folder("models")),
        chosen,
        sigmas=section.sigmas,
        iterations=section.iterations,
        effort=Effort(section.probes, section.power_iterations, params.seed),
        precision=section.precision,
    )
    write_table(measured, table)
    return table


if __name__ == "__main__":
    run("diagnose", work)
