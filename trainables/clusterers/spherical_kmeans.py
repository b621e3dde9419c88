"""Spherical K-means: cosine similarity, unit-length centroids (Dhillon & Modha, Machine Learning 2001)."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from sklearn.cluster import kmeans_plusplus
from sklearn.preprocessing import normalize

from trainables.clusterers.base import (
    CLUSTERERS,
    Clusterer,
    check_distinct,
    check_features,
    dominant_assignment,
)
from trainables.types import Assignment

STARTS = 5
MAX_ITERATIONS = 100


@CLUSTERERS.register("spherical_kmeans")
class SphericalKMeans(Clusterer):
    """Maximises the summed cosine between images and the centroid of their cluster."""

    k: int = Field(5, ge=1, description="number of clusters K")

    @property
    def trusts_all(self) -> bool:
        """True for a single cluster."""
        return self.k == 1

    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> Assignment:
        """Cluster (n, d) features; the best of five starts by summed cosine."""
        check_features(features, self.k, f"k = {self.k}")
        directions = normalize(features)
        check_distinct(directions, self.k, "directions")
        runs = [_lloyd(directions, self.k, int(rng.integers(2**31))) for _ in range(STARTS)]
        return dominant_assignment(features, max(runs, key=lambda run: run[0])[1])


def _lloyd(directions: np.ndarray, k: int, seed: int) -> tuple[float, np.ndarray]:
    """One run from a k-means++ start: (summed cosine, labels (n,))."""
    centroids, _ = kmeans_plusplus(directions, k, random_state=seed)
    labels = np.full(len(directions), -1)
    for _ in range(MAX_ITERATIONS):
        cosine = directions @ centroids.T
        nearest = _without_empty(cosine, cosine.argmax(axis=1), k)
        if (nearest == labels).all():
            break
        labels = nearest
        centroids = normalize(np.stack([directions[labels == j].sum(axis=0) for j in range(k)]))
    return float((directions * centroids[labels]).sum()), labels


def _without_empty(cosine: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Give every empty cluster the worst-placed image of a cluster that has more than one."""
    for empty in np.setdiff1d(np.arange(k), labels):
        own = cosine[np.arange(len(labels)), labels].copy()
        own[np.bincount(labels, minlength=k)[labels] == 1] = np.inf
        labels[own.argmin()] = empty
    return labels
