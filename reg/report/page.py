"""`index.md`, the page that GitHub renders, and `metrics.json`, what `dvc metrics` compares."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from reg.claims import cautions_of, count_verdicts
from reg.report.figures import last_by_image
from reg.report.sheets import Sheet, to_markdown
from reg.report.words import WORDS

TEMPLATE = """\
# Reproduction of PnP-ReG at scale `{{ profile }}`

{{ counts }} Every number below is computed from result tables by the stage `report`; none is
typed by hand. The rules behind the verdicts were written before the first result; all six have been
changed since, and each claim says how it was judged before. They stand in [claims.md](claims.md).
{%- for caution in cautions %}

> [!NOTE]
> {{ caution[0] | upper }}{{ caution[1:] }}.
{%- endfor %}

## Claims

| claim | published | measured | 95 % interval | verdict |
|---|--:|--:|--:|---|
{% for c in claims -%}
| {{ c.claim }} | {{ published(c) }} | {{ measured(c) }} | {{ interval(c) }} | \
[**{{ c.verdict }}**](claims.md#{{ c.id }}-{{ c.verdict.replace(" ", "-") }}) |
{% endfor %}
{% for c in claims %}
- **{{ c.id }}: {{ c.verdict }}.** {{ c.evidence.why }} Measured: \
{{ c.statistic }}; {{ c.images }} test image{{ "s" if c.images != 1 }}, \
{{ c.trained }}.
{%- if c.rule_changed %} Rule changed after results were seen: {{ c.rule_changed }}.
{%- endif %}{% if committed(c.evidence.files) %} Numbers: {{ committed(c.evidence.files) }}.
{%- endif %}
{%- endfor %}
{%- if paper %}

## {{ paper.title }}

{{ markdown(paper.sheet) }}

{{ paper.sheet.caption }}

<sub>From {{ listed(paper.files) }} and `params.yaml`; made by {{ commands(paper.stages) }}; \
[LaTeX](tables/{{ paper.sheet.name }}.tex), [csv](tables/{{ paper.sheet.name }}.csv)</sub>
{%- endif %}

## Figures
{% for f in figures %}
### {{ f.title }}

![{{ f.title }}](figures/{{ f.name }}.png)

{{ f.caption }}
{%- if f.says %}

**What it says.** {{ f.says }}
{%- endif %}

<sub>From {{ listed(f.files) }}\
{% if committed(f.files) %}, numbers in {{ committed(f.files) }}{% endif %}; \
made by {{ commands(f.stages) }}; [vector pdf](figures/{{ f.name }}.pdf)</sub>
{% endfor %}
## Tables
{% for t in tables %}
### {{ t.title }}

{{ markdown(t.sheet) }}

{{ t.sheet.caption }}

<sub>From {{ listed(t.files) }}; made by {{ commands(t.stages) }}; \
[LaTeX](tables/{{ t.sheet.name }}.tex), [csv](tables/{{ t.sheet.name }}.csv)</sub>
{% endfor %}
{%- if weights %}
## Weights behind this page

| file | MB | sha256 |
|---|--:|---|
{% for w in weights -%}
| `{{ w.path }}` | {{ w.megabytes }} | `{{ w.sha256 }}` |
{% endfor %}
{%- endif %}
{%- if settings %}
## Settings

| setting | value |
|---|---|
{% for key, value in settings.items() -%}
| {{ key }} | {{ value }} |
{% endfor %}
{%- endif %}
## How to make this again

{{ again }}

## Words
{% for term, meaning in words %}
- **{{ term }}**: {{ meaning }}
{%- endfor %}
"""


@dataclass(frozen=True)
class FigureEntry:
    """A figure with what a reader needs to judge and remake it; `says` is what was computed."""

    name: str
    title: str
    caption: str
    files: tuple[str, ...]
    stages: tuple[str, ...]
    says: str = ""


@dataclass(frozen=True)
class TableEntry:
    """A table with the files and stages it comes from."""

    title: str
    sheet: Sheet
    files: tuple[str, ...]
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """A file of weights, so that a reader can tell which networks made the numbers."""

    path: str
    megabytes: str
    sha256: str


def list_weights(models: Path) -> list[Weights]:
    """Every safetensors file below `models`, sorted by path."""
    found = []
    for path in sorted(models.rglob("*.safetensors")):
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        found.append(Weights(path.as_posix(), f"{len(content) / 1e6:.1f}", digest))
    return found


def committed_tables(files: Iterable[str], tables: Iterable[TableEntry]) -> list[str]:
    """The csv files of the report, `tables/x.csv`, with numbers of these result files."""
    wanted = list(files)
    return [
        f"tables/{table.sheet.name}.csv"
        for table in tables
        if any(_overlap(file, of) for file in wanted for of in table.files)
    ]


def _overlap(file: str, other: str) -> bool:
    """Whether two paths, either of which may be a pattern, can be the same file."""
    return fnmatch(file, other) or fnmatch(other, file)


def how_to_make(profile: str, folders: Sequence[str]) -> str:
    """How to make the report of a profile again; commands stand in backticks.

    `folders` are those of photographs that `data.root` must hold; none for bundled photographs.
    """
    setting = f"Set `profile: {profile}` in `params.yaml`, where another one stands"
    if folders:
        named = ", ".join(f"`{folder}`" for folder in folders)
        setting = (
            f"Set `profile: {profile}` in `params.yaml`, and `data.root` there to the folder that "
            f"holds the image folders {named}"
        )
    return (
        f"{setting}; then `make reproduce` in a fresh clone installs the pinned environment, "
        "trains everything anew and writes this folder. In an environment that is installed, "
        "`dvc repro` does, and a single part is made by the command that stands with it. "
        "`reg verify` compares what came out with what was committed. Commit, packages, hardware "
        "and times are in `provenance.json`."
    )


def index_markdown(
    profile: str,
    claims: Sequence[Mapping[str, Any]],
    figures: Sequence[FigureEntry],
    tables: Sequence[TableEntry],
    weights: Sequence[Weights],
    settings: Mapping[str, object],
    *,
    paper: TableEntry | None,
    again: str,
) -> str:
    """The page: claims with verdict first, then figures, tables and what lies behind them.

    `paper` is the table of what the paper did, and `again` how to make the page again.
    """
    links = partial(committed_tables, tables=tables)
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE).render(
        profile=profile,
        counts=_counts(claims),
        cautions=cautions_of(claims),
        claims=claims,
        figures=figures,
        tables=tables,
        weights=weights,
        settings=settings,
        paper=paper,
        again=again,
        words=WORDS,
        committed=lambda files: ", ".join(f"[{t}]({t})" for t in links(files)),
        published=_published,
        measured=_measured,
        interval=_interval,
        listed=lambda files: ", ".join(f"`{f}`" for f in files),
        commands=lambda stages: f"`dvc repro {' '.join(stages)}`",
        markdown=to_markdown,
    )


def _counts(claims: Sequence[Mapping[str, Any]]) -> str:
    parts = [f"{count} {verdict}" for verdict, count in count_verdicts(claims).items()]
    return f"Of {len(claims)} claims of the paper: {', '.join(parts)}."


def _unit(claim: Mapping[str, Any]) -> str:
    return f" {claim['unit']}" if claim["unit"] else ""


def _published(claim: Mapping[str, Any]) -> str:
    if claim["published"] is None:
        return "no number available"
    return f"{claim['published']:+.2f}{_unit(claim)}"


def _measured(claim: Mapping[str, Any]) -> str:
    return f"{claim['measured']:+.3f}{_unit(claim)}"


def _interval(claim: Mapping[str, Any]) -> str:
    if claim["interval"] is None:
        return "none"
    return "[{:+.3f}, {:+.3f}]".format(*claim["interval"])


def headline_metrics(
    claims: Sequence[Mapping[str, Any]], restoration: pd.DataFrame, ablation: pd.DataFrame
) -> dict[str, Any]:
    """Nested headline numbers: means by task and method, and every claim's number and verdict."""
    metrics: dict[str, Any] = {"psnr": _means(restoration, "psnr")}
    metrics["ssim"] = _means(restoration, "ssim")
    metrics["ablation_psnr"] = _means(ablation, "psnr")
    differences = next(c for c in claims if c["id"] == "restoration")["parts"]
    metrics["ahead_of_best_rival"] = {t: p["difference"] for t, p in differences.items()}
    metrics["claims"] = {
        c["id"]: {"verdict": c["verdict"], "measured": c["measured"]} for c in claims
    }
    return metrics


def _means(table: pd.DataFrame, metric: str) -> dict[str, dict[str, float]]:
    rows = last_by_image(table[table["metric"] == metric])
    means = rows.groupby(["task", "method"], sort=False)["value"].mean().reset_index()
    out: dict[str, dict[str, float]] = {}
    for task, method, value in means.itertuples(index=False):
        out.setdefault(str(task), {})[str(method)] = float(value)
    return out
