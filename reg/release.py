"""Make weights/released/ of a profile's networks: smaller files, what that costs, a model card."""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jinja2 import Environment, StrictUndefined
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from reg.checkpoints import write_whole
from reg.console import progress
from reg.datasets import load_images, read_manifest, set_of
from reg.denoising import GRADIENT_STEP, ORIGINAL, UPDATED
from reg.errors import InputError
from reg.evaluation import central_crops, denoising_validation, restoration_validation
from reg.gradient_step import load_gradient_step
from reg.methods import Networks, arm_folder, iterate
from reg.networks import (
    best_device,
    for_inference,
    load_denoiser,
    load_regularizer,
    read_metadata,
)
from reg.operators import GAUSSIAN_KERNELS
from reg.problems import Problem, parse_task, task_label
from reg.report.words import blur
from reg.restoration import DENOISER, ITERATIONS, REGULARIZER, TOLERANCE, UNROLLED, parameters_of
from reg.unrolled import load_unrolled

RELEASED = Path("weights/released")
OPTIONAL = ("train_gs/denoiser.safetensors", f"{UNROLLED}/*.safetensors")
# Weights are of the order of 0.1, where float16 has eight times the precision of bfloat16.
STORED = torch.float16
MOST = 0.01  # dB that rounding may cost
CROP = 144  # of the validation images, for methods that iterate
SEED = 0
# The methods that the released files run, by their names in result tables.
METHODS = {
    "start": "degraded",
    "pnp-gd": "PnP-GD with ReG",
    "red": "RED",
    "pnp-admm": "PnP-ADMM",
    "pnp-hqs": "PnP-HQS",
    "gs-pnp": "GS-PnP",
    "unrolled-reg": "unrolled",
}
DENOISERS = {
    ORIGINAL: "denoiser D",
    UPDATED: "denoiser D, updated with G",
    GRADIENT_STEP: "gradient-step denoiser",
}
KINDS = {
    "denoiser": "denoiser D",
    "regularizer": "regularizer G (ReG)",
    "gradient_step": "gradient-step denoiser",
    "unrolled": "unrolled gradient descent",
}

TEMPLATE = """\
# Released weights

Networks of profile `{{ profile }}`, which `reg restore` takes by default:

```sh
reg restore in.png -o out.png --task deblur --kernel gaussian:1.6 --sigma 2.55   # G, by PnP-GD
reg restore in.png -o out.png --task deblur --kernel gaussian:1.6 --sigma 2.55 --method admm   # D
reg weights export weights/released/pretrain/denoiser.safetensors --format onnx -o D.onnx
```

This page and the files are written by `reg weights release --profile {{ profile }}`; every number
is computed.

## Files

| file | network | weights | stored as | MB | validation, dB | rounding costs, dB |
|---|---|--:|---|--:|---|--:|
{% for f in files -%}
| `{{ f.name }}` | {{ f.kind }} | {{ "{:,}".format(f.count) }} | {{ f.stored }} | \
{{ "%.1f" | format(f.megabytes) }} | {{ levels(f.levels) }} | \
{{ "%.4f" | format(f.cost | round(4) + 0) }} |
{% endfor %}
Validation: mean PSNR over {{ counts.validation }} held-back images, as the files are stored.
Denoisers at a noise of 15, 25 and 50 /255; G by PnP-GD, {{ label(task) }}, and unrolled networks
by their own task, on the central {{ crop }}² pixels. Computed in float32, where rounding shows
most; a file whose rounding costs {{ most }} dB or more stays in float32. `chosen.json` holds the
parameters tuned for these networks, by task and method.

| file | sha256 |
|---|---|
{% for name, digest in hashes.items() -%}
| `{{ name }}` | `{{ digest }}` |
{% endfor %}
## Data

| role | images | from |
|---|--:|---|
{% for role, count in counts.items() -%}
| {{ role }} | {{ count }} | {{ sets[role] }} |
{% endfor %}
## Recipe

{% for f in files -%}
- `{{ f.name }}`: channels {{ f.about.channels | join("-") }}, {{ f.about.blocks }} blocks a scale
{%- for key, value in f.about.training.items() if key not in ("channels", "blocks") \
and value not in ("", none) -%}
, {{ key | replace("_", " ") }} {{ value }}
{%- endfor %}
{% endfor %}
## Measured

Mean PSNR in dB of the unrounded networks over the test images, last iterates. SSIM, intervals, and
the denoisers beside published ones are in the report of the profile, `reports/{{ profile }}/`.
{% for name, table in denoised.items() %}
{{ name }}, denoising at a noise of {{ table.columns | join(", ") }} /255:

| network |{% for level in table.columns %} {{ level }} |{% endfor %}
|---|{% for level in table.columns %}--:|{% endfor %}
{% for method, row in table.iterrows() -%}
| {{ denoisers[method] }} |{% for value in row %} {{ decibels(value) }} |{% endfor %}
{% endfor %}
{%- endfor %}
{%- for name, table in measured.items() %}
{{ name }}:

| task |{% for method in table.columns %} {{ methods[method] }} |{% endfor %}
|---|{% for method in table.columns %}--:|{% endfor %}
{% for task, row in table.iterrows() -%}
| {{ label(task) }} |{% for value in row %} {{ decibels(value) }} |{% endfor %}
{% endfor %}
{%- endfor %}
{%- if kernels %}
{{ kernels }}; σₙ is the noise, /255.
{% endif %}
## Licence and limits

The files are under the licence of this repository (MIT). The photographs keep their own licences
and are not in the files; where a data set may be used for research only, ask its owners before you
use networks that were trained on it for anything else.

- An unrolled network takes a few passes where PnP-GD takes dozens, and suits the kernel, factor,
  noise and share of known pixels that it was trained for; `reg restore` refuses others. Tables
  above that have both say what it gains or loses by task.
- Trained on clean colour photographs with white Gaussian noise of up to 50/255. The noise of
  cameras and the traces of JPEG are neither white nor Gaussian.
- The blur, the factor or the mask must be known; an error in them shows as ringing or false detail.
- What a network restores is plausible, not certain: no evidence, diagnosis or identification should
  rest on it.
"""


@dataclass(frozen=True)
class Released:
    """A file as it was stored: what its networks reach on validation images, and at what cost."""

    name: str
    about: Mapping[str, Any]
    count: int
    dtype: torch.dtype
    megabytes: float
    levels: Mapping[str, float]  # dB
    cost: float  # dB

    @property
    def kind(self) -> str:
        """What the network is, in words."""
        return KINDS[self.about["kind"]]

    @property
    def stored(self) -> str:
        """The type of its weights."""
        return str(self.dtype).removeprefix("torch.")


def release(profile: str, target: Path = RELEASED) -> list[Released]:
    """Write the networks of models/<profile>/, their tuned parameters and a model card README.md.

    The folder appears whole, and replaces an older one. Weights are stored in float16 unless that
    costs `MOST` dB or more on the validation images of data/<profile>. Raises InputError, naming
    the file, if a network, the tuned parameters or the manifest are missing.
    """
    models, results = Path("models", profile), Path("results", profile)
    manifest = Path("data", profile, "prepare", "manifest.csv")
    if not models.is_dir():
        raise InputError(f"{models}: no such folder; name a profile whose networks are trained")
    tuned = parameters_of(models)
    tasks = [task for task in sorted(tuned) if "pnp-gd" in tuned[task]]
    if not tasks:
        raise InputError(f"{results}/tune/chosen.json: has nothing of pnp-gd; run `dvc repro tune`")
    images = load_images(manifest, "validation")
    pair = arm_folder(models, "updated")
    paths = [models / DENOISER, pair / REGULARIZER, pair / "denoiser.safetensors"]
    for pattern in OPTIONAL:
        paths += sorted(models.glob(pattern))
    names = [path.relative_to(models).as_posix() for path in paths]
    for name in names:
        read_metadata(models / name)

    partial, old = (target.with_name(f".{target.name}.{end}") for end in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        files = []
        with progress("release", len(names)) as shown:
            for name in names:
                score = scorer(models / name, images, tasks[0], tuned[tasks[0]]["pnp-gd"])
                files.append(store(name, models, partial, score))
                shown.step(f"{name}: {files[-1].stored}, costs {files[-1].cost:.4f} dB")
        text = json.dumps(tuned, indent=2, sort_keys=True) + "\n"
        write_whole(partial / "chosen.json", text.encode())
        card = model_card(profile, files, tasks[0], partial, read_manifest(manifest), results)
        write_whole(partial / "README.md", card.encode())
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return files


Score = Callable[[Path], Mapping[str, float]]


def scorer(
    path: Path, images: Mapping[str, Tensor], task: str, tuned: Mapping[str, float]
) -> Score:
    """A function that gives the PSNR in dB of a file of the kind at `path`, on `images`."""
    kind, device = read_metadata(path)["kind"], best_device()
    crops = central_crops(images, CROP)

    def descend(regularizer: Callable[[Tensor], Tensor], problem: Problem) -> Tensor:
        networks = Networks(regularizers={"updated": regularizer}, device=device)
        iterates = iterate("pnp-gd", problem, networks, tuned, TOLERANCE)
        *_, last = islice(iterates, ITERATIONS)
        return last

    def score(file: Path) -> Mapping[str, float]:
        if kind == "unrolled":
            unrolled = for_inference(load_unrolled(file), device)
            return restoration_validation(unrolled, file.stem, crops, SEED, "fp32")()
        if kind == "regularizer":
            regularizer = for_inference(load_regularizer(file), device)
            return restoration_validation(
                partial(descend, regularizer), task, crops, SEED, "fp32", device
            )()
        load = load_denoiser if kind == "denoiser" else load_gradient_step
        return denoising_validation(for_inference(load(file), device), images, SEED, "fp32")()

    return score


def store(name: str, models: Path, folder: Path, score: Score) -> Released:
    """Write a file of `models` to `folder` in fewer bits, or as it is if that costs too much."""
    source, target = models / name, folder / name
    before = score(source)
    stored = write_rounded(source, target, STORED)
    after = score(target)
    cost = max(before[key] - after[key] for key in before)
    if not cost < MOST:
        stored, after, cost = write_rounded(source, target, torch.float32), before, 0.0
    return Released(
        name,
        read_metadata(target),
        sum(tensor.numel() for tensor in stored.values()),
        next(tensor.dtype for tensor in stored.values() if tensor.ndim == 4),
        target.stat().st_size / 1e6,
        after,
        cost,
    )


def write_rounded(source: Path, target: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copy a weights file with its convolutions in `dtype`; what else it holds stays as it is."""
    with safe_open(source, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    stored = {name: one.to(dtype) if one.ndim == 4 else one for name, one in tensors.items()}
    write_whole(target, save(stored, metadata=metadata))
    return stored


def model_card(
    profile: str,
    files: list[Released],
    task: str,
    folder: Path,
    manifest: pd.DataFrame,
    results: Path,
) -> str:
    """The page README.md of a release, from the files in `folder` and the result tables."""
    sets = manifest["source"].map(set_of)
    of_image = dict(zip(manifest["name"], sets, strict=True))
    hashes = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.*"))
        if path.is_file()
    }
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    found = measured(results, of_image)
    return environment.from_string(TEMPLATE).render(
        profile=profile,
        files=files,
        hashes=hashes,
        levels=lambda found: ", ".join(f"{value:.2f}" for value in found.values()),
        task=task,
        crop=CROP,
        most=MOST,
        counts={role: len(rows) for role, rows in manifest.groupby("role", sort=False)},
        sets={role: ", ".join(found.unique()) for role, found in sets.groupby(manifest["role"])},
        denoisers=DENOISERS,
        denoised=denoised(results, of_image),
        methods=METHODS,
        measured=found,
        label=lambda name: task_label(parse_task(name)),
        decibels=lambda value: "–" if value != value else f"{value:.2f}",
        kernels=kernels_say([task for table in found.values() for task in table.index]),
    )


def kernels_say(tasks: Sequence[str]) -> str:
    """The Gaussian kernels of tasks in a sentence without its full stop: widths and direction."""
    kernels = {parse_task(task).kernel for task in tasks} & GAUSSIAN_KERNELS.keys()
    widths = "; ".join(blur(kernel) for kernel in sorted(kernels))
    return f"Standard deviations of the blurs: {widths}" if kernels else ""


def denoised(results: Path, sets: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """Mean PSNR in dB of the denoisers alone by test images: tables of DENOISERS by noise, /255."""
    rows = _released_rows(results / "evaluate_denoising" / "table.csv", DENOISERS)
    levels = rows["task"].str.removeprefix("denoise-").astype(float)
    found = {}
    for name, part in rows.groupby(rows["image"].map(sets)):
        means = part.groupby(["method", levels])["value"].mean().unstack()
        means = means.loc[[method for method in DENOISERS if method in means.index]]
        found[_counted(name, part["image"].nunique())] = means.rename(columns="{:g}".format)
    return found


def measured(results: Path, sets: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """Mean PSNR in dB by test images: a table of tasks by those of METHODS that were run.

    No table mixes images: what was measured on a part of a set has a table of that part, with the
    same images' numbers of the other methods beside it. Of training seeds the first counts, whose
    networks are released.
    """
    paths = [
        results / "evaluate_restoration" / "table.csv",
        *sorted(results.glob(f"{UNROLLED}/**/table.csv")),
    ]
    # ReG's training seeds and the unrolled networks' are numbered apart.
    rows = pd.concat([_released_rows(path, METHODS) for path in paths])
    found = {}
    for name, part in rows.groupby(rows["image"].map(sets)):
        images = part.groupby("method")["image"].agg(frozenset)
        for of in sorted(set(images), key=lambda each: (-len(each), sorted(each))):
            same = part[part["image"].isin(of) & part["method"].map(images.ge(of))]
            tasks = same.loc[same["method"].map(images.eq(of)), "task"].unique()
            means = same.groupby(["task", "method"])["value"].mean().unstack()
            found[_counted(name, len(of))] = means.loc[
                sorted(tasks), [method for method in METHODS if method in means]
            ]
    return found


def _released_rows(path: Path, methods: Collection[str]) -> pd.DataFrame:
    """Rows of PSNR of `methods` in a result table, of its first seed; none if there is no table."""
    if not path.exists():
        return pd.DataFrame(columns=["task", "method", "image", "value"])
    table = pd.read_csv(path)
    wanted = (table["metric"] == "psnr") & table["method"].isin(methods)
    rows: pd.DataFrame = table[wanted & (table["seed"] == table["seed"].min())]
    return rows


def _counted(name: str, images: int) -> str:
    return f"{name}, {images} image{'s' if images > 1 else ''}"
