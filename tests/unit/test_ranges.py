"""Ranges: every share gives a number inside, whole ones evenly, and a bad range is refused."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.ranges import Range

NUMBERS = st.integers(-50, 50) | st.floats(-50, 50)
SHARES = st.floats(0, 1, exclude_max=True)


@given(low=NUMBERS, high=NUMBERS, log=st.booleans(), share=SHARES)
def test_every_number_lies_inside_and_survives_json(low: float, high: float, log: bool, share: float) -> None:
    if low >= high or (log and low <= 0):
        with pytest.raises(ValidationError):
            Range(low=low, high=high, log=log)
        return
    drawn = Range(low=low, high=high, log=log)
    value = drawn.at(share)
    assert low <= value <= high and drawn.holds(value)
    assert json.loads(json.dumps(value)) == value
    assert isinstance(value, int) == drawn.whole == (isinstance(low, int) and isinstance(high, int))


def test_whole_numbers_are_as_likely_as_each_other_and_both_ends_are_reached() -> None:
    drawn = Range(low=2, high=5)
    counts = Counter(drawn.at(i / 4000) for i in range(4000))
    assert set(counts) == {2, 3, 4, 5} and max(counts.values()) - min(counts.values()) <= 2
    assert drawn.size == 4 and Range(low=2, high=5.0).size is None


def test_factors_are_as_likely_as_each_other_on_a_logarithmic_scale() -> None:
    drawn = Range(low=0.001, high=10.0, log=True)
    counts = Counter(len(str(int(drawn.at(i / 4000) * 1000))) for i in range(4000))
    assert [counts[digits] for digits in (1, 2, 3, 4)] == pytest.approx([1000] * 4, abs=3)


def test_holds_numbers_alone() -> None:
    drawn = Range(low=1, high=3)
    assert drawn.holds(2) and drawn.holds(2.0) and not drawn.holds(2.5)
    assert not drawn.holds(True) and not drawn.holds("2") and not drawn.holds(None) and not drawn.holds(4)


def test_probes_find_a_fraction_where_the_ends_are_whole() -> None:
    assert Range(low=1, high=3).probes() == [1, 3] and Range(low=0.5, high=3).probes() == [0.5, 3]
    low, between, high = Range(low=1.0, high=3).probes()
    assert (low, high) == (1, 3) and not float(between).is_integer()


@pytest.mark.parametrize("high", [float("inf"), float("nan"), "much", None])
def test_ends_are_finite_numbers(high: object) -> None:
    with pytest.raises(ValidationError):
        Range.model_validate({"low": 1, "high": high})
