"""A measured table: cells with intervals, the paper's figures, and what became of its claims.

AUROC is in percent, higher = better; differences are in points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["holds", "does not hold", "not clear", "not measured"]


@dataclass(frozen=True)
class Row:
    """A row as printed: ``name`` addresses it, e.g. ``mmd.knn``; ``group`` is its score, or empty."""

    name: str
    label: str
    group: str = ""


@dataclass(frozen=True)
class Column:
    """A column as printed: ``name`` addresses it, e.g. ``photo->sketch`` or ``rho=0.1``."""

    name: str
    label: str


@dataclass(frozen=True)
class Cell:
    """Mean AUROC over seeds, then classes (then pairs).

    Attributes:
        low, high: 95 % interval of a bootstrap that draws classes, and in each its seeds.
        class_std: standard deviation over classes of their means over seeds; None with one class.
        seed_std: standard deviation over seeds of their means over classes; None with one seed.
        units: finished units behind it.
        planned: units it should have; fewer finished ones make the cell incomplete.
    """

    mean: float
    low: float
    high: float
    class_std: float | None
    seed_std: float | None
    units: int
    planned: int


@dataclass(frozen=True)
class PaperFigures:
    """A column of the paper: row name -> its figure.

    ``column`` is the measured column of the same pair, if this run has it.
    """

    label: str
    dataset: str
    figures: Mapping[str, float]
    column: str | None


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what was measured.

    That is the mean difference ``better`` - ``than`` in points with its 95 % interval, paired by setting;
    None where a row was not measured. It holds where the interval lies above 0, does not hold where it lies
    below, and is not clear otherwise.
    """

    text: str
    better: str
    than: str
    difference: float | None
    low: float | None
    high: float | None
    verdict: Verdict


@dataclass(frozen=True)
class TableResult:
    """One table, measured on one dataset.

    Attributes:
        name: of the table.
        data: name of the dataset's preset, e.g. ``digits``.
        axis: see ``TableDefinition``.
        rows, columns: in printed order.
        cells: (row name, column name) -> cell; absent where nothing was measured.
        paper: columns of the paper.
        missing: one line for every column of the paper that this run does not measure, and every row that
            is not built, saying what it would take.
        provenance: encoder, backbone, seeds, epochs, hardware, versions, commit, hash of the split file.
    """

    name: str
    title: str
    question: str
    data: str
    axis: str | None
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, str], Cell]
    paper: tuple[PaperFigures, ...]
    claims: tuple[Claim, ...]
    missing: tuple[str, ...]
    provenance: Mapping[str, Any]
