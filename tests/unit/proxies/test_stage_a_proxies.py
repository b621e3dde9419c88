"""Stage A against ten-line reimplementations, and against values known on paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from orchestrator.proxies.base import PROXIES, FeatureEvidence, evaluate
from orchestrator.proxies.dominant_stability import resample
from trainables.clusterers.base import CLUSTERERS
from trainables.errors import UndefinedScore
from trainables.seeding import generator
from trainables.types import Assignment


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Hundreds of tiny clusterings are slowed tenfold by threads that wait for each other."""
    with threadpool_limits(1):
        yield


def value(name: str, evidence: FeatureEvidence) -> float:
    return evaluate(PROXIES.get(name)(), evidence)


def unit(rows: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def make(k: int = 3, noise: float = 0.25, seed: int = 0, clusterer: str = "kmeans") -> FeatureEvidence:
    """Three blobs of 45, 25 and 15 target images in 100 dimensions, clustered for real."""
    rng = np.random.default_rng(seed)
    axes = np.repeat(np.arange(3), [45, 25, 15])
    target = unit(np.eye(100)[axes] + noise * rng.normal(size=(85, 100)))
    held_out = unit(np.eye(100)[axes[::2]] + noise * rng.normal(size=(43, 100)))
    source = unit(np.eye(100)[[0] * 30] + noise * rng.normal(size=(30, 100)))
    cluster = CLUSTERERS.get(clusterer)(**({"k": k} if clusterer == "kmeans" else {}))
    assignment = cluster(target, generator("test"))
    return FeatureEvidence(target, held_out, source, assignment, cluster, "test")


def scatter(rows: np.ndarray) -> float:
    return float(np.mean([np.dot(row - rows.mean(0), row - rows.mean(0)) for row in rows]))


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_compactness_and_its_share(k: int) -> None:
    evidence = make(k)
    inside = scatter(evidence.target_fit[evidence.assignment.trusted])
    assert value("compactness", evidence) == pytest.approx(-inside)
    assert value("relative_compactness", evidence) == pytest.approx(-inside / scatter(evidence.target_fit))
    assert value("dominant_share", evidence) == evidence.assignment.trusted.mean()


def test_relative_compactness_does_not_know_the_scale() -> None:
    evidence = make()
    larger = replace(evidence, target_fit=7 * evidence.target_fit)
    assert value("relative_compactness", larger) == pytest.approx(value("relative_compactness", evidence))
    assert value("compactness", larger) == pytest.approx(49 * value("compactness", evidence))


def test_compactness_fails_as_documented() -> None:
    assert value("compactness", make(30)) > value("compactness", make(3)) > value("compactness", make(1))


@pytest.mark.parametrize("k", [2, 3, 6])
def test_silhouette(k: int) -> None:
    evidence = make(k)
    labels, dominant = evidence.assignment.labels, np.bincount(evidence.assignment.labels).argmax()
    clusters = [evidence.target_fit[labels == c] for c in range(k)]
    values = []
    for z in evidence.target_sel:
        if np.argmin([np.linalg.norm(z - rows.mean(0)) for rows in clusters]) == dominant:
            mean = np.array([np.linalg.norm(z - rows, axis=1).mean() for rows in clusters])
            own, other = mean[dominant], np.delete(mean, dominant).min()
            values.append((other - own) / max(other, own))
    expected = np.mean(values) * min(1, (labels == dominant).mean() / 0.5)
    assert value("dominant_silhouette", evidence) == pytest.approx(expected)


def projected(features: np.ndarray, dimensions: int) -> np.ndarray:
    _, _, directions = np.linalg.svd(features, full_matrices=False)
    return unit(features @ directions[:dimensions].T)


@pytest.mark.parametrize("shape", [(85, 100), (200, 30), (30, 30)])
def test_reduction_keeps_the_leading_inner_products(shape: tuple[int, int]) -> None:
    rows = unit(np.random.default_rng(1).normal(size=shape) * np.linspace(3, 0.1, shape[1]))
    evidence = replace(make(), target_fit=rows)
    for dimensions in (5, 20, 64):
        ours, theirs = evidence.reduced(dimensions), projected(rows, dimensions)
        np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-8)
    full = evidence.reduced(64)
    assert shape[1] > 64 or np.allclose(full @ full.T, rows @ rows.T)


def test_stability() -> None:
    evidence = make(3)
    rows, trusted, overlaps = projected(evidence.target_fit, 64), evidence.assignment.trusted, []
    for draw in range(20):
        rng = generator("dominant_stability", "test", draw)
        kept = np.sort(rng.choice(85, 59, replace=False))
        again = evidence.cluster(rows[kept], rng).trusted
        overlaps.append((again & trusted[kept]).sum() / (again | trusted[kept]).sum())
    share = trusted.mean()
    chance = share / (2 - share)
    counts = np.bincount(evidence.assignment.labels)
    counts = np.r_[counts.max(), np.delete(counts, counts.argmax())]
    boot = generator("dominant_stability", "test", "bootstrap").multinomial(85, counts / 85, size=1000)
    largest = np.mean([row[0] > max(row[1:]) for row in boot])
    assert value("dominant_stability", evidence) == pytest.approx(
        (np.mean(overlaps) - chance) / (1 - chance) * largest
    )
    found = resample(evidence)
    assert found.overlaps == pytest.approx(overlaps)
    assert found.stable == np.sum(np.array(overlaps) >= 0.75)
    assert (found.dominance, found.share) == pytest.approx((largest, share))


def planted(share: float, guess: bool) -> FeatureEvidence:
    """A clusterer that finds the planted set of the given share again, or trusts as many at random."""
    evidence = make()
    trusted = np.arange(85) < round(85 * share)
    rows = evidence.reduced(64)

    def cluster(some: np.ndarray, rng: np.random.Generator) -> Assignment:
        if guess:
            found = rng.random(len(some)) < share
        else:
            found = trusted[[int(np.abs(rows - row).sum(1).argmin()) for row in some]]
        return Assignment(np.where(found, 0, 1), found, some[0])

    assignment = Assignment(np.where(trusted, 0, 1), trusted, evidence.target_fit[0])
    return replace(evidence, assignment=assignment, cluster=cluster)


def test_stability_is_one_when_found_again_and_zero_by_chance() -> None:
    assert value("dominant_stability", planted(0.8, guess=False)) == pytest.approx(1, abs=0.01)
    assert value("dominant_stability", planted(0.8, guess=True)) == pytest.approx(0, abs=0.1)
    assert value("dominant_stability", planted(0.4, guess=False)) < 0.1


def test_another_trusted_set_in_the_same_features_keeps_their_directions() -> None:
    first, second = make(3), make(2)
    shared = first.judging(second.assignment, second.cluster)
    assert shared._coordinates is first._coordinates
    for name in ("compactness", "dominant_gap", "dominant_silhouette", "dominant_stability"):
        assert value(name, shared) == value(name, second)


def test_gap() -> None:
    evidence = make(3)
    rows, chance = evidence.reduced(20), []
    for draw in range(5):
        rng = generator("dominant_gap", "test", draw)
        cloud = unit(rng.multivariate_normal(rows.mean(0), np.cov(rows.T), 85, method="eigh"))
        chance.append(np.log(scatter(cloud[evidence.cluster(cloud, rng).trusted])))
    seen = np.log(scatter(rows[evidence.assignment.trusted]))
    expected = np.mean(chance) - seen - np.std(chance) * np.sqrt(6 / 5)
    assert value("dominant_gap", evidence) == pytest.approx(expected)


def test_gap_is_about_zero_for_one_blob_and_large_for_the_blobs_there_are() -> None:
    assert abs(value("dominant_gap", make(1))) < 0.15
    tight = [value("dominant_gap", make(k, noise=0.02)) for k in (1, 3)]
    assert tight[1] > tight[0] + 1


def test_affinity() -> None:
    evidence = make(3)
    labels, source = evidence.assignment.labels, evidence.source_fit.mean(0)
    means = [evidence.target_fit[labels == c].mean(0) for c in range(3)]
    cosines = [m @ source / np.linalg.norm(m) / np.linalg.norm(source) for m in means]
    counts = np.bincount(labels)
    first = counts.argmax()
    others = [c for c in range(3) if c != first]
    expected = cosines[first] - sum(counts[c] * cosines[c] for c in others) / sum(counts[others])
    assert value("source_affinity", evidence) == pytest.approx(expected)
    swapped = replace(evidence, source_fit=evidence.target_fit[labels == others[0]])
    assert value("source_affinity", swapped) < 0 < value("source_affinity", evidence)


def test_a_trusted_set_across_clusters_is_one_group_and_the_rest_keep_theirs() -> None:
    evidence = make(6)
    labels = evidence.assignment.labels
    union = replace(evidence, assignment=replace(evidence.assignment, trusted=labels >= 4))
    assert (union.groups[labels >= 4] == 0).all()
    assert [len({*union.groups[labels == c]}) for c in range(4)] == [1] * 4
    assert len(union.sizes) == 5 and union.sizes.sum() == 85
    np.testing.assert_allclose(union.centroids[0], evidence.target_fit[labels >= 4].mean(0))


@pytest.mark.parametrize("clusterer", ["trimmed", "density"])
def test_estimators_that_do_not_cluster_have_two_groups(clusterer: str) -> None:
    evidence = make(clusterer=clusterer)
    assert len(evidence.sizes) == 2
    assert evidence.share == pytest.approx(0.6)
    for name in PROXIES.names():
        assert PROXIES.get(name).stage == "B" or np.isfinite(value(name, evidence))


@pytest.mark.parametrize("clusterer", ["kmeans", "all"])
def test_one_cluster_has_scatter_and_share_only(clusterer: str) -> None:
    evidence = make(1, clusterer=clusterer)
    assert value("compactness", evidence) == pytest.approx(-scatter(evidence.target_fit))
    assert value("relative_compactness", evidence) == pytest.approx(-1)
    assert value("dominant_share", evidence) == 1
    for name in ("dominant_silhouette", "dominant_stability", "source_affinity"):
        with pytest.raises(UndefinedScore, match=f"{name} is undefined"):
            value(name, evidence)


def test_draws_follow_the_purpose() -> None:
    evidence = make(6)
    renamed = replace(evidence, purpose="another")
    for name in ("dominant_gap", "dominant_stability"):
        assert value(name, evidence) == value(name, make(6)) != value(name, renamed)
