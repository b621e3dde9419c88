"""A score that costs nothing: what is left of a unit's time is the orchestrator's."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from trainables.scores.base import SCORES, Reference, Score


@SCORES.register("costless")
class Costless(Score):
    column: int = Field(0, ge=0, description="coordinate of the embedding that is the score")

    def __call__(self, embeddings: np.ndarray, reference: Reference) -> np.ndarray:
        return np.abs(embeddings[:, self.column])
