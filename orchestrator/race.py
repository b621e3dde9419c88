"""Where the units of one training end: after their own epochs, or early, by their own scores at the rungs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from orchestrator.checkpoints import Past
from orchestrator.ledger import UnitRecord
from orchestrator.objective import record_objective
from orchestrator.plan import Unit
from orchestrator.stopping import OBJECTIVE


class Judge(Protocol):
    """Compares a unit with the others of its setting, wherever they run."""

    @property
    def objective(self) -> str:
        """The stage-B proxy that is compared."""

    def rungs(self, epochs: int) -> Collection[int]:
        """The epochs after which a unit of ``epochs`` epochs is judged."""

    def goes_on(self, unit: Unit, epoch: int, value: float | None) -> bool:
        """Whether a unit with this objective at a rung is trained further; None = undefined."""

    def finish(self, unit: Unit) -> None:
        """Note that a unit was trained to its end."""


class Race:
    """The units of a training that still go on.

    Args:
        judge: None lets every unit go on.
        units: those that share the training.
        epochs: unit key -> epochs after which it ends.
    """

    def __init__(self, judge: Judge | None, units: Sequence[Unit], epochs: Mapping[str, int]) -> None:
        self._judge = judge
        self._epochs = epochs
        self._rungs = {key: frozenset(judge.rungs(last) if judge else ()) for key, last in epochs.items()}
        self.open = list(units)

    @property
    def epochs(self) -> int:
        """How many epochs the units that go on need; 0 where none does."""
        return max((self._epochs[unit.key] for unit in self.open), default=0)

    def judge(self, past: Past, score: Callable[[Unit], UnitRecord]) -> list[UnitRecord]:
        """Judge the open units at whose rung the training is; return the records of those that end early.

        Args:
            past: of the training; takes the objectives.
            score: the record that a unit would have if it ended now.
        """
        if self._judge is None:
            return []
        ended = []
        for unit in [unit for unit in self.open if past.epoch in self._rungs[unit.key]]:
            record = score(unit)
            value = record_objective(self._judge.objective, record) if record.state == "done" else None
            if value is not None:
                past.objectives.setdefault(unit.key, {})[str(past.epoch)] = value
            if not self._judge.goes_on(unit, past.epoch, value):
                self.open.remove(unit)
                stopped = record if record.state == "failed" else replace(record, state="stopped")
                ended.append(with_objectives(stopped, past))
        return ended

    def resume(self, past: Past, score: Callable[[Unit], UnitRecord]) -> list[UnitRecord]:
        """Tell the judge what a checkpoint says; return the records of units that had ended before it."""
        if self._judge is None:
            return []
        ended = []
        for unit in list(self.open):
            reached = sorted(
                (int(epoch), value) for epoch, value in past.objectives.get(unit.key, {}).items()
            )
            if not all([self._judge.goes_on(unit, epoch, value) for epoch, value in reached]):
                self.open.remove(unit)
                ended.append(with_objectives(replace(score(unit), state="stopped"), past))
        return ended

    def finish(self, past: Past, score: Callable[[Unit], UnitRecord]) -> Iterator[UnitRecord]:
        """The records of the open units that have had all their epochs, with their objectives."""
        for unit in [unit for unit in self.open if past.epoch == self._epochs[unit.key]]:
            record = score(unit)
            self.open.remove(unit)
            if self._judge is not None and record.state == "done":
                self._judge.finish(unit)
            yield with_objectives(record, past)


def with_objectives(record: UnitRecord, past: Past) -> UnitRecord:
    """The record with the objective beside the losses of each rung."""
    found = past.objectives.get(record.key, {})
    epochs = [
        {**entry, OBJECTIVE: found[text]} if (text := str(int(entry["epoch"]))) in found else entry
        for entry in record.epochs
    ]
    return replace(record, epochs=epochs)
