"""What all tests share."""

import os
from pathlib import Path

# The tests speak of one CPU; for those that compare with a GPU, set CUDA_VISIBLE_DEVICES yourself.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Nor are they to write where a user's trainings keep their checkpoints.
os.environ.pop("REG_CHECKPOINTS", None)
os.environ.pop("DVC_STAGE", None)

import pytest
import torch
from hypothesis import settings

from reg.datasets import prepare
from reg.images import write_image
from reg.networks import Denoiser, initialise, save_network
from reg.training import seeded

# The same examples at every run, and no time limit per example: a busy machine is no failure.
settings.register_profile("reg", deadline=None, derandomize=True)
settings.load_profile("reg")


def pytest_runtest_setup() -> None:
    """What a test draws without a generator (initial weights, say) no test before it changes."""
    torch.manual_seed(0)


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the profile tiny, its data prepared, and a denoiser."""
    committed = Path(__file__).parents[1] / "params.yaml"
    text = committed.read_text(encoding="utf-8").replace("profile: demo", "profile: tiny", 1)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for seed, (role, side) in enumerate({"train": 136, "validation": 72, "test": 72}.items()):
        image = torch.rand(1, 3, side, side, generator=seeded(seed))
        write_image(tmp_path / "images" / role / f"{role}.png", image)
    prepare(
        Path("data/tiny/prepare"),
        photographs={},
        folders={role: [role] for role in ("train", "validation", "test")},
        root=tmp_path / "images",
        sizes=dict.fromkeys(("train", "validation", "test")),
        crop=128,
        dead_leaves_count=0,
        dead_leaves_size=64,
        seed=0,
    )
    denoiser = Denoiser((4, 4, 8, 8), 1)
    initialise(denoiser, seeded(0))
    save_network(denoiser, Path("models/tiny/pretrain/denoiser.safetensors"))
    return tmp_path
