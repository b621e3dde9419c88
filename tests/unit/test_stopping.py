"""Early stopping: about one in three goes on, nothing undefined ever does, settings are kept apart."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ledger import UnitRecord
from orchestrator.stopping import ETA, OBJECTIVE, Board, rungs

EPOCHS = 12


def train(board: Board, key: str, value: float | None, setting: str = "s") -> int:
    """Report one value at every rung; return the epoch at which the unit stopped, 0 where it went on."""
    for epoch in rungs("asha", EPOCHS):
        if not board.report(key, setting, epoch, value):
            return epoch
    board.finish(key)
    return 0


def record(key: str, epochs: list[dict[str, float]], state: Any = "done", setting: str = "s") -> UnitRecord:
    return UnitRecord(
        key=key,
        setting=setting,
        state=state,
        dataset="digits",
        source="a",
        target="b",
        normal_class="0",
        contamination=0.1,
        split_seed=0,
        seed=0,
        config={},
        epochs=epochs,
    )


def test_rungs() -> None:
    assert rungs("asha", 12) == rungs("median", 12) == [1, 3, 9]
    assert rungs("asha", 9) == [1, 3] and rungs("asha", 2) == [1] and rungs("asha", 1) == []
    assert rungs("none", 12) == []


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_asha_lets_about_one_in_eta_past_each_rung_and_always_the_best(order: int) -> None:
    board, values = Board("asha"), [i / 10 for i in range(81)]
    random.Random(order).shuffle(values)
    stops = {value: train(board, str(value), value) for value in values}
    reached = len(values)
    for epoch in rungs("asha", EPOCHS):
        kept = reached - sum(stop == epoch for stop in stops.values())
        # The first of all come without rivals: a few more than a third go on, never fewer than one.
        assert 1 <= kept <= reached / ETA + 12, (epoch, kept)
        reached = kept
    assert stops[max(values)] == 0


def test_asha_keeps_a_third_of_many() -> None:
    board, values = Board("asha"), [i / 300 for i in range(300)]
    random.Random(1).shuffle(values)
    stops = [train(board, str(value), value) for value in values]
    assert 300 / 3 - 15 <= sum(stop != 1 for stop in stops) <= 300 / 3 + 15
    assert 300 / 9 - 10 <= sum(stop not in (1, 3) for stop in stops) <= 300 / 9 + 10


def test_median_stops_what_lies_below_the_median_of_the_finished() -> None:
    board = Board("median")
    assert [train(board, str(i), float(i)) for i in range(5)] == [0] * 5, "five finish before any is judged"
    assert train(board, "low", 1.9) == 1
    assert train(board, "high", 2.1) == 0


@pytest.mark.parametrize("scheduler", ["asha", "median"])
@pytest.mark.parametrize("undefined", [None, float("nan"), float("inf"), float("-inf")])
@given(before=st.lists(st.floats(-5, 5) | st.none(), max_size=12))
def test_what_is_undefined_never_survives_and_never_counts(
    scheduler: Any, undefined: float | None, before: list[float | None]
) -> None:
    board, same = Board(scheduler), Board(scheduler)
    for i, value in enumerate(before):
        train(board, str(i), value)
        assert (train(same, str(i), value) == 1) or value is not None
    assert train(board, "undefined", undefined) == 1
    assert not board.report("undefined", "s", 3, 100.0), "it does not come back"
    assert train(board, "next", 0.5) == train(same, "next", 0.5)


def test_settings_are_compared_with_themselves_alone() -> None:
    board = Board("asha")
    for i in range(9):
        train(board, f"a{i}", 10.0 + i, "easy")
    assert train(board, "b0", 0.1, "hard") == 0
    assert train(board, "a9", 0.1, "easy") == 1


def test_the_default_is_compared_but_never_stopped() -> None:
    board = Board("asha", protected={"default", "undefined"})
    for i in range(9):
        train(board, str(i), 1.0 + i)
    assert train(board, "default", 0.0) == 0 and train(board, "undefined", None) == 0
    assert train(board, "other", 0.0) == 1


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_rung_reported_again_changes_nothing(scheduler: Any) -> None:
    board, same = Board(scheduler), Board(scheduler)
    for i in range(9):
        train(board, str(i), i / 10)
        train(same, str(i), i / 10)
        first = train(board, f"again{i}", i / 20)
        assert [train(board, f"again{i}", 9.0) > 0 for _ in range(3)] == [first > 0] * 3
        train(same, f"again{i}", i / 20)
    for value in (0.0, 0.3, 0.9):
        assert train(board, f"next{value}", value) == train(same, f"next{value}", value)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_board_filled_from_records_decides_like_the_one_that_died(scheduler: Any) -> None:
    values = [((7 * i) % 20) / 10 for i in range(20)]
    board, records = Board(scheduler), []
    for i, value in enumerate(values):
        stop = train(board, str(i), value)
        reached = [epoch for epoch in rungs(scheduler, EPOCHS) if not stop or epoch <= stop]
        epochs = [{"epoch": float(epoch), "loss": 1.0} for epoch in range(1, (stop or EPOCHS) + 1)]
        for epoch in reached:
            epochs[epoch - 1][OBJECTIVE] = value
        records.append(record(str(i), epochs, "stopped" if stop else "done"))
    records.append(record("without training", []))
    again = Board(scheduler)
    again.enter(records)
    for value in (0.0, 0.5, 1.0, 1.5, 2.0):
        assert train(again, f"n{value}", value) == train(board, f"n{value}", value), value
    assert [train(again, str(i), 9.0) > 0 for i in range(20)] == [
        train(board, str(i), 9.0) > 0 for i in range(20)
    ]


def test_none_has_no_board() -> None:
    with pytest.raises(ValueError, match="no board for the scheduler 'none'"):
        Board("none")
