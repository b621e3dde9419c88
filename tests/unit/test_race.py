"""Where the units of one training end: early stopping by each unit's own score at the rungs, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from small_group import Kept, trained

from orchestrator.group import GroupRun, Progress
from orchestrator.ledger import UnitRecord
from orchestrator.objective import record_objective
from orchestrator.plan import Unit
from orchestrator.prepare import Prepared
from orchestrator.stopping import Board


@dataclass
class Told:
    """A judge that lets a unit go on as long as ``goes`` says so, and remembers what it was told."""

    goes: Callable[[Unit, int], bool] = lambda unit, epoch: True
    at: tuple[int, ...] = (1, 3)
    heard: list[tuple[str, int, float | None]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    objective: str = "tail_separation"

    def rungs(self, epochs: int) -> list[int]:
        return [epoch for epoch in self.at if epoch < epochs]

    def goes_on(self, unit: Unit, epoch: int, value: float | None) -> bool:
        self.heard.append((unit.key, epoch, value))
        return self.goes(unit, epoch)

    def finish(self, unit: Unit) -> None:
        self.finished.append(unit.key)


def shared(backbone: str) -> list[Unit]:
    """Two units that share one training of four epochs."""
    units = [trained(backbone, epochs=4, score=score) for score in ("knn", "both_centres")]
    assert len({unit.bundle for unit in units}) == 1
    return units


def run(prepared: Prepared, units: list[Unit], judge: Any, kept: Any = None) -> list[Progress]:
    return list(GroupRun(prepared, units).run(units, kept, judge))


def records(steps: list[Progress]) -> dict[str, UnitRecord]:
    ended = [record for step in steps for record in step.finished]
    assert len({record.key for record in ended}) == len(ended)
    return {record.key: record for record in ended}


def test_a_unit_that_is_stopped_leaves_the_others_untouched(prepared: Prepared, backbone: str) -> None:
    stays, leaves = shared(backbone)
    whole = records(run(prepared, [stays, leaves], None))
    judge = Told(lambda unit, epoch: unit is stays)
    steps = run(prepared, [stays, leaves], judge)
    found = records(steps)
    assert [step.epoch for step in steps] == [1, 2, 3, 4, 0]
    assert [record.key for record in steps[0].finished] == [leaves.key], "recorded where it ends"
    assert found[leaves.key].state == "stopped" and len(found[leaves.key].epochs) == 1
    assert found[stays.key].state == "done" and judge.finished == [stays.key]
    for part in ("source_val", "target_sel", "pseudo", "test"):
        assert np.array_equal(getattr(found[stays.key], part), getattr(whole[stays.key], part))


def test_the_objective_is_that_of_the_record_at_the_rung(prepared: Prepared, backbone: str) -> None:
    units = shared(backbone)
    judge = Told()
    found = records(run(prepared, units, judge))
    short = {unit.key: replace(unit, configuration={**unit.configuration, "epochs": 3}) for unit in units}
    at_three = records(run(prepared, list(short.values()), None))
    for unit in units:
        heard = {epoch: value for key, epoch, value in judge.heard if key == unit.key}
        assert set(heard) == {1, 3}
        assert heard[3] == record_objective("tail_separation", at_three[unit.key])
        stored = {int(entry["epoch"]): entry.get("objective") for entry in found[unit.key].epochs}
        assert stored == {1: heard[1], 2: None, 3: heard[3], 4: None}


def test_a_training_ends_with_its_last_unit(prepared: Prepared, backbone: str) -> None:
    units = shared(backbone)
    steps = run(prepared, units, Told(lambda unit, epoch: epoch < 3))
    assert [step.epoch for step in steps] == [1, 2, 3]
    assert {record.state for record in records(steps).values()} == {"stopped"}
    assert set(records(steps)) == {unit.key for unit in units}


@pytest.mark.parametrize("interrupted", [0, 3])
def test_units_of_other_epochs_are_judged_as_in_trainings_of_their_own(
    interrupted: int, prepared: Prepared, backbone: str
) -> None:
    """Rungs 1 and 3: of two epochs, one rung; of three, the last is none; of five, a unit stopped at 3."""

    def goes(unit: Unit, epoch: int) -> bool:
        return epoch < 3 or unit.configuration["score"] != "both_centres"

    units = [trained(backbone, epochs=epochs) for epochs in (2, 3, 5)]
    units.append(trained(backbone, epochs=5, score="both_centres"))
    assert len({unit.bundle for unit in units}) == 1
    apart = Told(goes)
    expected = records([step for unit in units for step in run(prepared, [unit], apart)])
    judge, kept = Told(goes), Kept()
    steps = GroupRun(prepared, units).run(units, kept, judge)
    before = [next(steps) for _ in range(interrupted)]
    steps.close()  # type: ignore[attr-defined]
    ended = {record.key for step in before for record in step.finished}
    judge.heard.clear()
    left = [unit for unit in units if unit.key not in ended]
    found = records([*before, *run(prepared, left, judge, kept)])
    assert [found[unit.key].state for unit in units] == ["done", "done", "done", "stopped"]
    assert [len(found[unit.key].epochs) for unit in units] == [2, 3, 5, 3]
    heard = {entry for entry in apart.heard if entry[0] not in ended}
    assert set(judge.heard) == heard and len(judge.heard) == len(heard)
    assert sorted(judge.finished) == sorted(unit.key for unit in units[:3])
    for key, record in expected.items():
        assert found[key].epochs == record.epochs and found[key].diagnostics == record.diagnostics
        assert np.array_equal(found[key].test, record.test)


def test_without_rungs_nothing_is_scored_before_the_end(prepared: Prepared, backbone: str) -> None:
    judge = Told(at=())
    found = records(run(prepared, shared(backbone), judge))
    assert judge.heard == [] and {record.state for record in found.values()} == {"done"}


@pytest.mark.parametrize("value", [None, float("nan")])
def test_an_undefined_objective_ends_a_unit(
    value: float | None,
    prepared: Prepared,
    backbone: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real board never lets a unit past a rung at which its objective is undefined."""
    monkeypatch.setattr("orchestrator.race.record_objective", lambda name, record: value)
    board = Board("asha")
    judge = Told(lambda unit, epoch: board.report(unit.key, unit.setting, epoch, judge.heard[-1][2]))
    found = records(run(prepared, shared(backbone), judge))
    assert {record.state for record in found.values()} == {"stopped"}
    assert all(len(record.epochs) == 1 for record in found.values())


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_an_interrupted_race_goes_on_where_it_was(epoch: int, prepared: Prepared, backbone: str) -> None:
    """A board that died with its driver hears of the rungs again, in order, and the records are the same."""
    stays, leaves = shared(backbone)
    expected = records(run(prepared, [stays, leaves], Told(lambda unit, at: unit is stays or at < 3)))
    kept = Kept()
    steps = GroupRun(prepared, [stays, leaves]).run(
        [stays, leaves], kept, Told(lambda unit, at: unit is stays or at < 3)
    )
    before = [next(steps) for _ in range(epoch)]
    steps.close()  # type: ignore[attr-defined]
    ended = {record.key for step in before for record in step.finished}
    judge = Told(lambda unit, at: unit is stays or at < 3)
    left = [unit for unit in (stays, leaves) if unit.key not in ended]
    found = records([*before, *run(prepared, left, judge, kept)])
    assert [at for key, at, _ in judge.heard if key == stays.key] == [1, 3]
    for key, record in expected.items():
        assert found[key].state == record.state and found[key].epochs == record.epochs
        assert np.array_equal(found[key].test, record.test)
