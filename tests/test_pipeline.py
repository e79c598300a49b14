"""The whole DVC pipeline at a tiny size, in clones: what it makes, again, swept and interrupted."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from reg.images import write_image
from reg.networks import Denoiser, Regularizer, read_metadata, save_network, write_weights

ROOT = Path(__file__).parents[1]


def stages() -> set[str]:
    """The names of all stages, those of a `foreach` as name@item."""
    names = set()
    for name, stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items():
        names |= {f"{name}@{item}" for item in stage["foreach"]} if "foreach" in stage else {name}
    return names


STAGES = stages()
WITHOUT_LAMBDA = {"prepare", "pretrain", "train_gs", "train_reg@fixed"} | {
    f"finetune_unrolled@{start}" for start in ("denoiser", "random", "end-to-end")
}
CHANNELS = (4, 4, 8, 8)  # those of the profile
REG_OUTPUTS = ("models", "results")

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")


@dataclass(frozen=True)
class Run:
    """A command that ended well."""

    folder: Path
    output: str
    seconds: float

    def stages(self, pattern: str) -> set[str]:
        return set(re.findall(pattern, self.output, flags=re.MULTILINE))

    @property
    def ran(self) -> set[str]:
        return self.stages(r"^Running stage '(.+)':$")

    @property
    def unchanged(self) -> set[str]:
        return self.stages(r"^Stage '(.+)' didn't change, skipping$")


def environment(folder: Path) -> dict[str, str]:
    """This interpreter first, one core, an identity for git, nothing shared with other runs."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    someone = {"NAME": "Test", "EMAIL": "test@example.org"}
    return {
        **ours,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{ours.get('PATH', '')}",
        "OMP_NUM_THREADS": "1",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": f"{folder}-site-cache",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_AUTHOR_{key}": value for key, value in someone.items()},
        **{f"GIT_COMMITTER_{key}": value for key, value in someone.items()},
    }


def execute(folder: Path, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder) | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def python(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return execute(folder, sys.executable, *arguments, **variables)


def dvc(folder: Path, *arguments: str) -> Run:
    began = time.monotonic()
    done = python(folder, "-m", "dvc", *arguments)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-5000:]
    return Run(folder, output, time.monotonic() - began)


def git(folder: Path, *arguments: str) -> str:
    done = execute(folder, "git", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "State")


def clone(folder: Path) -> Path:
    """The files of this checkout as they are now, committed, with the profile `tiny`."""
    for name in git(ROOT, "ls-files", "-z", "-co", "--exclude-standard").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    params = folder / "params.yaml"
    text, changes = re.subn(r"(?m)^profile: \w+$", "profile: tiny", params.read_text())
    assert changes == 1
    params.write_text(text)
    # What this checkout has run before does not count.
    (folder / "dvc.lock").unlink(missing_ok=True)
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def reproduce_interrupted(folder: Path) -> Run:
    """`dvc repro`, killed with all its children at the first checkpoint, then started again."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not any(folder.glob(".checkpoints/*/*.pt")):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return dvc(folder, "repro")


def copy(run: Run, folder: Path, *, without: tuple[str, ...] = ()) -> Path:
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns(*without))
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sweep(first: "Future[Run]", folder: Path) -> Run:
    copy(first.result(), folder)
    commit(folder)
    return dvc(folder, "exp", "run", "-S", "lambda=0.01")


@dataclass(frozen=True)
class Runs:
    """The pipeline in one clone, in another one that is interrupted, and swept in a third."""

    first: "Future[Run]"
    second: "Future[Run]"
    swept: "Future[Run]"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    place = tmp_path_factory.mktemp("pipeline")
    one, two = clone(place / "one"), clone(place / "elsewhere" / "two")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(dvc, one, "repro")
        second = pool.submit(reproduce_interrupted, two)
        yield Runs(first, second, pool.submit(sweep, first, place / "swept"))


@pytest.fixture
def first(runs: Runs) -> Run:
    return runs.first.result()


# --- what it makes -------------------------------------------------------------------------


def test_every_stage_runs_and_makes_its_outputs(first: Run) -> None:
    assert first.ran == STAGES
    locked = YAML(typ="safe").load(first.folder / "dvc.lock")["stages"]
    assert set(locked) == STAGES
    outputs = [out["path"] for stage in locked.values() for out in stage["outs"]]
    assert len(outputs) == len(set(outputs)) > len(STAGES)
    assert all((first.folder / path).exists() for path in outputs)
    assert not list(first.folder.glob(".checkpoints/*"))


def test_reports_are_for_git_and_the_rest_for_the_cache(first: Run) -> None:
    untracked = git(first.folder, "status", "--porcelain", "--untracked-files=all").split("\n")
    names = {line[3:] for line in untracked if line}
    assert {"dvc.lock", "reports/tiny/claims.json"} < names
    assert all(name.startswith("reports/tiny/") for name in names - {"dvc.lock"})


def test_all_six_claims_have_a_verdict(first: Run) -> None:
    claims = json.loads((first.folder / "reports/tiny/claims.json").read_text())
    assert len({claim["id"] for claim in claims}) == len(claims) == 6
    keys = {"id", "claim", "published", "measured", "interval", "images", "seeds", "verdict"}
    for claim in claims:
        assert claim.keys() >= keys | {"evidence"}
        assert claim["verdict"] in {"reproduced", "not reproduced", "inconclusive"}
        if claim["id"] != "unrolled":  # it has its own repetition
            assert claim["seeds"] == ([0] if claim["id"] == "gd-convergence" else [0, 1])
        assert all((first.folder / file).exists() for file in claim["evidence"]["files"])


@pytest.mark.parametrize("page", ["index.md", "claims.md"])
def test_what_the_pages_link_to_exists(page: str, first: Run) -> None:
    reports = first.folder / "reports" / "tiny"
    text = (reports / page).read_text()
    links = re.findall(r"\]\(([^)#\s]+)", text)
    missing = [link for link in links if "://" not in link and not (reports / link).exists()]
    assert not missing
    if page == "index.md":
        images = set(re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text))
        assert images == {f"figures/{file.name}" for file in (reports / "figures").glob("*.png")}
        assert len(images) >= 6


def test_every_figure_and_table_has_its_forms(first: Run) -> None:
    reports = first.folder / "reports" / "tiny"
    for folder, one, other in (("figures", ".png", ".pdf"), ("tables", ".tex", ".csv")):
        files = list((reports / folder).iterdir())
        assert {file.suffix for file in files} == {one, other}
        assert all(file.with_suffix(one).exists() for file in files)
        # The same numbers with their intervals stand in a second LaTeX table.
        alone = [file.name for file in files if not file.with_suffix(other).exists()]
        assert alone == (["restoration_intervals.tex"] if folder == "tables" else [])
        assert all(file.stat().st_size > 100 for file in files)


def test_time_and_memory_of_every_stage_are_recorded(first: Run) -> None:
    records = {
        file.stem: json.loads(file.read_text())
        for file in (first.folder / ".provenance" / "tiny").iterdir()
    }
    assert set(records) == STAGES
    provenance = json.loads((first.folder / "reports/tiny/provenance.json").read_text())
    shown = provenance["volatile"]["stages"]
    assert set(shown) >= STAGES - {"report"}
    for record in (*records.values(), *shown.values()):
        assert 0 < record["seconds"] < first.seconds
        assert 100 < record["peak_memory_mb"] < 4096


def test_the_table_of_restoration_has_every_method_and_task(first: Run) -> None:
    table = (first.folder / "results/tiny/evaluate_restoration/table.csv").read_text()
    cells = {tuple(line.split(",")[:4]) for line in table.splitlines()[1:]}
    section = parameters(first.folder)["profiles"]["tiny"]["evaluate_restoration"]
    assert cells == {
        (task, method, seed, image)
        for task in section["tasks"]
        for method in ("start", *section["methods"])
        for seed in ("01" if method.startswith("pnp-gd") else "0")
        for image in ("astronaut", "coffee")
    }


def test_the_table_of_denoising_has_every_denoiser_and_noise_level(first: Run) -> None:
    folder = first.folder / "results/tiny/evaluate_denoising"
    table = (folder / "table.csv").read_text()
    cells = {tuple(line.split(",")[:4]) for line in table.splitlines()[1:]}
    seeds = {"original": "0", "updated": "01", "gradient-step": "0"}
    assert cells == {
        (f"denoise-{sigma}", f"denoiser@{arm}", seed, image)
        for sigma in parameters(first.folder)["profiles"]["tiny"]["evaluate_denoising"]["sigmas"]
        for arm in seeds
        for seed in seeds[arm]
        for image in ("astronaut", "coffee")
    }
    costs = [line.split(",") for line in (folder / "costs.csv").read_text().splitlines()[1:]]
    assert [method for method, *_ in costs] == [f"denoiser@{arm}" for arm in seeds]


def test_training_seeds_differ_and_the_first_has_the_seed_of_all(first: Run) -> None:
    regularizers = [
        (first.folder / f"models/tiny/train_reg/{arm}/{seed}/regularizer.safetensors").read_bytes()
        for arm in ("updated", "fixed")
        for seed in (0, 1)
    ]
    assert len(set(regularizers)) == 4


# --- again ---------------------------------------------------------------------------------


def test_a_second_reproduction_does_nothing_and_is_quick(first: Run) -> None:
    again = dvc(first.folder, "repro")
    assert again.unchanged == STAGES
    assert again.ran == set()
    assert again.seconds < 10  # 1.3 s on an idle machine
    assert "up to date" in dvc(first.folder, "status").output


def test_an_interrupted_run_elsewhere_ends_with_the_same_bytes(runs: Runs, first: Run) -> None:
    second = runs.second.result()
    lock = "dvc.lock"  # the hashes of all data, weights and results
    assert (first.folder / lock).read_text() == (second.folder / lock).read_text()
    one, two = reports(first.folder), reports(second.folder)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert not list(second.folder.glob(".checkpoints/*"))


def reports(folder: Path) -> dict[str, bytes]:
    """The bytes of each file of the reports, less what says when and where they were made."""
    files = sorted(file for file in (folder / "reports").rglob("*") if file.is_file())
    content = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    provenance = json.loads(content["reports/tiny/provenance.json"])
    del provenance["volatile"]
    content["reports/tiny/provenance.json"] = json.dumps(provenance).encode()
    return content


# Ends a stage by SIGKILL right after it has kept so many pieces of unfinished work.
DYING = """
import os, runpy, signal, sys
import reg.checkpoints

save, left, stage = reg.checkpoints.save_state, int(sys.argv.pop(1)), sys.argv.pop(1)


def save_and_die(path, state):
    global left
    save(path, state)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


reg.checkpoints.save_state = save_and_die
runpy.run_module(stage, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("stage", "kept", "outputs"),
    [
        # In the training of the second seed; DVC will have removed what the first one wrote.
        (["train_reg", "updated"], 3, [f"{kind}/tiny/train_reg/updated" for kind in REG_OUTPUTS]),
        (["tune"], 3, ["results/tiny/tune"]),
        (["evaluate_restoration"], 4, ["results/tiny/evaluate_restoration"]),
    ],
    ids=["train_reg", "tune", "evaluate_restoration"],
)
def test_a_killed_stage_goes_on_to_the_same_bytes(
    stage: list[str], kept: int, outputs: list[str], first: Run, tmp_path: Path
) -> None:
    folder = copy(first, tmp_path / "clone", without=(".git", ".dvc", "reports"))
    for output in outputs:
        shutil.rmtree(folder / output)
    name, *arguments = stage
    killed = python(folder, "-c", DYING, str(kept), f"stages.{name}", *arguments)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(folder.glob(".checkpoints/*/*.pt"))) == kept
    written = [file for output in outputs for file in (folder / output).rglob("*")]
    results = [file for file in written if file.suffix in {".csv", ".json", ".safetensors"}]
    assert all("train_reg" in file.parts for file in results)
    # It ends without DVC, as torchrun and srun run it; then DVC, which deletes what it does not
    # know, takes over.
    for by_dvc, iterations in (False, (20, 10)), (True, (20, 20)):
        for output in outputs:
            shutil.rmtree(folder / output, ignore_errors=True)
        variables = {"DVC_STAGE": name} if by_dvc else {}
        done = python(folder, "-m", f"stages.{name}", *arguments, **variables)
        assert done.returncode == 0, done.stderr
        if name == "train_reg":
            for seed, iteration in enumerate(iterations):
                assert f"seed {seed}: resumed after iteration {iteration}" in done.stdout
        for output in outputs:
            files = [file for file in (first.folder / output).rglob("*") if file.is_file()]
            assert files
            for file in files:
                there = folder / file.relative_to(first.folder)
                assert there.read_bytes() == file.read_bytes(), file
        assert bool(list(folder.glob(".checkpoints/*/handed-over"))) is by_dvc


# --- sweeps --------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["tune", "evaluate_restoration", "accelerate", "ablate"])
def test_two_processes_share_the_cells_of_a_stage(stage: str, first: Run, tmp_path: Path) -> None:
    folder = copy(first, tmp_path / "shared", without=(".git", "reports"))
    results = folder / "results" / "tiny" / stage
    before = contents(results)
    shutil.rmtree(results)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = python(folder, *launcher, "-m", f"stages.{stage}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done in") == 1
    assert contents(results) == before


@pytest.mark.parametrize("stage", ["tune", "evaluate_restoration"])
def test_a_stage_takes_a_process_per_core(stage: str, first: Run, tmp_path: Path) -> None:
    folder = copy(first, tmp_path / "shared", without=(".git", "reports"))
    results = folder / "results" / "tiny" / stage
    before = contents(results)
    shutil.rmtree(results)
    account = folder / ".provenance" / "tiny" / f"{stage}.json"
    alone = json.loads(account.read_text())["peak_memory_mb"]
    done = python(folder, "-m", f"stages.{stage}", OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done in") == 1
    assert contents(results) == before
    assert list(folder.glob(".checkpoints/*/*.lock"))  # cells were shared
    assert json.loads(account.read_text())["peak_memory_mb"] > 1.5 * alone  # of both


def test_a_sweep_of_lambda_reruns_what_depends_on_it(runs: Runs, first: Run) -> None:
    swept = runs.swept.result()
    assert swept.ran == STAGES - WITHOUT_LAMBDA
    assert swept.unchanged == WITHOUT_LAMBDA
    weights = "models/tiny/train_reg/{}/1/regularizer.safetensors"
    updated = read_metadata(swept.folder / weights.format("updated"))
    assert updated["training"]["lambda"] == 0.01
    for arm, same in (("updated", False), ("fixed", True)):
        one, other = (run.folder / weights.format(arm) for run in (first, swept))
        assert (one.read_bytes() == other.read_bytes()) is same


def test_what_a_sweep_leaves_is_what_a_fresh_run_would_make(runs: Runs) -> None:
    # λ is no parameter of train_reg@fixed in dvc.yaml, so that it must not reach its outputs.
    folder = runs.swept.result().folder
    outputs = [folder / "models/tiny/train_reg/fixed", folder / "results/tiny/train_reg/fixed"]
    files = [file for output in outputs for file in sorted(output.rglob("*")) if file.is_file()]
    assert len(files) == 6  # D, G and the log of two training seeds
    before = [file.read_bytes() for file in files]
    for output in outputs:
        shutil.rmtree(output)
    done = python(folder, "-m", "stages.train_reg", "fixed")
    assert done.returncode == 0, done.stderr
    assert [f for f, old in zip(files, before, strict=True) if f.read_bytes() != old] == []


def test_a_sweep_of_an_unknown_key_is_refused(first: Run, tmp_path: Path) -> None:
    folder = copy(first, tmp_path / "clone")
    commit(folder)
    done = python(folder, "-m", "dvc", "exp", "run", "-S", "lamda=0.01")
    assert done.returncode != 0
    assert "lamda" in done.stderr
    assert "Running stage" not in done.stdout


# --- bad input -----------------------------------------------------------------------------


def parameters(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(folder / "params.yaml")
    return content


def write_parameters(folder: Path, content: dict[str, Any]) -> None:
    with (folder / "params.yaml").open("w") as stream:
        YAML(typ="safe").dump(content, stream)


def given_weights(folder: Path, name: str = "denoiser.safetensors") -> Path:
    return folder / "weights" / "tiny" / "pretrain" / name


def given_images(folder: Path, content: dict[str, Any], count: int = 3) -> Path:
    """A data.root with `count` good training images and as many to test on."""
    content["data"]["root"] = "photographs"
    rng = np.random.default_rng(0)
    for role in ("train", "test"):
        place = folder / "photographs" / role
        place.mkdir(parents=True)
        for k in range(count):
            noise = torch.from_numpy(rng.random((1, 3, 80, 80), dtype=np.float32))
            write_image(place / f"{k}.png", noise)
    return folder / "photographs"


def negative_lambda(folder: Path, content: dict[str, Any]) -> None:
    content["lambda"] = -0.01


def misspelt_key(folder: Path, content: dict[str, Any]) -> None:
    content["profiles"]["tiny"]["pretrain"]["lerning_rate"] = 1e-3


def no_data_root(folder: Path, content: dict[str, Any]) -> None:
    content["data"]["root"] = "nowhere"


def no_images(folder: Path, content: dict[str, Any]) -> None:
    given_images(folder, content, count=0)


def unreadable_image(folder: Path, content: dict[str, Any]) -> None:
    (given_images(folder, content) / "test" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")


def small_image(folder: Path, content: dict[str, Any]) -> None:
    write_image(given_images(folder, content) / "train" / "0.png", torch.rand(1, 3, 80, 24))


def weights_of_another_name(folder: Path, content: dict[str, Any]) -> None:
    save_network(Denoiser(CHANNELS, 1), given_weights(folder, "drunet.safetensors"))


def weights_of_another_kind(folder: Path, content: dict[str, Any]) -> None:
    save_network(Regularizer(CHANNELS, 1), given_weights(folder))


def weights_of_another_shape(folder: Path, content: dict[str, Any]) -> None:
    path = given_weights(folder)
    about = {"kind": "denoiser", "channels": CHANNELS, "blocks": 1}
    write_weights(path, Denoiser((4, 4, 8, 12), 1).network.state_dict(), about)


def weights_of_another_size_than_asked_for(folder: Path, content: dict[str, Any]) -> None:
    save_network(Denoiser((8, 8, 8, 8), 1), given_weights(folder))


def no_weights_file(folder: Path, content: dict[str, Any]) -> None:
    given_weights(folder).write_text("no weights")


Arrange = Callable[[Path, dict[str, Any]], None]


@pytest.mark.parametrize(
    ("arrange", "stage", "parts"),
    [
        (negative_lambda, "prepare", ["params.yaml", "lambda = -0.01", "greater than or equal"]),
        (misspelt_key, "pretrain", ["params.yaml", "pretrain.lerning_rate", "spelling"]),
        (no_data_root, "prepare", ["data.root", "nowhere"]),
        (no_images, "prepare", ["photographs/train", "holds no image"]),
        (unreadable_image, "prepare", ["photographs/test/1.png", "replace"]),
        (small_image, "prepare", ["photographs/train/0.png", "24x80", "32x32"]),
        (weights_of_another_name, "pretrain", ["drunet.safetensors", "can lie here"]),
        (weights_of_another_kind, "pretrain", ["denoiser.safetensors", "holds a regularizer"]),
        (weights_of_another_shape, "pretrain", ["denoiser.safetensors", "do not fit"]),
        (weights_of_another_size_than_asked_for, "pretrain", ["denoiser.safetensors", "channels"]),
        (no_weights_file, "pretrain", ["denoiser.safetensors", "not a weights file"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bad_input_is_one_line_before_any_work(
    arrange: Arrange, stage: str, parts: list[str], first: Run, tmp_path: Path
) -> None:
    without = (".git", ".dvc", "models", "results", "reports", ".provenance")
    if stage == "prepare":
        without += ("data",)
    folder = copy(first, tmp_path / "clone", without=without)
    content = parameters(folder)
    arrange(folder, content)
    write_parameters(folder, content)
    done = python(folder, "-m", f"stages.{stage}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr
    made = [folder / name for name in ("models", "results", ".checkpoints", ".provenance")]
    assert not any(path.exists() and any(path.iterdir()) for path in made)
    assert stage != "prepare" or not (folder / "data/tiny/prepare/manifest.csv").exists()
