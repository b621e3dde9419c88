"""From judged units to cells and claims. AUROC in percent, higher = better; differences in points.

A mean is one over seeds, then over the classes of a pair, then over pairs. Its interval is a bootstrap that
draws the classes of each pair, and in each drawn class its seeds. Pairs are the table's own and not drawn.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq

from orchestrator.ledger import read_units
from orchestrator.tables.result import Cell, Claim, Verdict
from orchestrator.tables.rows import PlannedClaim, PlannedRow
from trainables.configuration import Configuration
from trainables.seeding import canonical_json, generator

DRAWS = 2000
_COLUMNS = (
    "key",
    "setting",
    "source",
    "target",
    "normal_class",
    "contamination",
    "split_seed",
    "seed",
    "config",
)

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class JudgedUnit:
    """A finished unit with its AUROC; ``setting`` is the key of its setting, ``configuration`` canonical."""

    setting: str
    source: str
    target: str
    normal_class: str
    contamination: float
    split_seed: int
    seed: int
    configuration: Mapping[str, Any]
    auroc: float

    @property
    def pair(self) -> str:
        """Source and target, as columns are called."""
        return f"{self.source}->{self.target}"


RowUnit = tuple[str, JudgedUnit]
"""Name of a row and a unit behind it."""


def canonical(flat: Mapping[str, Any]) -> str:
    """Equal text for mappings that mean the same configuration, with keys of later versions filled in."""
    return canonical_json(Configuration.parse(flat).as_dict())


def read_judged(folder: Path) -> list[JudgedUnit]:
    """The units of a sweep's folder that the oracle judged, in the order of the plan."""
    judged = pq.read_table(folder / "oracle" / "auroc.parquet", columns=["key", "auroc"]).to_pydict()
    auroc = dict(zip(judged["key"], judged["auroc"], strict=True))
    rows = read_units(folder / "units.parquet", _COLUMNS)
    return [
        JudgedUnit(configuration=json.loads(row.pop("config")), auroc=auroc[key], **row)
        for row in rows
        if (key := row.pop("key")) in auroc
    ]


def units_of_rows(rows: Sequence[PlannedRow], units: Iterable[JudgedUnit]) -> list[RowUnit]:
    """The units of every row that has a configuration; rows with the same one share their units."""
    by_configuration: dict[str, list[JudgedUnit]] = defaultdict(list)
    for unit in units:
        by_configuration[canonical_json(dict(unit.configuration))].append(unit)
    return [
        (row.row.name, unit)
        for row in rows
        if row.configuration is not None
        for unit in by_configuration[canonical_json(row.configuration.as_dict())]
    ]


def units_chosen(
    rows: Sequence[PlannedRow], units: Iterable[JudgedUnit], selection: Mapping[str, Any]
) -> list[RowUnit]:
    """The units of the ``choice`` rows: in each setting the seeds of what ``selection.json`` chose."""
    chosen = {choice["setting"]: canonical_json(choice["config"]) for choice in selection["choices"]}
    picked = [unit for unit in units if chosen.get(unit.setting) == canonical_json(dict(unit.configuration))]
    return [(row.row.name, unit) for row in rows if row.kind == "choice" for unit in picked]


@dataclass(frozen=True)
class Leaf:
    """A value with its place in the mean; ``draw`` tells the seeds of one class apart."""

    pair: str
    normal_class: str
    draw: tuple[int, int]
    value: float


def leaf(unit: JudgedUnit, value: float) -> Leaf:
    """The place of a unit."""
    return Leaf(unit.pair, unit.normal_class, (unit.split_seed, unit.seed), value)


@dataclass(frozen=True)
class Sample:
    """Values of one cell or claim, arranged for means and resampling.

    Attributes:
        values: (n,) one per pair, class and seed.
        tree: pair -> class -> positions in ``values`` of its seeds.
    """

    values: np.ndarray
    tree: list[list[list[int]]]

    @classmethod
    def of(cls, leaves: Iterable[Leaf]) -> Sample:
        """Arrange leaves; those of one pair, class and seed (at several contaminations) are one value."""
        merged = _grouped(leaves, lambda one: (one.pair, one.normal_class, one.draw))
        tree: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for i, (pair, name, _) in enumerate(merged):
            tree[pair][name].append(i)
        values = np.array([np.mean(same) for same in merged.values()])
        return cls(values, [list(classes.values()) for classes in tree.values()])

    def mean(self) -> float:
        """Over seeds, then classes, then pairs."""
        return float(np.mean([np.mean([self.values[s].mean() for s in classes]) for classes in self.tree]))

    def interval(self, *purpose: object) -> tuple[float, float]:
        """Middle 95 % of the means of ``DRAWS`` resamples, seeded by what they are for."""
        means = self._resampled(generator("interval", *purpose)) @ self.values
        low, high = np.percentile(means, [2.5, 97.5])
        return float(low), float(high)

    def _resampled(self, rng: np.random.Generator) -> np.ndarray:
        """(DRAWS, n) weights. Copies are counted, not listed: k draws of s of s seeds are one of k s."""
        weights = np.zeros((DRAWS, len(self.values)))
        for classes in self.tree:
            c = len(classes)
            copies = rng.multinomial(c, np.full(c, 1 / c), size=DRAWS)
            for seeds, of_class in zip(classes, copies.T, strict=True):
                s = len(seeds)
                drawn = rng.multinomial(of_class * s, np.full(s, 1 / s))
                weights[:, seeds] = drawn / (len(self.tree) * c * s)
        return weights


def measure_cell(units: Sequence[JudgedUnit], planned: int, *purpose: object) -> Cell:
    """A cell of its units, at least one.

    Args:
        units: finished ones.
        planned: how many there should be.
        purpose: row and column; they seed the bootstrap.
    """
    leaves = [leaf(unit, unit.auroc) for unit in units]
    sample = Sample.of(leaves)
    return Cell(
        sample.mean(),
        *sample.interval(*purpose),
        class_std=_spread(leaves, lambda one: one.normal_class),
        seed_std=_spread(leaves, lambda one: one.draw),
        units=len(units),
        planned=planned,
    )


def _spread(leaves: Sequence[Leaf], of: Callable[[Leaf], Hashable]) -> float | None:
    """Standard deviation of the means of the leaves that agree in ``of``; None where all of them do."""
    groups: dict[Hashable, list[Leaf]] = defaultdict(list)
    for one in leaves:
        groups[of(one)].append(one)
    if len(groups) < 2:
        return None
    return float(np.std([Sample.of(same).mean() for same in groups.values()], ddof=1))


def measure_claim(claim: PlannedClaim, units: Sequence[RowUnit]) -> Claim:
    """Difference of two rows over the settings and seeds that both have.

    Args:
        claim: the claim.
        units: of all rows and columns.
    """
    sides: dict[str, dict[tuple[str, int], JudgedUnit]] = defaultdict(dict)
    for row, unit in units:
        sides[row][unit.setting, unit.seed] = unit
    better, than = sides[claim.better], sides[claim.than]
    leaves = [leaf(unit, unit.auroc - than[key].auroc) for key, unit in better.items() if key in than]
    if not leaves:
        return Claim(claim.text, claim.better, claim.than, None, None, None, "not measured")
    sample = Sample.of(leaves)
    low, high = sample.interval(claim.better, claim.than)
    return Claim(claim.text, claim.better, claim.than, sample.mean(), low, high, _verdict(low, high))


def _verdict(low: float, high: float) -> Verdict:
    if low > 0:
        return "holds"
    return "does not hold" if high < 0 else "not clear"


def _grouped(leaves: Iterable[Leaf], key: Callable[[Leaf], K]) -> dict[K, list[float]]:
    found: dict[K, list[float]] = defaultdict(list)
    for one in leaves:
        found[key(one)].append(one.value)
    return found
