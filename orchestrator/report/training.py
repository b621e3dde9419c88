"""How the trainings of a sweep went, epoch by epoch: one curve per alignment over all its settings."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from orchestrator.ledger import read_by_setting
from trainables.configuration import DEFAULTS
from trainables.supervision.base import SUPERVISIONS

DIAGNOSTICS = ("effective_rank", "score_spread", "negatives_inside")
QUANTITIES = ("loss", *DIAGNOSTICS)
"""Entries of ``UnitRecord.epochs`` that are shown, in order."""

_COLUMNS = ("setting", "state", "config", "epochs")
Point = tuple[str, str, int]
"""Quantity, alignment and epoch."""


@dataclass(frozen=True)
class Curve:
    """A quantity over the epochs (from 1) of one alignment: median and quartiles over the settings."""

    alignment: str
    epochs: tuple[int, ...]
    median: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """The curves of one of ``QUANTITIES``, by name of their alignment."""

    quantity: str
    curves: tuple[Curve, ...]


def read_training(path: Path) -> tuple[Panel, ...]:
    """The quantities that the records of a ``units.parquet`` hold, setting by setting in bounded memory.

    A setting counts with the median of its trainings, so that a large grid weighs no more than a small one.
    Nothing where no unit trained, or where the records are of a version that kept losses alone.
    """
    values: dict[Point, list[float]] = defaultdict(list)
    for table in read_by_setting(path, _COLUMNS):
        for point, of_setting in _of_setting(table).items():
            values[point].append(float(np.median(of_setting)))
    if not any(quantity in DIAGNOSTICS for quantity, _, _ in values):
        return ()
    panels = (_panel(quantity, values) for quantity in QUANTITIES)
    return tuple(panel for panel in panels if panel.curves)


def _of_setting(table: pa.Table) -> dict[Point, list[float]]:
    """The values of all trainings of a setting; one that several units share counts once."""
    found: dict[Point, list[float]] = defaultdict(list)
    for alignment, epochs in set(_trainings(table)):
        for epoch, *values in epochs:
            for quantity, value in zip(QUANTITIES, values, strict=True):
                if value is not None:
                    found[quantity, alignment, int(epoch or 0)].append(value)
    return found


def _trainings(table: pa.Table) -> Iterator[tuple[str, tuple[tuple[float | None, ...], ...]]]:
    """Alignment and, per epoch, its number and ``QUANTITIES`` of every unit that a chooser could pick.

    A stopped training counts up to its last epoch: what collapses is often stopped for it.
    """
    for row in table.to_pylist():
        config = json.loads(row["config"])
        supervision = config.get("supervision", DEFAULTS["supervision"])
        if row["state"] == "failed" or SUPERVISIONS.get(supervision).needs_labels:
            continue
        entries = json.loads(row["epochs"])
        names = ("epoch", *QUANTITIES)
        yield config["alignment"], tuple(tuple(entry.get(name) for name in names) for entry in entries)


def _panel(quantity: str, values: Mapping[Point, list[float]]) -> Panel:
    alignments = sorted({alignment for name, alignment, _ in values if name == quantity})
    return Panel(quantity, tuple(_curve(quantity, alignment, values) for alignment in alignments))


def _curve(quantity: str, alignment: str, values: Mapping[Point, list[float]]) -> Curve:
    epochs = sorted(epoch for *name, epoch in values if name == [quantity, alignment])
    quartiles = [np.percentile(values[quantity, alignment, epoch], [25, 50, 75]) for epoch in epochs]
    low, median, high = (tuple(map(float, each)) for each in zip(*quartiles, strict=True))
    return Curve(alignment, tuple(epochs), median, low, high)
