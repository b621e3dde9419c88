"""Stage A on unlabelled features alone: which K, which trusted set, and how far to trust the answer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from orchestrator.proxies.base import PROXIES, FeatureEvidence, evaluate
from orchestrator.proxies.dominant_stability import DominantStability, Resamples, resample
from orchestrator.report.words import describe_trusted
from orchestrator.select import Chooser, mean_ranks
from trainables.clusterers.base import Clusterer
from trainables.configuration import Configuration
from trainables.errors import TwofoldError, UndefinedScore
from trainables.seeding import generator
from trainables.types import Contamination

PURPOSE = "choose-k"
MAX_FIT, MAX_SEL = 1000, 430
"""Images of T_fit and T_sel that are judged; of more, that many are drawn."""
KEEPS = (0.5, 0.6, 0.7, 0.8, 0.9)
MARGIN = 0.05
"""Share of the images that is left out beyond the estimate of the contamination."""
JUDGED = ("dominant_silhouette", "dominant_gap", "compactness", "dominant_share")
SURE = 0.9
"""Least share of resamples that find a trusted set again, and of bootstraps in which it stays the largest."""
CLOSE = 0.05
"""Lead in mean rank (0 = best, 1 = worst) below which two K are as good as each other."""
APART = 0.25
"""Silhouette below which Kaufman and Rousseeuw (1990) see no structure."""
WIDE = 0.2
"""Width of the interval of the contamination from which it says little."""
FEW_IMAGES = 100


@dataclass(frozen=True)
class TrustedSet:
    """One way to find the trusted set, judged by stage A.

    Attributes:
        config: clusterer and its parameters.
        proxies: proxy -> value, larger = better; an undefined one is absent.
        sizes: share of T_fit in the trusted set, then in each cluster that is left out, largest first.
        resamples: how it fares in resamples of T_fit; None where that is undefined.
        rank: mean rank over the chooser's stage-A proxies that are defined, 0 = best .. 1 = worst.
    """

    config: dict[str, Any]
    proxies: dict[str, float]
    sizes: tuple[float, ...]
    resamples: Resamples | None
    rank: float = 0.5

    @property
    def k(self) -> int | None:
        """K of K-means, 1 where all images are trusted, None for other clusterers."""
        return {"all": 1, "kmeans": self.config.get("k")}.get(self.config["clusterer"])


@dataclass(frozen=True)
class Advice:
    """What to use for a folder of images.

    Attributes:
        images: in the folder.
        judged: of them, T_fit and T_sel together.
        ranked: every trusted set, best first.
        best_k, next_k: the best two of K-means and of all images (K = 1); None where there is one alone.
        trusted: the trusted set to use.
        contamination: what it was chosen by, if there is an estimate.
        doubts: why not to trust the choice, each a clause.
    """

    images: int
    judged: int
    ranked: tuple[TrustedSet, ...]
    best_k: TrustedSet
    next_k: TrustedSet | None
    trusted: TrustedSet
    contamination: Contamination | None
    doubts: tuple[str, ...]

    @property
    def trust(self) -> Literal["low", "medium"]:
        """Low where there is a doubt; never high, since no proxy of frozen features is reliable enough."""
        return "low" if self.doubts else "medium"


def rank_trusted_sets(target_fit: np.ndarray, target_sel: np.ndarray, max_k: int) -> list[TrustedSet]:
    """Stage A over the trusted sets that ``candidates`` lists, best first.

    At most 1,000 images of T_fit and 430 of T_sel, drawn by a named generator, are clustered and judged, so
    that a resample has at most 700; fewer are judged whole. The candidates share the cores.

    Args:
        target_fit: (n, d) features to cluster.
        target_sel: (m, d) held-out features.
        max_k: largest K.

    Raises:
        TwofoldError: fewer images than max_k, or no held-out image.
    """
    if len(target_fit) < max(max_k, 3) or len(target_sel) < 2:
        raise TwofoldError(
            f"{len(target_fit) + len(target_sel)} images are too few to try K up to {max_k}; "
            "add images or lower --max-k"
        )
    configs = candidates(max_k)
    fit, sel = _draw(target_fit, MAX_FIT, "fit"), _draw(target_sel, MAX_SEL, "sel")
    # The limit of OpenMP belongs to a thread, so each worker sets its own.
    pool = ThreadPoolExecutor(os.cpu_count() or 1, initializer=threadpool_limits, initargs=(1,))
    with threadpool_limits(1), pool:
        found = list(pool.map(partial(_judge, _evidence(fit, sel)), configs))
    # One that is defined nowhere, as without a source, would only press the ranks together.
    names = [name for name in Chooser().stage_a if any(name in entry.proxies for entry in found)]
    ranks = mean_ranks([entry.proxies for entry in found], names)
    ranked = [replace(entry, rank=float(rank)) for entry, rank in zip(found, ranks, strict=True)]
    return sorted(ranked, key=lambda entry: entry.rank)


def candidates(max_k: int) -> list[dict[str, Any]]:
    """Clusterers with their parameters: all images (K = 1), K-means up to ``max_k``, and what competes.

    Mean shift is not among them: 4 s of one core for 1,050 images make 80 s for its resamples.
    """
    found: list[dict[str, Any]] = [{"clusterer": "all"}]
    found += [{"clusterer": "kmeans", "k": k} for k in range(2, max_k + 1)]
    found += [{"clusterer": "gmm", "k": k} for k in (2, 5) if k <= max_k]
    found += [{"clusterer": "merged", "k": k, "keep": 0.7} for k in (5, 10) if k <= max_k]
    found += [{"clusterer": "hdbscan"}]
    found += [{"clusterer": name, "keep": keep} for name in ("trimmed", "density") for keep in KEEPS]
    return found


def advise(
    ranked: Sequence[TrustedSet], images: int, judged: int, contamination: Contamination | None
) -> Advice:
    """The K and the trusted set to use, and what speaks against them.

    Args:
        ranked: trusted sets, best first, those of all images and of the estimators among them.
        images: in the folder.
        judged: of them, as ``judged_images`` says.
        contamination: estimated share of anomalies. Where it is given, the trusted set is the better ranked
            estimator of those that keep nearest to 1 - estimate - 0.05; otherwise it is the first.
    """
    of_k = [entry for entry in ranked if entry.k is not None]
    best, second = of_k[0], of_k[1] if len(of_k) > 1 else None
    trusted = ranked[0] if contamination is None else _keeping(ranked, 1 - contamination.estimate - MARGIN)
    return Advice(
        images=images,
        judged=judged,
        ranked=tuple(ranked),
        best_k=best,
        next_k=second,
        trusted=trusted,
        contamination=contamination,
        doubts=tuple(_doubts(best, second, trusted, images, contamination)),
    )


def _keeping(ranked: Sequence[TrustedSet], share: float) -> TrustedSet:
    """The best ranked estimator of those that keep nearest to ``share``; of two as near, what keeps less."""
    estimators = [entry for entry in ranked if entry.config["clusterer"] in ("trimmed", "density")]
    return min(
        estimators, key=lambda entry: (round(abs(entry.config["keep"] - share), 6), entry.config["keep"])
    )


def _doubts(
    best: TrustedSet,
    second: TrustedSet | None,
    trusted: TrustedSet,
    images: int,
    contamination: Contamination | None,
) -> Iterator[str]:
    """What speaks against a choice, each a clause."""
    if second is not None and second.rank - best.rank < CLOSE:
        yield f"K = {second.k} ranks as well as K = {best.k}"
    for entry in (best, trusted) if best is not trusted else (best,):
        found, words = entry.resamples, describe_trusted(entry.config)
        if found is not None and found.stable < SURE * len(found.overlaps):
            yield f"{words} is stable in only {found.stable} of {len(found.overlaps)} resamples"
    if trusted.proxies.get("dominant_silhouette", 1.0) < APART:
        yield f"the images that {describe_trusted(trusted.config)} trusts hardly stand apart from the others"
    if best.resamples is not None and best.resamples.dominance < SURE:
        yield f"another cluster than the dominant one may be the largest at K = {best.k}"
    if contamination is not None and contamination.high - contamination.low > WIDE:
        yield "the estimate of the contamination is wide"
    if images < FEW_IMAGES:
        yield f"{images} images are few"


def _evidence(target_fit: np.ndarray, target_sel: np.ndarray) -> FeatureEvidence:
    """Evidence in which all images are trusted."""
    every = _clusterer({"clusterer": "all"})
    return FeatureEvidence(
        target_fit=target_fit,
        target_sel=target_sel,
        # There is no source here: what compares with it is undefined.
        source_fit=target_fit[:0],
        assignment=every(target_fit, generator(PURPOSE)),
        cluster=every,
        purpose=PURPOSE,
    )


def _judge(every: FeatureEvidence, config: dict[str, Any]) -> TrustedSet:
    clusterer = _clusterer(config)
    assignment = clusterer(every.target_fit, generator(PURPOSE, *config.values()))
    evidence = every.judging(assignment, clusterer)
    values = {}
    for name in JUDGED:
        with suppress(UndefinedScore):
            values[name] = evaluate(PROXIES.get(name)(), evidence)
    found = None
    with suppress(UndefinedScore):
        found = resample(evidence)
        values[DominantStability.name] = found.corrected
    left_out = np.bincount(assignment.labels[~assignment.trusted])
    counts = [int(assignment.trusted.sum()), *sorted(left_out[left_out > 0].tolist(), reverse=True)]
    return TrustedSet(config, values, tuple(count / len(assignment.labels) for count in counts), found)


def _clusterer(config: dict[str, Any]) -> Clusterer:
    clusterer = Configuration.parse({**config, "alignment": "identity", "score": "knn"}).clusterer
    assert clusterer is not None
    return clusterer


def judged_images(fit: int, sel: int) -> int:
    """How many of so many images of T_fit and T_sel are judged."""
    return min(fit, MAX_FIT) + min(sel, MAX_SEL)


def _draw(features: np.ndarray, most: int, part: str) -> np.ndarray:
    """(min(n, most), d) rows of features (n, d), in their order."""
    if len(features) <= most:
        return features
    rows = generator(PURPOSE, "draw", part).choice(len(features), size=most, replace=False)
    return np.asarray(features[np.sort(rows)])
