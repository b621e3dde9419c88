"""The trial glue: a Ray Tune trainable that runs bundles of units and writes their records."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch
from ray import tune
from threadpoolctl import threadpool_limits

from orchestrator.attempts import Attempt, AttemptLog, History
from orchestrator.checkpoints import StoredCheckpoints
from orchestrator.group import GroupRun, Progress
from orchestrator.leases import Leases, Owner
from orchestrator.ledger import Ledger, UnitRecord
from orchestrator.plan import Unit
from orchestrator.prepare import Prepared
from orchestrator.stop import POLL_SECONDS, stop_requested
from orchestrator.stopping import Scheduler, rungs
from orchestrator.storage import Storage
from orchestrator.watchdog import Watchdog
from trainables.errors import TwofoldError
from trainables.memory import keep_freed_memory

REPORT_SECONDS = 0.25
"""Records that come faster than this are reported to the driver together."""

NODE_SECONDS = 5.0
"""A node that does not answer within this time is lost."""


@dataclass(frozen=True)
class BoardJudge:
    """The judge of a race whose board is an actor on the driver's node, shared by all workers.

    Attributes:
        board: handle of the actor around a ``Board``.
        scheduler: of the sweep.
        objective: of the sweep.
    """

    board: Any
    scheduler: Scheduler
    objective: str

    def rungs(self, epochs: int) -> list[int]:
        """The epochs after which units are judged."""
        return rungs(self.scheduler, epochs)

    def goes_on(self, unit: Unit, epoch: int, value: float | None) -> bool:
        """Ask the board."""
        return bool(ray.get(self.board.report.remote(unit.key, unit.setting, epoch, value)))

    def finish(self, unit: Unit) -> None:
        """Tell the board."""
        self.board.finish.remote(unit.key)


@dataclass(frozen=True)
class Launch:
    """What the driver tells its workers, the same for every trial of a Tune run.

    Attributes:
        location: of the ledger.
        ledger_id: content of the ledger's file ``id``.
        owner: the driver.
        run: session of the driver and number of its Tune run.
        threads: CPU threads of a worker.
        step_seconds: longest time without progress.
        since: when the launch began, in seconds since the epoch; an older request to stop is not for it.
        until: when its budget of time is spent, likewise.
        judge: says which units end early, if any does.
    """

    location: str
    ledger_id: bytes
    owner: Owner
    run: str
    threads: int
    step_seconds: float
    since: float
    until: float
    judge: BoardJudge | None


class UnitGroup(tune.Trainable):
    """One step = one epoch of one training, or some records. Actors are reused from group to group.

    A bundle that another driver has leased is left to it. What happens to the worker process is written
    down where the next attempt finds it, so that a unit that kills its process costs two restarts and not
    the sweep.
    """

    def setup(
        self,
        config: dict[str, Any],
        prepared: Prepared | None = None,
        groups: Sequence[ray.ObjectRef[list[Unit]]] = (),
        launch: Launch | None = None,
    ) -> None:
        """Load the shared arrays and start on group ``config["group"]``."""
        assert prepared is not None and launch is not None
        keep_freed_memory()
        torch.set_num_threads(launch.threads)
        threadpool_limits(launch.threads)
        self._prepared = prepared
        self._groups = groups
        self._launch = launch
        self._looked = 0.0
        self._steps = self._run(int(config["group"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on to another group in the same process."""
        self._steps = self._run(int(new_config["group"]))
        return True

    def step(self) -> dict[str, Any]:
        """Advance by one epoch, or by some records; the result is JSON-safe.

        A ledger that cannot be written is reported as ``fatal``: no unit after this one could be recorded.
        """
        finished: list[UnitRecord] = []
        progress: Progress | None = Progress()
        try:
            if self._is_over():
                # What is under way is saved and given back; the driver ends the rest.
                self._steps.close()
            until = time.monotonic() + REPORT_SECONDS
            while progress is not None and not progress.epoch and time.monotonic() < until:
                progress = next(self._steps, None)
                finished.extend(progress.finished if progress else [])
                if any(record.state == "failed" for record in finished):
                    # What failed may have ended processes. Heard of at once, it is no sign of a broken node.
                    break
        except OSError as error:
            return {"fatal": f"cannot write the ledger {self._launch.location}: {error}", "done": True}
        except TwofoldError as error:
            return {"fatal": str(error), "done": True}
        return {
            "finished": [record.key for record in finished if record.state != "failed"],
            "failed": [record.key for record in finished if record.state == "failed"],
            "epoch": progress.epoch if progress else 0,
            **(progress.losses if progress else {}),
            "done": progress is None,
        }

    def cleanup(self) -> None:
        """Leave the bundle under way to whoever comes next."""
        self._steps.close()

    def _is_over(self) -> bool:
        """Whether the budget is spent or a stop was asked for, before another step begins."""
        now = time.time()
        if now < self._launch.until and now - self._looked < POLL_SECONDS:
            return False
        self._looked = now
        return now >= self._launch.until or stop_requested(Storage(self._launch.location), self._launch.since)

    def _run(self, group: int) -> Generator[Progress, None, None]:
        units: list[Unit] = ray.get(self._groups[group])
        yield from BundleRuns(self._launch, GroupRun(self._prepared, units), _node()).run()


class BundleRuns:
    """Runs the bundles of a group that nobody else has leased or recorded.

    Args:
        launch: what the driver said.
        group: the units.
        node: Ray's id of this node.
    """

    def __init__(self, launch: Launch, group: GroupRun, node: str) -> None:
        self._launch = launch
        self._group = group
        self._node = node
        self._storage = storage = Storage(launch.location)
        self._ledger = Ledger(storage)
        self._attempts = AttemptLog(storage)
        self._leases = Leases(storage, launch.owner)
        self._checkpoints = StoredCheckpoints(storage)

    def run(self) -> Generator[Progress, None, None]:
        """Every record is in the ledger before it is yielded.

        Raises:
            OSError: the ledger cannot be written.
            TwofoldError: this node sees another folder under the ledger's name.
        """
        if self._storage.read("id") != self._launch.ledger_id:
            raise TwofoldError(
                f"node {socket.gethostname()} does not see the ledger {self._launch.location}. Set `ledger:` "
                "to a folder that all nodes mount, or to an object store (s3://..., gs://...)."
            )
        for units in self._group.bundles():
            bundle = units[0].bundle
            if self._leases.acquire(bundle):
                with self._leases.renewed(bundle):
                    # Looked up under the lease: its last holder may have recorded some.
                    states = self._ledger.states([unit.key for unit in units])
                    left = [unit for unit in units if unit.key not in states]
                    if left:
                        yield from self._attempt(bundle, left)

    def _attempt(self, bundle: str, units: list[Unit]) -> Generator[Progress, None, None]:
        history = self._attempts.read(bundle).settled(self._launch.run, _is_alive)
        if history.is_exhausted:
            assert history.failure is not None
            # Units without a training are recorded one by one: the first without a record was under way.
            blamed = units if units[0].trains else units[:1]
            failed = self._group.fail(blamed, history.failure, history.error)
            # What is forgotten first may happen to these again; it is not held against the others.
            self._attempts.forget(bundle)
            yield self._recorded(Progress(failed), history)
            if rest := units[len(blamed) :]:
                yield from self._attempt(bundle, rest)
        else:
            history = history.begin(Attempt(self._launch.run, self._node, os.getpid(), time.time()))
            self._attempts.write(bundle, history)
            try:
                yield from self._watched(bundle, units, history)
            except GeneratorExit:
                # The driver stops this trial: no fault of the units. What it cannot note here costs nothing.
                with contextlib.suppress(OSError):
                    self._attempts.write(bundle, replace(history, open=None))
                raise
        self._attempts.forget(bundle)
        if units[0].trains:
            self._checkpoints.remove(bundle)

    def _watched(self, bundle: str, units: list[Unit], history: History) -> Generator[Progress, None, None]:
        limit = self._launch.step_seconds

        def on_timeout(stack: str) -> None:
            hung = history.died("timeout", f"{stack}no progress for {limit:.0f} s")
            self._attempts.write(bundle, hung)

        recorded: set[str] = set()
        with Watchdog(limit, on_timeout) as watchdog:
            for progress in self._group.run(units, self._checkpoints, self._launch.judge):
                recorded.update(record.key for record in progress.finished)
                stamped = self._recorded(progress, history)
                if history.deaths and not units[0].trains:
                    # It was this unit that died, and now it did not; the next one begins anew.
                    history = replace(history, deaths=0)
                    self._attempts.write(bundle, history)
                watchdog.rest()
                yield stamped
                watchdog.feed()
        missing = [unit for unit in units if unit.key not in recorded]
        if missing:
            reason = "the training ended without a result for this unit"
            yield self._recorded(Progress(self._group.fail(missing, "no_result", reason)), history)

    def _recorded(self, progress: Progress, history: History) -> Progress:
        stamp: dict[str, Any] = {
            "attempts": max(history.begun, 1),
            "preemptions": history.preemptions,
            "ended": time.time(),
        }
        finished = [replace(record, **stamp) for record in progress.finished]
        for record in finished:
            self._ledger.write(record)
        return replace(progress, finished=finished)


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _is_alive(node: str) -> bool:
    """Whether a node is part of the cluster and answers: Ray misses one only after many seconds."""
    if node == _node():
        return True
    known = {entry["NodeID"]: entry for entry in ray.nodes()}  # type: ignore[no-untyped-call]
    if node not in known or not known[node]["Alive"]:
        return False
    address = (known[node]["NodeManagerAddress"], known[node]["NodeManagerPort"])
    try:
        socket.create_connection(address, timeout=NODE_SECONDS).close()
    except OSError:
        return False
    return True
