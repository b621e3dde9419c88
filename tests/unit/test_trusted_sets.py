"""Stage A on unlabelled features: which K and which trusted set, without a sweep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from orchestrator import trusted_sets
from orchestrator.proxies.base import PROXIES, FeatureEvidence, evaluate
from orchestrator.proxies.dominant_stability import Resamples
from orchestrator.trusted_sets import TrustedSet, advise, candidates, rank_trusted_sets
from trainables.clusterers.base import CLUSTERERS
from trainables.errors import TwofoldError
from trainables.seeding import generator


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def blobs(counts: tuple[int, ...], seed: int, noise: float = 0.06) -> np.ndarray:
    """counts[j] unit rows around axis j."""
    draws = np.random.default_rng(seed)
    rows = np.repeat(np.eye(8)[: len(counts)], counts, axis=0) + noise * draws.normal(size=(sum(counts), 8))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def ranked(counts: tuple[int, ...], held_out: tuple[int, ...], max_k: int) -> list[TrustedSet]:
    return rank_trusted_sets(blobs(counts, 0), blobs(held_out, 1), max_k)


def ks(entries: list[TrustedSet]) -> list[int]:
    return [entry.k for entry in entries if entry.k is not None]


@pytest.mark.parametrize(("counts", "held_out"), [((60, 20), (25, 8)), ((60, 18, 14), (25, 8, 6))])
def test_well_separated_blobs_have_their_number_near_the_top(
    counts: tuple[int, ...], held_out: tuple[int, ...]
) -> None:
    entries = ranked(counts, held_out, 6)
    assert len(counts) in ks(entries)[:2]
    worst = max(entry.rank for entry in entries)
    right = next(entry for entry in entries if entry.k == len(counts))
    assert right.rank < 0.5 * worst
    assert right.proxies["dominant_share"] == pytest.approx(counts[0] / sum(counts))


def test_every_candidate_is_ranked_best_first() -> None:
    entries = ranked((40, 10), (15, 5), 4)
    assert sorted(ks(entries)) == [1, 2, 3, 4]
    assert [entry.rank for entry in entries] == sorted(entry.rank for entry in entries)
    key = str
    assert sorted((entry.config for entry in entries), key=key) == sorted(candidates(4), key=key)
    for entry in entries:
        assert entry.proxies and all(np.isfinite(value) for value in entry.proxies.values())
        assert "source_affinity" not in entry.proxies, "there is no source to compare with"
        assert sum(entry.sizes) == pytest.approx(1)
        assert list(entry.sizes[1:]) == sorted(entry.sizes[1:], reverse=True)
    assert ranked((40, 10), (15, 5), 4) == entries


def test_the_candidates() -> None:
    names = [config["clusterer"] for config in candidates(12)]
    assert names.count("kmeans") == 11 and names.count("all") == 1 and "hdbscan" in names
    assert names.count("gmm") == names.count("merged") == 2
    assert names.count("trimmed") == names.count("density") == 5
    assert {config["clusterer"] for config in candidates(1)} == {"all", "hdbscan", "trimmed", "density"}


@pytest.mark.parametrize("config", [{"clusterer": "kmeans", "k": 3}, {"clusterer": "density", "keep": 0.6}])
def test_a_candidate_is_judged_as_it_would_be_alone(config: dict[str, Any]) -> None:
    fit, held_out = blobs((60, 18, 14), 0), blobs((25, 8, 6), 1)
    entry = next(e for e in rank_trusted_sets(fit, held_out, 3) if e.config == config)
    name, *parameters = config.values()
    cluster = CLUSTERERS.get(name)(**dict(zip(list(config)[1:], parameters, strict=True)))
    found = cluster(fit, generator("choose-k", *config.values()))
    alone = FeatureEvidence(fit, held_out, fit[:0], found, cluster, "choose-k")
    for proxy, value in entry.proxies.items():
        assert value == pytest.approx(evaluate(PROXIES.get(proxy)(), alone))
    assert entry.sizes[0] == found.trusted.mean()


def test_of_many_images_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ranked((60, 20), (25, 8), 2)
    monkeypatch.setattr(trusted_sets, "MAX_FIT", 80)
    monkeypatch.setattr(trusted_sets, "MAX_SEL", 33)
    assert ranked((60, 20), (25, 8), 2) == whole
    monkeypatch.setattr(trusted_sets, "MAX_FIT", 50)
    monkeypatch.setattr(trusted_sets, "MAX_SEL", 20)
    drawn = ranked((60, 20), (25, 8), 2)
    assert drawn == ranked((60, 20), (25, 8), 2)
    shares = [50 * share for entry in drawn for share in entry.sizes]
    assert shares == pytest.approx(np.round(shares)), "shares of 50 images"


@pytest.mark.parametrize(
    ("fit", "held_out", "max_k"), [(5, 5, 6), (2, 5, 1), (30, 1, 3), (30, 0, 3), (0, 0, 2)]
)
def test_too_few_images(fit: int, held_out: int, max_k: int) -> None:
    with pytest.raises(
        TwofoldError, match=rf"{fit + held_out} images are too few .*K up to {max_k}.*--max-k"
    ):
        rank_trusted_sets(blobs((fit,), 0), blobs((held_out,), 1), max_k)


def test_as_many_clusters_as_images() -> None:
    assert sorted(ks(ranked((4, 2), (3, 2), 6))) == list(range(1, 7))


@pytest.mark.parametrize(("fit", "sel", "judged"), [(700, 300, 1000), (1010, 390, 1390), (3500, 1500, 1430)])
def test_how_many_are_judged(fit: int, sel: int, judged: int) -> None:
    assert trusted_sets.judged_images(fit, sel) == judged


@dataclass(frozen=True)
class Estimate:
    estimate: float
    low: float
    high: float


def judged(rank: float, stable: int = 20, dominance: float = 1.0, **config: Any) -> TrustedSet:
    """A trusted set that is well apart and stable in so many of 20 resamples."""
    overlaps = (0.9,) * stable + (0.5,) * (20 - stable)
    resamples = None if config["clusterer"] == "all" else Resamples(overlaps, dominance, 0.6)
    return TrustedSet(config, {"dominant_silhouette": 0.4}, (0.6, 0.4), resamples, rank)


FIRST = judged(0.1, clusterer="kmeans", k=6)
SECOND = judged(0.2, clusterer="kmeans", k=4)
ALL = judged(0.5, clusterer="all")
ESTIMATORS = [
    judged(0.3 + keep / 10 + 0.01 * (name == "trimmed"), clusterer=name, keep=keep)
    for name in ("trimmed", "density")
    for keep in trusted_sets.KEEPS
]


def advised(*entries: TrustedSet, images: int = 500, contamination: Estimate | None = None) -> Any:
    ordered = sorted([*entries, ALL, *ESTIMATORS], key=lambda entry: entry.rank)
    return advise(ordered, images, images, contamination)


def test_without_an_estimate_the_first_is_advised() -> None:
    advice = advised(FIRST, SECOND)
    assert (advice.best_k, advice.next_k, advice.trusted) == (FIRST, SECOND, FIRST)
    assert advice.trust == "medium" and advice.doubts == ()
    assert advised().best_k == ALL and advised().next_k is None
    assert advised().trusted == min(ESTIMATORS, key=lambda entry: entry.rank)


@pytest.mark.parametrize(
    ("estimate", "keep"),
    [
        (0.0, 0.9),
        (0.05, 0.9),
        (0.1, 0.8),
        (0.12, 0.8),
        (0.17, 0.8),
        (0.2, 0.7),
        (0.3, 0.6),
        (0.45, 0.5),
        (0.9, 0.5),
    ],
)
def test_an_estimate_decides_what_to_keep(estimate: float, keep: float) -> None:
    advice = advised(FIRST, SECOND, contamination=Estimate(estimate, estimate, estimate + 0.1))
    assert advice.trusted.config == {"clusterer": "density", "keep": keep}, "density ranks above trimming"
    assert advice.best_k == FIRST


@pytest.mark.parametrize(
    ("entries", "others", "doubt"),
    [
        ([FIRST, replace(SECOND, rank=0.12)], {}, "K = 4 ranks as well as K = 6"),
        (
            [judged(0.1, 17, clusterer="kmeans", k=6)],
            {},
            "K-means K = 6 is stable in only 17 of 20 resamples",
        ),
        ([judged(0.1, 20, 0.8, clusterer="kmeans", k=6)], {}, "may be the largest at K = 6"),
        ([judged(0.05, 3, clusterer="hdbscan"), FIRST], {}, "HDBSCAN is stable in only 3 of 20"),
        (
            [replace(FIRST, proxies={"dominant_silhouette": 0.2})],
            {},
            "K-means K = 6 trusts hardly stand apart",
        ),
        ([FIRST], {"contamination": Estimate(0.2, 0.1, 0.35)}, "estimate of the contamination is wide"),
        ([FIRST], {"images": 99}, "99 images are few"),
    ],
)
def test_a_doubt_makes_the_trust_low(entries: list[TrustedSet], others: dict[str, Any], doubt: str) -> None:
    advice = advised(*entries, **others)
    assert advice.trust == "low" and len(advice.doubts) == 1 and doubt in advice.doubts[0]
