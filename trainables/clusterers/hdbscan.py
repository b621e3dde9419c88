"""HDBSCAN: clusters that persist over many densities; the rest is left out (Campello et al., 2013)."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from sklearn.cluster import HDBSCAN as SklearnHDBSCAN

from trainables.clusterers.base import CLUSTERERS, Clusterer, check_features, trusted_assignment
from trainables.principal import principal_coordinates
from trainables.types import Assignment

DIMENSIONS = 16
NEIGHBOURS = 5


@CLUSTERERS.register("hdbscan")
class HDBSCAN(Clusterer):
    """Excess of mass over the hierarchy of densities; a single cluster is allowed.

    It finds the number of clusters by itself. Where no two of them persist, all but the sparsest images are
    one cluster.
    """

    smallest: float = Field(0.1, gt=0, le=0.5, description="share of the images that makes a cluster")

    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> Assignment:
        """Cluster (n, d) features; deterministic, so ``rng`` is not drawn from."""
        check_features(features, 3, "HDBSCAN")
        model = SklearnHDBSCAN(
            min_cluster_size=max(2, round(self.smallest * len(features))),
            min_samples=min(NEIGHBOURS, len(features) - 1),
            allow_single_cluster=True,
            copy=True,
        )
        labels = model.fit_predict(principal_coordinates(features, DIMENSIONS))
        trusted = labels == int(np.bincount(labels[labels >= 0]).argmax())
        return trusted_assignment(features, trusted, np.where(labels < 0, labels.max() + 1, labels))
