"""What is wrong with what a user gave, in one line. (Imports nothing: `reg --help` is quick.)"""

import sys
from typing import NoReturn


class InputError(ValueError):
    """Bad input: the message is one line that names the file, key or value and the mend."""


def fail(error: InputError) -> NoReturn:
    """Print the one line of a user's error and exit with status 2."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)
