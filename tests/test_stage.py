import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from reg.errors import InputError
from reg.evaluation import Job
from reg.gradient_step import GradientStepDenoiser, save_gradient_step
from reg.images import write_image
from reg.networks import Denoiser, Network, Regularizer, initialise, save_network
from reg.params import Params, read_params
from reg.stage import inputs, part, run

COMMITTED = Path(__file__).parents[1] / "params.yaml"
CHANNELS = (2, 2, 2, 2)
TUNED = {
    "inpaint-20": {"pnp-gd": {"sigma": 2.0, "curvature": 500.0}, "red@updated": {"sigma": 3.0}}
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def params(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for params.yaml; how that is read is tested with reg.params."""
    given = SimpleNamespace(profile="demo")
    monkeypatch.setattr("reg.stage.read_params", lambda: given)
    return given


def test_a_stage_says_what_it_does_and_accounts_for_it(
    params: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    given = []

    def work(what: object) -> Path:
        given.append(what)
        return Path("models/demo/pretrain")

    run("pretrain", work)  # type: ignore[arg-type]
    assert given == [params]
    first, last = capsys.readouterr().out.splitlines()
    assert "pretrain" in first
    assert "demo" in first
    assert "models/demo/pretrain" in last
    account = json.loads(Path(".provenance/demo/pretrain.json").read_text())
    age = time.time() - psutil.Process().create_time()
    assert 0 < account["seconds"] <= age + 0.1  # imports count
    assert account["peak_memory_mb"] > 10
    assert account["machine"]["cores"] == os.cpu_count()


@pytest.mark.usefixtures("params")
def test_a_user_error_ends_a_stage_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def work(what: object) -> Path:
        raise InputError("data/manifest.csv: no test image")

    with pytest.raises(SystemExit) as caught:
        run("evaluate", work)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: data/manifest.csv: no test image\n"
    assert not Path(".provenance").exists()


def test_unreadable_parameters_are_a_user_error(capsys: pytest.CaptureFixture[str]) -> None:
    # There is no params.yaml here.
    with pytest.raises(SystemExit) as caught:
        run("evaluate", lambda _: Path())
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: params.yaml")
    assert message.count("\n") == 1


@pytest.mark.usefixtures("params")
def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    def work(what: object) -> Path:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run("evaluate", work)


# --- inputs --------------------------------------------------------------------------------


def network(kind: type[Network], seed: int) -> Network:
    drawn = kind(CHANNELS, 1)
    initialise(drawn, torch.Generator().manual_seed(seed))
    return drawn


def write_manifest(shade: float = 0.5) -> None:
    folder = Path("data/tiny/prepare")
    rows = ["name,role,source,path,width,height,sha256"]
    for name, role in (("a", "validation"), ("b", "test"), ("c", "test")):
        write_image(folder / f"{name}.png", torch.full((1, 3, 16, 16), shade))
        digest = hashlib.sha256((folder / f"{name}.png").read_bytes()).hexdigest()
        rows.append(f"{name},{role},drawn,{name}.png,16,16,{digest}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def write_tuned(tuned: object = TUNED) -> None:
    Path("results/tiny/tune").mkdir(parents=True, exist_ok=True)
    Path("results/tiny/tune/chosen.json").write_text(json.dumps(tuned))


def write_potential(seed: int) -> None:
    potential = GradientStepDenoiser(CHANNELS, 1)
    initialise(potential, torch.Generator().manual_seed(seed))
    save_gradient_step(potential, Path("models/tiny/train_gs/denoiser.safetensors"), {})


MODELS = Path("models/tiny")
DENOISER = MODELS / "pretrain" / "denoiser.safetensors"
REGULARIZER = MODELS / "train_reg" / "updated" / "3" / "regularizer.safetensors"


@pytest.fixture
def tiny() -> Params:
    """The profile `tiny` with all that the stages before would have made."""
    write_manifest()
    write_tuned()
    write_potential(0)
    save_network(network(Denoiser, 1), DENOISER)
    for arm in ("updated", "fixed"):
        for seed in (1, 3):
            folder = MODELS / "train_reg" / arm / str(seed)
            save_network(network(Denoiser, 2 + seed), folder / "denoiser.safetensors")
            save_network(network(Regularizer, 3 + seed), folder / "regularizer.safetensors")
    return read_params(COMMITTED).model_copy(update={"profile": "tiny"})


def test_inputs_are_the_images_of_a_role_all_networks_and_what_was_tuned(tiny: Params) -> None:
    given = inputs(tiny, "ablate", "test")
    assert list(given.images) == ["b", "c"]
    assert list(inputs(tiny, "diagnose", "validation").images) == ["a"]
    assert list(given.networks) == [1, 3]
    assert given.first is given.networks[1]
    for networks in given.networks.values():
        assert set(networks.denoisers) == {"original", "updated", "fixed"}
        assert set(networks.regularizers) == {"updated", "fixed"}
        assert set(networks.potentials) == {"gradient-step"}
    assert given.tuned == TUNED


def test_before_tuning_there_is_nothing_tuned(tiny: Params) -> None:
    Path("results/tiny/tune/chosen.json").unlink()
    assert inputs(tiny, "tune", "validation", tuned=False).tuned == {}
    with pytest.raises(FileNotFoundError, match=r"chosen\.json"):
        inputs(tiny, "ablate", "test")


def test_a_job_has_the_tuned_parameters_some_of_them_changed(tiny: Params) -> None:
    given = inputs(tiny, "ablate", "test")
    tuned = TUNED["inpaint-20"]
    assert given.job("inpaint-20", "pnp-gd") == Job("inpaint-20", "pnp-gd", tuned["pnp-gd"])
    # By the canonical name; the job keeps the one it was given.
    same = Job("inpaint-20", "pnp-gd@updated", tuned["pnp-gd"])
    assert given.job("inpaint-20", "pnp-gd@updated") == same
    assert given.job("inpaint-20", "red@updated").parameters == {"sigma": 3.0}
    changed = given.job("inpaint-20", "pnp-gd", sigma=9.0, until=25.0)
    assert changed.parameters == {"sigma": 9.0, "curvature": 500.0, "until": 25.0}
    assert given.tuned == TUNED


def test_methods_of_reg_have_a_job_for_every_training_seed(tiny: Params) -> None:
    given = inputs(tiny, "ablate", "test")
    job = given.job("inpaint-20", "pnp-gd")
    assert given.jobs("inpaint-20", "pnp-gd") == [replace(job, seed=1), replace(job, seed=3)]
    assert [job.seed for job in given.jobs("inpaint-20", "red@updated")] == [1, 3]
    write_tuned({"inpaint-20": {"red": {"sigma": 2.0}}})
    given = inputs(tiny, "ablate", "test")
    assert given.jobs("inpaint-20", "red") == [given.job("inpaint-20", "red")]
    assert given.job("inpaint-20", "red").seed is None


def seeded(params: Params) -> Params:
    return params.model_copy(update={"seed": params.seed + 1})


def with_section(params: Params, stage: str) -> Params:
    """The same with one more iteration in a stage's section."""
    section = getattr(params.active, stage)
    changed = section.model_copy(update={"iterations": section.iterations + 1})
    profile = params.active.model_copy(update={stage: changed})
    return params.model_copy(update={"profiles": {**params.profiles, "tiny": profile}})


CHANGES: dict[str, Callable[[Params], object]] = {
    "seed": seeded,
    "section": lambda params: with_section(params, "ablate"),
    "images": lambda params: write_manifest(0.25),
    "tuned": lambda params: write_tuned({"inpaint-20": {"pnp-gd": {"sigma": 2.5}}}),
    "denoiser": lambda params: save_network(network(Denoiser, 9), DENOISER),
    "regularizer": lambda params: save_network(network(Regularizer, 9), REGULARIZER),
    "potential": lambda params: write_potential(9),
    "no potential": lambda params: (MODELS / "train_gs" / "denoiser.safetensors").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_key_of_unfinished_work_changes_with_all_that_decides_the_result(
    change: Callable[[Params], object], tiny: Params
) -> None:
    before = inputs(tiny, "ablate", "test").key
    assert inputs(tiny, "ablate", "test").key == before
    changed = change(tiny)
    now = changed if isinstance(changed, Params) else tiny
    assert inputs(now, "ablate", "test").key != before


def test_the_key_does_not_change_with_what_does_not_matter(tiny: Params) -> None:
    before = inputs(tiny, "ablate", "test").key
    assert inputs(with_section(tiny, "accelerate"), "ablate", "test").key == before
    (MODELS / "finetune_unrolled").mkdir()
    save_network(network(Regularizer, 9), MODELS / "finetune_unrolled" / "unrolled.safetensors")
    assert inputs(tiny, "ablate", "test").key == before
    assert inputs(tiny, "accelerate", "test").key != before
    # Nor, for the stage that tunes, with what it tuned before.
    key = inputs(tiny, "tune", "validation", tuned=False).key
    write_tuned({})
    assert inputs(tiny, "tune", "validation", tuned=False).key == key


@pytest.mark.parametrize("given", [[], ["update"], ["updated", "fixed"]])
def test_a_part_of_a_stage_that_is_unknown_is_one_line(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train_reg", *given])
    with pytest.raises(SystemExit) as caught:
        part("train_reg", ("updated", "fixed"))
    assert caught.value.code == 2
    expected = f"error: train_reg {' '.join(given)}: must be followed by updated or fixed\n"
    assert capsys.readouterr().err == expected
    monkeypatch.setattr("sys.argv", ["train_reg", "fixed"])
    assert part("train_reg", ("updated", "fixed")) == "fixed"
