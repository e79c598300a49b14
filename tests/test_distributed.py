import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import reg
from reg.errors import InputError
from reg.networks import load_denoiser
from reg.recipe import Recipe
from reg.training import train

ITERATIONS = 50

# Trains a small pair; the processes of one training run the same script, as those of a stage do.
SCRIPT = """
import os, signal, sys
from pathlib import Path
import numpy as np
from reg.losses import RegObjective
from reg.networks import Denoiser, Regularizer, initialise, save_network
from reg.patches import Patches
from reg.processes import leave_it_to_the_first_process
from reg.recipe import Recipe
from reg.training import seeded, train

class Interrupted(Patches):
    def batch(self, iteration, *share):
        if iteration == int(os.environ.get("STOP_AT", 0)) and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(iteration, *share)

denoiser, regularizer = Denoiser((4, 4, 4, 4), 1), Regularizer((4, 4, 4, 4), 1, scale=20.0)
initialise(denoiser, seeded(1))
initialise(regularizer, seeded(2))
images = list(np.random.default_rng(0).integers(256, size=(3, 20, 24, 3), dtype=np.uint8))
recipe = Recipe(
    iterations=50, batch=4, crop=16, learning_rate=1e-3, validate_every=5, precision="fp32",
    ema=0.9,
)
def validate():
    return {"weights": sum(float(weight.abs().sum()) for weight in denoiser.parameters())}
log = train(
    RegObjective(denoiser, regularizer, 1.0, update_denoiser=True),
    Interrupted(images, 16, 4, 5), recipe, title="pair", seed=3, checkpoint="run",
    validate=validate, log=Path("log.csv"),
)
log.to_csv(f"whole{os.environ.get('RANK', '')}.csv", index=False)
leave_it_to_the_first_process()
log.to_csv("whole.csv", index=False)
save_network(denoiser, Path("denoiser.safetensors"))
print("finished")
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "pair.py"
    path.write_text(SCRIPT)
    return path


def start(command: list[str], folder: Path, **variables: object) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if "SLURM" not in name}
    environment |= {"PYTHONPATH": str(Path(reg.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    environment |= {name: str(value) for name, value in variables.items()}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=120)
    return process.returncode, out, errors


def torchrun(script: Path) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node=2", str(script)]


def assert_follows(folder: Path, single: Path) -> None:
    """The losses of every validation, all bands of them, and the averaged weights at the end."""
    ours, theirs = (pd.read_csv(each / "whole.csv") for each in (folder, single))
    assert ours["iteration"].tolist() == list(range(5, ITERATIONS + 1, 5))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-5, atol=0)
    one, other = (load_denoiser(each / "denoiser.safetensors") for each in (folder, single))
    for ours_w, theirs_w in zip(one.parameters(), other.parameters(), strict=True):
        assert (ours_w - theirs_w).abs().max() < 1e-4 * theirs_w.abs().max()


@pytest.fixture(scope="module")
def single(script: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    status, _, errors = finish(start([sys.executable, str(script)], folder))
    assert status == 0, errors
    return folder


def test_two_processes_follow_one(script: Path, single: Path, tmp_path: Path) -> None:
    status, out, errors = finish(start(torchrun(script), tmp_path))
    assert status == 0, errors
    assert_follows(tmp_path, single)
    assert (tmp_path / "whole1.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert out.count("finished") == 1  # only the first process goes on to write
    assert out.count(f"{ITERATIONS}/{ITERATIONS}") == 1  # and to show


def test_two_processes_stop_together_and_one_goes_on(
    script: Path, single: Path, tmp_path: Path
) -> None:
    # Only the second process is told to stop, between two validations.
    status, out, errors = finish(start(torchrun(script), tmp_path, STOP_AT=24))
    assert status != 0
    assert "finished" not in out
    assert "stopped after iteration 23 of 50" in errors
    assert [path.stem for path in sorted(tmp_path.glob(".checkpoints/run/*.pt"))] == [
        "000000020",
        "000000023",
    ]
    status, out, errors = finish(start([sys.executable, str(script)], tmp_path))
    assert status == 0, errors
    assert "resumed after iteration 23" in out
    assert_follows(tmp_path, single)


def test_four_slurm_ranks_on_two_nodes_start_and_finish(
    script: Path, single: Path, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job: Mapping[str, object] = {
        "SLURM_JOB_ID": 4711,
        "SLURM_JOB_NAME": "reg",
        "SLURM_NTASKS": 4,
        "SLURM_STEP_NUM_TASKS": 4,
        "SLURM_NTASKS_PER_NODE": 2,
        "SLURM_NNODES": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    ranks = [
        start(
            [sys.executable, str(script)],
            tmp_path,
            **job,
            SLURM_PROCID=rank,
            SLURM_LOCALID=rank % 2,
            SLURM_NODEID=rank // 2,
        )
        for rank in range(4)
    ]
    ends = [finish(rank) for rank in ranks]
    assert [status for status, _, _ in ends] == [0] * 4, ends
    assert "finished" in ends[0][1]
    assert [out for _, out, _ in ends[1:]] == [""] * 3
    assert_follows(tmp_path, single)


def test_a_batch_that_devices_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    three = SimpleNamespace(world_size=3, global_rank=0)
    monkeypatch.setattr("reg.training.launch", lambda recipe: three)
    recipe = Recipe(iterations=1, batch=4, crop=16, learning_rate=1e-3, validate_every=1)
    with pytest.raises(
        InputError, match="batch = 4 cannot be shared evenly by 3 devices"
    ) as caught:
        train(None, None, recipe, title="pretrain", seed=0, checkpoint="x")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_launcher_whose_settings_contradict_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "reg")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    recipe = Recipe(iterations=1, batch=4, crop=16, learning_rate=1e-3, validate_every=1)
    with pytest.raises(InputError, match="ntasks-per-node") as caught:
        train(None, None, recipe, title="pretrain", seed=0, checkpoint="x")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
