"""The sweep driver: runs the missing units as Ray Tune trials, again and again until each has a record.

Tune loses work in several ways: its memory monitor ends the whole run, a restored snapshot repeats trials
and skips others, a budget marks what never started as finished. Nothing of Tune's state is therefore kept.
What is left to run is what has no record, and a supervisor runs Tune over it until nothing is left.
"""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.attempts import AttemptLog
from orchestrator.config import SweepConfig
from orchestrator.group import GroupRun
from orchestrator.halt import Ending, Halt, Listener
from orchestrator.leases import Leases, Owner
from orchestrator.ledger import Ledger
from orchestrator.plan import Unit, default_configuration, group_units
from orchestrator.prepare import Prepared
from orchestrator.stop import POLL_SECONDS
from orchestrator.stopping import Board
from orchestrator.storage import Storage
from orchestrator.trial import BoardJudge, Launch, UnitGroup
from trainables.errors import TwofoldError

MAX_STALLED = 3
"""Tune runs in a row that record nothing, after which the units they began are recorded as failed."""


@dataclass(frozen=True)
class Ended:
    """Keys of units that ended."""

    done: Sequence[str]
    failed: Sequence[str]


class Supervisor:
    """Runs units on Ray, which has started, until each has a record, the budget is spent or it is stopped.

    Args:
        config: the sweep.
        prepared: its arrays.
        storage: where the ledger is.
        on_ended: hears of units as they end, whichever driver ran them.
        known: units planned so far, recorded or not.
        since: when the launch began, in seconds since the epoch; a stop may be asked for while it prepares.
    """

    def __init__(
        self,
        config: SweepConfig,
        prepared: Prepared,
        storage: Storage,
        owner: Owner,
        on_ended: Callable[[Ended], None],
        known: Sequence[Unit],
        since: float,
    ) -> None:
        self._config = config
        self._prepared = prepared
        self._storage = storage
        self._ledger = Ledger(storage)
        self._attempts = AttemptLog(storage)
        self._leases = Leases(storage, owner)
        self._owner = owner
        self._on_ended = on_ended
        self._known = known
        self._told: set[str] = set()
        self._since = since
        self._until = math.inf if config.budget.hours is None else time.time() + 3600 * config.budget.hours
        self._halt = Halt(storage, since, self._until)
        self._fits = 0
        self._blamed = False
        self._prepared_ref = ray.put(prepared)
        self._judge = self._make_judge()

    def run(self, units: Sequence[Unit]) -> Ending:
        """Run units that have no record.

        A unit that ``MAX_STALLED`` Tune runs in a row began and did not end is recorded as failed.

        Raises:
            TwofoldError: no cluster answers, no trial can be run, or nothing can be recorded.
        """
        left = list(units)
        stalled = 0
        reason = ""
        while left:
            held = self._leases.held_by_others()
            free = [unit for unit in left if unit.bundle not in held]
            if free:
                reason = self._fit(free)
            else:
                time.sleep(POLL_SECONDS)
            before, left = len(left), self._without_record(left)
            if self._halt.fatal:
                raise TwofoldError(self._halt.fatal)
            if left and self._halt.is_over():
                assert self._halt.ending is not None
                return self._halt.ending
            stalled = 0 if len(left) < before or self._blamed or not free else stalled + 1
            if stalled == MAX_STALLED:
                self._give_up(free, reason)
                left, stalled = self._without_record(left), 0
        return Ending.COMPLETE

    def _make_judge(self) -> BoardJudge | None:
        """A board that knows what earlier launches recorded, on this node, which outlives the others."""
        scheduler = self._config.scheduler
        if scheduler == "none":
            return None
        default = default_configuration(self._config).as_dict()
        protected = {unit.key for unit in self._known if unit.configuration == default}
        records = [record for unit in self._known if (record := self._ledger.read(unit.key)) is not None]
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Board)
        board = actor.options(num_cpus=0, scheduling_strategy=here).remote(scheduler, protected)
        ray.get(board.enter.remote(records))
        return BoardJudge(board, scheduler, self._config.objective)

    def _without_record(self, units: Sequence[Unit]) -> list[Unit]:
        """The units that have no record; tells the listener of those that another driver recorded."""
        states = self._ledger.states(unit.key for unit in units)
        self._tell(
            [key for key, state in states.items() if state != "failed"],
            [key for key, state in states.items() if state == "failed"],
        )
        return [unit for unit in units if unit.key not in states]

    def _tell(self, done: Iterable[str], failed: Iterable[str]) -> None:
        ended = Ended([k for k in done if k not in self._told], [k for k in failed if k not in self._told])
        self._told.update(ended.done, ended.failed)
        if ended.done or ended.failed:
            self._on_ended(ended)

    def _fit(self, units: Sequence[Unit]) -> str:
        """Run Tune once; return the first error, if any, in words."""
        self._fits += 1
        self._blamed = False
        run = f"{self._owner.session}.{self._fits}"
        listener = Listener(self._tell, self._halt)
        try:
            with tempfile.TemporaryDirectory(prefix="twofold-tune-") as folder:
                errors = self._tuner(units, run, listener, folder).fit().errors
            return str(errors[0]) if errors else "no trial reported an error"
        except Exception as error:
            # Whatever ended Tune, the ledger says what is left.
            if isinstance(error.__cause__, ray.exceptions.OutOfMemoryError):
                self._blame(run, str(error.__cause__))
            return str(error)

    def _blame(self, run: str, message: str) -> None:
        """Hold a kill by Ray's memory monitor against the bundle that took the most memory, and no other.

        Ray ends the worker that started last, whichever took the memory, and lists them all.
        """
        workers = re.findall(r"\bpid=(\d+), actual memory used=([\d.]+)GB", message)
        most = max(workers, key=lambda worker: float(worker[1]))[0] if workers else None
        histories = {bundle: self._attempts.read(bundle) for bundle in self._attempts.bundles()}
        for bundle, history in histories.items():
            open_ = history.open
            if open_ and open_.run == run and (most is None or str(open_.pid) == most):
                error = f"Ray's memory monitor ended a worker: {message.partition(chr(10))[0]}"
                self._attempts.write(bundle, history.died("out_of_memory", error))
                self._blamed = True

    def _give_up(self, units: Sequence[Unit], reason: str) -> None:
        """Record as failed what was begun and never ended; what never began is not to blame.

        Raises:
            TwofoldError: nothing was begun, so that nothing will be.
        """
        begun = set(self._attempts.bundles())
        lost = [unit for unit in units if unit.bundle in begun]
        if not lost:
            raise TwofoldError(f"Ray Tune ended {MAX_STALLED} times without running a unit: {reason}")
        error = f"Ray Tune ended {MAX_STALLED} times without a result of this unit: {reason}"
        for unit in lost:
            (record,) = GroupRun(self._prepared, [unit]).fail([unit], "no_result", error)
            self._ledger.write(replace(record, ended=time.time()))
            self._attempts.forget(unit.bundle)

    def _tuner(
        self,
        units: Sequence[Unit],
        run: str,
        listener: tune.Callback,
        folder: str,
    ) -> tune.Tuner:
        resources = self._config.resources
        groups = group_units(units, resources.trainings_per_trial)
        launch = Launch(
            location=self._storage.location,
            ledger_id=self._storage.read("id") or b"",
            owner=self._owner,
            run=run,
            threads=resources.cpus_per_worker,
            step_seconds=60 * resources.step_minutes,
            since=self._since,
            until=self._until,
            judge=self._judge,
        )
        trainable = tune.with_parameters(
            UnitGroup, prepared=self._prepared_ref, groups=[ray.put(group) for group in groups], launch=launch
        )
        per_worker = {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker}
        return tune.Tuner(
            tune.with_resources(trainable, per_worker),
            param_space={"group": tune.grid_search(list(range(len(groups))))},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=resources.workers),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=folder,
                callbacks=[listener],
                stop=self._halt,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                # A bundle ends its worker at most twice; lost nodes come on top, and a refit follows.
                failure_config=tune.FailureConfig(max_failures=4 * resources.trainings_per_trial),
                verbose=0,
            ),
        )
