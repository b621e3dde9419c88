"""Attempts: how often a bundle of units was begun without an end, and what ended it.

A worker notes that it begins and removes the note with the last record. A note found by the next worker
tells how the last attempt ended, since nothing else can be asked of a process that is gone:

- another run of the driver began it: that driver was stopped, so nothing is held against the units;
- its node is gone: a preemption, counted apart and never the units' fault;
- otherwise its process died, which a unit may do once.

The watchdog and the driver, which know better how an attempt ended, write so before the next one begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal

from orchestrator.storage import Storage

MAX_DEATHS = 2
"""Deaths of the worker process after which the units of a bundle are recorded as failed."""

Failure = Literal[
    "error", "non_finite", "out_of_memory", "gpu_out_of_memory", "timeout", "worker_died", "no_result"
]
"""Why a unit failed: an exception, a number that is not finite, the host's memory, the GPU's, the time limit,
the death of its process, or a trial that ended without its record."""


@dataclass(frozen=True)
class Attempt:
    """One start of a bundle.

    Attributes:
        run: session of the driver and number of its Tune run.
        node: Ray's id of the node.
        pid: process id of the worker.
        began: seconds since the epoch.
    """

    run: str
    node: str
    pid: int
    began: float


@dataclass(frozen=True)
class History:
    """What is known of the earlier attempts of a bundle.

    Attributes:
        begun: attempts so far.
        deaths: attempts that ended with the death of the worker process.
        preemptions: attempts that ended with the loss of the node.
        failure: how the last attempt that counts against the units ended.
        error: what was said of it.
        open: an attempt without an end.
    """

    begun: int = 0
    deaths: int = 0
    preemptions: int = 0
    failure: Failure | None = None
    error: str = ""
    open: Attempt | None = None

    def settled(self, run: str, is_alive: Callable[[str], bool]) -> History:
        """The history after the open attempt, if any, has been judged.

        Args:
            run: the run that asks.
            is_alive: Ray's id of a node -> whether it is part of the cluster.
        """
        last = self.open
        if last is None or last.run != run:
            return replace(self, open=None)
        if not is_alive(last.node):
            return replace(self, open=None, preemptions=self.preemptions + 1)
        return self.died("worker_died", "the worker process died while it ran this unit")

    def died(self, failure: Failure, error: str) -> History:
        """The history after the open attempt ended the worker process."""
        return replace(self, open=None, deaths=self.deaths + 1, failure=failure, error=error)

    @property
    def is_exhausted(self) -> bool:
        """Whether the units are to be recorded as failed instead of being run again."""
        return self.deaths >= MAX_DEATHS or (self.deaths > 0 and self.failure == "timeout")

    def begin(self, attempt: Attempt) -> History:
        """The history with a new open attempt."""
        return replace(self, begun=self.begun + 1, open=attempt)


class AttemptLog:
    """Histories under ``attempts/<bundle>.json``; only the holder of a bundle's lease writes one."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def read(self, bundle: str) -> History:
        """The history of a bundle; an empty one where there is none, or a damaged one."""
        try:
            values = json.loads(self._storage.read(_file(bundle)) or b"{}")
            attempt = values.pop("open", None)
            return History(**values, open=Attempt(**attempt) if attempt else None)
        except (ValueError, TypeError, AttributeError):
            return History()

    def write(self, bundle: str, history: History) -> None:
        """Replace the history of a bundle."""
        self._storage.write(_file(bundle), json.dumps(asdict(history)).encode(), durable=False)

    def forget(self, bundle: str) -> None:
        """Remove the history of a bundle: its units have their records, or start anew."""
        self._storage.remove(_file(bundle))

    def bundles(self) -> list[str]:
        """Bundles with a history."""
        return [name.removesuffix(".json") for name in self._storage.names("attempts")]


def _file(bundle: str) -> str:
    return f"attempts/{bundle}.json"
