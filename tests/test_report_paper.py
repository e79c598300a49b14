"""What a profile did beside the paper, and where its G comes from."""

import re
from pathlib import Path

import pandas as pd
import pytest

from reg.claims import COLUMNS
from reg.networks import Denoiser, Network, Regularizer, imported_from, save_network
from reg.params import Profile, read_params
from reg.report import page
from reg.report.captions import ADMM_LEVELS
from reg.report.page import TableEntry
from reg.report.paper import PAPER, origin_of_g, paper_sheet, settings_of
from reg.report.sheets import Sheet, to_latex
from reg.report.words import WORDS

ROOT = Path(__file__).parents[1]
CHANNELS = (4, 4, 8, 8)


@pytest.fixture(scope="module")
def active() -> Profile:
    return read_params(ROOT / "params.yaml").profiles["tiny"]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A trained D and the G of two training seeds, of a form that is not the profile's."""
    save_network(Denoiser(CHANNELS, 1), tmp_path / "pretrain" / "denoiser.safetensors")
    for seed in ("0", "1"):
        path = tmp_path / "train_reg" / "updated" / seed / "regularizer.safetensors"
        save_network(Regularizer(CHANNELS, 1, "residual", 7.0), path, {"lambda": 1.0})
    return tmp_path


def import_(network: Network, path: Path) -> None:
    source = path.with_name("given.safetensors")
    save_network(network, source)
    save_network(network, path, imported_from(source))
    source.unlink()


def test_form_and_scale_of_g_are_those_of_its_file(models: Path, active: Profile) -> None:
    recipe = active.train_reg
    assert (recipe.form, recipe.scale) == ("plain", 20.0)
    assert settings_of(models, recipe) == {
        "λ": f"{recipe.lambda_:g}",
        "form of G": "residual, scale 7, start random",
        "training seeds of ReG": "0, 1; methods that use ReG are tuned on all of them at once",
    }


def test_of_an_imported_g_neither_start_nor_weight_is_known(models: Path, active: Profile) -> None:
    path = models / "train_reg" / "updated" / "0" / "regularizer.safetensors"
    import_(Regularizer(CHANNELS, 1, "plain", 1.0), path)
    origin = origin_of_g(models, active.train_reg)
    assert (origin.start, origin.lambda_) == ("imported", None)
    one = active.train_reg.model_copy(update={"seeds": (0,)})
    assert settings_of(models, one) == {
        "λ": "imported",
        "form of G": "plain, scale 1, start imported",
        "training seeds of ReG": "0",
    }


def sheet(models: Path, active: Profile) -> pd.DataFrame:
    images = [("a", "test", "set5/a.png"), ("b", "test", "set5/b.png"), ("c", "test", "x/c.png")]
    images += [("d", "train", "bsd400/d.png"), ("e", "validation", "bsd400/e.png")]
    manifest = pd.DataFrame(images, columns=["name", "role", "source"])
    tasks = ("deblur-k5-2.55", "deblur-k7-7.65", "deblur-k7-2.55", "sr-x3-2.55", "inpaint-20")
    rows = [(task, "pnp-gd", 0, image, 1, "psnr", 30.0) for task in tasks for image in "ac"]
    restoration = pd.DataFrame(rows, columns=COLUMNS)
    made = paper_sheet(active, models, manifest, restoration)
    assert "not available to us" in made.caption
    assert made.numbers["what"].tolist() == list(PAPER)
    assert to_latex(made).isascii()
    return made.numbers.set_index("what")


def test_the_table_has_what_was_done_here_and_there(models: Path, active: Profile) -> None:
    table = sheet(models, active)
    count = sum(weight.numel() for weight in Regularizer(CHANNELS, 1).parameters())
    recipe = active.train_reg
    assert table["here"].to_dict() == {
        # D has the channel of the noise level besides: 3 × 3 weights into each of 4 channels
        "Weights of D": f"{count + 36:,}",
        "Weights of G": f"{count:,}",
        "Training images": "1 (bsd400)",
        "Pre-training of D": "30 × 4 crops of 32²",
        "Training of G and D": f"{recipe.iterations} × 4 crops of 32²",
        "λ": f"{recipe.lambda_:g}",
        "Form of G": "residual, scale 7",
        "Start of G": "random weights",
        "Deblurring kernels": "k5, k7",
        "Deblurring noise σₙ (/255)": "2.55, 7.65",
        "Super-resolution": "×3",
        "Inpainting, pixels known": "20 %",
        "Test images": "2 (set5: 1, x: 1)",
        "Training seeds": "2 (0, 1)",
    }
    assert table.loc["Weights of G", "paper"] == "32,640,384"
    assert table.loc["λ", "paper"] == "0.004"
    assert table.loc["Training seeds", "paper"] == "not stated"


def test_imported_networks_have_no_training_here(models: Path, active: Profile) -> None:
    import_(Denoiser(CHANNELS, 1), models / "pretrain" / "denoiser.safetensors")
    path = models / "train_reg" / "updated" / "0" / "regularizer.safetensors"
    import_(Regularizer(CHANNELS, 1), path)
    here = sheet(models, active)["here"]
    rows = ["Pre-training of D", "Training of G and D", "λ", "Start of G"]
    assert set(here[rows]) == {"imported"}
    assert here["Form of G"] == "plain"


def test_the_way_to_make_it_again_names_the_folders_that_are_needed() -> None:
    theirs = page.how_to_make("bsd", ["bsd400", "cbsd68"])
    assert "`profile: bsd` in `params.yaml`, and `data.root` there" in theirs
    assert "the image folders `bsd400`, `cbsd68`; then `make reproduce`" in theirs
    ours = page.how_to_make("demo", [])
    assert "`profile: demo`" in ours
    assert "data.root" not in ours


def test_committed_tables_are_those_of_the_same_results() -> None:
    entries = [
        TableEntry(name, Sheet(name, "", (), (), pd.DataFrame()), (file,), ())
        for name, file in (("one", "results/a/table.csv"), ("two", "results/b/*/table.csv"))
    ]
    assert page.committed_tables(["results/a/table.csv"], entries) == ["tables/one.csv"]
    assert page.committed_tables(["results/b/reg/table.csv"], entries) == ["tables/two.csv"]
    assert page.committed_tables(["results/b/*"], entries) == ["tables/two.csv"]
    assert page.committed_tables(["results/c/table.csv"], entries) == []


def test_the_captions_levels_are_the_stages() -> None:
    stage = (ROOT / "stages" / "evaluate_convergence.py").read_text(encoding="utf-8")
    given = dict(re.findall(r"(level|first|until)=(\d+)\.0", stage))
    assert f"s = {given['level']}/255 throughout in deblurring" in ADMM_LEVELS
    assert f"from {given['first']}/255 falling" in ADMM_LEVELS
    assert f"until iteration {given['until']}." in ADMM_LEVELS


def test_words_have_the_widths_of_the_blurs() -> None:
    words = dict(WORDS)
    assert len(words) == len(WORDS)
    said = words["Deblurring k0 to k7"]
    assert "k3: 2 pixels; k5: 3 pixels at 144°, 1.22 across; k7: 2.65 pixels at 52.2°" in said
