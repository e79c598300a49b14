"""What the latest run of the pipeline took and saved: `python -m benchmarks.pipeline`.

Adds rows to reports/benchmarks/benchmarks.json, from what the stages of the active profile have
measured: per task, how many iterations of Adam stand against one of the accelerated schedule until
PnP-GD stays within 0.05 dB of (or above) what Adam has after all of its own (`reg.report.findings`,
means over the test images; once all of Adam's iterations, once only those that it needs itself);
peak memory of the whole run over 2 GB; and its time over 20 minutes.
"""

import json

from benchmarks.rows import Row, row, save
from reg.claims import read_table
from reg.params import Params, read_params
from reg.provenance import ACCOUNTS
from reg.report.findings import NEAR, REFERENCE, psnr_gaps, stays_near

LIMIT_MB, LIMIT_SECONDS = 2000, 1200


def acceleration(params: Params) -> list[Row]:
    """Two rows per task; ratio 0 where the accelerated schedule ends further below."""
    table = read_table(params.folder("results", "accelerate", "table.csv"))
    rows = []
    for task in params.active.accelerate.tasks:
        gaps = psnr_gaps(table, task)
        ours, adam = stays_near(gaps["pnp-gd"]), stays_near(gaps[REFERENCE])
        for name, iterations in (
            ("all of Adam's", gaps[REFERENCE].index[-1]),
            ("Adam's own", adam),
        ):
            found = iterations / ours if ours and iterations else 0.0
            label = f"iterations to within {NEAR} dB, {name} / accelerated, {task}"
            rows.append(row(label, [found], "≥ 10" if name == "all of Adam's" else "report"))
    return rows


def resources(params: Params) -> list[Row]:
    """Peak memory and time of the stages, as they were last run on this machine."""
    files = sorted((ACCOUNTS / params.profile).glob("*.json"))
    accounts = [json.loads(file.read_text()) for file in files]
    memory = max(account["peak_memory_mb"] for account in accounts)
    seconds = sum(account["seconds"] for account in accounts)
    return [
        row(f"peak memory of {params.profile} / {LIMIT_MB} MB", [memory / LIMIT_MB], "≤ 1"),
        row(f"time of {params.profile} / {LIMIT_SECONDS} s", [seconds / LIMIT_SECONDS], "≤ 1"),
    ]


def main() -> None:
    """Everything that the latest run tells."""
    params = read_params()
    save([*acceleration(params), *resources(params)])


if __name__ == "__main__":
    main()
