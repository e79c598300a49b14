"""Unfinished work on disk: written whole or not at all, keyed by all that decides the result.

It lives in `.checkpoints/<key>/`, outside what DVC manages, because DVC deletes a stage's outputs
before it runs; it is removed when the stage has written them.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from reg.errors import InputError

CHECKPOINTS = Path(".checkpoints")
CODE = Path(__file__).parent

State = dict[str, Any]


def fingerprint(*parts: object, files: Sequence[Path] = ()) -> str:
    """Hash of what decides a run's result: parameters, files (data, weights), our code, torch."""
    given = [torch.__version__, *parts]
    digest = hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode())
    code = [*sorted(CODE.glob("*.py")), *sorted(CODE.parent.glob("stages/*.py"))]
    for path in [*files, *code]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def save_state(path: Path, state: State) -> None:
    """Write tensors and plain values, whole or not at all; InputError if the disk is full."""
    content = BytesIO()  # torch.save disguises a full disk as a fault of its own
    torch.save(state, content)
    write_whole(path, content.getbuffer())


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a crash or a power cut leaves the old one or the new one.

    Processes that share a stage may write the same file at once. Raises InputError if it cannot be
    written; no part of it stays.
    """
    # By the number of the process: of two that wrote to one, the second would find it renamed.
    process = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    partial = path.with_name(f"{path.name}.{process}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"{path.parent}: {path.name} cannot be written ({error.strerror}); mend that and run "
            "the same command: finished work is kept"
        ) from None
    finally:  # also where Ctrl-C came in between
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_state(path: Path) -> State | None:
    """What `save_state` wrote; None if the file is missing or damaged."""
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises a different type for every way in which an archive is broken
        return None
    return state


def finished_cell(key: str, name: str, compute: Callable[[], State]) -> State:
    """The state of one cell of a long evaluation: from disk if it was finished before."""
    path = CHECKPOINTS / key / f"{name}.pt"
    state = load_state(path)
    if state is None:
        state = compute()
        save_state(path, state)
    return state


def forget(key: str) -> None:
    """Remove a run's unfinished work, once what it made is on disk."""
    shutil.rmtree(CHECKPOINTS / key, ignore_errors=True)
