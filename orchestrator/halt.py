"""When a Tune run ends early: the budget is spent, somebody asked to stop, or it is senseless to go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.stopper import NoopStopper

from orchestrator.stop import POLL_SECONDS, stop_requested
from orchestrator.storage import Storage

MAX_BARREN = 20
"""Failures of workers in a row, without any result between them, that are put up with."""


class Ending(Enum):
    """Why a launch came to its end."""

    COMPLETE = "complete"
    BUDGET = "budget"
    STOPPED = "stopped"


class Halt(tune.Stopper):
    """Ends a Tune run: the budget is spent, somebody asked to stop, or nothing can be recorded.

    Args:
        storage: where the ledger is.
        since: seconds since the epoch; a request to stop that is older is not meant for this launch.
        until: when the budget of time is spent, likewise; infinity = never.

    Attributes:
        ending: why the launch ends before its units do, if it does.
        fatal: what makes it senseless to go on, in words; empty otherwise.
        trials: those of the Tune run as they were last seen.
    """

    def __init__(self, storage: Storage, since: float, until: float) -> None:
        self._storage = storage
        self._since = since
        self._until = until
        self._looked = time.monotonic()
        self.ending: Ending | None = None
        self.fatal = ""
        self.trials: list[Any] = []

    def __reduce__(self) -> tuple[type[tune.Stopper], tuple[()]]:
        """Tune pickles its stopper into a snapshot that is never restored."""
        return NoopStopper, ()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped alone."""
        return False

    def stop_all(self) -> bool:
        """Whether Tune ends all trials at once.

        It kills a worker five seconds after it has asked it to end, in the middle of an epoch. Workers see
        for themselves that the launch is over, and end their trials after the step that each is at.
        """
        return bool(self.fatal) or (
            self.is_over() and not any(trial.status == "RUNNING" for trial in self.trials)
        )

    def is_over(self) -> bool:
        """Whether the budget is spent or a stop was asked for."""
        if time.time() >= self._until:
            self.ending = self.ending or Ending.BUDGET
        now = time.monotonic()
        if now - self._looked >= POLL_SECONDS:
            self._looked = now
            if stop_requested(self._storage, self._since):
                self.ending = self.ending or Ending.STOPPED
        return self.ending is not None


class Listener(tune.Callback):
    """Tells the driver of every unit that ended, and notices when no trial gets as far as that."""

    def __init__(self, tell: Callable[[Iterable[str], Iterable[str]], None], halt: Halt) -> None:
        self._tell = tell
        self._halt = halt
        self._barren = 0
        self._most = 0

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        """Tune pickles its callbacks into a snapshot that is never restored; a progress bar cannot be."""
        return tune.Callback, ()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Forward the keys of a step that ended units."""
        self._barren = 0
        self._halt.fatal = self._halt.fatal or result.get("fatal", "")
        self._tell(result.get("finished", []), result.get("failed", []))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Keep in mind which trials there are, and how many workers there were at once."""
        self._halt.trials = trials
        self._most = max(self._most, sum(other.status == "RUNNING" for other in trials))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count failures with no result between them: a cluster on which no worker works ends the sweep.

        All workers may be lost at once, more than once, and each bundle under way may end two processes.
        """
        self._barren += 1
        if self._barren > MAX_BARREN + 4 * self._most:
            last = _last_error(trial)
            self._halt.fatal = f"{self._barren} workers in a row ended without a result. The last: {last}"


def _last_error(trial: Any) -> str:
    """The last line of what Tune wrote down of a trial's failures."""
    try:
        lines = Path(trial.error_file).read_text().strip().splitlines()
    except (OSError, TypeError):
        return "unknown"
    return lines[-1] if lines else "unknown"
