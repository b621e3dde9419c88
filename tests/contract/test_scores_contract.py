"""What every anomaly score promises, over the registry, and each one written again by hand."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf

from trainables.scores.base import SCORES, Reference, Score

NAMES = SCORES.names()
ON_SOURCE_ALONE = [name for name in NAMES if SCORES.get(name).works_on_source_alone]


def build(name: str, **values: Any) -> Score:
    score: Score = SCORES.get(name)(**values)
    return score


def unit(rows: int, seed: int, e: int = 5) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, e))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def reference(seed: int = 0, trusted: int = 30, e: int = 5) -> Reference:
    source = unit(20, seed, e)
    return Reference(source.mean(axis=0), source, unit(trusted, seed + 1, e))


def test_expected_scores_are_found() -> None:
    assert {"both_centres", "knn", "mahalanobis", "source_centre", "target_centre"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10_000), trusted=st.integers(2, 40), n=st.integers(1, 20), e=st.integers(2, 40))
@settings(max_examples=15)
def test_one_finite_non_negative_number_per_image(name: str, seed: int, trusted: int, n: int, e: int) -> None:
    scores = build(name)(unit(n, seed + 2, e), reference(seed, trusted, e))
    assert scores.shape == (n,)
    assert np.isfinite(scores).all() and (scores >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_order_does_not_matter_and_images_do_not_see_each_other(name: str) -> None:
    given_reference, images = reference(), unit(12, 9)
    order = np.random.default_rng(0).permutation(12)
    moved = Reference(
        given_reference.centre, given_reference.source[::-1], np.roll(given_reference.trusted, 7, axis=0)
    )
    scores = build(name)(images, given_reference)
    assert np.allclose(build(name)(images[order], moved), scores[order], rtol=1e-4, atol=1e-6)
    assert np.allclose(build(name)(images[3:4], given_reference), scores[3], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_far_is_more_anomalous(name: str) -> None:
    draws = np.random.default_rng(1)
    near = np.eye(6)[0] + 0.05 * draws.normal(size=(60, 6))
    far = np.eye(6)[1] + 0.05 * draws.normal(size=(10, 6))
    given_reference = Reference(near[:20].mean(axis=0), near[:20], near[20:50])
    scores = build(name)(np.concatenate([near[50:], far]), given_reference)
    assert scores[:10].max() < scores[10:].min()


@pytest.mark.parametrize("name", ON_SOURCE_ALONE)
def test_without_a_trusted_set_the_source_stands_in(name: str) -> None:
    full = reference()
    alone = Reference(full.centre, full.source, full.trusted[:0])
    stand_in = Reference(full.centre, full.source, full.source)
    images = unit(9, 4)
    assert np.array_equal(build(name)(images, alone), build(name)(images, stand_in))


@pytest.mark.parametrize("name", NAMES)
def test_uses_trusted_tells_the_truth(name: str) -> None:
    first = reference()
    second = Reference(first.centre, first.source, unit(30, 77))
    images = unit(9, 4)
    same = np.array_equal(build(name)(images, first), build(name)(images, second))
    assert same == (not SCORES.get(name).uses_trusted)


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_trusted_sets_stay_finite(name: str) -> None:
    images = unit(6, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for bank in (images[:1], np.repeat(images[:1], 8, axis=0), images[:2]):
            scores = build(name)(images, Reference(images[0], images, bank))
            assert np.isfinite(scores).all() and scores[0] == pytest.approx(scores.min(), abs=1e-9)
            assert np.isfinite(scores.astype(np.float32)).all()


@pytest.mark.parametrize("name", ["source_centre", "target_centre", "both_centres"])
def test_centre_scores_by_hand(name: str) -> None:
    given_reference, images = reference(), unit(7, 4)
    c_target = sum(given_reference.trusted) / len(given_reference.trusted)
    centre = {
        "source_centre": given_reference.centre,
        "target_centre": c_target,
        "both_centres": (given_reference.centre + c_target) / 2,
    }[name]
    expected = [sum((z - c) ** 2 for z, c in zip(row, centre, strict=True)) for row in images]
    assert np.allclose(build(name)(images, given_reference), expected, rtol=1e-4)


@pytest.mark.parametrize("neighbours", [1, 5, 100])
def test_knn_by_hand(neighbours: int) -> None:
    given_reference, images = reference(), unit(7, 4)
    expected = []
    for row in images:
        distances = sorted(float(np.linalg.norm(row - other)) for other in given_reference.trusted)
        nearest = distances[: min(neighbours, len(distances))]
        expected.append(sum(nearest) / len(nearest))
    assert np.allclose(build("knn", neighbours=neighbours)(images, given_reference), expected, atol=1e-4)


@pytest.mark.parametrize("neighbours", [1, 5, 100])
def test_knn_both_by_hand(neighbours: int) -> None:
    given_reference, images = reference(), unit(7, 4)
    bank = [*given_reference.source, *given_reference.trusted]
    nearest = [sorted(float(np.linalg.norm(row - other)) for other in bank)[:neighbours] for row in images]
    expected = [sum(distances) / len(distances) for distances in nearest]
    assert np.allclose(build("knn_both", neighbours=neighbours)(images, given_reference), expected, atol=1e-4)


@pytest.mark.parametrize(("trusted", "e"), [(60, 5), (12, 5), (10, 40)])
def test_mahalanobis_is_scikit_learns_ledoit_wolf(trusted: int, e: int) -> None:
    given_reference, images = reference(3, trusted, e), unit(15, 8, e).astype(np.float64)
    expected = LedoitWolf().fit(given_reference.trusted.astype(np.float64)).mahalanobis(images)
    assert np.allclose(build("mahalanobis")(images, given_reference), expected, rtol=1e-6)


@pytest.mark.parametrize("neighbours", [0, -1, 1.5])
def test_bad_neighbours_are_refused(neighbours: float) -> None:
    with pytest.raises(ValueError, match="neighbours"):
        build("knn", neighbours=neighbours)
