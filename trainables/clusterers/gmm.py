"""A mixture of Gaussians with diagonal covariances; the component of most images is trusted."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from sklearn.mixture import GaussianMixture

from trainables.clusterers.base import (
    CLUSTERERS,
    Clusterer,
    check_distinct,
    check_features,
    dominant_assignment,
)
from trainables.principal import principal_coordinates
from trainables.types import Assignment

DIMENSIONS = 16
STARTS = 3
SMALLEST_VARIANCE = 1e-3
"""Added to every variance, as a share of the mean variance, so that no component shrinks to a point."""


@CLUSTERERS.register("gmm")
class GaussianMixtureModel(Clusterer):
    """Expectation maximisation in the 16 leading principal directions, where n images can bear it."""

    k: int = Field(5, ge=1, description="number of clusters K")

    @property
    def trusts_all(self) -> bool:
        """True for a single component."""
        return self.k == 1

    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> Assignment:
        """Cluster (n, d) features by their most probable component; one that gets no image is no cluster."""
        check_features(features, self.k, f"k = {self.k}")
        check_distinct(features, self.k, "feature rows")
        rows = principal_coordinates(features, DIMENSIONS)
        model = GaussianMixture(
            self.k,
            covariance_type="diag",
            n_init=STARTS,
            reg_covar=max(SMALLEST_VARIANCE * float(rows.var(axis=0).mean()), 1e-12),
            random_state=int(rng.integers(2**31)),
        )
        labels = np.unique(model.fit_predict(rows), return_inverse=True)[1]
        return dominant_assignment(features, labels)
