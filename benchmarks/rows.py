"""The rows of reports/benchmarks/benchmarks.json: name, ratio, low, high, target, machine.

Ratios are of times within one run, in turn, so that a machine whose speed drifts slows both sides
alike; `ratio` is their median, `low` and `high` are the quartiles. They are the machine's: where
bfloat16 is four times as fast as float32 (AMX), and where it is twice as fast, what bfloat16 gains
differs. So each machine has its own rows.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reg.provenance import machine

OUTPUT = Path("reports/benchmarks/benchmarks.json")
PAGE = """\
# Benchmarks

Ratios of two measurements in turn within one run: the median, in brackets the quartiles. A target
is what we set out to reach; ✓ reached, ✗ not. Written by the commands in `benchmarks/`, from
[benchmarks.json](benchmarks.json), which names each machine in full.

The official way of evaluation is float32, in contiguous memory, with PSNR and SSIM in numpy at
every iteration and the data term's gradient by autograd through a spatial convolution, as in the
published code. A row of its own gives it our operator: what is left is how the network is run and
how it is measured.
{tables}
## A photograph

![Before, after and truth](photo.jpg)

Restored by `reg restore` with the released weights from a motion blur of 15 pixels and noise of
2.55/255: a kernel for which nothing was tuned. Photograph: NASA, by scikit-image. By
`python -m benchmarks.photo`.

## Ways to train G

![Validation PSNR of PnP-GD by recipe, minus that of the reference](recipes.png)

Each row is one way to train G, at equal compute: as many pixels of crops as 300 iterations of 16
crops of 64², from the same pre-trained D. The reference is a plain G = s·N(x), N from random
weights, with s = 20, λ = 1 and rate 2.5e-3; each row says what it changes. "residual, from D" is
G = s·(x − N(x)) with N from D's weights, by which it begins as the gradient of RED with D told no
noise. Shown is the PSNR of PnP-GD on the validation images, its two parameters tuned for each row,
minus that of the reference; a mark at the left edge lies beyond it, its value is in
[recipes.csv](recipes.csv). One training seed. By `python -m benchmarks.recipes`, in November 2026:
since then iterates are kept within [0,1], inpainting begins with filled holes instead of gray
ones, networks are turned, and `beta2` of Adam is a parameter, which no row varies.
"""
Row = dict[str, Any]


def ratios(a: Callable[[], object], b: Callable[[], object], repetitions: int) -> list[float]:
    """Times of a over times of b, in turn, after one warm-up of each."""
    a(), b()
    found = []
    for _ in range(repetitions):
        times = []
        for work in (a, b):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        found.append(times[0] / times[1])
    return found


def row(name: str, found: Sequence[float], target: str) -> Row:
    """One line of the result, printed too; quartiles around the median."""
    low, ratio, high = (round(float(q), 3) for q in np.quantile(found, (0.25, 0.5, 0.75)))
    print(f"{name}: {ratio} [{low}, {high}], target {target}", flush=True)
    return {
        "name": name, "ratio": ratio, "low": low, "high": high, "target": target,
        "machine": machine(),
    }  # fmt: skip


def save(rows: Sequence[Row], path: Path = OUTPUT) -> None:
    """Merge rows into the file: those of one name and machine are replaced, others kept."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    merged = {(each["name"], json.dumps(each["machine"])): each for each in [*kept, *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(list(merged.values()), indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    page = PAGE.format(tables=_tables(list(merged.values())))
    path.with_name("README.md").write_text(page, encoding="utf-8")


def _tables(rows: Sequence[Row]) -> str:
    """A table of names, targets and ratios for each machine, in Markdown."""
    machines = {json.dumps(each["machine"]): each["machine"] for each in rows}
    lines = []
    for key, named in machines.items():
        devices = ", ".join([named["cpu"], f"{named['cores']} cores", *named["gpus"]])
        lines += ["", f"## {devices}", "", "| quantity | target | ratio | |", "|---|--:|--:|---|"]
        for each in rows:
            if json.dumps(each["machine"]) == key:
                spread = f" [{each['low']:g}, {each['high']:g}]"
                ratio = f"{each['ratio']:g}{spread if each['low'] < each['high'] else ''}"
                target = each["target"] if each["target"][0] in "≤≥" else "–"
                lines.append(f"| {each['name']} | {target} | {ratio} | {_met(each)} |")
    return "\n".join([*lines, ""])


def _met(of: Row) -> str:
    """Whether a row is at its target, as `≥ 3`; nothing where it has none."""
    side, _, bound = of["target"].partition(" ")
    if side not in ("≤", "≥"):
        return ""
    return "✓" if (of["ratio"] <= float(bound)) == (side == "≤") else "✗"
