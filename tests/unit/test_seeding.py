"""Named randomness: fixed by its purpose, equal in every process, different between purposes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.seeding import canonical_json, generator, stable_hash, stable_seed, unit_interval

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_values_never_change() -> None:
    """Caches, settings and ledgers on disk are named by these numbers."""
    assert stable_hash({"b": 1, "a": [None, 0.5]}) == "7998e609dc018c73"
    assert stable_seed("kmeans", 5) == 2801528991082161
    assert generator("kmeans", 5).integers(1000, size=3).tolist() == [737, 416, 850]
    assert unit_interval("split", 0, "image") == 0.026263844497421474


def test_equal_in_another_process() -> None:
    code = "from trainables.seeding import *; print(stable_seed('a', 1), stable_hash({'x': 'é'}))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "7")
    }
    assert texts == {f"{stable_seed('a', 1)} {stable_hash({'x': 'é'})}\n"}


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)
    assert stable_hash(dict(reversed(value.items()))) == stable_hash(value)


@given(JSON, JSON)
def test_different_values_differ(left: object, right: object) -> None:
    assert (stable_hash(left) == stable_hash(right)) == (canonical_json(left) == canonical_json(right))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [-float("inf")]}])
def test_non_finite_numbers_are_refused(value: object) -> None:
    with pytest.raises(ValueError):
        canonical_json(value)


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_seed_fits_and_interval_is_half_open(purpose: list[str]) -> None:
    assert 0 <= stable_seed(*purpose) < 2**63
    assert 0 <= unit_interval(*purpose) < 1


def test_parts_of_a_purpose_are_not_run_together() -> None:
    assert stable_seed("a", "bc") != stable_seed("ab", "c") != stable_seed("abc")


@pytest.mark.parametrize("digits", [8, 12, 16, 32])
def test_hash_has_the_digits_asked_for(digits: int) -> None:
    assert len(stable_hash("x", digits)) == digits


def test_interval_is_uniform() -> None:
    values = np.sort([unit_interval("uniform", i) for i in range(2000)])
    assert np.abs(values - np.linspace(0, 1, 2000)).max() < 0.04
