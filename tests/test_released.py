"""The weights that lie in the repository: whole, listed, and doing what they are for."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import skimage.data
import torch
from torch import Tensor

from reg.gradient_step import load_gradient_step
from reg.methods import Networks, iterate
from reg.metrics import psnr
from reg.networks import inference, load_denoiser, load_regularizer
from reg.problems import make_problem
from reg.unrolled import load_unrolled

RELEASED = Path(__file__).parents[1] / "weights" / "released"
FILES = sorted(RELEASED.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """A photograph of scikit-image, of no data set on which anything was trained."""
    pixels = torch.from_numpy(skimage.data.chelsea()[60:204, 120:264].copy())
    return pixels.permute(2, 0, 1)[None].float() / 255


def tuned(task: str, method: str) -> dict[str, float]:
    chosen: dict[str, float] = json.loads((RELEASED / "chosen.json").read_text())[task][method]
    return chosen


def test_every_file_is_listed_with_its_hash() -> None:
    card = (RELEASED / "README.md").read_text()
    listed = dict(re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", card, flags=re.MULTILINE))
    names = {path.relative_to(RELEASED).as_posix() for path in [*FILES, RELEASED / "chosen.json"]}
    assert set(listed) == names
    for name, digest in listed.items():
        assert hashlib.sha256((RELEASED / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", ["pretrain", "train_reg/updated/0", "train_gs"])
def test_denoisers_remove_noise(name: str, photo: Tensor) -> None:
    load = load_gradient_step if name == "train_gs" else load_denoiser
    denoiser = load(RELEASED / name / "denoiser.safetensors")
    problem = make_problem("denoise-25", photo, ["chelsea"], 0)
    with inference("fp32"):
        restored = denoiser(problem.y, problem.sigma_n)
    assert psnr(restored, photo) > psnr(problem.y, photo) + 9


@pytest.mark.parametrize(("task", "gain"), [("deblur-k5-2.55", 2.0), ("inpaint-20", 10.0)])
def test_gradient_descent_with_reg_restores(task: str, gain: float, photo: Tensor) -> None:
    regularizer = load_regularizer(RELEASED / "train_reg/updated/0/regularizer.safetensors")
    problem = make_problem(task, photo, ["chelsea"], 0)
    networks = Networks(regularizers={"updated": regularizer})
    with inference("auto"):
        iterates = iterate("pnp-gd", problem, networks, tuned(task, "pnp-gd"))
        for _ in range(80):
            restored = next(iterates)
    assert psnr(restored, photo) > psnr(problem.degraded, photo) + gain
    assert psnr(restored, photo) > psnr(problem.start, photo) + 1.2  # holes merely filled


@pytest.mark.parametrize("file", sorted((RELEASED / "finetune_unrolled").rglob("*.safetensors")))
def test_unrolled_networks_restore(file: Path, photo: Tensor) -> None:
    problem = make_problem(file.stem, photo, ["chelsea"], 0)
    with inference("fp32"):
        restored = load_unrolled(file)(problem)
    assert psnr(restored, photo) > psnr(problem.start, photo) + 0.5
