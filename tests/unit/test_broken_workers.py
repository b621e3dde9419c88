"""When workers that end without a result end the sweep, and when they are the units' own doing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.group import Progress
from orchestrator.halt import MAX_BARREN, Halt, Listener
from orchestrator.ledger import UnitRecord
from orchestrator.storage import Storage
from orchestrator.trial import UnitGroup


@dataclass
class FakeTrial:
    status: str = "RUNNING"
    error_file: str | None = None


def record(key: str, state: Any) -> UnitRecord:
    return UnitRecord(key, "setting", state, "digits", "a", "b", "0", 0.1, 0, 0, {})


@pytest.fixture
def halt(tmp_path: Path) -> Halt:
    return Halt(Storage(str(tmp_path)), since=0, until=math.inf)


def test_a_step_ends_with_a_failed_record() -> None:
    """The next unit may end the process, and nobody would hear of the record that this one left."""

    def steps() -> Iterator[Progress]:
        yield Progress([record("done", "done")])
        yield Progress([record("failed", "failed")])
        raise AssertionError("the process would have ended here")

    group = object.__new__(UnitGroup)
    group._steps = steps()  # type: ignore[assignment]
    group._is_over = lambda: False  # type: ignore[method-assign]
    result = group.step()
    assert (result["finished"], result["failed"], result["done"]) == (["done"], ["failed"], False)


def test_workers_that_never_work_end_the_sweep_with_the_last_error(halt: Halt, tmp_path: Path) -> None:
    (tmp_path / "error.txt").write_text("Traceback\nModuleNotFoundError: No module named 'torch'\n")
    trials = [FakeTrial(error_file=str(tmp_path / "error.txt")) for _ in range(2)]
    listener = Listener(lambda done, failed: None, halt)
    listener.on_trial_start(0, trials, trials[0])
    for _ in range(MAX_BARREN + 8):
        listener.on_trial_recover(0, trials, trials[0])
        assert not halt.fatal and not halt.stop_all()
    listener.on_trial_recover(0, trials, trials[0])
    assert "29 workers in a row" in halt.fatal and "No module named 'torch'" in halt.fatal
    assert halt.stop_all()


def test_all_workers_may_be_lost_at_once_again_and_again(halt: Halt) -> None:
    trials = [FakeTrial() for _ in range(100)]
    listener = Listener(lambda done, failed: None, halt)
    for _ in range(4):
        for trial in trials:
            trial.status = "RUNNING"
        listener.on_trial_start(0, trials, trials[0])
        for trial in trials:
            trial.status = "PENDING"
            listener.on_trial_recover(0, trials, trial)
    assert not halt.fatal


def test_one_result_between_them_says_that_workers_work(halt: Halt) -> None:
    trial = FakeTrial()
    listener = Listener(lambda done, failed: None, halt)
    for _ in range(3):
        for _ in range(MAX_BARREN):
            listener.on_trial_recover(0, [trial], trial)
        listener.on_trial_result(0, [trial], trial, {"failed": ["a"]})
    assert not halt.fatal
