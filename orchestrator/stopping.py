"""Early stopping by unit: which trainings of a setting end before their last epoch.

``asha`` is successive halving without waiting (Li et al. 2020, arXiv 1810.05934), ``median`` the median rule
of Vizier (Golovin et al. 2017), both as Optuna's pruners. They are asked at a few epochs, the **rungs**, and
compare the objective of a unit with that of the units of its setting at the same rung.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Literal

import optuna
from optuna.pruners import BasePruner, MedianPruner, SuccessiveHalvingPruner
from optuna.trial import Trial

from orchestrator.ledger import UnitRecord

Scheduler = Literal["none", "asha", "median"]

ETA = 3
"""A rung is at ETA times the epoch of the one before; ``asha`` lets about 1 / ETA of the units past it."""

OBJECTIVE = "objective"
"""Key of the objective in an entry of ``UnitRecord.epochs``; absent where not wanted or undefined."""


def rungs(scheduler: Scheduler, epochs: int) -> list[int]:
    """The epochs of a training of ``epochs`` epochs after which the objective is wanted: 1, 3, 9, ...

    The last epoch is none of them: there is nothing left to stop.
    """
    if scheduler == "none":
        return []
    return [ETA**i for i in range(epochs) if ETA**i < epochs]


class Board:
    """Says of each unit whether it goes on; one for the whole sweep, kept in memory.

    Args:
        scheduler: ``asha`` or ``median``.
        protected: keys of units that are compared but never stopped: those of the default configuration,
            without whose result the choice has nothing to compare with.
    """

    def __init__(self, scheduler: Scheduler, protected: Collection[str] = ()) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._pruner = _pruner(scheduler)
        self._protected = frozenset(protected)
        self._studies: dict[str, optuna.Study] = {}
        self._trials: dict[str, Trial] = {}
        self._reached: dict[str, float] = {}
        self._stopped: set[str] = set()

    def report(self, unit_key: str, setting: str, epoch: int, value: float | None) -> bool:
        """Enter the objective of a unit at a rung; say whether the unit goes on.

        An undefined or non-finite value ends the unit. A rung that the unit had reached before, in a process
        that died, changes nothing: a unit that was stopped stays so, and the others go on.

        Args:
            unit_key: key of the unit.
            setting: key of its setting.
            epoch: the rung, counted from 1. Rungs are reported in order, none left out.
            value: objective, larger = better; None where it is undefined.
        """
        if epoch > self._reached.get(unit_key, 0):
            if value is None or not math.isfinite(value):
                self._reached[unit_key] = math.inf
                self._stopped.add(unit_key)
            else:
                self._reached[unit_key] = epoch
                trial = self._trial(unit_key, setting)
                trial.report(value, epoch)
                if trial.should_prune():
                    self._stopped.add(unit_key)
        return unit_key in self._protected or unit_key not in self._stopped

    def finish(self, unit_key: str) -> None:
        """Note that a unit was trained to its end; ``median`` compares with such units alone."""
        trial = self._trials.get(unit_key)
        if trial is not None:
            study = trial.study
            _, value = max(study.trials[trial.number].intermediate_values.items())
            study.tell(trial.number, value, skip_if_finished=True)

    def enter(self, records: Iterable[UnitRecord]) -> None:
        """Take up what earlier processes recorded, at every rung that a record holds."""
        for record in records:
            for entry in record.epochs:
                if OBJECTIVE in entry:
                    self.report(record.key, record.setting, int(entry["epoch"]), entry[OBJECTIVE])
            if record.state == "done":
                self.finish(record.key)

    def _trial(self, unit_key: str, setting: str) -> Trial:
        if unit_key not in self._trials:
            if setting not in self._studies:
                self._studies[setting] = optuna.create_study(direction="maximize", pruner=self._pruner)
            self._trials[unit_key] = self._studies[setting].ask()
        return self._trials[unit_key]


def _pruner(scheduler: Scheduler) -> BasePruner:
    if scheduler == "asha":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=ETA)
    if scheduler == "median":
        return MedianPruner()
    raise ValueError(f"there is no board for the scheduler '{scheduler}'")
