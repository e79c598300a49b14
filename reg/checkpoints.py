"""Unfinished work on disk: written whole or not at all, keyed by all that decides the result.

It lives in `.checkpoints/<key>/`, outside what DVC manages, because DVC deletes a stage's outputs
before it runs. What is finished is removed by the next stage, for DVC takes the outputs of a stage
into its cache only after it has ended, and may fail (a full disk). The environment variable
REG_CHECKPOINTS names another folder, which experiments that DVC runs in folders of their own share.
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
from ruamel.yaml import YAML

from reg.errors import InputError

CHECKPOINTS = Path(os.environ.get("REG_CHECKPOINTS", ".checkpoints"))
CODE = Path(__file__).parent
LONGEST = 200  # bytes of a cell's name in that of its file
HANDED_OVER = "handed-over"  # the file that marks finished work

State = dict[str, Any]


def fingerprint(name: str, *parts: object, files: Sequence[Path] = ()) -> str:
    """`<name>-<hash>` of what decides a result: parameters, files (data, weights), code, torch.

    `name` is that of a stage, or begins with it and a hyphen. The code is what dvc.yaml names as
    the stage's, so that unfinished work lasts as long as finished work does.
    """
    given = [torch.__version__, name, *parts]
    digest = hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode())
    for path in [*files, *_code_of(stage_of(name))]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{name}-{digest.hexdigest()[:16]}"


def _code_of(stage: str) -> list[Path]:
    """The files of code on which a stage of dvc.yaml depends; all code of anything else."""
    root = CODE.parent
    pipeline = root / "dvc.yaml"
    named = code_paths(pipeline) if pipeline.exists() else {}
    if stage not in named:
        return [*sorted(CODE.glob("*.py")), *sorted(root.glob("stages/*.py"))]
    return [root / path for path in named[stage]]


def code_paths(pipeline: Path) -> dict[str, tuple[str, ...]]:
    """The files and folders of code that dvc.yaml names, sorted, by the name of the stage."""
    stages = YAML(typ="safe", pure=True).load(pipeline.read_text(encoding="utf-8"))["stages"]
    return {
        # Data, models and results depend on the profile, code does not.
        name: tuple(sorted(path for path in stage.get("do", stage)["deps"] if "$" not in path))
        for name, stage in stages.items()
    }


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
    path = cell_path(key, name)
    state = load_state(path)
    if state is None:
        state = compute()
        save_state(path, state)
    return state


def cell_path(key: str, name: str) -> Path:
    """The file of a finished cell. A name too long for one, with an image's in it, is hashed."""
    short = len(name.encode()) <= LONGEST
    stem = name if short else hashlib.sha256(name.encode()).hexdigest()
    return CHECKPOINTS / key / f"{stem}.pt"


def forget(key: str) -> None:
    """Remove a run's unfinished work, once what it made is on disk."""
    shutil.rmtree(CHECKPOINTS / key, ignore_errors=True)


def hand_over(key: str) -> None:
    """Mark a stage's work as finished, once its outputs are written and DVC is there to take them.

    Of a stage that torchrun or srun runs DVC knows nothing: the `dvc repro` that follows deletes
    the outputs before it runs the stage, which then has them again from this work, in seconds.
    """
    folder = CHECKPOINTS / key
    if "DVC_STAGE" in os.environ and folder.is_dir():  # DVC sets it for every command
        write_whole(folder / HANDED_OVER, b"")


def forget_handed_over(stage: str) -> None:
    """`forget` what other stages handed over: `dvc repro` goes on to the next stage with it.

    (Not where it is told to go on in spite of failures, by `-k`.)
    """
    if "DVC_STAGE" not in os.environ:
        return
    for mark in CHECKPOINTS.glob(f"*/{HANDED_OVER}"):
        if stage_of(key := mark.parent.name) != stage_of(stage):
            forget(key)


def stage_of(name: str) -> str:
    """`train_reg` of `train_reg@updated`, and of the key `train_reg-updated-0-<hash>`."""
    return name.partition("@")[0].partition("-")[0]
