"""The threshold: what it flags of streams whose anomalies are known, and what it does at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.threshold import make_threshold
from trainables.types import Contamination


def contamination(rho: float) -> Contamination:
    return Contamination(estimate=rho, low=0, high=1)


def normals(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).gamma(9, size=count)


def test_a_clean_stream_is_hardly_flagged_whatever_the_scale_of_the_domains() -> None:
    for scale in (0.01, 1, 100):
        value = make_threshold(scale * normals(200, 0), normals(200, 1), contamination(0)).value
        assert (normals(5000, 2) > value).mean() < 0.02


def test_an_estimate_that_is_too_high_flags_less_than_its_share_of_a_clean_stream() -> None:
    clean, source = normals(400, 0), normals(400, 1)
    value = make_threshold(source, clean, contamination(0.3)).value
    assert (normals(5000, 2) > np.quantile(clean, 0.7)).mean() > 0.28
    assert (normals(5000, 2) > value).mean() < 0.18


@pytest.mark.parametrize("rho", [0.1, 0.3])
def test_anomalies_are_flagged_and_normals_are_not(rho: float) -> None:
    anomalies = round(400 * rho)
    stream = np.concatenate([normals(400 - anomalies, 0), 30 + normals(anomalies, 1)])
    value = make_threshold(normals(200, 2), stream, contamination(rho)).value
    assert (normals(5000, 3) > value).mean() < 0.02
    assert (30 + normals(5000, 4) > value).mean() > 0.98


def test_the_rule_says_how_the_value_was_made() -> None:
    scores = np.arange(101, dtype=np.float32)
    low, high = np.linspace(1, 1.01, 50), np.concatenate([np.ones(30), np.full(20, 9.0)])
    at_quantile = make_threshold(low, scores, contamination(0.25))
    assert at_quantile.value == 75 and "0.75 quantile of the scores of T_sel" in at_quantile.rule
    at_source = make_threshold(high, scores, contamination(0.25))
    assert at_source.value == pytest.approx(37.5 * 9) and "S_val" in at_source.rule


def test_more_anomalies_never_raise_the_threshold() -> None:
    stream = normals(300, 0)
    values = [
        make_threshold(normals(100, 1), stream, contamination(rho)).value for rho in np.arange(0, 1, 0.05)
    ]
    assert values == sorted(values, reverse=True)


def test_a_source_without_any_distance_has_no_say() -> None:
    value = make_threshold(np.zeros(9), np.arange(11.0), contamination(0.1)).value
    assert value == pytest.approx(9)
