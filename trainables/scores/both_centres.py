"""Squared distance to the point midway between the source centre and the mean of the trusted set."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from trainables.scores.base import SCORES, Reference, Score, squared_distance


@SCORES.register("both_centres")
class BothCentres(Score):
    """s(x) = ||Phi(x) - (c + c_t)/2||^2: safer than either centre when the alignment is incomplete."""

    works_on_source_alone: ClassVar[bool] = False

    def __call__(self, embeddings: np.ndarray, reference: Reference) -> np.ndarray:
        """Score (n, e) embeddings: (n,)."""
        midpoint = (reference.centre + reference.trusted.mean(axis=0)) / 2
        return squared_distance(embeddings, midpoint)
