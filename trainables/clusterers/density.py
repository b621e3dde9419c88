"""kNN density: the images in the densest regions are trusted (after Ramaswamy et al., SIGMOD 2000)."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from sklearn.neighbors import NearestNeighbors

from trainables.clusterers.base import (
    CLUSTERERS,
    Clusterer,
    check_features,
    keep_lowest,
    trusted_assignment,
)
from trainables.types import Assignment

NEIGHBOURS = 10


@CLUSTERERS.register("density")
class Density(Clusterer):
    """Keeps the share of images with the smallest mean distance to their ten nearest neighbours."""

    keep: float = Field(0.6, gt=0, le=1, description="share of the target set that is trusted")

    @property
    def trusts_all(self) -> bool:
        """True for keep = 1."""
        return self.keep == 1

    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> Assignment:
        """Rank (n, d) features by density; deterministic, so ``rng`` is not drawn from."""
        check_features(features, 3, "kNN density")
        # The nearest "neighbour" of a stored image is itself, at distance 0.
        count = min(NEIGHBOURS + 1, len(features))
        distances, _ = NearestNeighbors(n_neighbors=count).fit(features).kneighbors(features)
        return trusted_assignment(features, keep_lowest(distances[:, 1:].mean(axis=1), self.keep))
