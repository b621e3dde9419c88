"""``source_affinity``: is the dominant cluster the one that looks like the source?

cos(m, s) - sum_{k != D} n_k cos(m_k, s) / sum_{k != D} n_k with s the source centroid, m_k the cluster
centroids of Mejri et al. 2025 (arXiv 2502.21022), eq. 6. The common part of all features cancels in the
difference.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from sklearn.metrics.pairwise import cosine_similarity

from orchestrator.proxies.base import PROXIES, FeatureEvidence, Proxy
from trainables.errors import UndefinedScore


@PROXIES.register("source_affinity")
class SourceAffinity(Proxy):
    """Difference of cosines, in [-2, 2]; larger = the trusted set is nearer to the source than the rest is.

    Inputs: ``target_fit``, its groups, ``source_fit``. The others are weighted by size, so that splitting
    them further does not change the value much. Undefined where all is trusted or there is no source.
    Known failure: a large shift between the domains, which makes every cluster equally far.
    """

    name: ClassVar[str] = "source_affinity"
    stage: ClassVar[Literal["A", "B"]] = "A"

    def __call__(self, evidence: FeatureEvidence) -> float:
        """Return the cosine of the dominant centroid less the mean cosine of the others."""
        if len(evidence.sizes) < 2:
            raise UndefinedScore("all target images are trusted, so there is no other cluster")
        if len(evidence.source_fit) == 0:
            raise UndefinedScore("there are no source images")
        source = evidence.source_fit.mean(axis=0, dtype=float, keepdims=True)
        cosines = cosine_similarity(evidence.centroids, source)[:, 0]
        return float(cosines[0] - np.average(cosines[1:], weights=evidence.sizes[1:]))
