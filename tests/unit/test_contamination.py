"""The estimate of the contamination on target sets whose contamination is known by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contamination import (
    LARGEST,
    MOST_IMAGES,
    as_diagnostics,
    estimate_contamination,
    mean_contamination,
    shape,
    unknown_contamination,
)
from trainables.errors import UndefinedScore
from trainables.types import Contamination


def target_set(rho: float, n: int = 200, apart: float = 1.0, seed: int = 0) -> np.ndarray:
    """n unit rows around one direction, a share ``rho`` of them around eight others."""
    draws = np.random.default_rng(seed)
    directions = np.eye(40)[:9]
    which = np.zeros(n, dtype=int)
    which[: round(rho * n)] = 1 + np.arange(round(rho * n)) % 8
    centres = directions[0] + apart * (directions[which] - directions[0])
    rows = 4 * centres + 0.5 * draws.normal(size=(n, 40))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_more_anomalies_give_a_higher_estimate() -> None:
    clear = [estimate_contamination(target_set(rho), "test").estimate for rho in (0.1, 0.2, 0.35)]
    assert clear == pytest.approx([0.1, 0.2, 0.35], abs=0.03), "what a gap sets apart is counted"
    none = estimate_contamination(target_set(0.0), "test")
    assert none.low < 0.05 and none.estimate < clear[0] + 0.1


@given(rho=st.floats(0, 0.4), n=st.integers(10, 150), seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_an_interval_holds_its_estimate(rho: float, n: int, seed: int) -> None:
    found = estimate_contamination(target_set(rho, n, seed=seed), "test")
    assert 0 <= found.low <= found.estimate <= found.high <= LARGEST


def test_order_scale_of_purpose_and_precision_do_not_matter() -> None:
    rows = target_set(0.2)
    found = estimate_contamination(rows, "one")
    shuffled = rows[np.random.default_rng(1).permutation(len(rows))]
    assert estimate_contamination(shuffled, "two") == found
    single = estimate_contamination(rows.astype(np.float32), "one")
    assert single.estimate == pytest.approx(found.estimate, abs=1e-3)


def test_shape_by_hand() -> None:
    rows = target_set(0.15, n=40)
    n = len(rows)
    distance = [sorted(float(np.linalg.norm(a - b)) for j, b in enumerate(rows) if j != i)
                for i, a in enumerate(rows)]  # fmt: skip
    tenth = [np.mean(row[:4]) for row in distance]
    half = [np.mean(row[:20]) for row in distance]
    core = list(range(n))
    for _ in range(100):
        middle = np.mean(rows[core], axis=0)
        nearest = sorted(range(n), key=lambda i: float(np.linalg.norm(rows[i] - middle)))[:20]
        if set(nearest) == set(core):
            break
        core = nearest
    middle = np.mean(rows[core], axis=0)
    to_core = [float(np.linalg.norm(row - middle)) for row in rows]
    mean = rows.mean(axis=0)
    spread = np.mean([np.sum((row - mean) ** 2) for row in rows])
    dense = np.mean(np.square(sorted(to_core)[:20]))
    cosines = [float(a @ b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]

    def beyond(values: list[float], q: float) -> float:
        return float(np.log(np.quantile(values, q) / np.median(values)))

    expected = [beyond(tenth, 0.8), beyond(half, 0.8), beyond(half, 0.9), beyond(to_core, 0.9),
                float(np.log(spread / dense)), float(np.mean(cosines)) / float(middle @ middle)]  # fmt: skip
    assert shape(rows) == pytest.approx(expected, rel=1e-6)


def test_many_images_are_sampled_by_purpose() -> None:
    rows = target_set(0.2, n=MOST_IMAGES + 200)
    first = estimate_contamination(rows, "one")
    assert first == estimate_contamination(rows, "one")
    assert first.estimate == pytest.approx(estimate_contamination(rows, "two").estimate, abs=0.05)


def test_too_few_or_equal_images_have_none() -> None:
    with pytest.raises(UndefinedScore, match="9 images are too few"):
        estimate_contamination(target_set(0, n=9), "test")
    with pytest.raises(UndefinedScore, match="equal"):
        estimate_contamination(np.repeat(np.eye(3)[:1], 30, axis=0), "test")


def test_what_is_unlike_every_set_of_the_table_is_unsure() -> None:
    strange = np.concatenate([np.repeat(np.eye(30)[:1], 12, axis=0), np.eye(30)[1:]])
    strange = strange + 1e-3 * np.random.default_rng(0).normal(size=strange.shape)
    strange /= np.linalg.norm(strange, axis=1, keepdims=True)
    usual, unusual = (estimate_contamination(rows, "test") for rows in (target_set(0.15), strange))
    assert unusual.high - unusual.low > usual.high - usual.low


def test_estimates_of_units_are_averaged() -> None:
    one, two = Contamination(0.1, 0.0, 0.2), Contamination(0.3, 0.2, 0.4)
    found = mean_contamination([as_diagnostics(one), {"effective_rank": 3.0}, as_diagnostics(two)])
    assert (found.estimate, found.low, found.high) == pytest.approx((0.2, 0.1, 0.3))
    assert mean_contamination([{}]) == unknown_contamination()
    unknown = unknown_contamination()
    assert 0 <= unknown.low < unknown.estimate < unknown.high <= LARGEST
