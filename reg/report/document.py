"""`report.tex`, the report as one LaTeX document, and its compilation to `report.pdf`."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reg.checkpoints import write_whole
from reg.claims import cautions_of, count_verdicts
from reg.console import say
from reg.errors import InputError
from reg.report.page import FigureEntry, TableEntry, Weights
from reg.report.sheets import latex_code, latex_text
from reg.report.words import WORDS

RUNS = 5  # of pdflatex, at most; a document whose references settle needs two or three
SECONDS = 300
PACKAGES = "texlive-latex-recommended texlive-science lmodern"  # Debian's
# Nothing in the pdf tells when, or by which build of TeX, it was made; lines of the log stay whole.
ENVIRONMENT = {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "10000"}
INCOMPLETE = re.compile(
    r"^.*(?:File `.+\.(?:sty|cls|cfg|def|fd)' not found|not loadable: Metric).*$", re.MULTILINE
)
ERROR = re.compile(r"^(?:!|\S+:\d+:) .+$", re.MULTILINE)
# What no reader may meet: text in the margin, ?? for a number, a letter that is not there.
WARNING = re.compile(
    r"^(?:Overfull \\[hv]box .+"
    r"|Missing character: .+"
    r"|LaTeX Warning: .*(?:undefined|multiply defined|Float too large|have changed).*"
    r"|LaTeX Font Warning: .*undefined.*)$",
    re.MULTILINE,
)


class Tex(str):
    """Text that is LaTeX already; whatever else the template prints is escaped."""

    __slots__ = ()


def document_latex(
    profile: str,
    claims: Sequence[Mapping[str, Any]],
    figures: Sequence[FigureEntry],
    tables: Sequence[TableEntry],
    weights: Sequence[Weights],
    *,
    restoration: pd.DataFrame,
    manifest: Path,
    parameters: Mapping[str, object],
    paper: TableEntry | None,
    again: str,
) -> str:
    """The document, to be compiled in the folder that holds `figures/` and `tables/`.

    Args:
        profile: its name.
        claims: the ledger.
        figures, tables: what is shown, in this order, with captions; the files are included.
        weights: the networks behind the numbers.
        restoration: the table of `evaluate_restoration`, for what the abstract says of the scale.
        manifest: of the images, which is hashed.
        parameters: those of the profile, by stage.
        paper: the table of what the paper did.
        again: how to make the document again.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Tex) else latex_text(str(value)),
    )
    return environment.get_template("document.tex.jinja").render(
        profile=profile,
        claims=claims,
        counts=[(count, verdict) for verdict, count in count_verdicts(claims).items()],
        cautions=cautions_of(claims),
        seeds=sorted({seed for c in claims for seed in c["seeds"]}),
        methods=restoration.loc[restoration["method"] != "start", "method"].nunique(),
        tasks=restoration["task"].nunique(),
        images=restoration["image"].nunique(),
        results=_beside(figures, tables),
        weights=weights,
        networks=len({each.sha256 for each in weights}),
        paper=paper,
        again=again,
        words=WORDS,
        manifest=manifest,
        manifest_sha256=hashlib.sha256(manifest.read_bytes()).hexdigest(),
        parameters=parameters,
        raw=Tex,
        signed=_signed,
        between=_between,
        code=_code,
        listed=lambda paths: Tex(", ".join(map(_code, paths))),
        commands=lambda stages: _code(f"dvc repro {' '.join(stages)}"),
        sentence=_sentence,
        values=_values,
    )


def _beside(
    figures: Sequence[FigureEntry], tables: Sequence[TableEntry]
) -> list[tuple[FigureEntry, list[TableEntry]]]:
    """Each figure with the tables of its stages; those that have no figure stand with the last."""
    left = list(tables)
    results = []
    for figure in figures:
        beside = [table for table in left if set(table.stages) & set(figure.stages)]
        left = [table for table in left if table not in beside]
        results.append((figure, beside))
    results[-1][1].extend(left)
    return results


def _code(text: object) -> Tex:
    return Tex(latex_code(text))


def _signed(value: float | None, decimals: int, unit: str) -> str:
    """`+1.74 dB`; a dash where there is no number."""
    return "–" if value is None else f"{value:+.{decimals}f} {unit}".rstrip()


def _between(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else "[{:+.3f}, {:+.3f}]".format(*interval)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _values(section: object, prefix: str = "") -> list[tuple[str, str]]:
    """The keys and values of a section of params.yaml; those of sections in it have a dot."""
    if not isinstance(section, Mapping):
        return [(prefix, _value(section))]
    found = []
    for key, value in section.items():
        found += _values(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return {"None": "null", "True": "true", "False": "false", "": "none"}.get(
        str(value), str(value)
    )


def compile_document(source: Path) -> Path | None:
    """Compile `report.tex` to `report.pdf` beside it; the same files give the same bytes.

    Without LaTeX, or one of the packages, one line says so, no pdf is left, and None is returned.

    Raises:
        InputError: LaTeX found an error, or something overfull, undefined or missing.
    """
    pdf = source.with_suffix(".pdf")
    pdf.unlink(missing_ok=True)  # it may be of other numbers
    if shutil.which("pdflatex") is None:
        say(f"  {pdf}: not made, as LaTeX is not installed (on Debian: apt-get install {PACKAGES})")
        return None
    with tempfile.TemporaryDirectory() as folder:
        log = _run_until_settled(source, Path(folder))
        if absent := INCOMPLETE.search(log):
            reason = absent[0].strip("! ")
            say(f"  {pdf}: not made, as LaTeX is incomplete: {reason} (needs {PACKAGES})")
            return None
        made = Path(folder) / pdf.name
        found = ERROR.findall(log) or WARNING.findall(log)
        if found or not made.exists():
            found = found or ["no pdf was made"]
            for line in found:
                say(f"  {line}")
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise InputError(
                f"{_file_of(found[0], log) or source}: LaTeX says: {found[0]}{more}; shorten or "
                f"mend what it speaks of, or run pdflatex on {source} to look at it"
            )
        write_whole(pdf, made.read_bytes())
    return pdf


def _file_of(line: str, log: str) -> str:
    """The table that LaTeX was reading at this line of its log; empty if none was open."""
    before = log.partition(line)[0]
    _, opening, after = before.rpartition("(./tables/")
    name, *_ = after.split(maxsplit=1) or [""]
    return f"tables/{name}" if opening and after.count("(") >= after.count(")") else ""


def _run_until_settled(source: Path, folder: Path) -> str:
    """Run pdflatex into `folder` until what it notes for its next run stays; the last log."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error"]
    command += ["-no-shell-escape", f"-output-directory={folder}", source.name]
    notes = folder / f"{source.stem}.aux"
    before = None
    for _ in range(RUNS):
        try:
            done = subprocess.run(
                command,
                cwd=source.parent,
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise InputError(
                f"{source}: LaTeX did not end within {SECONDS} s; compile the file by hand"
            ) from None
        after = notes.read_bytes() if notes.exists() else None
        if done.returncode or after == before:
            break
        before = after
    # Some warnings are not among what it prints.
    log = folder / f"{source.stem}.log"
    return (log.read_bytes() if log.exists() else done.stdout).decode(errors="replace")
