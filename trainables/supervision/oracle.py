"""True target normals replace the trusted set: an upper bound, never a candidate of the label-free choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from trainables.clusterers.base import trusted_assignment
from trainables.supervision.base import SUPERVISIONS, Supervision
from trainables.types import Assignment


@SUPERVISIONS.register("oracle")
class OracleSupervision(Supervision):
    """Trusts exactly the normals of T_fit."""

    needs_labels: ClassVar[bool] = True

    def trusted_set(
        self,
        features: np.ndarray,
        cluster: Callable[[np.ndarray], Assignment] | None,
        true_normals: np.ndarray | None,
    ) -> Assignment | None:
        """The true normals among the (n, d) features of T_fit."""
        if true_normals is None:
            raise ValueError("oracle supervision needs the true normals")
        return trusted_assignment(features, true_normals)
