"""``dominant_stability``: does clustering 70 % of the images again find the same dominant cluster?

(J - J0) / (1 - J0) x P_boot(n_1 > n_2), the cluster-wise Jaccard stability of Hennig 2007, corrected for
chance. J = mean Jaccard index of D, within the subsample, and the trusted set found there; J0 = r / (2 -
r), its value for two independent sets of share r.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from orchestrator.proxies.base import MAX_DIMENSIONS, PROXIES, FeatureEvidence, Proxy
from trainables.errors import UndefinedScore
from trainables.seeding import generator

SUBSAMPLES = 20
FRACTION = 0.7
BOOTSTRAPS = 1000
STABLE = 0.75
"""Jaccard index from which Hennig takes a cluster for the same one."""


@dataclass(frozen=True)
class Resamples:
    """How D fares in resamples of T_fit.

    Attributes:
        overlaps: per subsample, 20 in all, the Jaccard index in [0, 1] of D and the trusted set found there.
        dominance: P_boot(n_1 > n_2), share of 1,000 bootstraps in which D stays larger than every group.
        share: r = n_1 / n of T_fit, below 1.
    """

    overlaps: tuple[float, ...]
    dominance: float
    share: float

    @property
    def overlap(self) -> float:
        """J, the mean Jaccard index in [0, 1]."""
        return float(np.mean(self.overlaps))

    @property
    def stable(self) -> int:
        """In how many subsamples D was found again."""
        return sum(overlap >= STABLE for overlap in self.overlaps)

    @property
    def corrected(self) -> float:
        """(J - J0) / (1 - J0) x P_boot."""
        chance = self.share / (2 - self.share)
        return (self.overlap - chance) / (1 - chance) * self.dominance


@PROXIES.register("dominant_stability")
class DominantStability(Proxy):
    """Corrected Jaccard index times a probability; larger = better; 1 = always the same set, 0 = chance.

    Inputs: ``target_fit``, the trusted set, ``cluster``. P_boot is the share of 1,000 bootstraps of the
    group sizes in which D stays larger than every other group.
    Approximation: the subsamples are clustered in the 64 leading principal directions of T_fit, at unit
    length.
    Undefined where all is trusted (J0 = 1). Known failures: prefers too small a K; a tight anomaly class is
    as stable as the normals; an estimator that trusts half of the images or fewer cannot win P_boot.
    """

    name: ClassVar[str] = "dominant_stability"
    stage: ClassVar[Literal["A", "B"]] = "A"

    def __call__(self, evidence: FeatureEvidence) -> float:
        """Return the corrected Jaccard index times P_boot."""
        return resample(evidence).corrected


def resample(evidence: FeatureEvidence) -> Resamples:
    """Look for D in 20 subsamples and 1,000 bootstraps.

    Raises:
        UndefinedScore: all is trusted, or the clusterer cannot run on a subsample.
    """
    if evidence.share == 1:
        raise UndefinedScore("all target images are trusted, which is stable by definition")
    rows = evidence.reduced(MAX_DIMENSIONS)
    overlaps = tuple(_jaccard(evidence, rows, draw) for draw in range(SUBSAMPLES))
    return Resamples(overlaps, _dominance(evidence), evidence.share)


def _jaccard(evidence: FeatureEvidence, rows: np.ndarray, draw: int) -> float:
    """Jaccard index of D and of the trusted set found in one subsample of rows (n, e)."""
    rng = generator(DominantStability.name, evidence.purpose, draw)
    kept = np.sort(rng.choice(len(rows), size=round(FRACTION * len(rows)), replace=False))
    before, after = evidence.groups[kept] == 0, evidence.recluster(rows[kept], rng)
    return float((before & after).sum() / max((before | after).sum(), 1))


def _dominance(evidence: FeatureEvidence) -> float:
    """P_boot(n_1 > n_2): share of bootstraps of T_fit in which D is the largest group."""
    rng = generator(DominantStability.name, evidence.purpose, "bootstrap")
    total = len(evidence.groups)
    sizes = rng.multinomial(total, evidence.sizes / total, size=BOOTSTRAPS)
    return float((sizes[:, 0] > sizes[:, 1:].max(axis=1)).mean())
