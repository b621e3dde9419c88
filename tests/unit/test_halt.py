"""Halt: when a launch is over, and when Tune may end what runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator import halt
from orchestrator.halt import Ending, Halt
from orchestrator.stop import request_stop, stop_requested
from orchestrator.storage import Storage


@dataclass
class FakeTrial:
    status: str = "RUNNING"


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(halt, "POLL_SECONDS", 0.0)
    return Storage(str(tmp_path))


def test_a_stop_is_meant_for_launches_that_began_before_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 100.0)
    request_stop(storage)
    for since, over in ((99.0, True), (100.0, False), (101.0, False)):
        assert stop_requested(storage, since) == over
        launch = Halt(storage, since=since, until=math.inf)
        assert launch.is_over() == launch.stop_all() == over
        assert launch.ending == (Ending.STOPPED if over else None)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"asked": "now"}', b"\xff"])
def test_a_damaged_request_stops_nothing(content: bytes, storage: Storage) -> None:
    storage.write("stop", content)
    assert not stop_requested(storage, 0)


def test_tune_ends_nothing_while_a_worker_is_at_its_step(storage: Storage) -> None:
    launch = Halt(storage, since=0, until=1)
    launch.trials = [FakeTrial("PENDING"), FakeTrial(), FakeTrial("TERMINATED")]
    assert launch.is_over() and not launch.stop_all() and launch.ending is Ending.BUDGET
    launch.trials[1].status = "TERMINATED"
    assert launch.stop_all(), "what waits for a place is not begun"


def test_where_nothing_can_be_recorded_tune_ends_everything_at_once(storage: Storage) -> None:
    launch = Halt(storage, since=0, until=math.inf)
    launch.trials = [FakeTrial()]
    assert not launch.stop_all()
    launch.fatal = "the disk is full"
    assert launch.stop_all() and not launch.is_over()


def test_the_first_reason_stays(storage: Storage) -> None:
    launch = Halt(storage, since=0, until=1)
    assert launch.is_over()
    request_stop(storage)
    assert launch.is_over() and launch.ending is Ending.BUDGET
