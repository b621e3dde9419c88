"""The paper's score: squared distance to the hypersphere centre of the source (eq. 5, arXiv 2502.21022)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from trainables.scores.base import SCORES, Reference, Score, squared_distance


@SCORES.register("source_centre")
class SourceCentre(Score):
    """s(x) = ||Phi(x) - c||^2."""

    uses_trusted: ClassVar[bool] = False

    def __call__(self, embeddings: np.ndarray, reference: Reference) -> np.ndarray:
        """Score (n, e) embeddings: (n,)."""
        return squared_distance(embeddings, reference.centre)
