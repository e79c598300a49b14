"""The document from made-up inputs: what it says, that it compiles, and when it must not."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from reg.claims import COLUMNS
from reg.errors import InputError
from reg.report.document import compile_document, document_latex
from reg.report.figures import save_figure
from reg.report.page import FigureEntry, TableEntry, Weights
from reg.report.sheets import Cell, Sheet, to_latex
from reg.report.words import WORDS

ROOT = Path(__file__).parents[1]
STYLES = ("siunitx.sty", "lmodern.sty", "microtype.sty")  # one of each package of Debian


def installed() -> bool:
    """Whether there is LaTeX with every package; in CI there must be."""
    if os.environ.get("REQUIRE_LATEX"):
        return True
    if shutil.which("pdflatex") is None:
        return False
    return not subprocess.run(["kpsewhich", *STYLES], check=False).returncode


needs_latex = pytest.mark.skipif(not installed(), reason="needs LaTeX")

CLAIM: dict[str, Any] = {
    "id": "restoration",
    "claim": "PnP-ReG beats the others.",
    "published": None,
    "published_note": "tables not available to us",
    "measured": -0.1206,
    "unit": "dB",
    "interval": [-0.359525, 0.05955],
    "images": 4,
    "seeds": [0, 1],
    "trained": "2 training seeds",
    "verdict": "not reproduced",
    "statistic": "PSNR of PnP-ReG minus that of the rival",
    "rule": "reproduced if the 95 % interval lies above 0",
    "rule_changed": "",
    "caution": "only 4 images: the interval is too narrow",
    "evidence": {
        "files": ["results/tiny/evaluate_restoration/table.csv"],
        "command": "dvc repro evaluate_restoration",
        "why": "The mean difference is -0.12 dB [-0.36, +0.06].",
    },
}
OTHER = {
    **CLAIM,
    "id": "visual",
    "published": 1.74,
    "measured": 12.11,
    "unit": "",
    "interval": None,
    "images": 1,
    "verdict": "reproduced",
    "rule_changed": "it had no bound of 1e-13",
    "caution": "",
}
SPECIAL = "σₙ ≤ 2.55, ‖Aᵀ(Ax − y)‖ × λ ± 1 → φ, 20 %, D_σ & {#1} $5 ~ ^ \\ <a|b> “é” 中 √2…"

# Every kind of cell: marks, dashes, thousands, signs, powers, two numbers of decimals.
KINDS = Sheet(
    "kinds",
    f"Every kind of cell: {SPECIAL}.",
    ("Method", "PSNR\nat 150", "End\nat", "Minus\nAdam's", "Step", "Speed-up", "Trials", "Words"),
    (
        (
            "PSNR (dB)",
            (
                (Cell("PnP-GD"), Cell("27.86", 1), Cell("1,500"), Cell("+0.00"), Cell("2.6e-15"),
                 Cell("57.1×"), Cell("10†"), Cell("a_b")),
                (Cell("RED"), Cell("26.74", 2, "[-0.36, +0.06]"), Cell("150"), Cell("−12.88"),
                 Cell("1.9e-07"), Cell("–"), Cell("9"), Cell("c", 1)),
            ),
        ),
        ("SSIM", ((Cell("TV"), Cell("0.834", 2), *[Cell("–")] * 5, Cell("")),)),
    ),
    pd.DataFrame(),
    intervals="In brackets, intervals.",
)  # fmt: skip


BESIDE = Sheet(
    "paper",
    "Beside the paper.",
    ("What", "Here", "Paper"),
    (("", ((Cell("Crops"), Cell("16 × 64²"), Cell("not stated")),)),),
    pd.DataFrame(),
    text_columns=3,
)


def wide(columns: int) -> Sheet:
    """A table with intervals in many columns."""
    row = (Cell("RED"), *[Cell("26.74", 0, "[-10.36, +10.06]")] * columns)
    header = ("Method", *[f"Task\n{i}" for i in range(columns)])
    return Sheet("wide", "Wide.", header, (("", (row,) * 3),), pd.DataFrame(), intervals="Yes.")


def draw() -> Figure:
    """A figure that is wider than a page."""
    figure = Figure(figsize=(9.0, 2.0))
    figure.subplots().plot([0, 1])
    return figure


def write(
    folder: Path,
    sheets: tuple[Sheet, ...] = (KINDS,),
    claims: tuple[dict[str, Any], ...] = (CLAIM, OTHER),
    says: str = "It says 3 of 4.",
) -> Path:
    """Everything the document needs, in `folder`; the path of its report.tex."""
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True)
    save_figure(draw, folder / "figures" / "line")
    (folder / "tables" / "paper.tex").write_text(to_latex(BESIDE))
    for sheet in sheets:
        (folder / "tables" / f"{sheet.name}.tex").write_text(to_latex(sheet))
        with_intervals = to_latex(sheet, intervals=True)
        (folder / "tables" / f"{sheet.name}_intervals.tex").write_text(with_intervals)
    (folder / "manifest.csv").write_text("name,role\n")
    rows = [
        ("inpaint-20", method, 0, image, 9, "psnr", 25.0)
        for method in ("start", "pnp-gd", "red")
        for image in ("a", "b", "c", "d")
    ]
    with contextlib.chdir(folder):
        text = document_latex(
            "tiny",
            claims,
            [FigureEntry("line", "A line", SPECIAL, ("results/a_b/*",), ("stage@a",), says)],
            [TableEntry(s.name, s, ("results/x.csv",), ("stage@a",)) for s in sheets],
            [
                Weights(f"models/tiny/{folder}/denoiser.safetensors", "4.3", "0123456789abcdef" * 4)
                for folder in ("pretrain", "train_reg/fixed/0")
            ],
            restoration=pd.DataFrame(rows, columns=COLUMNS),
            manifest=Path("manifest.csv"),
            parameters={
                "all stages": {"seed": 1, "lambda": None},
                "pretrain": {"channels": [16, 32], "sizes": {"test": 0.5}, "compile": True},
            },
            paper=TableEntry("Beside the paper", BESIDE, (), ("report",)),
            again="Set `profile: tiny` anew.",
        )
    source = folder / "report.tex"
    source.write_text(text, encoding="utf-8")
    return source


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("document")).read_text(encoding="utf-8")


# --- what it says --------------------------------------------------------------------------


def test_numbers_are_those_of_the_ledger(text: str) -> None:
    rows = [" ".join(row.split()) for row in re.findall(r"\\textbf\{PnP-ReG .*?\\\\", text, re.S)]
    first, second = (row.split(" & ") for row in rows)
    assert first[1:4] == ["--", "$-$0.121~dB", "[$-$0.360, +0.060]"]
    assert second[1:4] == ["+1.74", "+12.110", "--"]
    assert "{not reproduced}" in first[4]
    assert "The mean difference is $-$0.12~dB [$-$0.36, +0.06]." in text
    assert "1 reproduced, 1 not reproduced, 0 inconclusive" in " ".join(text.split())


def test_the_abstract_counts_what_was_run(text: str) -> None:
    abstract = " ".join(text.split("{abstract}")[1].split())
    # Two files of the same weights are one network.
    assert "weights of 1 network are behind this document (training seeds 0, 1)" in abstract
    assert "2 methods were compared in 1 restoration task on 4 test images" in abstract
    assert "written before the first result; all have been changed since" in abstract
    assert abstract.count("Only 4 images") == 1


def test_figures_stand_with_their_tables_settings_and_hashes(text: str) -> None:
    assert text.index("figures/line.pdf") < text.index("tables/kinds_intervals")
    assert "It says 3 of 4." in text
    assert "0123456789abcdef" * 4 in text
    assert r"\texttt{channels}~16, 32; \texttt{sizes.\allowbreak{}test}~0.5" in text
    assert r"\texttt{seed}~1; \texttt{lambda}~null" in text
    assert r"\texttt{compile}~true" in text


def test_a_rule_that_was_changed_says_so(text: str) -> None:
    said = re.findall(r"\\emph\{Changed after results were seen\.\} (.*)", text)
    assert said == [r"It had no bound of $10^{-13}$."]


def test_words_and_the_way_to_make_it_stand_at_the_end(text: str) -> None:
    words, _, again = text.partition("\\section{Words}")[2].partition("\\section{How to make")
    assert words.count("\\item ") == len(WORDS)
    assert r"\item \textbf{D, the denoiser:} a network" in words
    assert r"Set \texttt{profile: tiny} anew." in again
    assert text.index("\\end{longtable}") < text.index("\\input{tables/paper}\n")


def test_what_tex_would_read_is_escaped(text: str) -> None:
    assert r"20~\%, D\_$\sigma$ \& \{\#1\} \$5" in text
    assert r"$A^\top$(Ax $-$ y)$\|$ $\times$ $\lambda$ $\pm$ 1 $\to$ $\varphi$" in text
    assert "``e'' [U+4E2D]" in text
    assert text.isascii()


# --- tables --------------------------------------------------------------------------------


def test_numbers_stand_in_columns_with_room_for_each() -> None:
    tex = to_latex(KINDS)
    formats = re.findall(r"table-format=\{(.*?)\}\]", tex)
    assert formats == ["2.3", "4.0", "+2.2", "1.1e-2", r"2.1$\times$", r"2.0\textdagger{}"]
    assert r"PnP-GD & \bfseries 27.86 & 1500 & +0.00 & 2.6e-15 & 57.1$\times$ & 10" in tex
    assert r"RED & \secondbest{26.74} 26.74 & 150 & -12.88 & 1.9e-7 & {--} & 9 & \textbf{c}" in tex
    assert "[$-$0.36" not in tex


def test_intervals_stand_beneath_their_numbers_on_demand() -> None:
    tex = to_latex(KINDS, intervals=True)
    assert tex.count("\\tiny") == 1
    assert re.search(r"RED & .* \\\\\[-3pt\]\n +& \{\\tiny \[\$-\$0.36, \+0.06\]\} &", tex)
    assert "In brackets, intervals." in tex


def test_too_many_intervals_go_on_in_another_table() -> None:
    tex = to_latex(wide(10), intervals=True)
    headers = re.findall(r"Method & (.*) \\\\\n", tex)
    assert [header.count("Task") for header in headers] == [5, 5]
    assert [int(n) for n in re.findall(r"Task\\\\ (\d+)", tex)] == list(range(10))
    assert tex.count("\\label{tab:wide}") == 1


# --- compilation ---------------------------------------------------------------------------


@needs_latex
def test_it_compiles_to_the_same_bytes_anywhere(tmp_path: Path) -> None:
    sheets = (KINDS, wide(10))
    made = [compile_document(write(tmp_path / name, sheets)) for name in ("one", "another")]
    first, second = (pdf.read_bytes() for pdf in made if pdf)
    assert first == second
    assert first.startswith(b"%PDF")
    assert b"CreationDate" not in first
    assert str(tmp_path).encode() not in first
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "figures", "tables", "manifest.csv", "report.tex", "report.pdf"
    }  # fmt: skip


Edit = Callable[[str], str]


def add(latex: str) -> Edit:
    return lambda text: text.replace("\\end{document}", f"{latex}\n\\end{{document}}")


@needs_latex
@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (add("\\mbox{" + "long " * 60 + "}"), "Overfull"),
        (add("\\ref{nothing}"), "`nothing' on page"),
        (add("\\usefont{OT1}{cmtt}{m}{n}\\char200"), "Missing character"),
        (add("\\undefined"), "Undefined control sequence"),
        (add("\\includegraphics{figures/absent.pdf}"), "absent.pdf' not found"),
    ],
)
def test_what_no_reader_may_meet_fails(
    edit: Edit, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "report")
    source.write_text(edit(source.read_text()))
    stale = source.with_suffix(".pdf")
    stale.write_bytes(b"of other numbers")
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        compile_document(source)
    assert "\n" not in str(caught.value)
    assert str(source) in str(caught.value)
    assert says in capsys.readouterr().out
    assert not stale.exists()


@needs_latex
def test_a_table_that_is_too_wide_is_named(tmp_path: Path) -> None:
    sheet = replace(KINDS, name="broad", header=("Method " * 40, *KINDS.header[1:]))
    with pytest.raises(InputError, match=r"^tables/broad_intervals\.tex: LaTeX says: Overfull"):
        compile_document(write(tmp_path / "report", (sheet,)))


def test_without_latex_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "report")
    stale = source.with_suffix(".pdf")
    stale.write_bytes(b"of other numbers")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compile_document(source) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert "report.pdf: not made, as LaTeX is not installed" in line
    assert not stale.exists()


@needs_latex
def test_without_a_package_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "report")
    source.write_text(source.read_text().replace("{siunitx}", "{absent-package}"))
    assert compile_document(source) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert "`absent-package.sty' not found" in line
    assert not source.with_suffix(".pdf").exists()


@needs_latex
@pytest.mark.parametrize(
    "profile", sorted(p.parent.name for p in ROOT.glob("reports/*/report.tex"))
)
def test_the_committed_document_compiles(profile: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "reports" / profile, tmp_path / "report")
    assert compile_document(tmp_path / "report" / "report.tex")
