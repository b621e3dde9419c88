"""A table as Markdown with a GitHub table, as a file of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from orchestrator.tables.layout import ClaimLine, Entry, Layout

_SPECIAL = re.compile(r"[\\`*\[<|~$]|(?<!\w)_|_(?!\w)")
_ENTITY = re.compile(r"&(?=#?\w+;)")


def markdown(layout: Layout, picture: str) -> str:
    """Title, question, table, notes, claims, what is missing, provenance.

    Args:
        layout: of the table.
        picture: name of its plot, in the same folder.
    """
    parts = [
        f"# {escaped(layout.title)}",
        escaped(layout.question),
        escaped(layout.caption),
        _table(layout),
        "  \n".join(map(escaped, layout.notes)),
        f"![{escaped(layout.title)}]({picture})",
        *_section("Claims of the paper", map(_claim, layout.claims)),
        *_section("Not measured here", map(escaped, layout.missing)),
        escaped(layout.provenance),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, inside and outside of a table."""
    return _ENTITY.sub("&amp;", _SPECIAL.sub(r"\\\g<0>", text))


def _table(layout: Layout) -> str:
    headings = [layout.stub, *(heading.text for heading in layout.headings)]
    lines = [[escaped(heading) for heading in headings], ["---", *["--:"] * (len(headings) - 1)]]
    for block in layout.blocks:
        if block.heading:
            lines.append([f"*{escaped(block.heading)}*", *[""] * (len(headings) - 1)])
        lines += [[escaped(row.label), *map(_cell, layout.entries(row))] for row in block.rows]
    return "\n".join(map(_line, lines))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(entry: Entry) -> str:
    # An interval is no link, so that its brackets stay legible in the source.
    text = f"**{entry.text}**" if entry.best else entry.text
    return f"{text} {entry.interval}{entry.mark}".strip()


def _section(title: str, lines: Iterable[str]) -> list[str]:
    items = [f"- {line}" for line in lines]
    return [f"## {title}", "\n".join(items)] if items else []


def _claim(claim: ClaimLine) -> str:
    words = f"**{claim.verdict}**: {escaped(claim.text)}"
    return f"{words}: {claim.difference}" if claim.difference else words
