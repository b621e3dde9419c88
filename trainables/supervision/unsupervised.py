"""No target label: the trusted set is what the clusterer finds (arXiv 2502.21022, eq. 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from trainables.supervision.base import SUPERVISIONS, Supervision
from trainables.types import Assignment


@SUPERVISIONS.register("unsupervised")
class Unsupervised(Supervision):
    """Trusts the dominant cluster, or what another estimator gives."""

    uses_clusterer: ClassVar[bool] = True

    def trusted_set(
        self,
        features: np.ndarray,
        cluster: Callable[[np.ndarray], Assignment] | None,
        true_normals: np.ndarray | None,
    ) -> Assignment | None:
        """Cluster the (n, d) features of T_fit."""
        if cluster is None:
            raise ValueError("unsupervised needs a clusterer")
        return cluster(features)
