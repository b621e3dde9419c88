"""K-means, then the nearest clusters joined to the dominant one: normals of several modes stay together."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from trainables.clusterers.base import CLUSTERERS, trusted_assignment
from trainables.clusterers.kmeans import KMeans
from trainables.types import Assignment


@CLUSTERERS.register("merged")
class Merged(KMeans):
    """Joins to the dominant cluster the one whose centroid is nearest to the mean of what is trusted so far.

    It stops before the share ``keep`` would be exceeded. A single mode of the normals is then not taken for
    all of them, which is how K-means alone loses coverage.
    """

    keep: float = Field(0.6, gt=0, le=1, description="share of the target set that is trusted")

    @property
    def trusts_all(self) -> bool:
        """True for a single cluster, and for keep = 1."""
        return self.k == 1 or self.keep == 1

    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> Assignment:
        """Cluster (n, d) features and join clusters; the labels stay those of K-means."""
        found = super().__call__(features, rng)
        labels, trusted = found.labels, found.trusted
        means = np.stack([features[labels == j].mean(axis=0) for j in range(self.k)])
        sizes = np.bincount(labels)
        joined = labels[trusted][:1]
        while len(joined) < self.k:
            distance = np.linalg.norm(means - features[trusted].mean(axis=0), axis=1)
            distance[joined] = np.inf
            nearest = int(distance.argmin())
            if trusted.sum() + sizes[nearest] > self.keep * len(labels):
                break
            joined = np.append(joined, nearest)
            trusted = trusted | (labels == nearest)
        return trusted_assignment(features, trusted, labels)
