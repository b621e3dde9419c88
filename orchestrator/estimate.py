"""What is left to run, and what records or else a pilot tell of it: the input of the cost model."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from orchestrator.config import SweepConfig
from orchestrator.cost import Fixed, Load, Machine, Rates
from orchestrator.ledger import Ledger
from orchestrator.pilot import run_pilot
from orchestrator.plan import Grid, Unit, group_units, within_budget
from orchestrator.sampling import take_samples, to_prepare
from orchestrator.work import Sample, Sizes, Work, Workload
from trainables.types import Setting

MOST_RECORDS = 500
"""Records of the sweep that are read for their seconds."""
MOST_PAIRS = 2
"""Pairs of domains that a pilot runs on."""


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take.

    Attributes:
        load: what is left to run.
        fixed: what comes on top.
        machine: this one.
        images: to be decoded and encoded.
        piloted: units that a pilot ran; 0 where records tell everything.
        pilot_seconds: wall seconds of the pilot.
        busy: load average before it: processes that other work kept running.
    """

    load: Load
    fixed: Fixed
    machine: Machine
    images: int
    piloted: int
    pilot_seconds: float
    busy: float


class Estimator:
    """Puts together what is known of the units that are left.

    Args:
        config: the sweep.
        grid: its configurations.
        settings: its settings.
        planning: seconds that making the plan took.
    """

    def __init__(self, config: SweepConfig, grid: Grid, settings: Sequence[Setting], planning: float) -> None:
        self._config = config
        self._grid = grid
        self._settings = settings
        self._workload = Workload({setting.key: Sizes.of(setting) for setting in settings})
        # Records of the sweep were made beside its driver and the writer of MLflow: their seconds hold it.
        self._fixed = Fixed(planning=planning, driver=0)
        self._piloted = 0

    def estimate(
        self, rounds: Sequence[Sequence[Unit]], recorded: Sequence[Unit], ledger: Ledger
    ) -> Estimate:
        """Measure what no record tells, and predict the seconds of every Ray trial that is left.

        Args:
            rounds: units left to run, those of each run of Tune together.
            recorded: units that have a record.
            ledger: where the records are.

        Raises:
            TwofoldError: a unit of the pilot fails, or a kind of work was not measured.
        """
        rounds = spend_budget(rounds, self._config.budget.units)
        left = [unit for units in rounds for unit in units]
        images = to_prepare(self._config, self._grid, self._settings) if left else []
        busy, started = os.getloadavg()[0], time.monotonic()
        rates = self._measure(left, images, recorded, ledger)
        took = time.monotonic() - started
        fixed = replace(self._fixed, preparing=sum(rates.seconds(part) for part in images))
        load = self._load(rates, rounds)
        count = round(sum(part.rows for part in images))
        return Estimate(load, fixed, this_machine(self._config), count, self._piloted, took, busy)

    def _load(self, rates: Rates, rounds: Sequence[Sequence[Unit]]) -> Load:
        trials: list[list[float]] = []
        everything: list[Work] = []
        for units in rounds:
            groups = group_units(units, self._config.resources.trainings_per_trial)
            parts = [self._workload.of_group(group) for group in groups]
            trials.append([sum(map(rates.seconds, part)) for part in parts])
            everything.extend(work for part in parts for work in part)
        return Load(trials, sum(map(len, rounds)), rates.spread(everything))

    def _measure(
        self, left: Sequence[Unit], images: Sequence[Work], recorded: Sequence[Unit], ledger: Ledger
    ) -> Rates:
        """Seconds from the sweep's own records where there are some, else from a pilot."""
        some = recorded[:: max(1, len(recorded) // MOST_RECORDS)]
        records = (record for unit in some if (record := ledger.read(unit.key)) is not None)
        known = self._workload.measured(records)
        kinds = {work.kind for sample in known for work in sample.works}
        unknown = [unit for unit in left if any(part.kind not in kinds for part in self._workload.of(unit))]
        if unknown or images:
            known += self._pilot(unknown)
        return Rates(known)

    def _pilot(self, unknown: Sequence[Unit]) -> list[Sample]:
        """Encode samples and run units of unknown kinds."""
        middle = middle_settings(self._settings)
        with tempfile.TemporaryDirectory(prefix=".pilot-", dir=self._config.folder) as scratch:
            samples = take_samples(self._config, self._grid, middle, Path(scratch))
            if not unknown:
                return list(samples.measured)
            pilot = run_pilot(self._config, samples, middle, unknown, this_machine(self._config).workers)
        self._fixed = Fixed.measured(self._fixed.planning, pilot.starting, pilot.launch)
        self._piloted = pilot.units
        return [*samples.measured, *pilot.samples]


def spend_budget(rounds: Sequence[Sequence[Unit]], most: int | None) -> list[list[Unit]]:
    """The units of each round that a budget of ``most`` units reaches."""
    if most is None:
        return [list(units) for units in rounds]
    reached: list[list[Unit]] = []
    for units in rounds:
        wanted = within_budget(units, most)
        reached.append(wanted)
        most -= len(wanted)
        if len(wanted) < len(units) or most == 0:
            break
    return reached


def this_machine(config: SweepConfig) -> Machine:
    """Cores of this machine, and how many of the sweep's workers it holds."""
    cores, resources = os.cpu_count() or 1, config.resources
    fit = cores // resources.cpus_per_worker
    if resources.gpus_per_worker and (gpus := torch.cuda.device_count()):
        fit = min(fit, int(gpus / resources.gpus_per_worker))
    workers = max(1, min(fit, resources.workers or fit))
    return Machine(cores, workers, resources.cpus_per_worker, resources.gpus_per_worker)


def middle_settings(settings: Sequence[Setting]) -> list[Setting]:
    """For some pairs of domains, the setting of middle size."""
    pairs: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings:
        pairs.setdefault((setting.task.source, setting.task.target), []).append(setting)
    return [
        sorted(members, key=lambda setting: Sizes.of(setting).embedded)[len(members) // 2]
        for members in list(pairs.values())[:MOST_PAIRS]
    ]
