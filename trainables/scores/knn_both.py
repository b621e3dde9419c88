"""Mean distance to the nearest normals of both domains: kNN with source and trusted target in one bank."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from trainables.scores.base import SCORES, Reference, Score
from trainables.scores.knn import mean_distance


@SCORES.register("knn_both")
class KNearestOfBoth(Score):
    """s(x) = mean distance to the ``neighbours`` nearest images among source and trusted target."""

    works_on_source_alone: ClassVar[bool] = False

    neighbours: int = Field(5, ge=1, description="number of nearest neighbours of the kNN score")

    def __call__(self, embeddings: np.ndarray, reference: Reference) -> np.ndarray:
        """Score (n, e) embeddings: (n,)."""
        return mean_distance(
            embeddings, np.concatenate([reference.source, reference.trusted]), self.neighbours
        )
