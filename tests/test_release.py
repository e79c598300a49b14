import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import reg.release
from reg.cli import main
from reg.gradient_step import GradientStepDenoiser, load_gradient_step, save_gradient_step
from reg.networks import (
    Denoiser,
    Regularizer,
    initialise,
    load_denoiser,
    load_regularizer,
    read_metadata,
    save_network,
)
from reg.photos import Photo, write_photo
from reg.release import MOST, RELEASED, denoised, kernels_say, measured, release, store
from reg.restoration import DENOISER, find_weights, parameters_of
from reg.training import seeded
from reg.unrolled import Unrolled, load_unrolled, save_unrolled
from tests.command_line import assert_one_line_of_error

CHANNELS = (4, 4, 4, 4)
PAIR = "train_reg/updated/2"  # of the first training seed, whatever that is
REGULARIZER = f"{PAIR}/regularizer.safetensors"
UNROLLED = "finetune_unrolled/reg/deblur-k5-2.55.safetensors"
GRADIENT_STEP = "train_gs/denoiser.safetensors"
TUNED = {"deblur-k5-2.55": {"pnp-gd": {"sigma": 2.0, "curvature": 100.0}}}
TABLE = """task,method,seed,image,iteration,metric,value
deblur-k5-2.55,start,2,a,0,psnr,20
deblur-k5-2.55,start,2,b,0,psnr,22
deblur-k5-2.55,pnp-gd,2,a,80,psnr,30
deblur-k5-2.55,pnp-gd,2,b,80,psnr,31
deblur-k5-2.55,pnp-gd,2,a,80,ssim,0.9
deblur-k5-2.55,pnp-gd,2,c,80,psnr,35
deblur-k5-2.55,pnp-gd,3,a,80,psnr,99
deblur-k5-2.55,red,2,a,80,psnr,28
deblur-k5-2.55,red,2,b,80,psnr,29
deblur-k5-2.55,tv,2,a,80,psnr,50
inpaint-20,pnp-gd,2,a,80,psnr,25
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with all that a tiny profile leaves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reg.release, "CROP", 48)
    monkeypatch.setattr(reg.release, "ITERATIONS", 2)
    models, results = Path("models/mine"), Path("results/mine")
    denoiser, regularizer = Denoiser(CHANNELS, 1), Regularizer(CHANNELS, 1, scale=20.0)
    gradient_step = GradientStepDenoiser(CHANNELS, 1)
    for network in (denoiser, regularizer, gradient_step):
        initialise(network, seeded(0))
    training = {"iterations": 7, "batch": 2, "learning_rate": 1e-3}
    save_network(denoiser, models / DENOISER, training)
    save_network(denoiser, models / PAIR / "denoiser.safetensors", training)
    save_network(regularizer, models / REGULARIZER, training)
    save_gradient_step(gradient_step, models / GRADIENT_STEP, training)
    save_unrolled(Unrolled(regularizer, 2, 1.0, 0.02), models / UNROLLED, training)
    for path, text in {
        results / "tune/chosen.json": json.dumps(TUNED),
        results / "evaluate_restoration/table.csv": TABLE,
    }.items():
        path.parent.mkdir(parents=True)
        path.write_text(text)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 60, 60, 3), dtype=np.uint8)
    for name, image in zip(("train", "held", "test"), pixels, strict=True):
        write_photo(Path("photos", name, f"{name}.png"), Photo(image))
    prepare_photographs()
    return tmp_path


def prepare_photographs() -> None:
    rows = [
        f"{role}-{name},{role},{name}/{name}.png,{Path.cwd()}/photos/{name}/{name}.png,60,60,"
        + hashlib.sha256(Path("photos", name, f"{name}.png").read_bytes()).hexdigest()
        for role, name in (("train", "train"), ("validation", "held"), ("test", "test"))
    ]
    manifest = Path("data/mine/prepare/manifest.csv")
    manifest.parent.mkdir(parents=True)
    header = "name,role,source,path,width,height,sha256"
    manifest.write_text("\n".join([header, *rows, ""]))


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_release_holds_every_network_in_half_the_bytes_with_its_parameters() -> None:
    release("mine")
    assert set(content_of(RELEASED)) == {
        DENOISER, REGULARIZER, f"{PAIR}/denoiser.safetensors", GRADIENT_STEP, UNROLLED,
        "chosen.json", "README.md",
    }  # fmt: skip
    for name, load in (
        (DENOISER, load_denoiser),
        (REGULARIZER, load_regularizer),
        (GRADIENT_STEP, load_gradient_step),
        (UNROLLED, load_unrolled),
    ):
        whole, rounded = Path("models/mine", name), RELEASED / name
        assert read_metadata(rounded) == read_metadata(whole)
        assert rounded.stat().st_size < 0.75 * whole.stat().st_size
        for (key, one), other in zip(
            load(whole).state_dict().items(), load(rounded).state_dict().values(), strict=True
        ):
            assert other.dtype == torch.float32
            expected = one.half().float() if one.ndim == 4 else one
            assert torch.equal(other, expected), key
    assert parameters_of(RELEASED) == TUNED
    assert find_weights() == RELEASED


def test_the_card_has_the_hashes_and_what_was_measured() -> None:
    files = release("mine")
    card = (RELEASED / "README.md").read_text()
    for name, content in content_of(RELEASED).items():
        if name != "README.md":
            assert f"| `{name}` | `{hashlib.sha256(content).hexdigest()}` |" in card
    for file in files:
        assert ", ".join(f"{level:.2f}" for level in file.levels.values()) in card
    assert "| validation | 1 | held |" in card
    assert "iterations 7, learning rate 0.001" in card
    assert "MIT" in card


def test_the_same_networks_give_the_same_release() -> None:
    release("mine")
    first = content_of(RELEASED)
    release("mine")
    assert content_of(RELEASED) == first
    assert [path.name for path in Path("weights").iterdir()] == ["released"]


@pytest.mark.parametrize(
    ("loss", "dtype"), [(0.9 * MOST, torch.float16), (1.1 * MOST, torch.float32)]
)
def test_what_rounding_harms_stays_as_it_is(loss: float, dtype: torch.dtype) -> None:
    def score(file: Path) -> dict[str, float]:
        return {"psnr": 30.0 - (loss if file.is_relative_to("small") else 0.0), "other": 20.0}

    found = store(DENOISER, Path("models/mine"), Path("small"), score)
    assert found.dtype == dtype
    if dtype == torch.float32:
        assert found.cost == 0
        whole = load_denoiser(Path("models/mine", DENOISER)).state_dict()
        stored = load_denoiser(Path("small", DENOISER)).state_dict()
        assert all(torch.equal(whole[key], stored[key]) for key in whole)
    else:
        assert found.cost == pytest.approx(loss)


def test_a_score_that_is_no_number_keeps_the_weights() -> None:
    found = store(DENOISER, Path("models/mine"), Path("small"), lambda _: {"psnr": float("nan")})
    assert found.dtype == torch.float32


def test_means_are_of_one_set_of_images_each() -> None:
    tables = measured(Path("results/mine"), {"a": "bsd", "b": "bsd", "c": "set5"})
    assert list(tables) == ["bsd, 2 images", "set5, 1 image"]
    bsd = tables["bsd, 2 images"]
    assert list(bsd.columns) == ["start", "pnp-gd", "red"]  # TV needs none of the files
    assert bsd.loc["deblur-k5-2.55"].tolist() == [21.0, 30.5, 28.5]
    assert pd.isna(bsd.loc["inpaint-20", "start"])
    assert measured(Path("nowhere"), {}) == {}


def with_denoisers() -> dict[str, pd.DataFrame]:
    """What is `denoised` with two denoisers, the updated one of two training seeds."""
    path = Path("results/mine/evaluate_denoising/table.csv")
    path.parent.mkdir(parents=True)
    path.write_text(
        "task,method,seed,image,iteration,metric,value\n"
        "denoise-50,denoiser@updated,2,a,1,psnr,26\n"
        "denoise-5,denoiser@updated,2,a,1,psnr,36\n"
        "denoise-5,denoiser@updated,2,b,1,psnr,38\n"
        "denoise-5,denoiser@updated,3,a,1,psnr,99\n"
        "denoise-5,denoiser@updated,2,a,1,psnr_8bit,98\n"
        "denoise-5,denoiser@original,2,a,1,psnr,40\n"
        "denoise-5,denoiser@original,2,c,1,psnr,41\n"
        "denoise-5,noisy,2,a,1,psnr,34\n"
    )
    return denoised(Path("results/mine"), {"a": "bsd", "b": "bsd", "c": "set5"})


def test_denoisers_have_their_means_by_set_and_noise() -> None:
    tables = with_denoisers()
    assert list(tables) == ["bsd, 2 images", "set5, 1 image"]
    bsd = tables["bsd, 2 images"]
    assert list(bsd.index) == ["denoiser@original", "denoiser@updated"]
    assert list(bsd.columns) == ["5", "50"]  # by number
    assert bsd.loc["denoiser@updated"].tolist() == [37.0, 26.0]  # of the first seed
    assert pd.isna(bsd.loc["denoiser@original", "50"])
    assert denoised(Path("nowhere"), {}) == {}


def test_the_card_has_the_denoisers_where_they_were_measured() -> None:
    release("mine")
    assert "denoising at a noise" not in (RELEASED / "README.md").read_text()
    with_denoisers()
    manifest = Path("data/mine/prepare/manifest.csv")
    table = Path("results/mine/evaluate_denoising/table.csv")
    name = pd.read_csv(manifest)["name"].iloc[-1]
    table.write_text(table.read_text().replace(",a,1,", f",{name},1,"))
    release("mine")
    card = (RELEASED / "README.md").read_text()
    assert "test, 1 image, denoising at a noise of 5, 50 /255:\n\n| network | 5 | 50 |\n" in card
    assert "| denoiser D, updated with G | 36.00 | 26.00 |\n" in card
    assert "| denoiser D | 40.00 | – |\n" in card


def with_unrolled(seed: int) -> dict[str, pd.DataFrame]:
    """What is `measured` with an unrolled network of a seed, on image b alone."""
    path = Path("results/mine/finetune_unrolled/reg/table.csv")
    path.parent.mkdir(parents=True)
    path.write_text(
        "task,method,seed,image,iteration,metric,value\n"
        f"deblur-k5-2.55,unrolled-reg,{seed},b,4,psnr,29\n"
    )
    return measured(Path("results/mine"), {"a": "bsd", "b": "bsd", "c": "set5"})


def test_what_was_measured_on_fewer_images_has_a_table_of_these() -> None:
    tables = with_unrolled(seed=2)
    assert list(tables) == ["bsd, 2 images", "bsd, 1 image", "set5, 1 image"]
    assert list(tables["bsd, 2 images"].columns) == ["start", "pnp-gd", "red"]
    part = tables["bsd, 1 image"]
    assert list(part.columns) == ["start", "pnp-gd", "red", "unrolled-reg"]
    assert part.loc["deblur-k5-2.55"].tolist() == [22.0, 31.0, 29.0, 29.0]  # of b alone
    assert list(part.index) == ["deblur-k5-2.55"]


def test_seeds_of_reg_and_of_the_unrolled_networks_are_numbered_apart() -> None:
    tables = with_unrolled(seed=0)
    columns = list(tables["bsd, 1 image"].columns)
    assert columns == ["start", "pnp-gd", "red", "unrolled-reg"]


@pytest.mark.parametrize(
    ("missing", "part"),
    [
        (f"models/mine/{DENOISER}", "pretrain/denoiser.safetensors: no such"),
        (f"models/mine/{REGULARIZER}", "regularizer.safetensors: no such"),
        ("results/mine/tune/chosen.json", "chosen.json: has nothing of pnp-gd"),
        ("data/mine/prepare/manifest.csv", "manifest.csv"),
    ],
)
def test_what_is_missing_is_named_and_an_older_release_stays(missing: str, part: str) -> None:
    old = RELEASED / "README.md"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    Path(missing).unlink()
    result = CliRunner().invoke(main, ["weights", "release", "--profile", "mine"])
    assert_one_line_of_error(result, part)
    assert content_of(RELEASED) == {"README.md": b"old"}
    assert [path.name for path in Path("weights").iterdir()] == ["released"]


def test_an_interrupted_release_leaves_the_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    release("mine")
    first = content_of(RELEASED)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reg.release, "model_card", interrupt)
    with pytest.raises(KeyboardInterrupt):
        release("mine")
    assert content_of(RELEASED) == first
    assert [path.name for path in Path("weights").iterdir()] == ["released"]


def test_the_command_says_what_it_wrote() -> None:
    result = CliRunner().invoke(main, ["weights", "release", "--profile", "mine"])
    assert result.exit_code == 0
    assert f"{RELEASED / DENOISER}: float16, 0.0 MB" in result.stdout


def test_the_card_says_what_the_blurs_are() -> None:
    said = kernels_say(["sr-x2-2.55", "deblur-k5-2.55", "deblur-k3-2.55", "deblur-k5-7.65"])
    assert (
        said == "Standard deviations of the blurs: k3: 2 pixels; k5: 3 pixels at 144°, 1.22 across"
    )
    assert kernels_say(["inpaint-20"]) == ""
