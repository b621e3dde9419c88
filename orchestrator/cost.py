"""The cost model: from measured seconds of some work, and what is left to run, to wall time and cost.

Seconds of a kind of work are linear in its amounts, with rates >= 0 by least squares on relative residuals
(Lawson & Hanson 1974). Wall time is that of list scheduling (Graham 1969): Ray starts the trials in their
order, each on the worker that is free first. What no pilot measures is a constant of ``Fixed``.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from orchestrator.config import PriceConfig
from orchestrator.work import Sample, Work
from trainables.errors import TwofoldError

SMALLEST_SPREAD = 0.15
"""Relative uncertainty where measurements agree better than a machine does with itself from hour to hour."""
SMALLEST_SECONDS = 1e-4
"""Records round seconds to this."""
TURNS = 5
"""Least squares in a row; the rates hardly change after the third."""


@dataclass(frozen=True)
class Fixed:
    """Seconds that do not depend on the units' own work.

    The defaults were measured on 2 cores of an x86-64 server with sweeps of digits (372 and 1,240 units).

    Attributes:
        importing: libraries, at the start of the command.
        planning: drawing the settings and enumerating the units.
        preparing: until the arrays are there.
        starting: importing and starting Ray, beside the preparation.
        launch: the first workers, until the first unit is recorded.
        refit: a further round of Optuna: new workers.
        trial: of a worker, for each Ray trial.
        unit: of a worker, for each record.
        driver: CPU seconds of the driver for each unit: Tune's result and MLflow's run.
        tracking: how much longer the launch is beside the first connection to MLflow, which makes tables.
        tracked: wall seconds of one MLflow run; one writer logs them one by one.
        concluding: choice, report and end of the tracking.
        concluding_unit: the same, for each unit.
    """

    importing: float = 2.5
    planning: float = 3.0
    preparing: float = 0.0
    starting: float = 6.0
    launch: float = 8.0
    refit: float = 6.0
    trial: float = 0.05
    unit: float = 0.006
    driver: float = 0.03
    tracking: float = 7.0
    tracked: float = 0.025
    concluding: float = 8.0
    concluding_unit: float = 0.004

    @classmethod
    def measured(cls, planning: float, starting: float, launch: float) -> Fixed:
        """With what a pilot measured; other constants are longer by as much as the start of Ray was."""
        here = starting / cls.starting
        return cls(
            importing=here * cls.importing,
            planning=planning,
            starting=starting,
            launch=launch,
            refit=here * cls.refit,
            concluding=here * cls.concluding,
            concluding_unit=here * cls.concluding_unit,
        )


@dataclass(frozen=True)
class Machine:
    """The machine of the pilot; further workers are taken to run on more machines like it.

    Attributes:
        cores: CPU cores.
        workers: how many fit.
        threads: of a worker.
        gpus: of a worker.
    """

    cores: int
    workers: int
    threads: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class Prediction:
    """What a sweep takes with some number of workers.

    Attributes:
        workers: at once.
        seconds: wall time of the whole command.
        running: the part of it from the first unit to the last record.
        low, high: between which it is believed to be.
        worker_hours: workers times wall time.
        gpu_hours: GPUs of all workers times wall time.
        cost: by the prices; None without.
    """

    workers: int
    seconds: float
    running: float
    low: float
    high: float
    worker_hours: float
    gpu_hours: float
    cost: float | None


class Rates:
    """Seconds per amount of every kind of work that was measured.

    Kinds that were measured together, such as the epochs of several trainings and the embedding by their
    network, are told apart by all samples at once.

    Args:
        samples: what was measured.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        samples = list(samples)
        kinds = dict.fromkeys(work.kind for sample in samples for work in sample.works)
        columns = {kind: slice(3 * i, 3 * i + 3) for i, kind in enumerate(kinds)}
        amounts = np.zeros((len(samples), 3 * len(columns)))
        for row, sample in zip(amounts, samples, strict=True):
            for work in sample.works:
                row[columns[work.kind]] += _amounts(work)
        rates, errors = _fit(amounts, np.array([sample.seconds for sample in samples]))
        self._rates = {kind: rates[place] for kind, place in columns.items()}
        self._spreads = {
            kind: float(np.std(errors[amounts[:, place].any(axis=1)])) for kind, place in columns.items()
        }

    @property
    def kinds(self) -> set[str]:
        """What was measured."""
        return set(self._rates)

    def seconds(self, work: Work) -> float:
        """Wall seconds that some work takes one worker.

        Raises:
            TwofoldError: nothing of this kind was measured.
        """
        if work.kind not in self._rates:
            raise TwofoldError(f"nothing is known of what this takes: {work.kind}")
        return float(self._rates[work.kind] @ _amounts(work))

    def spread(self, works: Iterable[Work]) -> float:
        """Relative uncertainty of the seconds of some work: that of its kinds, by their share."""
        shares = [(self.seconds(work), self._spreads[work.kind]) for work in works]
        whole = sum(seconds for seconds, _ in shares)
        mean = sum(seconds * spread for seconds, spread in shares) / whole if whole else 0.0
        return max(SMALLEST_SPREAD, mean)


def _amounts(work: Work) -> np.ndarray:
    return np.array([work.starts, work.trained, work.rows], dtype=float)


def _fit(amounts: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rates (k,) >= 0 for amounts (n, k) and seconds (n,), and the relative errors (n,) of the samples.

    Errors are relative to what the rates say, found in turns: relative to what was measured, samples that
    happened to be fast would count most, and the sum of all would come out too small.
    """
    rates, expected = np.zeros(amounts.shape[1]), np.maximum(seconds, SMALLEST_SECONDS)
    for _ in range(TURNS if len(seconds) else 0):
        rates, _ = nnls(amounts / expected[:, None], seconds / expected)
        expected = np.maximum(amounts @ rates, SMALLEST_SECONDS)
    return rates, seconds / expected - 1


def list_schedule(seconds: Sequence[float], workers: int) -> float:
    """Wall seconds of trials that start in their order, each on the worker that is free first."""
    free = [0.0] * max(1, min(workers, len(seconds)))
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


@dataclass(frozen=True)
class Load:
    """What is left to run.

    Attributes:
        rounds: seconds of every Ray trial, in the order in which they start; one list for each run of Tune.
        units: how many records there will be.
        spread: relative uncertainty of the seconds.
    """

    rounds: Sequence[Sequence[float]]
    units: int
    spread: float

    @property
    def useful_workers(self) -> int:
        """Beyond this many, workers have nothing to do."""
        return max((len(trials) for trials in self.rounds), default=0)


def predict(
    load: Load, fixed: Fixed, machine: Machine, workers: int, prices: PriceConfig | None = None
) -> Prediction:
    """Wall time, hours and cost with ``workers`` at once.

    Each is taken to be as fast as when as many as the machine holds run at once, fewer of them as well.
    """
    running = _running(load, fixed, machine, workers)
    around = fixed.importing + fixed.planning + fixed.concluding + fixed.concluding_unit * load.units
    if load.units:
        # Both are the driver's, which has all cores of its machine.
        around += max(fixed.starting, fixed.preparing + fixed.starting / machine.cores)
        around += fixed.launch + fixed.tracking + fixed.refit * (len(load.rounds) - 1)
    wall = around + running
    margin = load.spread * running + SMALLEST_SPREAD * around
    hours = workers * wall / 3600
    gpu_hours = machine.gpus * hours
    cost = None if prices is None else prices.worker_hour * hours + prices.gpu_hour * gpu_hours
    return Prediction(workers, wall, running, wall - margin, wall + margin, hours, gpu_hours, cost)


def _running(load: Load, fixed: Fixed, machine: Machine, workers: int) -> float:
    """Wall seconds from the first unit to the last record."""
    each = fixed.unit * load.units / max(1, sum(map(len, load.rounds)))
    trials = [[seconds + fixed.trial + each for seconds in trials] for trials in load.rounds]
    scheduled = sum(list_schedule(seconds, workers) for seconds in trials)
    # The driver shares its machine's cores with the workers there.
    here = min(1.0, machine.workers / workers)
    work = machine.threads * here * sum(map(sum, trials))
    shared = (work + fixed.driver * load.units) / machine.cores
    return max(scheduled, shared, fixed.tracked * load.units)


def worker_counts(load: Load, others: Iterable[int] = ()) -> list[int]:
    """1, 2, 4, ... as long as there are trials for them, and ``others``."""
    most = max(1, load.useful_workers)
    powers = [2**i for i in range(math.ceil(math.log2(most)) + 1)]
    return sorted({min(count, most) for count in powers} | set(others))
