"""Mean distance to the nearest trusted embeddings (Sun et al., ICML 2022, deep nearest neighbours)."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from sklearn.neighbors import NearestNeighbors

from trainables.scores.base import SCORES, Reference, Score


@SCORES.register("knn")
class KNearest(Score):
    """s(x) = mean distance to the ``neighbours`` nearest trusted images; without a target, source images."""

    neighbours: int = Field(5, ge=1, description="number of nearest neighbours of the kNN score")

    def __call__(self, embeddings: np.ndarray, reference: Reference) -> np.ndarray:
        """Score (n, e) embeddings: (n,)."""
        return mean_distance(embeddings, reference.normals, self.neighbours)


def mean_distance(embeddings: np.ndarray, bank: np.ndarray, neighbours: int) -> np.ndarray:
    """Mean distance of (n, e) embeddings to their nearest ``neighbours`` rows of a bank (m, e): (n,)."""
    model = NearestNeighbors(n_neighbors=min(neighbours, len(bank)), algorithm="brute").fit(bank)
    return np.asarray(model.kneighbors(embeddings)[0].mean(axis=1))
