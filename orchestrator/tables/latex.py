r"""A table as LaTeX: a ``table`` environment to ``\input``, which needs the package booktabs alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from orchestrator.tables.layout import Block, ClaimLine, Entry, Layout

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "−": "$-$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\ldots{}",
    "†": r"$^\dagger$",
    "ρ": r"$\rho$",
    "τ": r"$\tau$",
    "λ": r"$\lambda$",
    "\u03c3": r"$\sigma$",
    "μ": r"$\mu$",
}
_LAST_OF_LATIN = "\u017f"


def latex(layout: Layout) -> str:
    """The environment, with caption, notes, claims, what is missing and provenance."""
    below = [
        *map(escaped, layout.notes),
        *map(_claim, layout.claims),
        *(f"Not measured here: {escaped(line)}" for line in layout.missing),
        escaped(layout.provenance),
    ]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(layout.title)}. {escaped(layout.question)} {escaped(layout.caption)}}}",
        r"\small",
        *_tabular(layout),
        r"\par\medskip",
        r"\begin{minipage}{\linewidth}\footnotesize\raggedright",
        *(rf"{line}\par" for line in below),
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is; a character it may have no glyph for is named by its code."""
    joined = "".join(map(_character, text.replace("->", "→")))
    # Two hyphens, as of an option of a command, would become a dash.
    return re.sub("-(?=-)", "-{}", joined)


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    known = " " <= character <= _LAST_OF_LATIN and character.isprintable()
    return character if known else f"[U+{ord(character):04X}]"


def _tabular(layout: Layout) -> Iterable[str]:
    width = len(layout.headings)
    yield rf"\begin{{tabular}}{{l{'r' * width}}}"
    yield r"\toprule"
    yield _line([escaped(layout.stub), *(escaped(heading.first) for heading in layout.headings)])
    if any(heading.second for heading in layout.headings):
        yield _line(["", *(escaped(heading.second) for heading in layout.headings)])
    for block in layout.blocks:
        yield r"\midrule"
        yield from _block(layout, block, width)
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _block(layout: Layout, block: Block, width: int) -> Iterable[str]:
    if block.heading:
        yield rf"\multicolumn{{{width + 1}}}{{l}}{{\emph{{{escaped(block.heading)}}}}} \\"
    for row in block.rows:
        yield _line([escaped(row.label), *map(_cell, layout.entries(row))])


def _line(cells: Sequence[str]) -> str:
    # A line that begins with a bracket would be read as an option of the line break before it.
    first = f"{{}}{cells[0]}" if cells[0].startswith(("[", "*")) else cells[0]
    return rf"{' & '.join([first, *cells[1:]])} \\"


def _cell(entry: Entry) -> str:
    text = rf"\textbf{{{escaped(entry.text)}}}" if entry.best else escaped(entry.text)
    return f"{text} {entry.interval}{escaped(entry.mark)}".strip()


def _claim(claim: ClaimLine) -> str:
    words = rf"\textbf{{{escaped(claim.verdict)}}}: {escaped(claim.text)}"
    return f"{words}: {escaped(claim.difference)}" if claim.difference else words
