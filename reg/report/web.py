"""`index.html`: the whole report as one page that needs no network and no other file."""

import glob
import hashlib
import io
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from reg.claims import (
    MSD_RANGE,
    VISUAL_TASK,
    cautions_of,
    count_verdicts,
    in_order,
    method_name,
    rounded,
    task_name,
    tasks_in_order,
)
from reg.errors import InputError
from reg.images import Pixels, read_pixels
from reg.provenance import Code
from reg.report.figures import (
    CROP_SIDE,
    STYLE,
    TEXT_WIDTH,
    colour_of,
    is_dashed,
    last_by_image,
    wide,
)
from reg.report.page import FigureEntry, TableEntry, Weights, committed_tables
from reg.report.words import WORDS
from reg.statistics import paired_difference

TEMPLATES = Path(__file__).with_name("web")
PICTURE_BYTES = 4_000_000  # of the compared images within the page, which stays below 8 MB
SIDES = (240, 160, 96)  # of their central crops, pixels: the largest with which they fit
QUALITY = 95  # of WebP where lossless would not fit
PHOTOGRAPHIC = 500_000  # bytes of png beyond which a figure holds photographs
POINTS = 80  # of a curve, evenly spread over the logarithm of the iteration

METRICS = {
    "psnr": ("PSNR (dB)", 2),
    "ssim": ("SSIM", 3),
    "psnr_oracle": ("PSNR, best iterate by an oracle (dB)", 2),
    "psnr_unclipped": ("PSNR, not clipped to [0,1] (dB)", 2),
    "iterations": ("Iterations taken", 1),
}
STUDIES = {
    "evaluate_convergence": "PnP-GD beside PnP-ADMM",
    "ablate": "denoiser D updated or not",
}
VERDICTS = {"reproduced": "yes", "not reproduced": "no", "inconclusive": "open"}  # CSS classes


def web_page(
    profile: str,
    claims: Sequence[Mapping[str, Any]],
    figures: Sequence[FigureEntry],
    tables: Sequence[TableEntry],
    weights: Sequence[Weights],
    *,
    figure_folder: Path,
    results: Path,
    restoration: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame],
    manifest: Path,
    parameters: Mapping[str, object],
    code: Mapping[str, Code],
    cropped_from: str,
    paper: TableEntry | None,
    again: str,
) -> str:
    """The text of `index.html`; the same inputs give the same text.

    Args:
        profile: its name.
        claims: the ledger.
        figures, tables: as `index.md` shows them, in this order.
        weights: what lies behind the numbers.
        figure_folder: holds `<name>.png` of every figure; the page links to its pdf beside.
        results: the profile's results, with the images that `evaluate_restoration` kept,
            8-bit RGB, as `images/<task>/<method>/<image>.png`, `truth` and `start` among them.
        restoration: long table with PSNR and SSIM of those images, among others.
        curves: long tables with `psnr` (dB) and `msd` of every iteration, by the stage that
            made them.
        manifest: of the data, to be hashed.
        parameters: those of the profile by stage, beside others such as the seed.
        code: that of every stage.
        cropped_from: where photographs come from that are not ours to show whole, so that central
            crops of at most 160 × 160 pixels are compared; empty for photographs that are.
        paper: the table of what the paper did.
        again: how to make the page again.

    Raises:
        InputError: a figure or an image is missing or cannot be read.
    """
    evaluated = results / "evaluate_restoration"
    side = CROP_SIDE if cropped_from else SIDES[0]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters.update(number=number, minus=true_minus, spans=code_spans)
    environment.globals.update(
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "page.js").read_text(encoding="utf-8"),
        verdict_class=VERDICTS,
        hashed=hashed,
        committed=partial(committed_tables, tables=tables),
        stage_parameters=lambda stages: _stage_parameters(stages, parameters),
        stage_code=lambda stages: {name: code[name] for name in _base(stages) if name in code},
    )
    return environment.get_template("page.html.jinja").render(
        profile=profile,
        claims=[{**c, "plot": interval_plot(c), "table": parts_table(c["parts"])} for c in claims],
        counts=count_verdicts(claims),
        cautions=cautions_of(claims),
        figures=[(f, shown_figure(figure_folder / f"{f.name}.png")) for f in figures],
        tables=tables,
        weights=weights,
        pictures=comparison(evaluated / "images", restoration, side),
        cropped_from=cropped_from,
        results=result_rows(restoration),
        result_files=[(evaluated / "table.csv").as_posix(), (evaluated / "images").as_posix()],
        studies={
            "floor": float(np.log10(MSD_RANGE[0])),
            "studies": [s for k, table in curves.items() for s in convergence(STUDIES[k], table)],
        },
        curve_stages=list(curves),
        curve_files=[(results / stage / "table.csv").as_posix() for stage in curves],
        manifest=hashed([manifest.as_posix()]),
        code=code,
        parameters={k: _pretty(v) for k, v in parameters.items()},
        paper=paper,
        again=again,
        words=WORDS,
    )


# --- what lies behind -------------------------------------------------------------------------


def hashed(files: Iterable[str]) -> list[tuple[str, str]]:
    """Paths, with patterns expanded, and the sha256 of those that are files ("" for folders)."""
    paths = [Path(p) for pattern in files for p in sorted(glob.glob(pattern))]
    return [
        (p.as_posix(), hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "")
        for p in paths
    ]


def _stage_parameters(stages: Sequence[str], parameters: Mapping[str, object]) -> dict[str, str]:
    """Parameters of stages as text."""
    return {name: _pretty(parameters[name]) for name in _base(stages) if name in parameters}


def _base(stages: Sequence[str]) -> list[str]:
    """The names of stages, each once: `train_reg@fixed` is `train_reg` in dvc.yaml and params."""
    return list(dict.fromkeys(stage.partition("@")[0] for stage in stages))


def _pretty(value: object) -> str:
    """`key: value` lines, a line per key of a mapping."""
    if isinstance(value, Mapping):
        return "\n".join(
            f"{key}: {json.dumps(inner, ensure_ascii=False)}" for key, inner in value.items()
        )
    return json.dumps(value, ensure_ascii=False)


# --- claims -----------------------------------------------------------------------------------


def interval_plot(claim: Mapping[str, Any]) -> dict[str, float]:
    """Where zero, measurement, interval ends and published number stand, in % of a line's width."""
    low, high = claim["interval"] or (claim["measured"], claim["measured"])
    values = {"zero": 0.0, "measured": claim["measured"], "low": low, "high": high}
    if claim["published"] is not None:
        values["published"] = claim["published"]
    least, greatest = min(values.values()), max(values.values())
    span = (greatest - least) or 1.0
    return {name: round(6 + 88 * (v - least) / span, 2) for name, v in values.items()}


PARTS = {
    "rival": "best rival",
    "difference": "difference",
    "interval": "95 % interval",
    "updated": "D updated",
    "fixed": "D fixed",
    "original": "original D",
    "iterations": "iterations",
    "peak": "peak (dB)",
    "last": "last (dB)",
    "converged": "runs that converged",
    "held": "that hold their PSNR",
    "shrunk": "that shrink their steps",
    "settled": "that have settled",
    "largest_drop": "largest drop (dB)",
    "smallest_shrink": "steps shrunk at least (×)",
    "late_gain": "gained in the second half (dB)",
    "runs": "runs",
    "halfway": "After half of the iterations",
    "psnr": "PSNR",
    "msd": "steps",
    "log10_ratio": "log10 ratio",
    "reg": "ReG start (dB)",
    "random": "random start (dB)",
}


@dataclass(frozen=True)
class PartsTable:
    """The parts of a claim for print: a header, and rows that begin with their name."""

    header: list[str]
    rows: list[list[str]]


def parts_table(parts: Mapping[str, Any]) -> PartsTable:
    """A claim's nested parts as a table whose longer side goes down."""
    if not all(isinstance(part, Mapping) for part in parts.values()):
        parts = {"": parts}
    flat = {_part_name(key): dict(_leaves(part)) for key, part in parts.items()}
    table = pd.DataFrame(flat).fillna("–")
    if len(table.columns) > len(table.index):
        table = table.T
    return PartsTable(
        ["", *map(str, table.columns)],
        [[str(name), *map(str, row)] for name, row in zip(table.index, table.values, strict=True)],
    )


def _part_name(key: str) -> str:
    """A task, or task/method, as readers know them."""
    task, _, method = key.partition("/")
    try:
        return task_name(task) + (f": {method_name(method)}" if method else "")
    except InputError:
        return PARTS.get(key, key.replace("_", " "))


def _leaves(part: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    for key, value in part.items():
        name = f"{above}{PARTS.get(key, key.replace('_', ' '))}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}, ")
        else:
            yield name[:1].upper() + name[1:], _leaf(value)


def _leaf(value: object) -> str:
    if isinstance(value, str):
        return method_name(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_leaf, value))}]"
    return number(value) if isinstance(value, float) else "–" if value is None else f"{value}"


def number(value: float | None, form: str = "") -> str:
    """A number as print has it: a true minus sign, a dash for none, shortened where it is large."""
    if value is None or not np.isfinite(value):
        return "–"
    suits = ".3f" if abs(value) < 1e3 else ",.0f" if abs(value) < 1e6 else ".1e"
    return format(value, form or suits).replace("-", "−")


def true_minus(text: str) -> str:
    """Sentences with `−` before negative numbers, as the tables have it."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", text)


def code_spans(text: str) -> Markup:
    """Text as HTML, with what stands in backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


# --- the images compared ----------------------------------------------------------------------


@dataclass(frozen=True)
class ShownFigure:
    """A figure as a data URI, its size in pixels, and its share of the text's width."""

    uri: str
    width: int
    height: int
    share: float


def shown_figure(path: Path) -> ShownFigure:
    """A figure as lossless WebP, or at high quality where it holds photographs."""
    pixels = read_pixels(path)
    photographic = path.stat().st_size > PHOTOGRAPHIC
    webp = _webp(pixels, quality=90) if photographic else _webp(pixels, lossless=True)
    height, width = pixels.shape[:2]
    share = width / (TEXT_WIDTH * STYLE["savefig.dpi"])
    return ShownFigure(_uri(webp), width, height, round(share, 3))


def _webp(pixels: Pixels, *, lossless: bool = False, quality: int = QUALITY) -> bytes:
    file = io.BytesIO()
    if lossless:
        Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=60, method=2)
    else:
        Image.fromarray(pixels).save(file, "WEBP", quality=quality, method=4, use_sharp_yuv=True)
    return file.getvalue()


def _uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{b64encode(webp).decode('ascii')}"


def comparison(
    images: Path, restoration: pd.DataFrame, side: int, budget: int = PICTURE_BYTES
) -> dict[str, Any]:
    """Every kept image of every task and method, with its PSNR and SSIM, for the page's script.

    Shown are central crops of at most `side` pixels, smaller ones where `budget` bytes would not
    do, and an even choice of the images where that is still too much; lossless where the
    pixels fit as they are.
    """
    kept = _kept_images(images)
    names = {name for names in kept.values() for name in names}
    side, count, lossless, encoded = _encode(images, kept, side, budget)
    measured = restoration[restoration["metric"].isin(["psnr", "ssim"])]
    scores = last_by_image(_of_first_seed(measured))
    by_image = scores.set_index(["task", "method", "image", "metric"])["value"].to_dict()
    tasks = []
    for task, by_name in kept.items():
        shown = []
        for name in [name for name in by_name if (task, name, "truth") in encoded]:
            size = read_pixels(images / task / "truth" / f"{name}.png").shape[1::-1]
            methods = [
                {
                    "id": method,
                    "name": _shown_name(method),
                    "psnr": number(by_image.get((task, method, name, "psnr")), ".2f"),
                    "ssim": number(by_image.get((task, method, name, "ssim")), ".3f"),
                    "uri": _uri(encoded[task, name, method]),
                }
                for method in by_name[name]
            ]
            shown.append({"name": name, "size": size, "methods": methods})
        tasks.append({"id": task, "name": task_name(task), "images": shown})
    return {
        "tasks": tasks,
        "first": VISUAL_TASK,
        "side": side,
        "quality": "without loss" if lossless else f"as WebP at quality {QUALITY}",
        "shown": count,
        "kept": len(names),
    }


def _of_first_seed(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the main training seed, which comes first; images were kept of no other."""
    first: pd.DataFrame = table[table["seed"] == table["seed"].iloc[0]]
    return first


def _kept_images(images: Path) -> dict[str, dict[str, list[str]]]:
    """task → image → methods whose result was kept, with the truth first."""
    found: dict[str, dict[str, list[str]]] = {}
    for task in tasks_in_order(sorted(p.name for p in images.glob("*") if p.is_dir())):
        methods = in_order([p.name for p in (images / task).iterdir() if p.name != "truth"])
        truths = sorted(p.stem for p in (images / task / "truth").glob("*.png"))
        found[task] = {
            name: [
                "truth",
                *[m for m in methods if (images / task / m / f"{name}.png").is_file()],
            ]
            for name in truths
        }
    if not any(found.values()):
        raise InputError(f"{images}: no image was kept; run dvc repro evaluate_restoration")
    return found


def _shown_name(method: str) -> str:
    return "Ground truth" if method == "truth" else method_name(method)


Encoded = dict[tuple[str, str, str], bytes]


def _encode(
    images: Path, kept: Mapping[str, Mapping[str, list[str]]], side: int, budget: int
) -> tuple[int, int, bool, Encoded]:
    """The side and number of images that fit, whether without loss, and the files."""
    names = sorted({name for by_name in kept.values() for name in by_name})
    sides = [side, *[s for s in SIDES if s < side]]
    while True:
        paths = {
            (task, name, method): images / task / method / f"{name}.png"
            for task, by_name in kept.items()
            for name in names
            for method in by_name.get(name, [])
        }
        for size in sides:
            last = len(names) == 1 and size == sides[-1]
            lossless = sum(_crop_bytes(path, size) for path in paths.values()) * 4 // 3 <= budget
            encoded: Encoded = {}
            room = budget * 3 // 4  # base64 takes a third more
            for key, path in paths.items():
                encoded[key] = _webp(_central_crop(path, size), lossless=lossless)
                room -= len(encoded[key])
                if room < 0 and not last:
                    break
            else:
                return size, len(names), lossless, encoded
        names = names[::2]


def _crop_bytes(path: Path, side: int) -> int:
    with Image.open(path) as image:  # reads no more than the header
        return 3 * min(side, image.width) * min(side, image.height)


def _central_crop(path: Path, side: int) -> Pixels:
    pixels = read_pixels(path)
    height, width = pixels.shape[:2]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


# --- results ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResultRow:
    """One metric of one method on one task, and its values by image.

    `order` is its place in the table. `interval` is the 95 % bootstrap interval of the mean over
    training seeds and images; `bar` its ends with the mean between them, in % of the metric's
    range. Both are None where one image or a diverged run allows none, and so is `mean` in the
    second case.
    """

    task: str
    method: str
    metric: str
    order: int
    mean: float | None
    text: str
    interval: str | None
    bar: tuple[float, float, float] | None
    images: list[tuple[str, str]]


def result_rows(restoration: pd.DataFrame) -> list[ResultRow]:
    """Rows by metric, task and method: the last iterate's mean over training seeds and images."""
    keys = ["metric", "task", "method"]
    runs = restoration.groupby([*keys, "seed", "image"], sort=False)
    rows = restoration.loc[runs["iteration"].idxmax()]
    metrics = [m for m in METRICS if m in set(rows["metric"])]
    groups = {
        (str(metric), str(task), str(method)): group.pivot(
            index="seed", columns="image", values="value"
        )
        for (metric, task, method), group in rows.groupby(keys, sort=False)
    }
    tasks = tasks_in_order(rows["task"].tolist())
    methods = in_order(rows["method"].unique().tolist())
    ordered = [
        key
        for metric in metrics
        for task in tasks
        for method in methods
        if (key := (metric, task, method)) in groups
    ]
    intervals = {key: _mean_interval(groups[key]) for key in ordered}
    ends = {m: [intervals[key] for key in ordered if key[0] == m] for m in metrics}
    found = []
    for order, key in enumerate(ordered):
        metric, task, method = key
        name, decimals = METRICS[metric]
        mean, low, high = (number(v, f".{decimals}f") for v in intervals[key])
        known = bool(np.isfinite(intervals[key]).all())
        by_image = groups[key].mean(skipna=False)
        found.append(
            ResultRow(
                task_name(task),
                method_name(method),
                name,
                order,
                intervals[key][0] if np.isfinite(intervals[key][0]) else None,
                mean,
                f"{low} to {high}" if known else None,
                _bar(intervals[key], ends[metric]) if known else None,
                [(str(image), number(v, f".{decimals}f")) for image, v in by_image.items()],
            )
        )
    return found


def _mean_interval(by_seed: pd.DataFrame) -> tuple[float, float, float]:
    """Mean over seeds and images and its 95 % bootstrap interval; NaN for what is not known."""
    values = by_seed.to_numpy(dtype=float)
    if not np.isfinite(values).all():
        return float("nan"), float("nan"), float("nan")
    found = paired_difference(values, np.zeros_like(values))
    low, high = found.interval or (float("nan"), float("nan"))
    return found.mean, low, high


def _bar(
    interval: tuple[float, float, float], ends: Sequence[tuple[float, float, float]]
) -> tuple[float, float, float]:
    """Lower end, mean and upper end in % of the range of all intervals."""
    least, greatest = np.nanmin(ends), np.nanmax(ends)
    span = (greatest - least) or 1.0
    mean, low, high = (round(float(100 * (v - least) / span), 2) for v in interval)
    return low, mean, high


# --- curves -----------------------------------------------------------------------------------


def thinned(iterations: Sequence[int], points: int = POINTS) -> list[int]:
    """At most about `points` of the positive iterations, even in their logarithm, with both ends.

    The first ones, which are further apart than that, are all taken.
    """
    positive = sorted(i for i in set(iterations) if i > 0)
    wanted = np.geomspace(positive[0], positive[-1], points)
    places = np.searchsorted(positive, wanted - 1e-6)
    return [positive[i] for i in sorted(set(places.tolist()))]


def convergence(group: str, table: pd.DataFrame) -> list[dict[str, Any]]:
    """PSNR and squared step by iteration of every task, for the page's script.

    A curve is the mean over images (geometric for the step, as in the figures) with the least and
    greatest image, then every image by itself; each is a mean over training seeds.
    """
    studies = []
    for task in tasks_in_order(table["task"].tolist()):
        of_task = table[table["task"] == task]
        images = sorted(of_task["image"].unique())
        found = []
        for method in in_order(of_task["method"].unique().tolist()):
            psnr = wide(of_task, task, method, "psnr").reindex(columns=images)
            msd = wide(of_task, task, method, "msd").reindex(columns=images).clip(*MSD_RANGE)
            iterations = thinned(psnr.index.tolist())
            found.append(
                {
                    "name": method_name(method),
                    "colour": colour_of(method),
                    "dashed": is_dashed(method),
                    "iterations": iterations,
                    "psnr": _curves(psnr.reindex(iterations), 2),
                    "msd": _curves(msd.reindex(iterations).map(np.log10), 2),
                }
            )
        studies.append(
            {"group": group, "name": task_name(task), "images": images, "methods": found}
        )
    return studies


def _curves(values: pd.DataFrame, decimals: int) -> dict[str, Any]:
    """Mean, least and greatest over images, and each image, rounded; None where not a number."""

    def plain(curve: pd.Series) -> list[float | None]:
        found: list[float | None] = rounded(curve.round(decimals).tolist())
        return found

    return {
        "mean": plain(values.mean(axis=1)),
        "low": plain(values.min(axis=1)),
        "high": plain(values.max(axis=1)),
        "images": [plain(values[image]) for image in values.columns],
    }
