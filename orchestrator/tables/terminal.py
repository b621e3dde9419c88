"""A table for a terminal of any width: cells break into two lines, and then the table into several."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.tables.layout import Block, Entry, Heading, Layout, Strip

_GAP = 2
_CELL, _FOLDED = len("61.0 [59.5, 62.5]"), len("[59.5, 62.5]")
"""Width of a usual cell in one line, and in two."""
_VERDICTS = {"holds": "green", "does not hold": "red", "not clear": "yellow", "not measured here": "dim"}


@dataclass(frozen=True)
class TerminalTable:
    """Rich renderable that fits itself to the width of its console."""

    layout: Layout

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        layout = self.layout
        yield Text(layout.title, style="bold")
        yield Text(layout.question)
        yield Text(layout.caption, style="dim")
        yield from _tables(layout, options.max_width)
        if layout.notes:
            yield Text("\n" + "\n".join(layout.notes), style="dim")
        if layout.claims:
            yield Text("\nClaims of the paper", style="bold")
            yield _claims(layout)
        if layout.missing:
            yield Text("\nNot measured here", style="bold")
            yield _bullets(layout.missing)
        yield Text(f"\n{layout.provenance}", style="dim")


@dataclass(frozen=True)
class _Frame:
    """Width of the label column in characters, and whether a cell has two lines."""

    label: int
    folded: bool

    def cells(self, strip: Strip, index: int) -> dict[str, Text]:
        """Row name -> what one printed column of a strip shows there, on the left of its width."""
        entries = {name: row[index] for name, row in strip.entries.items()}
        mark = max((len(entry.mark) for entry in entries.values()), default=0)
        width = self.width(strip, index)
        return {name: _cell(entry, self.folded, mark, width) for name, entry in entries.items()}

    def width(self, strip: Strip, index: int) -> int:
        """Of one printed column of a strip, with the gap before it."""
        entries = [row[index] for row in strip.entries.values()]
        mark = max((len(entry.mark) for entry in entries), default=0)
        lines = [line for entry in entries for line in _lines(entry, self.folded, mark)]
        return _GAP + max(map(cell_len, [*lines, *_heading_lines(strip.headings[index], self.folded)]))

    def total(self, strips: Sequence[Strip]) -> int:
        """Of strips beside each other, without the label column."""
        return sum(self.width(strip, index) for strip in strips for index in range(len(strip.headings)))


def _tables(layout: Layout, width: int) -> Iterator[RenderableType]:
    frame = _frame(layout, width)
    for strips in _packed(layout.strips, frame, width):
        yield Text()
        yield _table(layout, strips, frame)


def _frame(layout: Layout, width: int) -> _Frame:
    """The roomiest one of those that break the measured columns into the fewest tables, none too wide."""
    labels = [layout.stub, *(row.label for block in layout.blocks for row in block.rows)]
    longest = max(map(cell_len, labels))
    longest_word = max(cell_len(word) for label in labels for word in label.split() or [""])
    tight = max(longest_word, min(longest, width // 3))
    measured = [strip for strip in layout.strips if not strip.headings[0].paper]

    def cost(frame: _Frame) -> tuple[bool, int]:
        packs = _packed(measured, frame, width)
        return any(frame.label + frame.total(pack) > width for pack in packs), len(packs)

    return min((_Frame(longest, False), _Frame(tight, False), _Frame(tight, True)), key=cost)


def _packed(strips: Sequence[Strip], frame: _Frame, width: int) -> list[list[Strip]]:
    """Strips in order, as many to a table as fit; one that alone is too wide has its own."""
    packs: list[list[Strip]] = []
    for strip in strips:
        if packs and frame.label + frame.total([*packs[-1], strip]) <= width:
            packs[-1].append(strip)
        else:
            packs.append([strip])
    return packs


def _table(layout: Layout, strips: Sequence[Strip], frame: _Frame) -> RenderableType:
    """Heading, then per score its subheading and rows: tables of equal widths, as rich spans no cells."""
    head = _grid(strips, frame)
    columns = [_heading_lines(heading, frame.folded) for strip in strips for heading in strip.headings]
    depth = max(map(len, columns))
    # From below, so that headings of one line stand on the rule.
    texts = ["\n" * (depth - len(lines)) + "\n".join(lines) for lines in columns]
    head.add_row(Text("\n" * (depth - 1) + layout.stub), *(Text(text, justify="right") for text in texts))
    parts: list[RenderableType] = [head, Text("─" * (frame.label + frame.total(strips)), style="dim")]
    for block in layout.blocks:
        body = _body(block, strips, frame)
        if body.row_count:
            parts += [Text(block.heading, style="italic")] if block.heading else []
            parts.append(body)
    return Group(*parts)


def _grid(strips: Sequence[Strip], frame: _Frame) -> Table:
    table = Table.grid()
    table.add_column(width=frame.label)
    for strip in strips:
        for index, heading in enumerate(strip.headings):
            style = "dim" if heading.paper else ""
            table.add_column(no_wrap=True, width=frame.width(strip, index), style=style)
    return table


def _body(block: Block, strips: Sequence[Strip], frame: _Frame) -> Table:
    """The rows of a block; one that has nothing in these strips, which the paper's can lack, is left out."""
    table = _grid(strips, frame)
    columns = [frame.cells(strip, index) for strip in strips for index in range(len(strip.headings))]
    for row in block.rows:
        cells = [column[row.name] for column in columns]
        if any(cell.plain.strip() for cell in cells):
            table.add_row(Text(row.label), *cells)
    return table


def _lines(entry: Entry, folded: bool, mark: int) -> list[str]:
    """An entry in one or two lines; ``mark``: characters kept for the mark, so that numbers stay aligned."""
    if not entry.interval:
        return [entry.text]
    interval = entry.interval + entry.mark.ljust(mark)
    return [entry.text + " " * mark, interval] if folded else [f"{entry.text} {interval}"]


def _cell(entry: Entry, folded: bool, mark: int, width: int) -> Text:
    # Justified here, because rich would take the room of a mark away.
    lines = [line.rjust(width) for line in _lines(entry, folded, mark)]
    text = Text("\n".join(lines))
    start = len(lines[0]) - len(lines[0].lstrip())
    text.stylize("bold" if entry.best else "", start, start + len(entry.text))
    return text


def _heading_lines(heading: Heading, folded: bool) -> list[str]:
    """Its lines, broken between words and after an arrow where they are wider than a usual cell."""
    width = _FOLDED if folded else _CELL
    lines = [heading.first, *([heading.second] if heading.second else [])]
    return [part for line in lines for part in _broken(line, width)]


def _broken(text: str, width: int) -> list[str]:
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text.replace("→", "→ "), width, break_long_words=False, break_on_hyphens=False)


def _claims(layout: Layout) -> RenderableType:
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for claim in layout.claims:
        words = f"{claim.text}: {claim.difference}" if claim.difference else claim.text
        table.add_row(Text(claim.verdict, style=_VERDICTS[claim.verdict]), Text(words))
    return table


def _bullets(lines: Sequence[str]) -> RenderableType:
    return Group(*(Padding(Text(line), (0, 0, 0, 2)) for line in lines))
