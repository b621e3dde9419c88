"""Mean shift: images that climb to one peak of the density are a cluster (Comaniciu & Meer, PAMI 2002)."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from sklearn.cluster import MeanShift as SklearnMeanShift
from sklearn.cluster import estimate_bandwidth

from trainables.clusterers.base import CLUSTERERS, Clusterer, check_features, dominant_assignment
from trainables.errors import TwofoldError
from trainables.principal import principal_coordinates
from trainables.types import Assignment

DIMENSIONS = 16


@CLUSTERERS.register("meanshift")
class MeanShift(Clusterer):
    """A flat kernel as wide as the distance to the nearest ``quantile`` of all images, on average.

    It finds the number of clusters by itself. In the 16 leading principal directions: in many dimensions all
    distances are alike, and no density has a peak.
    """

    quantile: float = Field(0.3, gt=0, le=1, description="share of the images within the kernel")

    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> Assignment:
        """Cluster (n, d) features; deterministic, so ``rng`` is not drawn from."""
        check_features(features, 3, "mean shift")
        rows = principal_coordinates(features, DIMENSIONS)
        bandwidth = float(estimate_bandwidth(rows, quantile=self.quantile))
        if bandwidth <= 0:
            raise TwofoldError(
                f"quantile = {self.quantile} gives no width, as too many images are equal; raise it"
            )
        return dominant_assignment(features, SklearnMeanShift(bandwidth=bandwidth).fit(rows).labels_)
