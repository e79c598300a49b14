"""What every stage does around its work: read the parameters, say what happens, account for it."""

import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from reg.console import fail, say
from reg.errors import InputError
from reg.params import Params, read_params

ACCOUNTS = Path(".provenance")


def run(name: str, work: Callable[[Params], Path]) -> None:
    """Run a stage: say what begins, where the result lies, how long it took and its memory.

    An `InputError` ends it with one line and status 2. Time and peak memory go to
    `.provenance/<profile>/<name>.json`, outside what DVC hashes, because they differ at every run.
    """
    began = time.monotonic()
    try:
        params = read_params()
        say(f"[{name}] profile {params.profile}")
        output = work(params)
    except InputError as error:
        fail(error)
    record = {
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "cores": len(os.sched_getaffinity(0)),
    }
    account = ACCOUNTS / params.profile / f"{name}.json"
    account.parent.mkdir(parents=True, exist_ok=True)
    account.write_text(json.dumps(record) + "\n")
    say(
        f"[{name}] done in {record['seconds']} s, peak memory {record['peak_memory_mb']} MB: {output}"
    )
