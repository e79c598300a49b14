"""What a stage shows: progress on a terminal, quiet lines in a log, one line for an error.

Of several processes that share a training, only the first one shows anything but errors.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from reg.checkpoints import write_whole
from reg.errors import fail as fail

Row = dict[str, float]  # of a training log: iteration, metrics


class Progress:
    """Counts finished steps: a bar on a terminal, else a line at each tenth of the way."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self.began, self.first = time.monotonic(), done
        self.tenth = 10 * done // max(total, 1)
        self.note = ""
        self.bar = (
            tqdm(total=total, initial=done, desc=title, leave=False)
            if sys.stderr.isatty() and first_process()
            else None
        )

    def step(self, note: str = "") -> None:
        """One more step is done; `note` says what was last measured."""
        self.done += 1
        self.note = note or self.note
        if self.bar is not None:
            self.bar.set_postfix_str(self.note, refresh=False)
            self.bar.update()
            return
        tenth = 10 * self.done // self.total
        if tenth > self.tenth:
            self.tenth = tenth
            seconds = time.monotonic() - self.began
            left = seconds / (self.done - self.first) * (self.total - self.done)
            say(f"  {self.title}: {self.done}/{self.total}  {self.note}  ({left:.0f} s left)")

    def close(self) -> None:
        """Remove the bar; what was found is said by `say`."""
        if self.bar is not None:
            self.bar.close()


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Progress]:
    """A `Progress` that is closed whatever happens."""
    shown = Progress(title, total, done)
    try:
        yield shown
    finally:
        shown.close()


def first_process() -> bool:
    """Whether this is the first, or only, one of the processes that share a training.

    torchrun and srun number them throughout, Fabric, which may start them itself, on each node.
    """
    numbers = ("RANK",) if "RANK" in os.environ else ("NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(int(os.environ.get(name, "0")) == 0 for name in numbers)


def say(text: str) -> None:
    """Print a line at once, also when the output goes to a file."""
    if first_process():
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


class LiveLog:
    """A training log that can be read while it grows.

    It is kept in the file `csv`, one row per validation and one column per metric, and followed
    by DVCLive in `folder`, where that is installed. Either may be None.
    """

    def __init__(self, csv: Path | None, folder: Path | None) -> None:
        self.csv, self.shown = csv, 0
        self.live: Any = None
        if folder is not None and find_spec("dvclive") is not None:
            # Nothing but metrics in this folder: no experiment, dvc.yaml or report.
            live = import_module("dvclive").Live
            self.live = live(dir=str(folder), save_dvc_exp=False, dvcyaml=None, report=None)

    def show(self, rows: Sequence[Row], volatile: Mapping[str, float] | None = None) -> str:
        """Bring the log up to these rows; the last one as a note for `Progress.step`.

        `volatile` values differ between equal runs, so the file does not hold them.
        """
        if self.csv is not None and rows:
            table = pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
            write_whole(self.csv, table.encode())
        latest = {**rows[-1], **(volatile or {})} if rows else {}
        if self.live is not None and rows:
            for row in [*rows[self.shown : -1], latest]:
                self.live.step = int(row["iteration"])
                for name, value in row.items():
                    if name != "iteration":
                        self.live.log_metric(name, value)
            self.live.make_summary()
            self.shown = len(rows)
        # Bands of noise level, which have a space in their names, would be too long a line.
        return "  ".join(
            f"{name} {value:.4g}"
            for name, value in latest.items()
            if name != "iteration" and " " not in name
        )
