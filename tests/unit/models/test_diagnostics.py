"""Diagnostics of embeddings, each written again by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.diagnostics import effective_rank, negatives_inside, score_spread


@pytest.mark.parametrize("shape", [(30, 4), (6, 20)])
def test_effective_rank_is_the_exponential_of_an_entropy(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape)
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    share = values[values > 1e-9] / values.sum()
    assert effective_rank(rows) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_effective_rank_tells_collapse() -> None:
    draws = np.random.default_rng(0)
    line = np.outer(draws.normal(size=50), draws.normal(size=8))
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(np.eye(8)) > 6.9
    assert effective_rank(np.ones((5, 3))) == 1


def test_score_spread_by_hand() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    distances = [1.0, 4.0, 0.0]
    assert score_spread(rows, np.zeros(2)) == pytest.approx(np.std(distances) / np.mean(distances))
    assert score_spread(np.zeros((4, 2)), np.zeros(2)) == 0


@given(seed=st.integers(0, 1000), shift=st.floats(0, 5))
def test_negatives_inside_counts_those_within_the_radius(seed: int, shift: float) -> None:
    draws = np.random.default_rng(seed)
    trusted, negatives = draws.normal(size=(41, 3)), draws.normal(size=(20, 3)) + shift
    centre = draws.normal(size=3)
    distances = sorted(np.linalg.norm(trusted - centre, axis=1))
    # 95 % of 41 distances: the 39th of them, exactly
    count = sum(np.linalg.norm(row - centre) <= distances[38] for row in negatives)
    assert negatives_inside(negatives, trusted, centre) == pytest.approx(count / 20)
