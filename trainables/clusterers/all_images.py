"""No clustering: every target image is trusted (K = 1). The control that any clusterer must beat."""

from __future__ import annotations

import numpy as np

from trainables.clusterers.base import CLUSTERERS, Clusterer, check_features, trusted_assignment
from trainables.types import Assignment


@CLUSTERERS.register("all")
class AllImages(Clusterer):
    """Trusts the whole unlabelled target set, anomalies included."""

    @property
    def trusts_all(self) -> bool:
        """True for every target set."""
        return True

    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> Assignment:
        """Trust all (n, d) features."""
        check_features(features, 2, "training on the target")
        return trusted_assignment(features, np.ones(len(features), dtype=bool))
