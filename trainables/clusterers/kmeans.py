"""K-means in feature space; the largest cluster is trusted (Mejri et al., arXiv 2502.21022, eq. 6)."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from sklearn.cluster import KMeans as SklearnKMeans

from trainables.clusterers.base import (
    CLUSTERERS,
    Clusterer,
    check_distinct,
    check_features,
    dominant_assignment,
)
from trainables.types import Assignment


@CLUSTERERS.register("kmeans")
class KMeans(Clusterer):
    """Lloyd's K-means with k-means++ starts."""

    k: int = Field(5, ge=1, description="number of clusters K")

    @property
    def trusts_all(self) -> bool:
        """True for a single cluster."""
        return self.k == 1

    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> Assignment:
        """Cluster (n, d) features into exactly k non-empty clusters."""
        check_features(features, self.k, f"k = {self.k}")
        check_distinct(features, self.k, "feature rows")
        model = SklearnKMeans(self.k, n_init=5, random_state=int(rng.integers(2**31)))
        return dominant_assignment(features, model.fit(features).labels_)
