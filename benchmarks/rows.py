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
