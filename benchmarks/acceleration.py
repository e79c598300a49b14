"""Iterations that the accelerated schedule saves: `python -m benchmarks.acceleration`.

Reads what stage `accelerate` of the active profile measured on the test images: the number of
iterations after which PnP-GD, by its accelerated schedule, stays within 0.05 dB of (or above) what
Adam has after all of its own. Adds a row per task, Adam's number over ours, to
reports/benchmarks/benchmarks.json; `low` and `high` are the quartiles over images, an image that
never stays so close counts as ratio 0.
"""

import pandas as pd

from benchmarks.rows import row, save
from reg.params import read_params

NEAR = 0.05  # dB


def settled(gap: pd.Series) -> float:
    """The iteration from which a gap in dB stays above −0.05; infinite if it never does."""
    short = gap.index[gap < -NEAR]
    if len(short) and short[-1] == gap.index[-1]:
        return float("inf")
    return float(short[-1] + 1 if len(short) else gap.index[0])


def main() -> None:
    """One row per task."""
    params = read_params()
    table = pd.read_csv(params.folder("results", "accelerate", "table.csv"))
    curves = table[table["metric"] == "psnr"].set_index(["task", "method", "image", "iteration"])
    rows = []
    for task in params.active.accelerate.tasks:
        adam = curves.loc[(task, "pnp-gd-adam"), "value"].unstack("image")
        ours = curves.loc[(task, "pnp-gd"), "value"].unstack("image")
        gap = ours - adam.iloc[-1]
        of_images = [len(adam) / settled(gap[image]) for image in gap]
        label = f"iterations, Adam / accelerated to within {NEAR} dB of Adam's last, {task}"
        found = row(f"{label} ({gap.shape[1]} images)", of_images, "≥ 10")
        # The target speaks of the mean over images, so that is the ratio.
        rows.append({**found, "ratio": round(len(adam) / settled(gap.mean(axis=1)), 3)})
        print(f"   of the mean: {rows[-1]['ratio']}, last gap {gap.mean(axis=1).iloc[-1]:+.3f} dB")
    save(rows)


if __name__ == "__main__":
    main()
