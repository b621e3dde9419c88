"""Iterative trimming: a mean that forgets its farthest images (concentration steps of Rousseeuw, 1985)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from trainables.clusterers.base import (
    CLUSTERERS,
    Clusterer,
    check_features,
    keep_lowest,
    trusted_assignment,
)
from trainables.types import Assignment

MAX_ITERATIONS = 50


@CLUSTERERS.register("trimmed")
class Trimmed(Clusterer):
    """Keeps the share of images nearest to their own mean, until that set no longer changes."""

    keep: float = Field(0.6, gt=0, le=1, description="share of the target set that is trusted")

    @property
    def trusts_all(self) -> bool:
        """True for keep = 1."""
        return self.keep == 1

    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> Assignment:
        """Trim (n, d) features; deterministic, so ``rng`` is not drawn from."""
        check_features(features, 2, "trimming")
        trusted = np.ones(len(features), dtype=bool)
        for _ in range(MAX_ITERATIONS):
            distance = np.linalg.norm(features - features[trusted].mean(axis=0), axis=1)
            nearest = keep_lowest(distance, self.keep)
            if (nearest == trusted).all():
                break
            trusted = nearest
        return trusted_assignment(features, trusted)
