"""What a stage shows: progress on a terminal, quiet lines in a log, one line for an error."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tqdm import tqdm

from reg.errors import InputError


class Progress:
    """Counts finished steps: a bar on a terminal, else a line at each tenth of the way."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done = title, total, done
        self.began, self.first = time.monotonic(), done
        self.tenth = 10 * done // max(total, 1)
        self.bar = (
            tqdm(total=total, initial=done, desc=title, leave=False)
            if sys.stderr.isatty()
            else None
        )

    def step(self, note: str = "") -> None:
        """One more step is done; `note` says what was last measured."""
        self.done += 1
        if self.bar is not None:
            if note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update()
            return
        tenth = 10 * self.done // self.total
        if tenth > self.tenth:
            self.tenth = tenth
            seconds = time.monotonic() - self.began
            left = seconds / (self.done - self.first) * (self.total - self.done)
            say(f"  {self.title}: {self.done}/{self.total}  {note}  ({left:.0f} s left)")

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


def say(text: str) -> None:
    """Print a line at once, also when the output goes to a file."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def fail(error: InputError) -> NoReturn:
    """Print the one line of a user's error and exit with status 2."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)
