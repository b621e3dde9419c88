"""A table as CSV in long form, a line per row and column, every number unrounded."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO

from orchestrator.tables.layout import beside, elsewhere, paper_figures
from orchestrator.tables.result import Cell, TableResult

_NUMBERS = ("mean", "low", "high", "class_std", "seed_std", "units", "planned")
FIELDS = ("row", "column", *_NUMBERS, "paper")


def long_csv(result: TableResult) -> str:
    """The lines with a heading; what was not measured, or the paper does not give, is an empty field.

    AUROC in percent, standard deviations in points. Columns of the paper that are not measured follow, named
    by dataset and label.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows(_measured(result))
    writer.writerows(_published(result))
    return text.getvalue()


def _measured(result: TableResult) -> Iterable[list[object]]:
    for column in result.columns:
        figures: dict[str, float] = {}
        for paper in beside(result, column):
            figures = {**paper_figures(result, paper), **figures}
        for row in result.rows:
            cell = result.cells.get((row.name, column.name))
            yield [row.name, column.name, *_numbers(cell), figures.get(row.name)]


def _published(result: TableResult) -> Iterable[list[object]]:
    for paper in elsewhere(result):
        for name, figure in paper_figures(result, paper).items():
            yield [name, f"{paper.dataset} {paper.label}", *_numbers(None), figure]


def _numbers(cell: Cell | None) -> list[float | None]:
    return [None if cell is None else getattr(cell, name) for name in _NUMBERS]
