"""Squared distance to the mean of the trusted target embeddings."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from trainables.scores.base import SCORES, Reference, Score, squared_distance


@SCORES.register("target_centre")
class TargetCentre(Score):
    """s(x) = ||Phi(x) - c_t||^2, c_t = mean of the trusted embeddings."""

    works_on_source_alone: ClassVar[bool] = False

    def __call__(self, embeddings: np.ndarray, reference: Reference) -> np.ndarray:
        """Score (n, e) embeddings: (n,)."""
        return squared_distance(embeddings, reference.trusted.mean(axis=0))
