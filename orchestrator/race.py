"""Early stopping inside one training: each unit that shares it is judged by its own score at the rungs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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
        """The epochs of a training after which its units are judged."""

    def goes_on(self, unit: Unit, epoch: int, value: float | None) -> bool:
        """Whether a unit with this objective at a rung is trained further; None = undefined."""

    def finish(self, unit: Unit) -> None:
        """Note that a unit was trained to its end."""


class Race:
    """The units of a training that still go on.

    Args:
        judge: None lets every unit go on.
        units: those that share the training.
        epochs: of the training.
    """

    def __init__(self, judge: Judge | None, units: Sequence[Unit], epochs: int) -> None:
        self._judge = judge
        self._rungs = frozenset(judge.rungs(epochs) if judge else ())
        self.open = list(units)

    def judge(self, past: Past, score: Callable[[Unit], UnitRecord]) -> list[UnitRecord]:
        """Judge the open units after the last epoch; return the records of those that end here.

        Args:
            past: of the training; takes the objectives.
            score: the record that a unit would have if it ended now.
        """
        if self._judge is None or past.epoch not in self._rungs:
            return []
        ended = []
        for unit in list(self.open):
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

    def finish(self, unit: Unit, record: UnitRecord, past: Past) -> UnitRecord:
        """The record of a unit that was trained to the end, with its objectives."""
        if self._judge is not None and record.state == "done":
            self._judge.finish(unit)
        return with_objectives(record, past)


def with_objectives(record: UnitRecord, past: Past) -> UnitRecord:
    """The record with the objective beside the losses of each rung."""
    found = past.objectives.get(record.key, {})
    epochs = [
        {**entry, OBJECTIVE: found[text]} if (text := str(int(entry["epoch"]))) in found else entry
        for entry in record.epochs
    ]
    return replace(record, epochs=epochs)
