"""``dominant_silhouette``: do unseen images of the dominant cluster sit well apart from the other clusters?

mean over D_sel of (b_i - a_i) / max(a_i, b_i), times min(1, r / 0.5): the silhouette of Rousseeuw 1987 for
images that the clusterer never saw. a_i = mean distance of image i to D, b_i = that to the nearest other
cluster of T_fit.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances

from orchestrator.proxies.base import PROXIES, FeatureEvidence, Proxy
from trainables.errors import UndefinedScore

FULL_SHARE = 0.5


@PROXIES.register("dominant_silhouette")
class DominantSilhouette(Proxy):
    """Silhouette in [-1, 1], shrunk where D is less than half of T_fit; larger = better separated.

    Inputs: ``target_sel``, ``target_fit`` and its groups. D_sel = T_sel images whose nearest centroid is
    that of D. Distances go to the clusters themselves, not to other T_sel images sorted by centroid: two
    centroids that differ by chance would still cut T_sel into well separated halves.
    Undefined where all is trusted or D_sel is empty. Known failure: drifts to K = 2, the coarsest split.
    """

    name: ClassVar[str] = "dominant_silhouette"
    stage: ClassVar[Literal["A", "B"]] = "A"

    def __call__(self, evidence: FeatureEvidence) -> float:
        """Return the mean silhouette of D_sel times min(1, r / 0.5)."""
        if len(evidence.sizes) < 2:
            raise UndefinedScore("all target images are trusted, so there is no other cluster")
        held_out = evidence.target_sel[evidence.groups_sel == 0]
        if len(held_out) == 0:
            raise UndefinedScore("no held-out target image belongs to the dominant cluster")
        distance = euclidean_distances(held_out, evidence.target_fit)
        members = np.eye(len(evidence.sizes))[evidence.groups] / evidence.sizes
        mean = distance @ members
        own, other = mean[:, 0], mean[:, 1:].min(axis=1)
        largest = np.maximum(own, other)
        values = np.divide(other - own, largest, out=np.zeros_like(own), where=largest > 0)
        return float(values.mean()) * min(1.0, evidence.share / FULL_SHARE)
