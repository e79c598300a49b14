"""What every stage does around its work: read the parameters, say what happens, account for it."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from reg.console import fail, say
from reg.errors import InputError
from reg.params import Params, read_params
from reg.provenance import account


def run(name: str, work: Callable[[Params], Path]) -> None:
    """Run a stage: say what begins, where the result lies, how long it took and its memory.

    An `InputError` ends it with one line and status 2. Time and peak memory are kept by
    `provenance.account`.
    """
    try:
        params = read_params()
        say(f"[{name}] profile {params.profile}")
        output = work(params)
    except InputError as error:
        fail(error)
    except FileNotFoundError as error:
        fail(InputError(f"{error.filename}: no such file; run `dvc repro {name}`, which makes it"))
    # Since the process began, so that imports count.
    seconds = round(time.time() - psutil.Process().create_time(), 1)
    peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    account(params, name, seconds, peak_memory_mb)
    say(f"[{name}] done in {seconds} s, peak memory {peak_memory_mb} MB: {output}")
