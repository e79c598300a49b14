"""The report from a made-up tree of results, drawn from a seeded generator."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import skimage.data
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import Image

from reg.claims import COLUMNS, ClaimError, method_name, read_csv
from reg.denoising import COST_COLUMNS, published
from reg.diagnostics import COLUMNS as DIAGNOSTICS_COLUMNS
from reg.errors import InputError
from reg.images import Pixels
from reg.networks import Denoiser, Regularizer, save_network
from reg.params import read_params
from reg.report import figures, findings, make_report, tables, unrolled
from reg.report.captions import named
from reg.report.sheets import latex_text, to_latex, to_markdown
from reg.report.unrolled import LOG_COLUMNS, STEPS_COLUMNS

TASKS = {"deblur-k5-2.55": 26.0, "deblur-k7-7.65": 23.0, "sr-x2-2.55": 27.0, "inpaint-20": 24.0}
METHODS = {
    "start": -7.0,
    "pnp-gd": 0.5,
    "red": 0.0,
    "pnp-admm": 0.3,
    "pnp-hqs": 0.2,
    "pnp-pgd": -0.4,
    "gs-pnp": 0.1,
    "tv": -1.0,
}
# Iterations in which the gap to the limit falls to 1/e, and how many there are of them.
SCHEDULES = {
    "pnp-gd-adam": (60, 600),
    "pnp-gd-plain": (200, 600),
    "pnp-gd-spectral": (8, 60),
    "pnp-gd": (4, 60),
}
ABLATION = ("deblur-k3-2.55", "inpaint-20")
TEST_IMAGES = ("astronaut", "chelsea", "coffee", "rocket")

Row = tuple[str, str, int, str, int, str, float]


def fake_results(
    root: Path, size: int = 48, iterations: int = 500, methods: dict[str, float] = METHODS
) -> None:
    """Everything that `make_report` reads, for the profile `tiny`, below `root`."""
    draw = np.random.default_rng(0)
    results, data = root / "results" / "tiny", root / "data" / "tiny" / "prepare"
    truths = _fake_data(data, size, draw)
    _fake_logs(results, draw)

    rows: list[Row] = []
    for task, level in TASKS.items():
        for image, truth in truths.items():
            difficulty = draw.normal(scale=2)
            for method, gain in methods.items():
                psnr = level + difficulty + gain + draw.normal(scale=0.15)
                n = 0 if method == "start" else 300
                rows += [
                    (task, method, 0, image, n, "psnr", psnr),
                    (task, method, 0, image, n, "ssim", 1 / (1 + np.exp(-psnr / 9))),
                ]
                if method != "start":
                    rows += [
                        (task, method, 0, image, n, "psnr_oracle", psnr + 0.1),
                        (task, method, 0, image, n, "psnr_unclipped", psnr - 0.2),
                        (task, method, 0, image, n, "iterations", 40.0),
                    ]
                if task == "inpaint-20":
                    folder = results / "evaluate_restoration" / "images" / task / method
                    _save(folder / f"{image}.png", _noisy(truth, psnr, draw))
                    _save(folder.parent / "truth" / f"{image}.png", truth)
    _write(results / "evaluate_restoration" / "table.csv", rows)

    rows = []
    for task in ("deblur-k3-2.55", "sr-x2-2.55"):
        for image in truths:
            rows += _curve(task, "pnp-gd-plain+x1", image, iterations, 28.4, 0.0, draw)
            rows += _curve(task, "pnp-gd+x1", image, iterations, 28.5, 0.0, draw)
            rows += _curve(task, "pnp-admm-unbounded", image, iterations, 29.0, 1.2, draw)
            rows += _curve(task, "pnp-admm", image, iterations, 28.8, 0.0, draw)
    _write(results / "evaluate_convergence" / "table.csv", rows)

    rows = []
    for task in ABLATION:
        for image, truth in truths.items():
            for method, level, falls in (
                ("pnp-gd@updated", 28.0, 0.0),
                ("pnp-gd@fixed", 26.0, 0.0),
                ("pnp-admm-unbounded@original", 29.0, 6.0),
                ("pnp-admm-unbounded@updated", 28.7, 0.0),
                ("pnp-admm@original", 29.0, 1.0),
                ("pnp-admm@updated", 28.8, 0.0),
            ):
                curve = _curve(task, method, image, iterations, level, falls, draw)
                rows += [*curve, (task, method, 0, image, iterations, "ssim", 0.8)]
                folder = results / "ablate" / "images" / task
                _save(folder / method / f"{image}.png", _noisy(truth, level, draw))
                _save(folder / "truth" / f"{image}.png", truth)
    _write(results / "ablate" / "table.csv", rows)

    _write(results / "accelerate" / "table.csv", _fake_acceleration(tuple(TASKS)))
    _fake_diagnostics(results / "diagnose" / "table.csv", draw)
    denoising = _fake_denoising(TEST_IMAGES)
    _write(results / "evaluate_denoising" / "table.csv", denoising)
    DENOISER_COSTS.to_csv(results / "evaluate_denoising" / "costs.csv", index=False)

    _fake_unrolled(results / "finetune_unrolled", truths, draw)

    trials = [
        (task, method, json.dumps({"sigma": sigma, "step": 0.1}), 25 - abs(sigma - 5.1))
        for task in TASKS
        for method in methods
        if method != "start"
        for sigma in (2.55, 10.2, 5.1)
    ]
    (results / "tune").mkdir()
    pd.DataFrame(trials, columns=["task", "method", "parameters", "psnr"]).to_csv(
        results / "tune" / "trials.csv", index=False
    )
    chosen = {t: {m: {"sigma": 5.1, "step": 0.1} for m in methods if m != "start"} for t in TASKS}
    (results / "tune" / "chosen.json").write_text(json.dumps(chosen))
    weights = root / "models" / "tiny" / "pretrain" / "denoiser.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(1000))


def _fake_acceleration(tasks: tuple[str, ...], missing_task: str = "") -> list[Row]:
    """Every schedule rises to the same PSNR, but `pnp-gd` misses it by 0.3 dB in one task."""
    rows: list[Row] = []
    for task in tasks:
        for schedule, (time, n) in SCHEDULES.items():
            missing = 0.3 if (task, schedule) == (missing_task, "pnp-gd") else 0.0
            i = np.arange(1, n + 1)
            for k, image in enumerate(TEST_IMAGES):
                psnr = 25.0 + k - 12 * np.exp(-i / time) - missing
                for metric, values in (("psnr", psnr), ("msd", np.exp(-i / time))):
                    rows += [
                        (task, schedule, 0, image, j, metric, value)
                        for j, value in zip(i.tolist(), values.tolist(), strict=True)
                    ]
                rows.append((task, schedule, 0, image, n, "ssim", 0.8))
    return rows


DENOISERS = {"denoiser@original": 0.0, "denoiser@updated": -0.5, "denoiser@gradient-step": 0.25}
DENOISER_COSTS = pd.DataFrame(
    [(method, 1_063_920, 68_592) for method in DENOISERS], columns=COST_COLUMNS
)


def _fake_denoising(images: Sequence[str]) -> list[Row]:
    """PSNR that differs by 2 dB from the first image to the last; of the updated D by seed, too."""
    return [
        (f"denoise-{sigma}", method, seed, image, 1, metric, level + gain + spread + seed + offset)
        for sigma, level in ((15, 33.0), (25, 30.0), (50, 27.0))
        for method, gain in DENOISERS.items()
        for seed in ((0, 1) if method == "denoiser@updated" else (0,))
        for image, spread in zip(images, np.linspace(-1, 1, len(images)).tolist(), strict=True)
        for metric, offset in (("psnr", 0.0), ("psnr_8bit", -0.01), ("psnr_unclipped", -0.2))
    ]


def _fake_data(folder: Path, size: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    rows, truths = [], {}
    roles = {"train": ("hubble_deep_field", "immunohistochemistry"), "validation": ("retina",)}
    for role, names in {**roles, "test": TEST_IMAGES}.items():
        for name in names:
            photograph = Image.fromarray(getattr(skimage.data, name)())
            pixels = np.asarray(photograph.resize((size, size), Image.Resampling.LANCZOS))
            rows.append((name, role, "scikit-image", f"{role}/{name}.png", size, size, "0"))
            _save(folder / rows[-1][3], pixels)
            if role == "test":
                truths[name] = pixels
    for i in range(20):
        name = f"dead_leaves_{i:04d}"
        coarse = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((size, size), Image.Resampling.NEAREST))
        rows.append(
            (name, "train", "dead leaves, colours of retina", f"{name}.png", size, size, "0")
        )
        _save(folder / f"{name}.png", pixels)
    columns = ["name", "role", "source", "path", "width", "height", "sha256"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "manifest.csv", index=False)
    return truths


def _fake_logs(results: Path, draw: np.random.Generator) -> None:
    def log(path: Path, levels: dict[str, tuple[float, float]]) -> None:
        rows = [
            {"iteration": i, "loss_G 0-10": draw.uniform() if i else np.nan}
            | {
                metric: first + (last - first) * (1 - np.exp(-i / 150)) + draw.normal(scale=0.02)
                for metric, (first, last) in levels.items()
            }
            for i in range(0, 1001, 50)
        ]
        path.parent.mkdir(parents=True)
        pd.DataFrame(rows).to_csv(path, index=False)

    denoising = {"psnr15": (28.0, 33.0), "psnr25": (25.0, 30.5), "psnr50": (20.0, 27.3)}
    log(results / "pretrain" / "log.csv", {"loss": (0.1, 0.02), **denoising})
    levels = {metric: (first + 1, last + 1) for metric, (first, last) in denoising.items()}
    log(results / "train_gs" / "log.csv", {"loss": (0.1, 0.02), **levels})
    for arm, residual in (("updated", 0.5), ("fixed", 0.8)):
        levels = {"loss": (0.1, 0.02), "map_residual": (1.0, residual), **denoising}
        log(results / "train_reg" / arm / "0" / "log.csv", levels)


UNROLLED = {"reg": 28.0, "denoiser": 27.5, "random": 27.0, "end-to-end": 25.0}


def _fake_unrolled(folder: Path, truths: dict[str, Pixels], draw: np.random.Generator) -> None:
    task = "inpaint-20"
    for start, level in UNROLLED.items():
        rows: list[tuple[object, ...]] = []
        for seed in (0, 1):
            for image in truths:
                psnr = level + draw.normal(scale=0.3) + 2 * len(image) % 5
                rows.append((task, f"unrolled-{start}", seed, image, 400, "psnr", psnr))
                rows.append((task, f"unrolled-{start}", seed, image, 400, "ssim", psnr / 40))
        _write(folder / start / "table.csv", rows)
        logs = pd.DataFrame(
            [
                (k, 20 + (level - 20) * k / 400 + 0.1 * seed, 0.1, 1e-3, task, steps, seed)
                for steps, seed in ((4, 0), (4, 1), (2, 0))
                for k in (0, 100, 400)
            ],
            columns=LOG_COLUMNS,
        )
        logs.to_csv(folder / start / "logs.csv", index=False)
        for image, truth in truths.items():
            _save(folder / start / "images" / task / f"{image}.png", _noisy(truth, 5.0, draw))
    counts = pd.DataFrame(
        [
            (task, trained, steps, image, 20.0 + steps)
            for trained, run in ((4, range(9)), (2, [2]))
            for steps in run
            for image in truths
        ],
        columns=STEPS_COLUMNS,
    )
    counts.to_csv(folder / "reg" / "steps.csv", index=False)


def _fake_diagnostics(path: Path, draw: np.random.Generator) -> None:
    points: list[tuple[str, str, float, float, float]] = []
    for sigma_0 in (0, 5, 25, 50):
        at = "noisy" if sigma_0 else "clean"
        points.append(("asymmetry_G", at, 0, sigma_0, 0.4))
    points.append(("norm_G", "clean", 0, 0, 900.0))
    for sigma_0 in (5, 25, 50):
        points += [("map_residual", "noisy", sigma, sigma_0, 0.9) for sigma in (5, 25, 50)]
        measured = {"asymmetry_D": 0.2, "norm_D": 1.5, "norm_I-D": 1.1, "norm_2D-I": 2.5}
        points += [(q, "noisy", sigma_0, sigma_0, value) for q, value in measured.items()]
    for task in (*ABLATION, "sr-x2-2.55"):
        measured = {"norm_G": 900.0, "curvature_bound": 450.0, "plain_step_bound": 1.8}
        measured["plain_step"] = 1.2
        points += [(q, task, 2.55, 0, v) for q, v in {**measured, "curvature": 400.0}.items()]
        points += [(f"alignment_{arm}", task, 2.55, 0, 0.5) for arm in ("original", "updated")]
    rows = [
        # the σ of a task was tuned for each pair by itself
        (quantity, pair, image, at, tuned if at in (*ABLATION, "sr-x2-2.55") else sigma, sigma_0,
         value * gain + draw.normal(scale=0.01))
        for pair, gain, tuned in (("fixed", 1.0, 2.55), ("updated", 0.6, 5.1))
        for quantity, at, sigma, sigma_0, value in points
        for image in ("hubble", "retina")
        if (pair, at) != ("fixed", "sr-x2-2.55")
        and (pair, quantity) != ("fixed", "alignment_updated")
    ]  # fmt: skip
    path.parent.mkdir(parents=True)
    pd.DataFrame(rows, columns=DIAGNOSTICS_COLUMNS).to_csv(path, index=False)


def _curve(
    task: str,
    method: str,
    image: str,
    n: int,
    level: float,
    falls: float,
    draw: np.random.Generator,
) -> list[Row]:
    """A run that rises to `level`, and loses `falls` dB at its end while its steps stay large."""
    i = np.arange(1, n + 1)
    psnr = level + draw.normal() - 12 * np.exp(-i / 12) - falls * (i / n) ** 2
    msd = 1e-3 * np.exp(-i / 20) + (1e-5 if falls else 1e-9) * np.exp(
        draw.normal(scale=0.3, size=n)
    )
    rows: list[Row] = [(task, method, 0, image, 0, "psnr", float(psnr[0] - 1))]
    for j in range(n):
        rows.append((task, method, 0, image, j + 1, "psnr", float(psnr[j])))
        rows.append((task, method, 0, image, j + 1, "msd", float(msd[j])))
    return rows


def _noisy(truth: np.ndarray, psnr: float, draw: np.random.Generator) -> np.ndarray:
    noise = draw.normal(scale=255 * 10 ** (-psnr / 20), size=truth.shape)
    return np.clip(truth + noise, 0, 255).round().astype(np.uint8)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False, lineterminator="\n")


def report(
    root: Path,
    reports: str = "reports/tiny",
    cropped: bool = False,
    central: dict[str, int | None] | None = None,
    **more: Any,
) -> list[dict[str, object]]:
    """`make_report` on the made-up tree, with paths as a stage gives them."""
    with contextlib.chdir(root):
        return make_report(
            "tiny",
            Path("results/tiny"),
            Path("models/tiny"),
            Path("data/tiny"),
            Path(reports),
            tuning_trials=12,
            settings={"λ": 1.0},
            cropped=cropped,
            central=central,
            **more,
        )


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    fake_results(root)
    report(root)
    return root


@pytest.fixture
def broken(tree: Path, tmp_path: Path) -> Path:
    """A copy of the inputs to break."""
    for folder in ("results", "data", "models"):
        shutil.copytree(tree / folder, tmp_path / folder)
    return tmp_path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of figures that are drawn from now on; what is written is small, as writing is slow."""
    names: list[str] = []

    def save(draw: Callable[[], Figure], stem: Path) -> None:
        draw()
        names.append(stem.name)
        Image.new("RGB", (4, 4)).save(stem.with_suffix(".png"))

    monkeypatch.setattr(figures, "save_figure", save)
    return names


FIGURES = (
    "restoration",
    "inpainting",
    "convergence",
    "acceleration",
    "admm",
    "limits",
    "diagnostics",
    "update_denoiser",
    "unrolled",
    "unrolled_inpaint-20",
    "training",
    "data",
)
TABLES = (
    "restoration",
    "falls",
    "convergence",
    "acceleration",
    "ablation",
    "diagnostics",
    "unrolled",
    "worth",
    "denoiser",
    "denoising",
    "tuning",
)


def test_everything_is_written(tree: Path) -> None:
    expected = {"claims.json", "claims.md", "metrics.json", "index.md", "index.html", "report.tex"}
    expected |= {f"figures/{name}.{kind}" for name in FIGURES for kind in ("pdf", "png")}
    expected |= {f"tables/{name}.{kind}" for name in TABLES for kind in ("tex", "csv")}
    expected.add("tables/restoration_intervals.tex")
    written = contents(tree / "reports" / "tiny")
    assert set(written) == expected
    assert sum(map(len, written.values())) < 6e6


def test_figures_are_the_same_whatever_fonts_a_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw() -> Figure:
        figure = Figure(figsize=(1, 1))
        figure.text(0.1, 0.5, "σ $10^{-14}$")
        return figure

    figures.save_figure(draw, tmp_path / "here")
    (other,) = (font for font in fontManager.ttflist if font.name == "cmr10")
    others = [replace(other, name="DejaVu Sans")]
    monkeypatch.setattr(fontManager, "ttflist", others)
    figures._bundled_fonts_alone.cache_clear()
    figures.save_figure(draw, tmp_path / "there")
    for suffix in (".pdf", ".png"):
        here, there = (tmp_path / f"{name}{suffix}" for name in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()
    assert {Path(font.fname).parent for font in fontManager.ttflist} == {
        Path(mpl.get_data_path(), "fonts", "ttf")
    }


def test_another_process_writes_the_same_bytes(tree: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from test_report import report; "
        "report(Path(sys.argv[1]), 'again')"
    )
    # another hash seed shows any order that comes from a set
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["PYTHONPATH"] += f"{os.pathsep}{Path(__file__).parent}"
    subprocess.run([sys.executable, "-c", code, str(tree)], env=environment, check=True)
    first, second = contents(tree / "reports" / "tiny"), contents(tree / "again")
    shutil.rmtree(tree / "again")
    assert [name for name in first if first[name] != second.get(name)] == []
    assert set(first) == set(second)


def test_nothing_tells_the_time_or_the_place(tree: Path) -> None:
    for name, content in contents(tree / "reports" / "tiny").items():
        assert b"CreationDate" not in content, name
        assert str(tree).encode() not in content, name


def test_metrics_are_the_means_of_the_table(tree: Path) -> None:
    metrics = json.loads((tree / "reports/tiny/metrics.json").read_text())
    table = pd.read_csv(tree / "results/tiny/evaluate_restoration/table.csv")
    rows = table[(table["metric"] == "psnr") & (table["method"] == "red")]
    for task, mean in rows.groupby("task")["value"].mean().items():
        assert metrics["psnr"][task]["red"] == pytest.approx(mean, rel=1e-5)
    assert {c["verdict"] for c in metrics["claims"].values()} <= {
        "reproduced",
        "not reproduced",
        "inconclusive",
    }
    assert len(metrics["claims"]) == 6


def test_the_page_links_only_to_what_exists_and_names_every_claim(tree: Path) -> None:
    folder = tree / "reports" / "tiny"
    page = (folder / "index.md").read_text()
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page)
    assert len(links) > 30
    assert "Numbers: [tables/ablation.csv](tables/ablation.csv)." in page
    assert "Rule changed after results were seen: at first the accelerated schedule" in page
    assert "fixed before" not in page
    assert [link for link in links if not (folder / link).is_file()] == []
    headings = re.findall(r"^## (.+)$", (folder / "claims.md").read_text(), re.MULTILINE)
    anchors = {h.replace(":", "").replace(" ", "-") for h in headings}
    assert set(re.findall(r"claims\.md#([^)]+)\)", page)) == anchors
    # few test images are said to be few, once
    assert page.count("only 4 images") == 1 or page.count("Only 4 images") == 1
    for path in re.findall(r"`((?:results|data|models)/[^`*]+)`", page):
        assert (tree / path).exists(), path


def test_latex_and_csv_hold_the_same_numbers(tree: Path) -> None:
    folder = tree / "reports" / "tiny" / "tables"
    tex = (folder / "restoration.tex").read_text()
    numbers = pd.read_csv(folder / "restoration.csv")
    for row in numbers[numbers["metric"] == "psnr"].itertuples():
        assert f"{row.mean:.2f}" in tex
    for row in numbers[numbers["metric"] == "ssim"].itertuples():
        assert f"{row.mean:.3f}" in tex


def test_intervals_are_those_of_the_difference_to_pnp_gd(tree: Path) -> None:
    folder = tree / "reports" / "tiny" / "tables"
    tex = (folder / "restoration_intervals.tex").read_text()
    numbers = pd.read_csv(folder / "restoration.csv").set_index(["task", "method", "metric"])
    for task in TASKS:
        for metric, decimals in (("psnr", 2), ("ssim", 3)):
            means = numbers.loc[(task, slice(None), metric), "mean"].droplevel(["task", "metric"])
            row = numbers.loc[(task, "red", metric)]
            assert row["difference"] == pytest.approx(means["red"] - means["pnp-gd"], abs=1e-4)
            assert row["low"] < row["difference"] < row["high"]
            printed = f"[{row['low']:+.{decimals}f}, {row['high']:+.{decimals}f}]"
            assert printed.replace("-", "$-$") in tex
    assert numbers.loc[(slice(None), "pnp-gd"), "low"].isna().all()
    assert numbers.loc[(slice(None), slice(None), "psnr_oracle"), "low"].isna().all()


@pytest.mark.parametrize("name", [*TABLES, "restoration_intervals"])
def test_latex_is_plain_booktabs(tree: Path, name: str) -> None:
    tex = (tree / "reports" / "tiny" / "tables" / f"{name}.tex").read_text()
    assert tex.isascii()
    assert tex.count("{") == tex.count("}")
    form = re.search(r"\\begin\{tabular\}\{@\{\}(.+)@\{\}\}", tex)[1]  # type: ignore[index]
    columns = len(re.sub(r"S\[table-format=\{.*?\}\]", "S", form))
    body = tex.split("\\toprule")[1].split("\\bottomrule")[0]
    for line in re.findall(r"^ {4}(.*?) \\\\(?:\[.*\])?$", body, re.MULTILINE):
        if "multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == columns - 1, line
    commands = set(re.findall(r"\\([a-zA-Z]+)", tex))
    assert commands <= {
        *("usepackage", "begin", "end", "centering", "caption", "label", "footnotesize"),
        *(
            "smallskip",
            "setlength",
            "tabcolsep",
            "toprule",
            "midrule",
            "bottomrule",
            "multicolumn",
            "emph",
            "shortstack",
        ),
        *("textbf", "underline", "sigma", "times", "lambda", "mu", "to", "textdagger"),
        *("sisetup", "scriptsize", "tiny", "bfseries", "secondbest"),
        *("ProvideDocumentCommand", "rlap", "phantom", "kern"),  # what \secondbest is
    }


def test_best_is_bold_and_second_underlined_and_equals_share() -> None:
    cells = tables.ranked([30.0, 25.001, 25.0, 24.0], 2, [False, True, True, True])
    assert [(c.text, c.rank) for c in cells] == [
        ("30.00", 0),
        ("25.00", 1),
        ("25.00", 1),
        ("24.00", 2),
    ]
    assert [c.rank for c in tables.ranked([1.0, 1.0], 1, [True, True])] == [0, 0]
    assert [c.text for c in tables.ranked([float("nan"), 1.0], 1, [True, True])] == ["–", "1.0"]


def test_latex_text_escapes_what_tex_would_read() -> None:
    assert latex_text("20 %, σₙ_√2 & ×2") == r"20~\%, $\sigma_n$\_$\surd$2 \& $\times$2"
    assert latex_text("a\\b{c}") == r"a\textbackslash{}b\{c\}"
    assert latex_text("PnP-GD k-3: -0.1 [-2]") == "PnP-GD k-3: $-$0.1 [$-$2]"
    assert latex_text("Größe 中") == r"Gro\ss{}e [U+4E2D]"
    assert latex_text("`make a_b`, L_G, s_k, XL_G") == (r"\texttt{make a\_b}, $L_G$, $s_k$, XL\_G")
    assert latex_text("≤ 1e-14, 2.5e+07") == r"$\leq$ $10^{-14}$, $2.5\times 10^{7}$"
    assert latex_text("4e-14a f1e-14") == "4e-14a f1e-14"


def test_labels_at_line_ends_keep_their_order_and_distance() -> None:
    assert figures.spread([0.2, 0.8], 0.1, 0, 1) == [0.2, 0.8]
    np.testing.assert_allclose(figures.spread([0.5, 0.5], 0.2, 0, 1), [0.4, 0.6])
    np.testing.assert_allclose(figures.spread([1.0, 1.0, 1.0], 0.2, 0, 1), [0.6, 0.8, 1.0])
    crowded = figures.spread([0.0, 0.1, 0.1, 0.9], 0.5, 0, 1)
    np.testing.assert_allclose(crowded, [0, 1 / 3, 2 / 3, 1])


def test_a_diverged_run_does_not_squeeze_the_others() -> None:
    draw = np.random.default_rng(0)
    rows = _curve("inpaint-20", "pnp-gd", "a", 50, 28.0, 0.0, draw)
    lost = {"psnr": 0.0, "msd": float("inf")}
    for task, _, seed, image, iteration, metric, value in list(rows):
        after = lost[metric] if iteration > 25 else value
        rows.append((task, "pnp-admm", seed, image, iteration, metric, after))
    table = pd.DataFrame(rows, columns=COLUMNS)
    gap, msd = figures.draw_iterations(table, ["inpaint-20"], "pnp-gd").axes
    assert 0 < gap.get_ylim()[1] < 4
    assert gap.get_ylim()[0] >= -20
    assert msd.get_ylim()[1] <= 1  # log10
    assert {t.get_text() for t in gap.texts} >= {"PnP-ADMM\n0.00 dB"}


def test_curves_are_differences_to_the_end_of_the_reference_on_the_same_image() -> None:
    levels = {
        "pnp-gd": {"easy": (30.0, 35.0), "hard": (19.0, 20.0)},
        "pnp-admm": {"easy": (36.0, 35.5), "hard": (20.9, 20.3)},
    }
    rows: list[Row] = []
    for method, of in levels.items():
        for image, values in of.items():
            for k, psnr in enumerate(values):
                run = ("sr-x2-2.55", method, 0, image, k + 1)
                rows += [(*run, "psnr", psnr), (*run, "msd", 10.0 ** (-2 * k))]
    table = pd.DataFrame(rows, columns=COLUMNS)
    gap, msd = figures.draw_iterations(table, ["sr-x2-2.55"], "pnp-gd").axes
    gd, admm, peak = (np.asarray(line.get_ydata(), dtype=float) for line in gap.lines)
    np.testing.assert_allclose(gd, [-3.0, 0.0])
    np.testing.assert_allclose(admm, [0.95, 0.4])
    np.testing.assert_allclose(peak, [0.95])
    band = gap.collections[1].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.3, 1.0))
    assert {t.get_text() for t in gap.texts} == {"PnP-GD (ReG)\n27.50 dB", "PnP-ADMM\n27.90 dB"}
    np.testing.assert_allclose(np.asarray(msd.lines[0].get_ydata(), dtype=float), [0.0, -2.0])


def test_the_diagnostics_table_prints_means_of_images(tree: Path) -> None:
    table = pd.read_csv(tree / "results/tiny/diagnose/table.csv")
    printed = (tree / "reports/tiny/tables/diagnostics.tex").read_text()
    rows = table[(table["quantity"] == "map_residual") & (table["pair"] == "updated")]
    means = rows.groupby(["sigma", "sigma_0"])["value"].mean()
    assert f"{means[25, 25]:.3f}" in printed
    numbers = pd.read_csv(tree / "reports/tiny/tables/diagnostics.csv")
    grid = numbers[numbers["quantity"] == "map_residual"].set_index(["sigma", "sigma_0"])
    np.testing.assert_allclose(grid["updated"].sort_index(), means.sort_index(), rtol=1e-5)
    # a task that was tuned for one pair alone has no number for the other
    alone = re.findall(r"Super-resolution.* & (.*) & (.*) ", printed)
    assert len(alone) == 6
    assert {fixed for fixed, _ in alone} == {"{--}"}
    assert all(float(updated) > 0 for _, updated in alone)
    # and one that was tuned for both has one line, whatever σ they took
    both = re.findall(r"Inpainting.* & (.*) & (.*) ", printed)
    assert len(both) == 6
    # but for the alignment with the updated D, to which G fixed does not belong
    assert [fixed for fixed, _ in both].count("{--}") == 1
    assert all(float(value) > 0 for line in both for value in line if value != "{--}")


def denoising_sheet(images: Sequence[str]) -> tables.Sheet:
    return tables.denoising_sheet(
        pd.DataFrame(_fake_denoising(images), columns=COLUMNS), DENOISER_COSTS
    )


def printed_rows(sheet: tables.Sheet) -> dict[str, dict[str, list[str]]]:
    return {
        heading: {name.text: [cell.text for cell in row] for name, *row in rows}
        for heading, rows in sheet.blocks
    }


CBSD68 = [f"cbsd68-{k:04d}" for k in range(68)]


def test_published_denoisers_stand_beside_ours_on_all_of_cbsd68_alone() -> None:
    sheet = denoising_sheet([*CBSD68, "set5-baby"])
    blocks = printed_rows(sheet)
    assert list(blocks) == ["Measured here", "Published"]
    # less the last image, which is of another set and the best one
    level = 33.0 - 0.01 + float(np.linspace(-1, 1, 69)[:-1].mean())
    costs = ["1,063,920", "68,592"]
    assert blocks["Measured here"]["Pre-trained D"][:3] == [*costs, f"{level:.2f}"]
    assert blocks["Published"] == {
        "IRCNN": ["188,163", "187,776", "33.86", "31.16", "27.86"],
        "FFDNet": ["852,108", "212,760", "33.87", "31.21", "27.96"],
        "DnCNN": ["668,227", "667,008", "33.90", "31.24", "27.95"],
        "DRUNet": ["32,640,960", "2,117,568", "34.30", "31.69", "28.51"],
    }
    assert "CBSD68 (68 test images)" in sheet.caption
    assert "Zhang et al. (DPIR, TPAMI 2022)" in sheet.caption
    assert "another draw" in sheet.caption
    # published numbers stand in the column of their own protocol, and nowhere else
    numbers = sheet.numbers.set_index("method")
    names = [other.name for other in published()]
    assert set(numbers.loc[names, "metric"]) == {"psnr_8bit"}
    assert set(numbers.loc["denoiser@original", "metric"]) == {
        *("psnr", "psnr_8bit", "psnr_unclipped")
    }


@pytest.mark.parametrize("images", [TEST_IMAGES, CBSD68[:67], ["set5-baby", "my-cbsd68-1"]])
def test_no_published_denoiser_stands_beside_ours_on_other_images(images: Sequence[str]) -> None:
    sheet = denoising_sheet(images)
    blocks = printed_rows(sheet)
    assert list(blocks) == [""]
    costs = ["1,063,920", "68,592"]
    # the updated D is the mean of two training seeds, one 1 dB above the other
    assert blocks[""] == {
        "Pre-trained D": [*costs, "32.99", "29.99", "26.99"],
        "D after ReG training, updated": [*costs, "32.99", "29.99", "26.99"],
        "Gradient-step denoiser": [*costs, "33.24", "30.24", "27.24"],
    }
    assert f"on {len(images)} test images" in sheet.caption
    assert "not CBSD68" in sheet.caption
    assert "2 training seeds" in sheet.caption
    assert not {other.name for other in published()} & set(sheet.numbers["method"])


def test_a_diverged_iterate_leaves_the_other_diagnostics_in_place(broken: Path) -> None:
    path = broken / "results/tiny/diagnose/table.csv"
    table = pd.read_csv(path)
    lost = (table["at"] == "inpaint-20") & (table["pair"] == "fixed")
    lost &= table["quantity"] != "curvature"
    table.loc[lost, "value"] = np.nan
    table.to_csv(path, index=False)
    with contextlib.chdir(broken):
        figure = figures.draw_diagnostics(read_csv(path, DIAGNOSTICS_COLUMNS))
    bounds = [line for line in figure.axes[-1].lines if line.get_marker() == "o"]
    shown = np.concatenate([np.asarray(line.get_xdata(), dtype=float) for line in bounds])
    assert np.isfinite(shown).sum() == 2 * 4  # images; tasks and pairs that are left
    assert "–" in to_markdown(tables.diagnostics_sheet(read_csv(path, DIAGNOSTICS_COLUMNS)))


def test_a_schedule_is_near_from_where_it_no_more_falls_below() -> None:
    def near(*gaps: float) -> int | None:
        return findings.stays_near(pd.Series(gaps, index=range(1, len(gaps) + 1)))

    assert near(-1.0, 0.0, -0.06, -0.05, 0.3) == 4
    assert near(0.0, 2.0) == 1
    assert near(0.0, -0.051) is None


def acceleration(missing_task: str = "") -> pd.DataFrame:
    rows = _fake_acceleration(("deblur-k5-2.55", "inpaint-20"), missing_task)
    return pd.DataFrame(rows, columns=COLUMNS)


def reached(schedule: str) -> int:
    """The first iteration at which a made-up schedule is 0.05 dB below Adam's last iterate."""
    (adam, end), (time, n) = SCHEDULES["pnp-gd-adam"], SCHEDULES[schedule]
    target = 12 * np.exp(-end / adam) + 0.05
    return next(i for i in range(1, n + 1) if 12 * np.exp(-i / time) <= target)


def test_schedules_are_compared_with_adams_last_iterate() -> None:
    runs = {(run.task, run.schedule): run for run in findings.schedule_runs(acceleration())}
    assert len(runs) == 2 * len(SCHEDULES)
    for schedule in ("pnp-gd-adam", "pnp-gd-spectral", "pnp-gd"):
        run = runs["inpaint-20", schedule]
        assert run.near_from == reached(schedule)
        assert run.speed_up == pytest.approx(reached("pnp-gd-adam") / reached(schedule))
    ours, plain = runs["inpaint-20", "pnp-gd"], runs["inpaint-20", "pnp-gd-plain"]
    assert (plain.near_from, plain.speed_up) == (None, None)
    assert (plain.early, plain.iterations, ours.iterations) == (60, 600, 60)
    assert plain.psnr_early == pytest.approx(26.5 - 12 * np.exp(-60 / 200))
    assert plain.gap == pytest.approx(12 * (np.exp(-10) - np.exp(-3)))


def test_the_acceleration_says_what_was_reached_and_what_was_missed() -> None:
    said = findings.acceleration_says(acceleration())
    adam, ours = reached("pnp-gd-adam"), reached("pnp-gd")
    assert "After 60 iterations" in said
    assert "Adam reaches in 600, or above it, in 2 of 2 tasks (difference +0.00 dB)" in said
    assert f"from iteration {ours} on, by task, Adam from {adam}: a speed-up of" in said
    assert f"{adam / ours:.1f} in iterations" in said
    assert "misses" not in said
    assert "spectral step gets there in 2 of 2 tasks within 60 iterations" in said
    assert "plain step gets there in 0 of 2 tasks within 600 iterations" in said
    said = findings.acceleration_says(acceleration("inpaint-20"))
    assert "in 1 of 2 tasks (difference -0.30 to +0.00 dB)" in said
    assert "misses 0.05 dB in Inpainting 20 % (-0.30 dB)." in said
    alone = acceleration("inpaint-20")
    said = findings.acceleration_says(alone[alone["task"] == "inpaint-20"])
    assert "in 0 of 1 task (" in said
    assert "stays" not in said


def test_adam_as_published_stands_beside_the_schedules() -> None:
    table = acceleration()
    adam = table[(table["task"] == "inpaint-20") & (table["method"] == "pnp-gd-adam")]
    lower = np.where(adam["metric"] == "psnr", adam["value"] - 1.5, adam["value"])
    both = pd.concat([table, adam.assign(method="pnp-gd-published", value=lower)])
    said = findings.acceleration_says(both)
    assert said.startswith(findings.acceleration_says(table))
    assert "from 0.5 in the holes, Adam ends elsewhere: -1.50 dB in Inpainting 20 %." in said
    for of, names in ((table, 0), (both, 1)):
        deblurring, inpainting = figures.draw_acceleration(of).axes
        for axis, count in ((deblurring, 0), (inpainting, names)):
            assert sum("as published" in text.get_text() for text in axis.texts) == count


def test_the_acceleration_figure_marks_the_band_and_the_entries() -> None:
    figure = figures.draw_acceleration(acceleration("inpaint-20"))
    deblurring, inpainting = figure.axes
    for axis in (deblurring, inpainting):
        band = axis.patches[0].get_extents().transformed(axis.transData.inverted())
        np.testing.assert_allclose([band.y0, band.y1], [-0.05, 0.05], atol=1e-6)
        assert axis.get_xscale() == "log"
    ours = f"accelerated:\nfrom {reached('pnp-gd')} on"
    assert ours in {t.get_text() for t in deblurring.texts}
    assert "accelerated:\nnot in 60" in {t.get_text() for t in inpainting.texts}
    marks = [line for line in deblurring.lines if line.get_marker() == "o"]
    entries = {int(np.asarray(line.get_xdata())[0]) for line in marks}
    assert entries == {reached(s) for s in SCHEDULES if s != "pnp-gd-plain"}
    assert len([line for line in inpainting.lines if line.get_marker() == "o"]) == 2


def test_a_schedule_that_was_not_run_is_named() -> None:
    table = acceleration()
    with pytest.raises(ClaimError, match="method=pnp-gd-plain"):
        findings.acceleration_says(table[table["method"] != "pnp-gd-plain"])


def test_the_page_says_what_figures_say(tree: Path) -> None:
    page = (tree / "reports/tiny/index.md").read_text()
    accelerated = pd.read_csv(tree / "results/tiny/accelerate/table.csv")
    diagnostics = pd.read_csv(tree / "results/tiny/diagnose/table.csv")
    assert f"**What it says.** {findings.acceleration_says(accelerated)}" in page
    assert f"**What it says.** {findings.diagnostics_says(diagnostics)}" in page
    logs = unrolled.read_logs(tree / "results/tiny/finetune_unrolled")
    assert f"**What it says.** {unrolled.unrolled_says(logs)}" in page
    ablation = pd.read_csv(tree / "results/tiny/ablate/table.csv")
    assert f"**What it says.** {findings.limits_say(ablation, diagnostics)}" in page
    assert page.count("**What it says.**") == 5


def test_the_diagnostics_say_updated_against_fixed(tree: Path) -> None:
    table = pd.read_csv(tree / "results/tiny/diagnose/table.csv")
    exact = {"map_residual": 0.9, "asymmetry_G": 0.4, "norm_G": 900.0, "norm_D": 1.5}
    exact |= {"norm_I-D": 1.1, "norm_2D-I": 1.5, "curvature_bound": 300.0}
    for quantity, value in exact.items():
        rows = table["quantity"] == quantity
        table.loc[rows, "value"] = np.where(table.loc[rows, "pair"] == "fixed", value, 0.6 * value)
    table.loc[table["quantity"] == "curvature", "value"] = 270.0
    said = findings.diagnostics_says(table)
    assert "MAP residual is 0.54 against 0.90, lower at 3 of 3 noise levels" in said
    assert "asymmetry of G's Jacobian is 0.24 against 0.40 and its norm 540 against 900" in said
    assert "0.90, 0.66 against 1.50, 1.10 for D and I − D" in said
    assert "that of 2D − I is 0.90 against 1.50" in said
    assert "firmly nonexpansive at 3 against 0 of 3 levels" in said
    either = table.copy()
    either.loc[either["quantity"] == "norm_2D-I", "value"] = 1.5
    assert "above 1 at every level with either D, so that neither satisfies" in (
        findings.diagnostics_says(either)
    )
    # β = 0.8: L(1 + 2β)/(2(1 + β)) = 0.72 L
    assert "exceeds 0.72 L at the last iterates of every image in 3 of 3 tasks (1.50 times)" in said
    assert "in 0 of 2 tasks (0.90 times) with the fixed one" in said
    lost = (table["quantity"] == "curvature_bound") & (table["pair"] == "updated")
    table.loc[lost & (table["at"] == "inpaint-20") & (table["image"] == "retina"), "value"] = np.nan
    said = findings.diagnostics_says(table)
    assert "2 of 3 tasks (1.50 times; iterates diverged in 1) with the updated pair" in said
    table.loc[lost, "value"] = np.nan
    assert "0 of 3 tasks (all iterates diverged)" in findings.diagnostics_says(table)


def test_the_limits_add_up_to_what_lies_between_gd_and_admm() -> None:
    levels = {"pnp-admm@original": 30.0, "pnp-admm@updated": 29.2, "pnp-gd@updated": 29.5}
    ablation = pd.DataFrame(
        [
            ("inpaint-20", method, 0, image, iteration, "psnr", value + place * (iteration == 9))
            for method, value in levels.items()
            for place, image in enumerate(TEST_IMAGES)
            for iteration in (8, 9)
        ],
        columns=COLUMNS,
    )
    cosines = {
        ("updated", "updated"): 0.9,
        ("updated", "original"): 0.4,
        ("fixed", "original"): 0.2,
    }
    diagnostics = pd.DataFrame(
        [
            (f"alignment_{arm}", pair, image, at, 2.55, 0.0, value + shift)
            for (pair, arm), value in cosines.items()
            for at in ("inpaint-20", "sr-x2-2.55")
            for image, shift in (("hubble", -0.05), ("retina", 0.05))
            if arm == "original" or at == "inpaint-20"
        ],
        columns=DIAGNOSTICS_COLUMNS,
    )
    said = findings.limits_say(ablation, diagnostics)
    assert "PnP-ADMM with the original D is -0.50 dB [-0.50, -0.50], the sum of -0.80 dB" in said
    assert "and +0.30 dB [+0.30, +0.30] between PnP-GD and PnP-ADMM with the updated D" in said
    # of the tasks in which the updated D was tuned, not of all
    assert "cosine of 0.90 with the updated D, to which G belongs, and of 0.40 with the" in said

    left, right = figures.draw_limits(ablation, diagnostics).axes
    means = [line for line in left.lines if line.get_marker() == "o"]
    shown = {line.get_color(): line.get_xdata()[0] for line in means}  # type: ignore[index]
    assert shown == pytest.approx({"#7A5200": -0.8, figures.BLUE: -0.5})
    assert [label.get_text() for label in right.get_yticklabels()] == [
        "Inpainting 20 %",
        "Super-resolution ×2\nσₙ 2.55",
    ]
    marks = [line for line in right.lines if line.get_marker() in ("o", "D")]
    assert sorted(line.get_xdata()[0] for line in marks) == pytest.approx(  # type: ignore[index]
        [0.2, 0.2, 0.4, 0.4, 0.9]
    )


def test_the_bound_of_the_step_is_named_alike_everywhere(tree: Path) -> None:
    figure = figures.draw_diagnostics(pd.read_csv(tree / "results/tiny/diagnose/table.csv"))
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    assert any("0.72 L" in text.get_text() for text in legend.get_texts())
    assert "to exceed, 0.72 L" in (tree / "reports/tiny/tables/diagnostics.tex").read_text()
    assert "L/2" not in (tree / "reports/tiny/index.md").read_text()


def test_the_csv_holds_what_the_restoration_table_leaves_out(tree: Path) -> None:
    numbers = pd.read_csv(tree / "reports/tiny/tables/restoration.csv")
    means = numbers.set_index(["task", "method", "metric"])["mean"]
    for task in TASKS:
        for method in METHODS:
            if method != "start":
                clipped = means[task, method, "psnr"]
                assert means[task, method, "psnr_unclipped"] == pytest.approx(clipped - 0.2)
                assert means[task, method, "psnr_oracle"] == pytest.approx(clipped + 0.1)
                assert means[task, method, "iterations"] == 40


def test_the_dot_plot_shows_differences_to_pnp_gd_on_the_same_image(tree: Path) -> None:
    table = read_csv(tree / "results/tiny/evaluate_restoration/table.csv", COLUMNS)
    figure = figures.draw_restoration(table)
    (axis,) = figure.axes
    psnr = table[(table["metric"] == "psnr") & (table["task"] == "inpaint-20")]
    by_image = psnr.pivot(index="image", columns="method", values="value")
    expected = by_image["tv"] - by_image["pnp-gd"]
    black = [line for line in axis.lines if line.get_color() == figures.COLOURS["tv"]]
    drawn = [np.asarray(line.get_xdata(), float) for line in black if line.get_marker() == "."]
    assert any(len(x) == len(expected) and np.allclose(x, expected) for x in drawn)
    shown = [label.get_text() for label in axis.get_yticklabels()]
    assert shown[0] == f"Inpainting 20 %\n{by_image['pnp-gd'].mean():.2f} dB"
    assert figure.get_figwidth() == figures.COLUMN_WIDTH


def search(tried: list[float], chosen: float, budget: int = 12) -> tables.Sheet:
    parameters = [json.dumps({"sigma": sigma, "curvature": 800.0}) for sigma in tried]
    trials = pd.DataFrame({"task": "inpaint-20", "method": "pnp-gd", "parameters": parameters})
    best = {"curvature": 800.0, "sigma": chosen}
    return tables.tuning_sheet(
        trials.assign(psnr=range(len(tried))), {"inpaint-20": {"pnp-gd": best}}, budget
    )


def test_the_tuning_table_tells_the_search() -> None:
    sheet = search([1.0, 4.0, 0.25, 2.0], chosen=2.0)
    ((_, (line,)),) = sheet.blocks
    assert [cell.text for cell in line] == [
        "PnP-GD (ReG)",
        "σ 1 → 2 [0.25, 4]",
        "c 800 → 800* [800, 800]",
        "4",
        "3.00",
    ]
    assert sheet.numbers["begin"].tolist() == [1.0, 800.0]
    assert sheet.numbers["at_edge"].tolist() == [False, True]
    assert not sheet.numbers["ran_out"].any()
    assert "4 at first" in sheet.caption
    assert "below 1.1 or after 12 trials" in sheet.caption


@pytest.mark.parametrize("chosen", [0.25, 4.0])
def test_the_tuning_table_marks_choices_at_the_edge_and_exhausted_searches(chosen: float) -> None:
    ((_, (line,)),) = search([1.0, 4.0, 0.25, 2.0], chosen, budget=4).blocks
    assert line[1].text == f"σ 1 → {chosen:g}* [0.25, 4]"
    assert line[3].text == "4†"


def test_a_search_without_a_choice_is_named(broken: Path) -> None:
    path = broken / "results/tiny/tune/chosen.json"
    chosen = json.loads(path.read_text())
    del chosen["sr-x2-2.55"]["gs-pnp"]
    path.write_text(json.dumps(chosen))
    with pytest.raises(InputError, match=r"chosen\.json: has nothing for gs-pnp on sr-x2-2\.55"):
        report(broken)


def test_long_tables_continue_on_further_pages_without_losing_a_line() -> None:
    lines = tuple((tables.Cell(f"line{i}"), tables.Cell("1")) for i in range(20))
    blocks = tuple((f"block{k}", lines) for k in range(5))
    sheet = tables.Sheet("long", "A caption.", ("Name", "Number"), blocks, pd.DataFrame())
    tex = to_latex(sheet)
    assert tex.count("\\begin{table}") == tex.count("\\end{table}") == 3
    assert tex.count("\\label{tab:long}") == 1
    assert tex.count("(continued)") == 2
    assert len(re.findall(r"line\d+ & 1", tex)) == 100
    assert len(re.findall(r"block\d", tex)) == 5


def test_the_gradient_step_denoiser_stands_beside_the_others(tree: Path) -> None:
    table = pd.read_csv(tree / "reports/tiny/tables/denoiser.csv").set_index("denoiser")
    log = pd.read_csv(tree / "results/tiny/train_gs/log.csv")
    row = table.loc["Gradient-step denoiser"]
    assert row["psnr25"] == pytest.approx(log["psnr25"].iloc[-1], rel=1e-5)
    assert row["iterations"] == log["iteration"].max()


def test_imported_weights_have_a_lone_measurement_and_no_iterations() -> None:
    metrics = {"psnr15": 33.0, "psnr25": 30.5, "psnr50": 27.0}
    log = pd.DataFrame({"iteration": 0, "metric": list(metrics), "value": list(metrics.values())})
    (row,) = tables.denoiser_sheet(log, log, {}).numbers.head(1).to_dict("records")
    assert row == {"denoiser": "Pre-trained D", "iterations": 0, **metrics}
    dots = figures.draw_training(log, log, {"updated": log.assign(seed=0)}).axes[0].lines
    assert [line.get_marker() for line in dots] == ["o", "o", "o"]


def test_labels_leave_out_what_all_names_begin_with() -> None:
    arms = [f"pnp-admm{bounds}@original" for bounds in ("", "-unbounded")]
    assert list(figures.short_names(arms).values()) == ["original D", "original D, unbounded"]
    for methods in (["pnp-admm", "pnp-gd"], ["pnp-admm@original"]):
        assert figures.short_names(methods) == {m: method_name(m) for m in methods}


def test_the_last_step_is_a_geometric_mean_that_stops_at_rounding() -> None:
    rows: list[Row] = []
    for method, steps in (("pnp-gd", (1e-4, 1e-8)), ("pnp-admm", (1e-16, 3e-15))):
        for image, msd in zip(("a", "b"), steps, strict=True):
            run = ("sr-x2-2.55", method, 0, image, 1)
            rows += [(*run, "psnr", 30.0), (*run, "msd", msd)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    sheet = tables.iterations_sheet(table, "convergence", "After {iterations}.")
    ((_, lines),) = sheet.blocks
    assert [line[-1].text for line in lines] == ["1.0e-06", "≤ 1e-14"]
    np.testing.assert_allclose(sheet.numbers["msd"], [1e-6, 1e-14])
    tex = to_latex(sheet)
    assert "S[table-format={1.1e-1}]" in tex
    assert r"{$\leq$ $10^{-14}$} \\" in tex


def test_errors_are_drawn_on_a_scale_of_their_own_row() -> None:
    truth = np.zeros((40, 40, 3), np.uint8)
    rows = [(f"row {e}", truth, [("D", truth + np.uint8(e), "1 dB")]) for e in (9, 90)]
    figure = figures.draw_update_denoiser(rows, [10.0, 100.0])
    scales = [
        i.get_clim()
        for axis in figure.axes
        for i in axis.get_images()
        if i.get_cmap().name == "magma"
    ]
    assert scales == [(0.0, 10.0), (0.0, 100.0)]
    ends = [max(axis.get_yticks()) for axis in figure.axes if axis.get_ylabel() == "error (/255)"]
    assert ends == [10.0, 100.0]


def test_the_map_residual_of_training_is_one_of_norms() -> None:
    log = pd.DataFrame({"iteration": [1, 2], "metric": "map_residual", "value": [0.81, 0.25]})
    axis = figures.draw_training(log, log, {"updated": log.assign(seed=0)}).axes[3]
    np.testing.assert_allclose(np.asarray(axis.lines[0].get_ydata(), dtype=float), [0.9, 0.5])


def test_names_that_are_too_long_for_a_line_take_two() -> None:
    assert figures._two_lines("motorcycle_right", 18) == "motorcycle_right"
    assert figures._two_lines("cbsd68-a-long-name-of-an-image", 18) == (
        "cbsd68-a-long-\nname-of-an-image"
    )
    first, second = figures._two_lines(40 * "x", 18).split("\n")
    assert (len(first), len(second), second[-1]) == (18, 18, "…")
    pixels = np.zeros((8, 8, 3), np.uint8)
    one, two = (
        figures.draw_data_sheet([("Test", [(name, pixels)])]).get_figheight()
        for name in ("short", 30 * "x")
    )
    assert two > one


def test_the_zoom_finds_the_detail() -> None:
    pixels = np.full((60, 80, 3), 128, dtype=np.uint8)
    pixels[30:40, 50:60] = np.random.default_rng(0).integers(0, 256, (10, 10, 3))
    row, column = figures.busiest_window(pixels, 16)  # gradients reach one pixel further
    assert 25 <= row <= 29
    assert 45 <= column <= 49


# --- training seeds and the sweep -----------------------------------------------------------


def with_second_seed(table: pd.DataFrame, shift: float, *methods: str) -> pd.DataFrame:
    """The same, and of some methods a second training seed, `shift` dB better."""
    rows = table[table["method"].isin(methods)]
    shifted = rows["value"] + shift * rows["metric"].str.startswith("psnr")
    return pd.concat([table, rows.assign(seed=1, value=shifted)], ignore_index=True)


def test_both_tables_of_restoration_have_the_same_columns(tree: Path) -> None:
    table = read_csv(tree / "results/tiny/evaluate_restoration/table.csv", COLUMNS)
    assert (
        tables.falls_sheet(table).header == tables.restoration_sheet(table, "4 test images").header
    )


def test_runs_that_end_below_their_best_are_counted() -> None:
    lost = {"pnp-gd": [0.0, 0.2, 0.5, 1.5], "red": [0.0, 3.0, 25.0, 1.0]}
    rows: list[Row] = [("sr-x2-2.55", "start", 0, "a", 0, "psnr", 20.0)]
    for method, losses in lost.items():
        for k, loss in enumerate(losses):
            run = ("sr-x2-2.55", method, k % 2, f"image{k // 2}", 300)
            rows += [(*run, "psnr", 30.0 - loss), (*run, "psnr_oracle", 30.0)]
    sheet = tables.falls_sheet(pd.DataFrame(rows, columns=COLUMNS))
    found = sheet.numbers.set_index("method")
    assert found.loc["pnp-gd", ["runs", "fallen"]].tolist() == [4, 1]
    assert found.loc["red", ["runs", "fallen"]].tolist() == [4, 3]
    np.testing.assert_allclose(found["median_loss"], [0.35, 2.0])
    np.testing.assert_allclose(found["greatest_loss"], [1.5, 25.0])
    (_, shares), (_, greatest) = sheet.blocks
    assert [line[1].text for line in shares] == ["25", "75"]
    assert [line[1].text for line in greatest] == ["1.5", "25.0"]


def test_the_restoration_figure_says_what_fallen_runs_cost() -> None:
    ends = {  # PSNR of the last and the best iterate by image
        "pnp-gd": {"a": (30.0, 30.0), "b": (20.0, 29.5)},
        "red": {"a": (28.0, 30.5), "b": (28.0, 28.0)},
    }
    rows: list[Row] = []
    for method, of in ends.items():
        for image, (last, best) in of.items():
            run = ("sr-x2-2.55", method, 0, image, 300)
            rows += [(*run, "psnr", last), (*run, "psnr_oracle", best)]
    said = findings.restoration_says(pd.DataFrame(rows, columns=COLUMNS))
    assert "Against RED the mean of PnP-GD is higher in 0 of 1 task (-3.00 dB; with the" in said
    assert "whole interval above in 0, below in 0), and in 0 than that of the rival's" in said
    assert "its own fallen runs left out, +2.00 dB" in said
    assert "Of PnP-GD's 2 runs 1 have fallen, they end 1 dB or more below" in said
    assert "PnP-ADMM" not in said


def test_filled_holes_stand_beside_what_methods_make_of_them(tree: Path) -> None:
    table = read_csv(tree / "results/tiny/evaluate_restoration/table.csv", COLUMNS)
    assert "Holes filled" not in {
        row[0].text for row in tables.restoration_sheet(table, "4 test images").blocks[0][1]
    }
    assert "filled" not in tables.restoration_sheet(table, "4 test images").caption
    assert "Filling" not in findings.restoration_says(table)
    degraded = table[(table["task"] == "inpaint-20") & (table["method"] == "start")]
    psnr = degraded[degraded["metric"] == "psnr"]
    means = table[(table["task"] == "inpaint-20") & (table["metric"] == "psnr")]
    means = means.groupby("method")["value"].mean()
    filled = means["red"] + 0.01  # above RED and what lies below it alone
    rows = psnr.assign(metric="psnr_filled", value=filled)
    both = pd.concat([table, rows, rows.assign(metric="ssim_filled", value=0.7)])
    said = findings.restoration_says(both)
    assert f"gives {filled:.2f} dB in Inpainting 20 %, to which PnP-GD adds" in said
    assert f"{means['pnp-gd'] - filled:+.2f} dB (below it: RED, PnP-PGD, GS-PnP, TV)." in said
    assert means[["pnp-pgd", "gs-pnp", "tv"]].max() < filled < means[["pnp-admm", "pnp-hqs"]].min()
    sheet = tables.restoration_sheet(both, "4 test images")
    assert "begin with holes filled" in sheet.caption
    place = sheet.header.index("Inpaint\n20 %")
    for (_, lines), value in zip(sheet.blocks, (f"{filled:.2f}", "0.700"), strict=True):
        line = lines[1]
        assert [line[0].text, line[place].text] == ["Holes filled", value]
        assert {cell.text for k, cell in enumerate(line) if k not in (0, place)} == {"–"}


def test_training_seeds_are_averaged_and_widen_the_intervals(tree: Path) -> None:
    table = read_csv(tree / "results/tiny/evaluate_restoration/table.csv", COLUMNS)
    both = with_second_seed(table, 1.0, "pnp-gd")
    keys = ["task", "method", "image", "metric"]
    one, two = (figures.last_by_image(each).set_index(keys)["value"] for each in (table, both))
    assert one.index.equals(two.index)
    psnr = one.index.get_level_values("metric").str.startswith("psnr")
    ours = one.index.get_level_values("method") == "pnp-gd"
    np.testing.assert_allclose(two - one, np.where(psnr & ours, 0.5, 0.0), atol=1e-12)
    assert findings.seeds_say(table) == ""
    said = findings.seeds_say(both)  # 0 and 1 dB lie √½ dB around their mean
    assert "mean over 2 training seeds" in said
    assert "at most 0.71 dB" in said
    assert tables.restoration_sheet(both, "4 test images").caption.endswith(said)

    def bars(of: pd.DataFrame) -> np.ndarray:
        (axis,) = figures.draw_restoration(of).axes
        lines = [np.asarray(line.get_xdata(), float) for line in axis.lines if line.get_lw() == 2.5]
        return np.array(lines)

    narrow, wide = bars(table), bars(both)
    np.testing.assert_allclose(wide.mean(axis=1), narrow.mean(axis=1) - 0.5, atol=0.2)
    assert (np.ptp(wide, axis=1) > np.ptp(narrow, axis=1) + 0.5).all()


def test_curves_of_seeds_are_averaged_the_step_geometrically() -> None:
    rows = [
        ("sr-x2-2.55", "pnp-gd", seed, image, 1, metric, value)
        for image in ("a", "b")
        for seed, psnr, msd in ((0, 20.0, 1e-2), (1, 30.0, 1e-6))
        for metric, value in (("psnr", psnr), ("msd", msd))
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    assert figures.wide(table, "sr-x2-2.55", "pnp-gd", "psnr").to_numpy().tolist() == [[25.0, 25.0]]
    steps = figures.wide(table, "sr-x2-2.55", "pnp-gd", "msd")
    np.testing.assert_allclose(steps, [[1e-4, 1e-4]])
    assert figures.wide(table, "sr-x2-2.55", "red", "psnr").empty


def test_logs_of_seeds_are_thin_lines_around_their_mean() -> None:
    logs = [
        pd.DataFrame({"iteration": [1, 2], "metric": "psnr25", "value": [20.0, 28.0 + 2 * seed]})
        for seed in (0, 1)
    ]
    arm = pd.concat([log.assign(seed=seed) for seed, log in enumerate(logs)], ignore_index=True)
    axis = figures.draw_training(logs[0], logs[0], {"updated": arm}).axes[2]
    ends = {(line.get_lw(), np.asarray(line.get_ydata())[-1]) for line in axis.lines[:3]}
    assert ends == {(mpl.rcParams["lines.linewidth"], 29.0), (0.5, 28.0), (0.5, 30.0)}
    assert "D updated\n29.00" in {text.get_text() for text in axis.texts}


def fake_sweep() -> pd.DataFrame:
    rows: list[tuple[float, int, str, str, str, float]] = []
    for value, level, residual, lost in ((0.01, 20.0, 0.9, 9.0), (1.0, 25.0, 0.5, 0.5)):
        rows += [
            (value, 300, "denoiser", "denoise-25", "psnr", 30.0),
            (value, 300, "denoiser", "denoise-25", "map_residual", residual),
        ]
        for k, task in enumerate(("deblur-k5-2.55", "sr-x2-2.55", "inpaint-20")):
            rows += [
                (value, 300, "pnp-gd", task, "psnr", level + k),
                (value, 300, "pnp-admm-unbounded@updated", task, "psnr", 26.0 - lost * (k == 1)),
                (value, 300, "pnp-admm-unbounded@updated", task, "psnr_oracle", 26.0),
            ]
    rows.append((16.0, 300, "denoiser", "denoise-25", "psnr", np.nan))  # its training diverged
    return pd.DataFrame(rows, columns=list(findings.SWEEP_COLUMNS))


def test_the_sweep_is_said_and_drawn_with_the_chosen_value_marked() -> None:
    said = findings.lambda_says(fake_sweep())
    assert "best at λ = 1 (26.00 dB, mean over tasks; 21.00 dB at λ = 0.01)" in said
    assert "From λ = 0.01 to 1 the MAP residual goes from 0.90 to 0.50" in said
    assert "9.00 dB below its own best at λ = 0.01 and 0.50 dB at λ = 1" in said
    for chosen in (1.0, None):
        top, bottom = figures.draw_lambda(fake_sweep(), chosen).axes
        for axis in (top, bottom):
            dotted = [line for line in axis.lines if line.get_linestyle() == ":"]
            assert [list(line.get_xdata()) for line in dotted] == ([[1, 1]] if chosen else [])
            assert axis.get_xscale() == "log"
    assert {text.get_text() for text in top.texts} >= {"Inpainting 20 %"}


def test_names_stay_where_the_training_with_the_greatest_weight_diverged() -> None:
    top, _ = figures.draw_lambda(fake_sweep(), None).axes
    named = {text.get_text(): text.xy[1] for text in top.texts}  # type: ignore[attr-defined]
    assert len(named) == 4
    assert np.isfinite(list(named.values())).all()


def test_a_report_of_several_seeds_and_a_sweep(broken: Path, drawn: list[str]) -> None:
    results = broken / "results/tiny"
    path = results / "evaluate_restoration" / "table.csv"
    before = read_csv(path, COLUMNS)
    with_second_seed(before, 1.0, "pnp-gd").to_csv(path, index=False)
    for arm in ("updated", "fixed"):
        log = results / "train_reg" / arm / "0" / "log.csv"
        shutil.copytree(log.parent, log.parents[1] / "1")
    sweep = broken / "reports/tiny/sweep/lambda.csv"
    sweep.parent.mkdir(parents=True)
    fake_sweep().to_csv(sweep, index=False)
    ledger = report(broken)
    assert drawn == [*FIGURES[:-2], "lambda", *FIGURES[-2:]]
    seeds = {str(c["id"]): c["seeds"] for c in ledger}
    assert seeds["restoration"] == seeds["visual"] == [0, 1]
    assert seeds["gd-convergence"] == [0]
    page = (broken / "reports/tiny/index.md").read_text()
    assert findings.lambda_says(fake_sweep()) in page
    assert "the first of 2 training seeds" in page
    assert "mean over 2 training seeds" in page
    fake_sweep().drop(columns="value").to_csv(sweep, index=False)
    with pytest.raises(InputError, match=r"sweep/lambda\.csv: columns are"):
        report(broken)


def test_more_methods_and_other_tasks_need_no_change(tmp_path: Path, drawn: list[str]) -> None:
    methods = {**METHODS, "pnp-gd+x1": 0.6, "novel": 0.3}
    fake_results(tmp_path, iterations=30, methods=methods)
    ledger = report(tmp_path)
    assert tuple(drawn) == FIGURES
    numbers = pd.read_csv(tmp_path / "reports/tiny/tables/restoration.csv")
    ordered = [m if m != "red" else "pnp-gd+x1,red" for m in METHODS]
    assert ",".join(numbers["method"].unique()) == ",".join([*ordered, "novel"])
    table = (tmp_path / "reports/tiny/tables/restoration.tex").read_text()
    assert table.count(r"    PnP-GD (ReG) $\times$1 & ") == 2
    verdicts = {str(c["id"]): c["verdict"] for c in ledger}
    # 30 iterations cannot show convergence
    assert verdicts["gd-convergence"] != "reproduced"
    assert verdicts["admm-convergence"] != "reproduced"


@pytest.mark.parametrize(
    "path",
    [
        "results/tiny/evaluate_restoration/table.csv",
        "results/tiny/ablate/images/inpaint-20/pnp-gd@fixed",
        "results/tiny/train_reg/fixed",
        "results/tiny/diagnose/table.csv",
        "results/tiny/accelerate/table.csv",
        "results/tiny/train_gs/log.csv",
        "results/tiny/tune/trials.csv",
        "results/tiny/tune/chosen.json",
        "results/tiny/finetune_unrolled",
        "data/tiny/prepare/manifest.csv",
    ],
)
def test_a_missing_input_is_named(broken: Path, path: str) -> None:
    victim = broken / path
    if victim.is_dir():
        shutil.rmtree(victim)
    else:
        victim.unlink()
    with pytest.raises(InputError) as caught:
        report(broken)
    assert str(Path(path).parent.name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_captions_and_the_table_beside_the_paper_know_the_profile(
    broken: Path, drawn: list[str]
) -> None:
    active = read_params(Path(__file__).parents[1] / "params.yaml").profiles["tiny"]
    for folder, network in (
        ("pretrain/denoiser", Denoiser((4, 4, 8, 8), 1)),
        ("train_reg/updated/0/regularizer", Regularizer((4, 4, 8, 8), 1, "plain", 20.0)),
    ):
        save_network(network, broken / f"models/tiny/{folder}.safetensors")
    sweep = broken / "reports/tiny/sweep/lambda.csv"
    sweep.parent.mkdir(parents=True)
    fake_sweep().to_csv(sweep, index=False)
    report(broken, active=active)
    folder = broken / "reports/tiny"
    page = (folder / "index.md").read_text()
    section, own = active.evaluate_restoration, active.train_reg.iterations
    until = f"for at most {section.iterations} iterations, or until an image changes by less than"
    assert page.count(f"{until} 0.00001 of its norm.") == 3  # the figure and both tables
    assert page.count("The ablation runs for 500 iterations") == 1
    assert f"300 iterations each (the profile's own training has {own})" in page
    assert "The dotted line" not in page  # as no λ is in use
    beside = pd.read_csv(folder / "tables/paper.csv").set_index("what")
    assert beside.loc["Training images", "here"] == "22 (scikit-image: 2, dead leaves: 20)"
    claims, _, rest = page.partition("## Figures")
    assert "## How far this is from the paper" in claims
    assert "How far" not in rest
    assert "\\input{tables/paper}" in (folder / "report.tex").read_text()
    assert 'id="table-paper"' in (folder / "index.html").read_text()
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page)
    assert [link for link in links if not (folder / link).is_file()] == [
        f"figures/{name}.pdf" for name in drawn
    ]


PHOTOGRAPHIC = ("inpainting", "update_denoiser", "unrolled_inpaint-20", "data")


def test_photographs_of_others_appear_as_crops_of_named_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_results(tmp_path, size=200, iterations=30)
    folder = tmp_path / "data/tiny/prepare"
    manifest = pd.read_csv(folder / "manifest.csv")
    coffee = manifest[manifest["name"] == "coffee"]
    more = [coffee.assign(name=f"more {k}") for k in range(9)]
    manifest = pd.concat([manifest, *more], ignore_index=True)
    photographs = manifest["source"] == "scikit-image"
    manifest.loc[photographs, "source"] = "sets/kodak/" + manifest["name"]
    # The last test image is of a set of which the data sheet shows none.
    manifest.loc[len(manifest) - 1, "source"] = "sets/unseen/coffee"
    manifest.to_csv(folder / "manifest.csv", index=False)
    made: dict[str, Figure] = {}

    def save(draw: Callable[[], Figure], stem: Path) -> None:
        made[stem.name] = draw()
        Image.new("RGB", (4, 4)).save(stem.with_suffix(".png"))

    monkeypatch.setattr(figures, "save_figure", save)
    report(tmp_path, cropped=True)

    shown = {
        name: [np.asarray(i.get_array()) for axis in figure.axes for i in axis.get_images()]
        for name, figure in made.items()
    }
    leaves = [np.asarray(Image.open(folder / f"dead_leaves_{i:04d}.png")) for i in range(20)]
    whole = [figures.thumbnail(pixels, 150) for pixels in leaves]
    for name in PHOTOGRAPHIC:
        sizes = {pixels.shape[:2] for pixels in shown[name]}
        assert sizes
        assert all(max(size) <= 160 for size in sizes)
    # Of what is no photograph thumbnails may be whole; of photographs there is a handful.
    crops = [p for p in shown["data"] if not any(np.array_equal(p, leaf) for leaf in whole)]
    assert len(shown["data"]) - len(crops) == 18
    assert len(crops) == 2 + 1 + 6
    truths = [np.asarray(Image.open(file)) for file in (folder / "test").glob("*.png")]
    for truth in truths:
        assert not any(np.array_equal(p, figures.thumbnail(truth, 150)) for p in crops)
    assert any(
        np.array_equal(shown["inpainting"][0], truth[figures.busiest_crop(truth)])
        for truth in truths
    )

    text = (tmp_path / "reports/tiny/index.md").read_text()
    for name in PHOTOGRAPHIC:
        caption = text.split(f"(figures/{name}.png)")[1].split("<sub>")[0]
        assert "crops of at most 160 × 160 pixels" in caption
        assert "from sets/kodak." in caption
    assert "unseen" not in text
    html = (tmp_path / "reports/tiny/index.html").read_text()
    data = json.loads(re.findall(r'id="pictures">(.*?)</script>', html, re.DOTALL)[0])
    uris = [m["uri"] for t in data["tasks"] for i in t["images"] for m in i["methods"]]
    files = [io.BytesIO(b64decode(uri.partition(",")[2])) for uri in uris]
    assert files
    assert {Image.open(file).size for file in files} == {(160, 160)}


def test_captions_say_where_central_crops_were_measured(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(draw: Callable[[], Figure], stem: Path) -> None:
        Image.new("RGB", (4, 4)).save(stem.with_suffix(".png"))

    monkeypatch.setattr(figures, "save_figure", save)
    stages = {"evaluate_convergence": "convergence", "accelerate": "acceleration", "ablate": "admm"}
    sides = {stage: 96 + 12 * k for k, stage in enumerate(stages)}
    report(tree, "reports/central", cropped=True, central=dict(sides))
    folder = tree / "reports/central"
    text = (folder / "index.md").read_text()
    captions = {
        name: text.split(f"(figures/{name}.png)")[1].split("<sub>")[0]
        for name in (*stages.values(), "update_denoiser", "inpainting")
    }
    for stage, name in stages.items():
        said = f"their central {sides[stage]} × {sides[stage]} pixels"
        assert said in captions[name]
        table = "ablation" if stage == "ablate" else name
        caption = (folder / f"tables/{table}.tex").read_text().split("\\caption{")[1]
        assert f"their central {sides[stage]}" in caption.split("\\begin")[0]
    side = sides["ablate"]
    assert f"Shown and measured are the central {side} × {side}" in captions["update_denoiser"]
    # These are shown as they were measured, not cropped further.
    assert "crops of at most" not in captions["update_denoiser"]
    assert "The photographs are from" in captions["update_denoiser"]
    assert "those of the whole image" in captions["inpainting"]

    whole = (tree / "reports/tiny/index.md").read_text()
    assert "their central" not in whole
    assert "PSNR is that of the whole image." in whole


def test_a_crop_is_the_square_with_the_strongest_gradients() -> None:
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[200:290:2, 250:380] = 255
    rows, columns = figures.busiest_crop(pixels)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (160, 160)
    assert rows.start <= 200
    assert rows.stop >= 290
    assert columns.start <= 250
    assert columns.stop >= 380
    assert pixels[:90, :400][figures.busiest_crop(pixels[:90])].shape == (90, 90, 3)


def test_captions_count_the_images_of_each_set() -> None:
    rows = [(f"kodak-{k}", "test", f"kodak/{k}.png") for k in range(9)]
    rows += [("butterfly", "test", "sets/set5/butterfly.png"), ("x", "train", "kodak/x.png")]
    manifest = pd.DataFrame(rows, columns=["name", "role", "source"])
    names = manifest["name"].tolist()
    of_test = names[:-1]
    assert named(manifest, of_test) == "10 test images (kodak: 9, sets/set5: 1)"
    assert named(manifest, of_test[:8]) == "8 test images (kodak: 8 of 9)"
    assert named(manifest, ["b", "a"]) == "2 test images (a, b)"
    assert named(manifest, ["x"], "validation") == "1 validation image (x)"


@pytest.mark.parametrize("content", ["iteration,psnr\n10,high\n", "psnr\n20\n", "iteration\n", ""])
def test_a_log_that_is_none_is_refused(broken: Path, content: str) -> None:
    path = broken / "results/tiny/pretrain/log.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=r"pretrain/log\.csv") as caught:
        report(broken)
    assert "\n" not in str(caught.value)


def test_a_claim_without_evidence_stops_the_report(broken: Path) -> None:
    path = broken / "results/tiny/ablate/table.csv"
    table = pd.read_csv(path)
    table[table["method"] != "pnp-gd@fixed"].to_csv(path, index=False)
    with pytest.raises(ClaimError, match=r"claim update-denoiser.*method=pnp-gd@fixed"):
        report(broken)
    assert not (broken / "reports").exists()


def test_a_kept_image_of_another_size_is_named(broken: Path) -> None:
    folder = broken / "results/tiny/evaluate_restoration/images/inpaint-20/red"
    for path in folder.glob("*.png"):
        _save(path, np.zeros((20, 20, 3), dtype=np.uint8))
    with pytest.raises(InputError, match=r"inpaint-20/red/.*\.png: is \(20, 20\)"):
        report(broken)
