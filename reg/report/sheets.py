"""A table of the report as LaTeX (booktabs, siunitx) and as Markdown."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd

LONG_TABLE, PAGE = 40, 60  # lines beyond which a table needs smaller letters, another page
WIDE_TABLE = 9  # columns beyond which it needs smaller letters and gaps
WIDE_INTERVALS = 6  # columns with intervals beyond which it goes on in another table

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    " %": r"~\%",
    " dB": "~dB",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "σₙ": r"$\sigma_n$",
    "σ₀": r"$\sigma_0$",
    "σ²": r"$\sigma^2$",
    "Aᵀ": r"$A^\top$",
    "σ": r"$\sigma$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "τ": r"$\tau$",
    "ρ": r"$\rho$",
    "φ": r"$\varphi$",
    "∇": r"$\nabla$",
    "√": r"$\surd$",
    "‖": r"$\|$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\to$",
    "←": r"$\leftarrow$",
    "ß": r"\ss{}",
    "°": r"\textdegree{}",
    "²": r"\textsuperscript{2}",
    "†": r"\textdagger{}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
}
SPECIAL = re.compile(
    r"`(?P<code>[^`]+)`|(?P<symbol>(?<!\w)(?:L_[DG]|s_k)(?!\w))|"
    r"(?<![\w.])(?P<mantissa>\d(?:\.\d+)?)e(?P<power>[+-]\d+)(?!\w)|"
    r"(?P<minus>(?<![\w.)])-(?=\d))|"
    + "|".join(re.escape(text) for text in sorted(LATEX, key=len, reverse=True))
    + r"|(?P<other>[^\x20-\x7e])"
)


@dataclass(frozen=True)
class Cell:
    """Text of one cell; rank 1 is set bold, rank 2 underlined; an interval may belong to it."""

    text: str
    rank: int = 0
    interval: str = ""


Block = tuple[str, tuple[tuple[Cell, ...], ...]]  # heading or "", rows


@dataclass(frozen=True)
class Sheet:
    """One table.

    `numbers` goes to the csv; `header` and `blocks` of rows (each with an optional heading) are
    what is printed; the first `text_columns` columns are set left, the others right or, in LaTeX,
    at the decimal point. A line end in the header stacks what it separates. `intervals` says what
    the cells' intervals are, where they have any.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    blocks: tuple[Block, ...]
    numbers: pd.DataFrame
    text_columns: int = 1
    intervals: str = ""


def latex_text(text: str) -> str:
    """Text as pdflatex prints it; one pass, no rescan. What stands in backticks is code.

    A letter that has no command becomes its base letter, or [U+4E2D] where it has none, since
    names of images may hold any.
    """

    def command(found: re.Match[str]) -> str:
        if found["code"]:
            return latex_code(found["code"])
        if found["symbol"]:
            return f"${found['symbol']}$"
        if found["power"]:
            factor = "" if found["mantissa"] == "1" else rf"{found['mantissa']}\times "
            return f"${factor}10^{{{int(found['power'])}}}$"
        if found["minus"]:
            return LATEX["−"]
        return _base_letter(found["other"]) if found["other"] else LATEX[found[0]]

    return SPECIAL.sub(command, text)


def latex_code(text: object) -> str:
    """A path or command in typewriter, which may go on in the next line after its marks."""
    letters = (LATEX.get(c, c if c.isascii() else _base_letter(c)) for c in str(text))
    broken = re.sub("[/@.=]", r"\g<0>\\allowbreak{}", "".join(letters))
    return f"\\texttt{{{broken}}}"


def _base_letter(letter: str) -> str:
    if letter.isspace():
        return " "
    base = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return base if base.isalnum() else f"[U+{ord(letter):04X}]"


def to_latex(sheet: Sheet, intervals: bool = False) -> str:
    """`table` environments that need booktabs and siunitx, one per page.

    Numbers are aligned at the decimal point. With `intervals`, each row has those of its cells
    beneath it.
    """
    caption = f"{sheet.caption} {sheet.intervals}" if intervals else sheet.caption
    first = f"\\caption{{{latex_text(caption)}}}\n  \\label{{tab:{sheet.name}}}"
    further = "\\addtocounter{table}{-1}\n  \\caption{(continued)}"
    pages = list(_pages(sheet, intervals))
    captions = [first, *[further] * (len(pages) - 1)]
    small = _lines(sheet.blocks, intervals) > LONG_TABLE
    tables = [
        _latex_table(page, caption, intervals, small)
        for page, caption in zip(pages, captions, strict=True)
    ]
    head = ["% needs \\usepackage{booktabs,siunitx}"]
    if any("\\secondbest" in table for table in tables):
        head.append(SECOND_BEST)
    return "\n".join([*head, *tables])


# What stands before a number must have a width, or siunitx takes it for a change of font.
SECOND_BEST = r"\ProvideDocumentCommand{\secondbest}{m}{\rlap{\underline{\phantom{#1}}}\kern.01pt}"
NUMBERS = (
    r"\sisetup{detect-weight, mode=text, table-align-text-before=false, retain-explicit-plus, "
    r"group-digits=integer, group-minimum-digits=4, group-separator={,}}"
)
NUMBER = re.compile(
    r"(?P<sign>[+−-]?)(?P<whole>[\d,]+)(?:\.(?P<decimals>\d+))?(?:e(?P<power>[+-]?\d+))?"
    r"(?P<mark>[×†]?)"
)


def _pages(sheet: Sheet, intervals: bool) -> Iterator[Sheet]:
    """The sheet in parts that fit on a page: columns first, then blocks."""
    columns = len(sheet.header) - sheet.text_columns
    parts = -(-columns // WIDE_INTERVALS) if intervals else 1
    lines = _lines(sheet.blocks, intervals)
    share = lines / -(-lines // PAGE)  # of a page, so that the last one is not nearly empty
    for part in range(parts):
        first, end = (sheet.text_columns + columns * k // parts for k in (part, part + 1))
        keep = [*range(sheet.text_columns), *range(first, end)]
        pages: list[list[Block]] = [[]]
        for heading, rows in sheet.blocks:
            block = (heading, tuple(tuple(row[i] for i in keep) for row in rows))
            filled = _lines(pages[-1], intervals) >= share
            if filled or (pages[-1] and _lines([*pages[-1], block], intervals) > PAGE):
                pages.append([])
            pages[-1].append(block)
        header = tuple(sheet.header[i] for i in keep)
        yield from (replace(sheet, header=header, blocks=tuple(blocks)) for blocks in pages)


def _lines(blocks: Sequence[Block], intervals: bool) -> int:
    return sum(
        bool(heading) + sum(1 + (intervals and any(cell.interval for cell in row)) for row in rows)
        for heading, rows in blocks
    )


def _latex_table(sheet: Sheet, caption: str, intervals: bool, small: bool) -> str:
    cells = [row for _, rows in sheet.blocks for row in rows]
    formats = [
        _number_format([row[i] for row in cells])
        for i in range(sheet.text_columns, len(sheet.header))
    ]
    columns = "l" * sheet.text_columns + "".join(
        f"S[table-format={{{form}}}]" if form else "r" for form in formats
    )
    numeric = [*[False] * sheet.text_columns, *map(bool, formats)]
    wide = len(sheet.header) > WIDE_TABLE
    headings = [_latex_heading(h, n) for h, n in zip(sheet.header, numeric, strict=True)]
    lines = [
        "\\begin{table}",
        "  \\centering",
        f"  {caption}",
        "  \\smallskip",
        f"  \\{'scriptsize' if wide or small else 'footnotesize'}",
        f"  \\setlength{{\\tabcolsep}}{{{2 if wide else 4}pt}}",
        f"  {NUMBERS}",
        f"  \\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        "    \\toprule",
        f"    {' & '.join(headings)} \\\\",
    ]
    for heading, rows in sheet.blocks:
        lines.append("    \\midrule")
        if heading:
            lines.append(
                f"    \\multicolumn{{{len(sheet.header)}}}{{@{{}}l}}"
                f"{{\\emph{{{latex_text(heading)}}}}} \\\\"
            )
        for row in rows:
            printed = [_latex_cell(c, n) for c, n in zip(row, numeric, strict=True)]
            beneath = intervals and any(cell.interval for cell in row)
            lines.append(f"    {' & '.join(printed)} \\\\{'[-3pt]' if beneath else ''}")
            if beneath:
                found = [_latex_interval(cell.interval) for cell in row]
                lines.append(f"    {' & '.join(found).strip()} \\\\[1pt]")
    lines += ["    \\bottomrule", "  \\end{tabular}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def _number_format(cells: Sequence[Cell]) -> str:
    """What siunitx must leave room for, as `+2.2`; empty for a column without numbers."""
    found = [match for cell in cells if (match := NUMBER.fullmatch(cell.text))]
    if not found:
        return ""
    room = {
        part: max(len((match[part] or "").replace(",", "")) for match in found)
        for part in ("sign", "whole", "decimals")
    }
    form = f"{'+' * room['sign']}{room['whole']}.{room['decimals']}"
    if powers := [str(int(match["power"])) for match in found if match["power"]]:
        signed = "-" if any(power.startswith("-") for power in powers) else ""
        form += f"e{signed}{max(len(power.lstrip('-')) for power in powers)}"
    return form + latex_text(max((match["mark"] for match in found), key=len))


def _latex_heading(text: str, numeric: bool) -> str:
    stacked = "\\\\ ".join(latex_text(part) for part in text.split("\n"))
    if "\n" in text:
        stacked = f"\\shortstack{{{stacked}}}"
    return f"{{{stacked}}}" if numeric else stacked


def _latex_cell(cell: Cell, numeric: bool) -> str:
    number = NUMBER.fullmatch(cell.text) if numeric else None
    if number is None:
        text = latex_text(cell.text)
        text = {1: f"\\textbf{{{text}}}", 2: f"\\underline{{{text}}}"}.get(cell.rank, text)
        return f"{{{text}}}" if numeric and text else text
    printed = cell.text.replace("−", "-").replace(",", "").removesuffix(number["mark"])
    if number["power"]:
        printed = f"{printed.partition('e')[0]}e{int(number['power'])}"
    marks = {1: "\\bfseries ", 2: f"\\secondbest{{{latex_text(cell.text)}}} "}
    return f"{marks.get(cell.rank, '')}{printed}{latex_text(number['mark'])}"


def _latex_interval(text: str) -> str:
    return f"{{\\tiny {latex_text(text)}}}" if text else ""


def to_markdown(sheet: Sheet) -> str:
    """The same table as GitHub renders it; block headings become rows of their own."""
    align = ["---"] * sheet.text_columns
    align += ["--:"] * (len(sheet.header) - sheet.text_columns)
    header = " | ".join(sheet.header).replace("\n", "<br>")
    lines = [f"| {header} |", f"|{'|'.join(align)}|"]
    for heading, rows in sheet.blocks:
        if heading:
            lines.append(f"| *{heading}* |{' |' * (len(sheet.header) - 1)}")
        lines += [f"| {' | '.join(_markdown_cell(c) for c in row)} |" for row in rows]
    return "\n".join(lines)


def _markdown_cell(cell: Cell) -> str:
    return {1: f"**{cell.text}**", 2: f"<ins>{cell.text}</ins>"}.get(cell.rank, cell.text)
