"""What every clusterer promises, over the registry, and what each one computes, written again by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as SklearnKMeans
from threadpoolctl import threadpool_limits

from trainables.clusterers.base import (
    CLUSTERERS,
    Clusterer,
    dominant_assignment,
    keep_lowest,
    trusted_among,
    trusted_assignment,
)
from trainables.clusterers.spherical_kmeans import STARTS, _lloyd
from trainables.errors import NonFinite, TwofoldError
from trainables.seeding import generator
from trainables.types import Assignment

NAMES = CLUSTERERS.names()
WITH_K = [name for name in NAMES if "k" in CLUSTERERS.get(name).model_fields]
WITH_KEEP = [name for name in NAMES if "keep" in CLUSTERERS.get(name).model_fields]
PARTITIONS = ["kmeans", "spherical_kmeans"]
"""Clusterers of exactly k clusters, of which the largest is trusted."""
BY_DENSITY = ["hdbscan", "meanshift"]
"""Clusterers whose number of clusters is up to the data, so that one may hold every image."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def build(name: str, **values: Any) -> Clusterer:
    clusterer: Clusterer = CLUSTERERS.get(name)(**values)
    return clusterer


def rng() -> np.random.Generator:
    return generator("clusterers")


def blobs(counts: tuple[int, ...] = (40, 20, 10), d: int = 6, seed: int = 0) -> np.ndarray:
    """counts[j] unit rows around axis j; the first blob is the largest, and comes first."""
    draws = np.random.default_rng(seed)
    rows = np.repeat(np.eye(d)[: len(counts)], counts, axis=0) + 0.1 * draws.normal(size=(sum(counts), d))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def variants(name: str) -> list[Clusterer]:
    """The default, and values of k and keep away from it."""
    if name in WITH_K:
        return [build(name), build(name, k=1), build(name, k=2), build(name, k=9)]
    if name in WITH_KEEP:
        return [build(name), build(name, keep=0.3), build(name, keep=1)]
    return [build(name)]


EVERY = [clusterer for name in NAMES for clusterer in variants(name)]


def test_expected_clusterers_are_found() -> None:
    assert set(NAMES) >= {
        "all",
        "density",
        "gmm",
        "hdbscan",
        "kmeans",
        "meanshift",
        "merged",
        "spherical_kmeans",
        "trimmed",
    }


@pytest.mark.parametrize("clusterer", EVERY, ids=repr)
def test_assignment_is_whole(clusterer: Clusterer) -> None:
    features = blobs()
    untouched = features.copy()
    found = clusterer(features, rng())
    assert found.labels.shape == found.trusted.shape == (70,)
    assert found.trusted.dtype == bool and found.trusted.sum() >= 2
    assert np.allclose(found.centre, features[found.trusted].mean(axis=0), atol=1e-12)
    groups = np.unique(found.labels)
    assert np.array_equal(groups, np.arange(len(groups)))
    for group in groups:
        assert len(set(found.trusted[found.labels == group])) == 1
    assert np.array_equal(features, untouched)


@pytest.mark.parametrize("clusterer", EVERY, ids=repr)
def test_same_seed_same_labels(clusterer: Clusterer) -> None:
    features = np.random.default_rng(1).normal(size=(60, 5))
    first, second = clusterer(features, rng()), clusterer(features, rng())
    assert np.array_equal(first.labels, second.labels)
    assert np.array_equal(first.centre, second.centre)


@pytest.mark.parametrize("clusterer", EVERY, ids=repr)
def test_single_precision_trusts_the_same_images(clusterer: Clusterer) -> None:
    features = blobs().astype(np.float32)
    assert np.array_equal(
        clusterer(features, rng()).trusted, clusterer(features.astype(np.float64), rng()).trusted
    )


@pytest.mark.parametrize("clusterer", EVERY, ids=repr)
def test_trusts_all_tells_the_truth(clusterer: Clusterer) -> None:
    name = next(name for name in NAMES if CLUSTERERS.get(name) is type(clusterer))
    for features in (blobs(), np.random.default_rng(2).normal(size=(31, 4))):
        if clusterer.trusts_all or name not in BY_DENSITY:
            assert clusterer(features, rng()).trusted.all() == clusterer.trusts_all
    if name in BY_DENSITY:
        assert not clusterer(blobs(), rng()).trusted.all()


@pytest.mark.parametrize(
    # HDBSCAN breaks ties between equal distances by the order, and its distances are often equal.
    "clusterer",
    [c for name in NAMES if name not in [*WITH_K, "hdbscan"] for c in variants(name)],
    ids=repr,
)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_order_of_the_images_does_not_matter(clusterer: Clusterer, seed: int) -> None:
    draws = np.random.default_rng(seed)
    features = draws.normal(size=(30, 4))
    order = draws.permutation(30)
    moved = clusterer(features[order], rng()).trusted
    assert np.array_equal(moved, clusterer(features, rng()).trusted[order])


@pytest.mark.parametrize("name", [*WITH_K, "hdbscan"])
def test_order_of_well_separated_images_does_not_matter(name: str) -> None:
    features = blobs()
    order = np.random.default_rng(4).permutation(70)
    clusterer = build(name, k=3) if name in WITH_K else build(name)
    found = clusterer(features[order], rng())
    assert np.array_equal(found.trusted, (np.arange(70) < 40)[order])


@pytest.mark.parametrize("name", PARTITIONS)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12), n=st.integers(12, 40))
@settings(max_examples=15)
def test_exactly_k_clusters_and_the_largest_is_trusted(name: str, seed: int, k: int, n: int) -> None:
    features = np.random.default_rng(seed).normal(size=(n, 3))
    found = build(name, k=k)(features, rng())
    sizes = np.bincount(found.labels, minlength=k)
    assert len(sizes) == k and sizes.min() >= 1
    assert found.trusted.sum() == sizes.max()
    assert found.trusted.all() == (k == 1)


@pytest.mark.parametrize("name", PARTITIONS)
def test_k_clusters_even_of_nearly_equal_rows(name: str) -> None:
    """Empty clusters are what Lloyd's algorithm gives here unless somebody looks after it."""
    features = np.repeat(np.eye(4)[:2], [30, 3], axis=0)
    features[:3] += 1e-3 * np.eye(4)[1:4]
    found = build(name, k=4)(features, rng())
    assert len(np.unique(found.labels)) == 4


@pytest.mark.parametrize("name", WITH_K)
def test_as_many_clusters_as_images(name: str) -> None:
    assert len(np.unique(build(name, k=5)(np.eye(5), rng()).labels)) == 5


@pytest.mark.parametrize("name", WITH_K)
def test_too_few_images_name_k_and_their_number(name: str) -> None:
    with pytest.raises(TwofoldError, match=r"k = 8 .*8 target images.* 7"):
        build(name, k=8)(blobs((7,)), rng())


@pytest.mark.parametrize("name", WITH_K)
def test_duplicates_are_refused(name: str) -> None:
    with pytest.raises(TwofoldError, match=r"k = 3.* only 2 distinct"):
        build(name, k=3)(np.repeat(np.eye(2), 10, axis=0), rng())


def test_directions_are_what_spherical_kmeans_counts() -> None:
    rows = np.repeat(np.eye(2), 10, axis=0) * np.repeat([1.0, 2.0], 10)[:, None]
    rows[:5] *= 2
    assert len(np.unique(rows, axis=0)) == 3
    with pytest.raises(TwofoldError, match="distinct directions"):
        build("spherical_kmeans", k=3)(rows, rng())
    build("kmeans", k=3)(rows, rng())


@pytest.mark.parametrize("clusterer", EVERY, ids=repr)
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_non_finite_features_are_refused(clusterer: Clusterer, broken: float) -> None:
    features = blobs()
    features[3, 1] = broken
    with pytest.raises(NonFinite, match="not all finite"):
        clusterer(features, rng())


@pytest.mark.parametrize("name", NAMES)
def test_one_image_is_too_few(name: str) -> None:
    clusterer = build(name, k=2) if name in WITH_K else build(name)
    with pytest.raises(TwofoldError, match="needs at least"):
        clusterer(blobs((1,)), rng())


@pytest.mark.parametrize("name", [name for name in WITH_KEEP if name not in WITH_K])
@given(keep=st.floats(0.01, 1), n=st.integers(3, 60))
@settings(max_examples=20)
def test_keep_is_respected(name: str, keep: float, n: int) -> None:
    features = np.random.default_rng(n).normal(size=(n, 4))
    trusted = build(name, keep=keep)(features, rng()).trusted
    assert trusted.sum() == max(2, round(keep * n))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, "many", None])
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    for field in set(CLUSTERERS.get(name).model_fields):
        with pytest.raises(ValueError, match=field):
            build(name, **{field: value})


def test_kmeans_is_the_published_dominant_cluster() -> None:
    features = np.random.default_rng(5).normal(size=(80, 4))
    found = build("kmeans", k=4)(features, rng())
    reference = SklearnKMeans(4, n_init=5, random_state=int(rng().integers(2**31))).fit_predict(features)
    assert np.array_equal(found.trusted, reference == np.bincount(reference).argmax())


def spherical_objective(features: np.ndarray, labels: np.ndarray) -> float:
    total = 0.0
    for group in np.unique(labels):
        rows = [row / np.linalg.norm(row) for row in features[labels == group]]
        mean = np.sum(rows, axis=0)
        total += sum(float(row @ mean) / float(np.linalg.norm(mean)) for row in rows)
    return total


def test_spherical_kmeans_cannot_be_improved_by_moving_one_image() -> None:
    features = np.random.default_rng(6).normal(size=(24, 3)) * np.linspace(0.5, 4, 24)[:, None]
    labels = build("spherical_kmeans", k=3)(features, rng()).labels
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([directions[labels == j].sum(axis=0) for j in range(3)])
    cosine = directions @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    assert np.array_equal(cosine.argmax(axis=1), labels)
    best = spherical_objective(features, labels)
    random = np.random.default_rng(0)
    assert best > max(spherical_objective(features, random.integers(3, size=24)) for _ in range(200))


def test_spherical_kmeans_keeps_the_best_of_its_starts() -> None:
    features = np.random.default_rng(12).normal(size=(60, 4))
    directions, draws = features / np.linalg.norm(features, axis=1, keepdims=True), rng()
    runs = [_lloyd(directions, 6, int(draws.integers(2**31)))[1] for _ in range(STARTS)]
    values = [spherical_objective(features, labels) for labels in runs]
    assert min(values) < max(values) - 0.1
    found = build("spherical_kmeans", k=6)(features, rng()).labels
    assert spherical_objective(features, found) == pytest.approx(max(values))


def test_spherical_kmeans_ignores_length() -> None:
    lengths = np.random.default_rng(7).uniform(0.1, 10, size=(70, 1))
    plain, scaled = blobs(), blobs() * lengths
    clusterer = build("spherical_kmeans", k=3)
    assert np.array_equal(clusterer(plain, rng()).trusted, clusterer(scaled, rng()).trusted)


def test_trimmed_by_hand() -> None:
    features = np.concatenate([blobs((30,)), 3 + blobs((12,), seed=1)])
    kept = list(range(42))
    for _ in range(100):
        mean = sum(features[i] for i in kept) / len(kept)
        order = sorted(range(42), key=lambda i: (float(np.linalg.norm(features[i] - mean)), i))
        if set(order[:25]) == set(kept):
            break
        kept = order[:25]
    found = build("trimmed", keep=25 / 42)(features, rng())
    assert set(np.flatnonzero(found.trusted)) == set(kept)
    assert max(kept) < 30


def test_density_by_hand() -> None:
    features = np.random.default_rng(8).normal(size=(25, 3))
    means = []
    for i in range(25):
        others = sorted(float(np.linalg.norm(features[i] - features[j])) for j in range(25) if j != i)
        means.append(sum(others[:10]) / 10)
    found = build("density", keep=0.4)(features, rng())
    assert set(np.flatnonzero(found.trusted)) == set(np.argsort(means)[:10])


def test_density_of_three_images() -> None:
    features = np.array([[0.0, 0], [0.1, 0], [5, 0]])
    assert build("density", keep=0.6)(features, rng()).trusted.tolist() == [True, True, False]


def test_merged_by_hand() -> None:
    features = np.random.default_rng(9).normal(size=(60, 3))
    labels = build("kmeans", k=8)(features, rng()).labels
    inside = {int(np.bincount(labels).argmax())}
    while True:
        mean = features[np.isin(labels, list(inside))].mean(axis=0)
        outside = [j for j in range(8) if j not in inside]
        nearest = min(outside, key=lambda j: np.linalg.norm(features[labels == j].mean(axis=0) - mean))
        if np.isin(labels, [*inside, nearest]).mean() > 0.6:
            break
        inside.add(nearest)
    found = build("merged", k=8, keep=0.6)(features, rng())
    assert np.array_equal(found.trusted, np.isin(labels, list(inside)))
    assert np.array_equal(found.labels, labels)
    assert len(inside) > 1


@given(keep=st.floats(0.05, 1), seed=st.integers(0, 10_000))
@settings(max_examples=15)
def test_merged_trusts_no_more_than_it_keeps_beyond_the_dominant_cluster(keep: float, seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(40, 4))
    dominant = build("kmeans", k=6)(features, rng()).trusted
    trusted = build("merged", k=6, keep=keep)(features, rng()).trusted
    assert trusted[dominant].all()
    assert trusted.mean() <= max(keep, dominant.mean())
    assert trusted.all() == (keep == 1)


def test_gmm_sees_the_shape_that_kmeans_does_not() -> None:
    draws = np.random.default_rng(3)
    wide = draws.normal(size=(120, 2)) * [6, 0.2]
    narrow = draws.normal(size=(40, 2)) * [6, 0.2] + [0, 2.5]
    features, truth = np.concatenate([wide, narrow]), np.arange(160) < 120
    assert np.array_equal(build("gmm", k=2)(features, rng()).trusted, truth)
    assert not np.array_equal(build("kmeans", k=2)(features, rng()).trusted, truth)


@pytest.mark.parametrize("name", BY_DENSITY)
def test_density_finds_the_number_of_clusters(name: str) -> None:
    found = build(name)(blobs((60, 25, 15)), rng())
    assert np.array_equal(found.trusted, np.arange(100) < 60)


def test_meanshift_climbs_to_the_nearest_peak() -> None:
    features = np.concatenate([blobs((50,)), blobs((0, 20))])
    found = build("meanshift", quantile=0.4)(features, rng())
    peaks = [features[found.labels == j].mean(axis=0) for j in np.unique(found.labels)]
    assert len(peaks) == 2
    assert [int(np.argmin([np.linalg.norm(row - peak) for peak in peaks])) for row in features] == list(
        found.labels
    )


def test_meanshift_of_equal_images_names_the_quantile() -> None:
    with pytest.raises(TwofoldError, match=r"quantile = 0\.1"):
        build("meanshift", quantile=0.1)(np.repeat(np.eye(2), 20, axis=0), rng())


def test_all_is_one_cluster() -> None:
    features = blobs()
    assert build("all")(features, rng()).trusted.all()
    for name in WITH_K:
        assert np.allclose(build("all")(features, rng()).centre, build(name, k=1)(features, rng()).centre)


def test_equal_clusters_give_the_lowest_index() -> None:
    assert dominant_assignment(np.eye(4), np.array([1, 0, 1, 0])).trusted.tolist() == [
        False,
        True,
        False,
        True,
    ]


@given(st.lists(st.floats(0, 10), min_size=2, max_size=30), st.floats(0.01, 1))
def test_keep_lowest_keeps_the_lowest(values: list[float], keep: float) -> None:
    mask = keep_lowest(np.array(values), keep)
    assert mask.sum() == max(2, round(keep * len(values)))
    if not mask.all():
        assert np.array(values)[mask].max() <= np.array(values)[~mask].min()


@pytest.mark.parametrize("clusterer", EVERY, ids=repr)
def test_trust_extends_to_held_out_images(clusterer: Clusterer) -> None:
    features = blobs()
    found = clusterer(features, rng())
    others = blobs((9, 7, 5), seed=11)
    inside = trusted_among(found, features, others)
    assert inside.dtype == bool and inside.shape == (21,)
    for row, verdict in zip(others, inside, strict=True):
        distance = {
            j: np.linalg.norm(row - features[found.labels == j].mean(axis=0)) for j in set(found.labels)
        }
        nearest = min(distance, key=lambda j: distance[j])
        assert verdict == found.trusted[found.labels == nearest][0]
    if clusterer.trusts_all:
        assert inside.all()


def test_held_out_images_of_the_dominant_blob_are_trusted() -> None:
    features = blobs()
    found = build("kmeans", k=3)(features, rng())
    assert trusted_among(found, features, blobs((9, 7, 5), seed=11)).tolist() == [True] * 9 + [False] * 12


def test_trusted_assignment_labels_a_mask() -> None:
    mask = np.array([True, False, True])
    found: Assignment = trusted_assignment(np.eye(3), mask)
    assert found.labels.tolist() == [0, 1, 0]
    assert np.allclose(found.centre, [0.5, 0, 0.5])
