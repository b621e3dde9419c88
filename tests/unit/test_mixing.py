"""Mixing: half for one domain, nothing for domains apart, in one pass over plain distances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.mixing import as_diagnostics, mean_mixing, measure_mixing
from trainables.errors import UndefinedScore


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, 16))
    rows[:, 0] += 3 + shift
    rows[:, 1] += shift
    return unit(rows)


def test_one_domain_is_half_and_a_shift_lowers_it() -> None:
    values = [measure_mixing(draw(300, 0), draw(300, 1, shift), "test") for shift in (0.0, 1.5, 4.0, 12.0)]
    assert values[0] == pytest.approx(0.5, abs=0.05) and values[-1] < 0.05
    assert values == sorted(values, reverse=True)


def test_a_tenth_of_anomalies_hardly_changes_it() -> None:
    anomalies = unit(-draw(30, 2, 5.0))
    clean, mixed = draw(300, 1), np.concatenate([draw(270, 1), anomalies])
    before, after = (measure_mixing(draw(300, 0), rows, "test") for rows in (clean, mixed))
    assert after == pytest.approx(before, abs=0.06)


@given(n=st.integers(6, 40), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_it_is_the_share_among_the_five_nearest(n: int, seed: int) -> None:
    source, target = draw(n, seed), draw(n, seed + 1000, 1.0)
    found = 0
    for i, image in enumerate(target):
        others = [(np.linalg.norm(image - row), True) for row in source]
        others += [(np.linalg.norm(image - row), False) for j, row in enumerate(target) if j != i]
        found += sum(of_source for _, of_source in sorted(others)[:5])
    assert measure_mixing(source, target, "test") == pytest.approx(found / (5 * n))


def test_of_more_images_as_many_of_either_domain_are_drawn_by_the_purpose() -> None:
    source, target = draw(2000, 0), draw(50, 1)
    one, two = measure_mixing(source, target, "one"), measure_mixing(source, target, "two")
    assert one == measure_mixing(source, target, "one")
    assert one == pytest.approx(0.5, abs=0.15) and two == pytest.approx(0.5, abs=0.15)


def test_too_few_images_are_undefined() -> None:
    with pytest.raises(UndefinedScore, match="5 images of a domain are too few"):
        measure_mixing(draw(5, 0), draw(100, 1), "test")


def test_the_mean_is_over_what_has_it_in_any_order() -> None:
    found = [as_diagnostics(0.1), {"effective_rank": 3.0}, as_diagnostics(0.3), as_diagnostics(0.23)]
    assert mean_mixing(found) == mean_mixing(found[::-1]) == pytest.approx(0.21)
    assert mean_mixing([{}]) == 0
