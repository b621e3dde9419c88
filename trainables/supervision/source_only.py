"""The target is not looked at: the baseline that every use of the target must beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from trainables.supervision.base import SUPERVISIONS, Supervision
from trainables.types import Assignment


@SUPERVISIONS.register("source_only")
class SourceOnly(Supervision):
    """No trusted set."""

    uses_target: ClassVar[bool] = False

    def trusted_set(
        self,
        features: np.ndarray,
        cluster: Callable[[np.ndarray], Assignment] | None,
        true_normals: np.ndarray | None,
    ) -> Assignment | None:
        """None."""
        return None
