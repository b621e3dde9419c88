"""What a worker does with a bundle whose earlier attempts ended badly: real ledger, no Ray, no training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.attempts import Attempt, AttemptLog, Failure, History
from orchestrator.group import GroupRun, Progress
from orchestrator.leases import Owner
from orchestrator.ledger import Ledger, UnitRecord
from orchestrator.plan import Unit
from orchestrator.storage import Storage
from orchestrator.trial import BundleRuns, Launch

BUNDLE, RUN = "b", "session-0"


def record(key: str, state: Any, **values: Any) -> UnitRecord:
    return UnitRecord(key, "setting", state, "digits", "a", "b", "0", 0.1, 0, 0, {}, **values)


@dataclass
class OneBundle:
    """A group of one bundle, whose units are recorded one after the other until one ends the process."""

    trains: bool
    deadly: str = ""

    def bundles(self) -> list[list[Unit]]:
        return [[Unit(key, "setting", {}, 0, BUNDLE, self.trains) for key in "uvw"]]

    def run(self, units: Sequence[Unit], *_: object) -> Iterator[Progress]:
        for unit in units:
            if unit.key == self.deadly:
                raise SystemExit
            yield Progress([record(unit.key, "done")])

    def fail(self, units: Sequence[Unit], failure: Failure, error: str) -> list[UnitRecord]:
        return [record(unit.key, "failed", failure=failure, error=error) for unit in units]


class Worker:
    """A worker process on the ledger in a folder."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(str(folder))
        self.ledger = Ledger(self.storage)
        self.ledger.open()
        self.storage.write("id", b"ledger")
        self.attempts = AttemptLog(self.storage)

    def run(self, group: OneBundle) -> None:
        now = time.time()
        launch = Launch(self.storage.location, b"ledger", Owner.here(), RUN, 1, 60.0, now, now + 60, None)
        list(BundleRuns(launch, cast(GroupRun, group), "node").run())


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


HUNG = History(begun=1, deaths=1, failure="timeout", error="no progress for 3 s")


def test_of_units_that_share_no_training_only_the_one_under_way_is_blamed(worker: Worker) -> None:
    worker.ledger.write(record("u", "done"))
    worker.attempts.write(BUNDLE, HUNG)
    worker.run(OneBundle(trains=False))
    assert worker.ledger.states(["u", "v", "w"]) == {"u": "done", "v": "failed", "w": "done"}
    assert not worker.attempts.bundles()


def test_units_of_one_training_fail_together(worker: Worker) -> None:
    worker.attempts.write(BUNDLE, HUNG)
    worker.run(OneBundle(trains=True))
    assert worker.ledger.states(["u", "v", "w"]) == dict.fromkeys("uvw", "failed")


def test_a_unit_that_did_not_die_again_leaves_no_death_to_the_next(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two units that die once each are two units that may be run once more."""
    monkeypatch.setattr("orchestrator.trial._is_alive", lambda node: True)
    under_way = Attempt(RUN, "node", 1, time.time())
    worker.attempts.write(BUNDLE, History(begun=1, open=under_way))
    with pytest.raises(SystemExit):
        worker.run(OneBundle(trains=False, deadly="w"))
    assert worker.ledger.states(["u", "v", "w"]) == {"u": "done", "v": "done"}
    left = worker.attempts.read(BUNDLE)
    assert (left.begun, left.deaths) == (2, 0) and left.open is not None
    assert not left.settled(RUN, lambda node: True).is_exhausted
    worker.attempts.write(BUNDLE, replace(left, open=None))
    worker.run(OneBundle(trains=False))
    assert worker.ledger.states(["w"]) == {"w": "done"}
