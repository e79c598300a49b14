"""Where a report comes from: code, parameters, data, weights, packages, hardware, time, memory."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from reg.checkpoints import code_paths, write_whole
from reg.networks import best_device, resolve_precision
from reg.params import Params

ACCOUNTS = Path(".provenance")
PIPELINE = Path("dvc.yaml")
WATCHED = ("reg", "stages", "params.yaml", "dvc.yaml", "requirements.lock")
PACKAGES = ("torch", "numpy", "pandas", "scikit-image", "matplotlib", "lightning-fabric", "dvc")


@dataclass(frozen=True)
class Code:
    """The code of a stage: the files and folders of it that dvc.yaml names, and their hash.

    The hash stands for a commit in what is written before it is committed: it is that of
    `git ls-tree -r <commit> -- <paths> | sha256sum` for every commit that holds this code.
    """

    paths: tuple[str, ...]
    sha256: str

    @property
    def arguments(self) -> str:
        """The paths as a command takes them."""
        return " ".join(self.paths)


def code_of_stages(pipeline: Path = PIPELINE) -> dict[str, Code]:
    """The code of every stage of dvc.yaml as it lies here, by the name of the stage."""
    found = {}
    for name, paths in code_paths(pipeline).items():
        tree = "".join(_tree(pipeline.parent, paths))
        found[name] = Code(paths, hashlib.sha256(tree.encode()).hexdigest())
    return found


def _tree(root: Path, paths: Iterable[str]) -> Iterator[str]:
    """The lines of `git ls-tree -r` of files and folders, compiled modules left out."""
    files: set[Path] = set()
    for path in map(root.joinpath, paths):
        files |= set(path.rglob("*") if path.is_dir() else [path])
    for file in sorted(files, key=lambda file: file.as_posix()):
        if file.is_file() and file.parent.name != "__pycache__":
            content = file.read_bytes()
            blob = hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False)
            mode = "100755" if os.access(file, os.X_OK) else "100644"
            yield f"{mode} blob {blob.hexdigest()}\t{file.relative_to(root).as_posix()}\n"


def account(params: Params, stage: str, seconds: float, peak_memory_mb: int) -> None:
    """Record what a stage took and where, outside what DVC hashes: it differs at every run.

    Of a stage that was interrupted and resumed it is the time of the last part. Stages of one
    report may have run on several machines.
    """
    path = ACCOUNTS / params.profile / f"{stage}.json"
    taken = {"seconds": seconds, "peak_memory_mb": peak_memory_mb, "machine": machine()}
    write_whole(path, f"{json.dumps(taken)}\n".encode())


def write_provenance(params: Params, path: Path) -> None:
    """Write provenance.json; everything under `volatile` may differ between equal runs.

    A stage whose result came from DVC's cache has no account of this machine's time.
    """
    data, models = params.folder("data"), params.folder("models")
    accounts = sorted((ACCOUNTS / params.profile).glob("*.json"))
    stages = {file.stem: json.loads(file.read_text()) for file in accounts}
    provenance = {
        "profile": params.profile,
        "params": params.model_dump(mode="json", by_alias=True, exclude={"profiles"}),
        "profile_params": params.active.model_dump(mode="json", by_alias=True),
        "code_sha256": {name: code.sha256 for name, code in code_of_stages().items()},
        "data_sha256": _hashes(data.glob("prepare/manifest.csv")),
        "weights_sha256": _hashes(models.glob("**/*.safetensors")),
        "packages": {name: version(name).partition("+")[0] for name in PACKAGES},
        "precision": resolve_precision("auto", best_device()),
        "volatile": {
            "commit": _git("rev-parse", "HEAD"),
            "uncommitted_changes": bool(_git("status", "--porcelain", "--", *WATCHED)),
            "python": platform.python_version(),
            "torch_build": torch.__version__,
            "machine": machine(),
            "stages": stages,
            "total_seconds": round(sum(stage["seconds"] for stage in stages.values()), 1),
            "peak_memory_mb": max((s["peak_memory_mb"] for s in stages.values()), default=0),
        },
    }
    text = json.dumps(provenance, indent=2, sort_keys=True, ensure_ascii=False)
    write_whole(path, f"{text}\n".encode())


def _hashes(paths: Iterable[Path]) -> dict[str, str]:
    return {
        path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Processor, cores, accelerators and operating system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        name = platform.processor()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": name, "cores": os.cpu_count(), "gpus": gpus, "system": platform.system()}
