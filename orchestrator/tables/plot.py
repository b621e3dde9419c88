"""The plot of a table as PNG: bars over its rows, or lines over what they or its columns vary."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.report.plots import (
    BLACK,
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    RULE,
    SKY,
    VERMILLION,
)
from orchestrator.report.table import number
from orchestrator.tables.layout import (
    INCOMPLETE,
    Block,
    beside,
    blocks,
    flat,
    is_incomplete,
    paper_figures,
    plain_name,
)
from orchestrator.tables.result import Cell, Column, Row, TableResult

DPI = 150
PER_LINE = 3
"""Panels beside each other."""
_CHANCE = 50.0
_RHO = "rho="
_COLOURS = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK, MUTED)
_DASHES = ("-", "--", ":", "-.")
_TITLE = 40
"""Characters of a panel's title in one line."""
_HEIGHT, _WIDTH = 0.27, 3.5
"""Inches of a row of bars, and of a panel."""
_DIAMOND: dict[str, Any] = {
    "marker": "D",
    "mfc": "white",
    "mec": BLACK,
    "mew": 1.1,
    "ms": 5,
    "ls": "none",
    "zorder": 5,
}


def save_plot(result: TableResult, path: Path) -> None:
    """Draw the table into a PNG file; equal results give equal bytes."""
    # A dollar sign of a label is a dollar sign.
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        # A character without a glyph is drawn as a box, which says enough.
        warnings.filterwarnings("ignore", message="Glyph")
        # Without the writer's version and date, so that equal numbers give equal files.
        draw(result).savefig(path, format="png", dpi=DPI, metadata={"Software": None})


def draw(result: TableResult) -> Figure:
    """Lines where the rows are numbers or the columns contaminations, bars otherwise; intervals are 95 %."""
    if result.axis is not None:
        figure = _lines_over_rows(result, result.axis)
    elif len(result.columns) > 1 and all(_contamination(c) is not None for c in result.columns):
        figure = _lines_over_contamination(result)
    else:
        figure = _bars(result)
    _finish(figure, result)
    return figure


def _bars(result: TableResult) -> Figure:
    """A panel per column, bars from chance level, a gap between groups."""
    groups = blocks(result)
    places = _places(groups)
    height = _HEIGHT * (max(places.values()) + 1) + 0.5
    figure, panels = _panels(len(result.columns), height)
    low, high = _range(result)
    for column, axes in zip(result.columns, panels, strict=True):
        for block, colour in zip(groups, cycle(_COLOURS)):
            for row in block.rows:
                cell = result.cells.get((row.name, column.name))
                _bar(axes, cell, places[row.name], colour, high, block.heading)
        _paper_marks(axes, result, column, places, horizontal=True)
        # Room at the right for the numbers.
        axes.set_xlim(low, high + 0.3 * (high - low))
        axes.set_ylim(max(places.values()) + 0.6, -0.6)
        axes.set_xticks([tick for tick in range(0, 101, 10) if low <= tick <= high])
        axes.set_title(_title(column.label), fontsize=10, loc="left")
        axes.grid(axis="x", color=GRID)
        axes.axvline(_CHANCE, color=MUTED, lw=0.8)
        axes.tick_params(axis="y", length=0)
    labels = [textwrap.fill(row.label, 34) for block in groups for row in block.rows]
    panels[0].set_yticks(list(places.values()), labels)
    _label_x(panels, "AUROC, %")
    return figure


def _places(groups: Sequence[Block]) -> dict[str, float]:
    """Row name -> its height, downwards, with a gap of half a row between groups."""
    names = [(index, row.name) for index, block in enumerate(groups) for row in block.rows]
    return {name: place + 0.5 * index for place, (index, name) in enumerate(names)}


def _bar(axes: Axes, cell: Cell | None, y: float, colour: str, right: float, label: str) -> None:
    if cell is None:
        # Beside the values, where no mark of the paper covers it.
        axes.text(right, y, "  not\n  measured", va="center", fontsize=7, color=MUTED)
        return
    axes.barh(y, cell.mean - _CHANCE, 0.72, left=_CHANCE, color=colour, alpha=0.75, lw=0, label=label)
    axes.hlines(y, cell.low, cell.high, color=INK, lw=1.2, zorder=4)
    mark = INCOMPLETE if is_incomplete(cell) else ""
    axes.text(right, y, f"  {number(cell.mean)}{mark}", va="center", fontsize=8, color=INK)


def _lines_over_rows(result: TableResult, axis: str) -> Figure:
    """A panel per column, a line per group; a row that is no number is a level line."""
    groups = blocks(result)
    figure, panels = _panels(len(result.columns), 2.6)
    places = {row.name: x for row in result.rows if (x := _number(plain_name(row))) is not None}
    for column, axes in zip(result.columns, panels, strict=True):
        for block, colour in zip(groups, cycle(_COLOURS)):
            cells = _by_place(result, [(places.get(row.name), row.name, column.name) for row in block.rows])
            _line(axes, cells, colour, block.heading)
            others = [row for row in block.rows if row.name not in places]
            for row, dashes in zip(others, cycle(_DASHES[1:])):
                _level(axes, result.cells.get((row.name, column.name)), row, colour, dashes)
        _paper_marks(axes, result, column, places, horizontal=False)
        axes.set_title(_title(column.label), fontsize=10, loc="left")
        axes.set_xticks(sorted(set(places.values())))
    _label_lines(panels, flat(axis))
    return figure


def _lines_over_contamination(result: TableResult) -> Figure:
    """A panel per group, a line per row."""
    groups = blocks(result)
    figure, panels = _panels(len(groups), 3.0)
    places = [(_contamination(column), column.name) for column in result.columns]
    styles = [(colour, dashes) for dashes in _DASHES for colour in _COLOURS]
    names = list(dict.fromkeys(plain_name(row) for row in result.rows))
    for block, axes in zip(groups, panels, strict=True):
        for row in block.rows:
            cells = _by_place(result, [(rho, row.name, column) for rho, column in places])
            colour, dashes = styles[names.index(plain_name(row)) % len(styles)]
            _line(axes, cells, colour, row.label, dashes)
        axes.set_title(_title(block.heading), fontsize=10, loc="left")
        axes.set_xticks([rho for rho, _ in places if rho is not None])
    _label_lines(panels, "contamination ρ")
    return figure


def _by_place(
    result: TableResult, places: Sequence[tuple[float | None, str, str]]
) -> list[tuple[float, Cell]]:
    """The measured cells of (place, row name, column name) with their places, in ascending order."""
    found = [(place, result.cells.get((row, column))) for place, row, column in places if place is not None]
    return sorted(((x, cell) for x, cell in found if cell is not None), key=lambda pair: pair[0])


def _line(
    axes: Axes, cells: Sequence[tuple[float, Cell]], colour: str, label: str, dashes: str = "-"
) -> None:
    """Means with their intervals as a band; an incomplete cell has a hollow mark."""
    places = [place for place, _ in cells]
    axes.fill_between(
        places, [c.low for _, c in cells], [c.high for _, c in cells], color=colour, alpha=0.12, lw=0
    )
    axes.plot(places, [c.mean for _, c in cells], "o", ls=dashes, color=colour, ms=4, lw=1.6, label=label)
    hollow = [(place, cell.mean) for place, cell in cells if is_incomplete(cell)]
    axes.plot(*zip(*hollow, strict=True), "o", color=colour, mfc="white", ms=4) if hollow else None


def _level(axes: Axes, cell: Cell | None, row: Row, colour: str, dashes: str) -> None:
    if cell is not None:
        axes.axhline(cell.mean, color=colour, ls=dashes, lw=1.2, label=row.label)


def _paper_marks(
    axes: Axes, result: TableResult, column: Column, places: Mapping[str, float], horizontal: bool
) -> None:
    """The paper's figures as hollow diamonds, at the place of their row."""
    for paper in beside(result, column):
        found = [
            (figure, places[name]) for name, figure in paper_figures(result, paper).items() if name in places
        ]
        pairs = found if horizontal else [(place, figure) for figure, place in found]
        for x, y in pairs:
            axes.plot(x, y, label="the paper's figure", **_DIAMOND)


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels of ``height`` inches, ``PER_LINE`` in a line."""
    across = min(count, PER_LINE)
    down = math.ceil(count / PER_LINE)
    figure = Figure(figsize=(_WIDTH * across + 1.6, (height + 0.3) * down + 1.1), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[:count]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(RULE)
        axes.tick_params(labelsize=8, color=RULE)
        axes.set_axisbelow(True)
    return figure, list(grid[:count])


def _label_lines(panels: Sequence[Axes], x: str) -> None:
    for index, axes in enumerate(panels):
        axes.grid(axis="y", color=GRID)
        if index % PER_LINE == 0:
            axes.set_ylabel("AUROC, %", fontsize=8)
    _label_x(panels, x)


def _label_x(panels: Sequence[Axes], text: str) -> None:
    """Ticks and label on the lowest panel of each stack."""
    for index, axes in enumerate(panels):
        if index + PER_LINE >= len(panels):
            axes.tick_params(axis="x", labelbottom=True)
            axes.set_xlabel(text, fontsize=8)


def _finish(figure: Figure, result: TableResult) -> None:
    """Title, and a legend below with every name once, where there is something to tell apart."""
    width = int(figure.get_figwidth() * 10)
    title = textwrap.fill(f"{flat(result.title)} ({flat(result.data)})", width)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        labels = [textwrap.fill(label, 60) for label in handles]
        longest = max(len(line) for label in labels for line in label.split("\n"))
        columns = max(1, min(len(labels), width // (longest + 6)))
        figure.legend(
            list(handles.values()), labels, loc="outside lower left", ncols=columns, fontsize=8, frameon=False
        )


def _range(result: TableResult) -> tuple[float, float]:
    """Ends of the axis of the bars: multiples of five around chance level and all that is drawn."""
    values = [value for cell in result.cells.values() for value in (cell.low, cell.mean, cell.high)]
    for column in result.columns:
        values += [f for paper in beside(result, column) for f in paper_figures(result, paper).values()]
    low, high = min([_CHANCE, *values]), max([_CHANCE + 5, *values])
    return 5.0 * math.floor(low / 5), 5.0 * math.ceil(high / 5)


def _title(text: str) -> str:
    """Of a panel, broken where it would reach into the next: after its arrow, or between words."""
    words = flat(text)
    return textwrap.fill(words.replace("→", "→ ") if len(words) > _TITLE else words, _TITLE)


def _contamination(column: Column) -> float | None:
    """The rho that a column stands for, or None."""
    return _number(column.name.removeprefix(_RHO)) if column.name.startswith(_RHO) else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
