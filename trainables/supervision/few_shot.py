"""A few labelled target normals, and nothing else of the target (arXiv 2502.21022, few-shot setting).

The images pushed away are pseudo-anomalies that tile random patches of the shots (``trainables.data.tiled``);
``alpha`` is their weight, as in Ge et al. (NeurIPS 2021, arXiv 2110.02900).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from trainables.clusterers.base import trusted_assignment
from trainables.errors import TwofoldError
from trainables.seeding import generator
from trainables.supervision.base import SUPERVISIONS, Supervision
from trainables.types import Assignment


@SUPERVISIONS.register("few_shot")
class FewShot(Supervision):
    """Trusts ``shots`` of the true normals of T_fit; fewer shots are among more."""

    needs_labels: ClassVar[bool] = True
    negatives: ClassVar[Literal["target_fit", "tiled"]] = "tiled"

    shots: int = Field(10, ge=2, description="labelled target normals of few_shot supervision")
    alpha: float = Field(1.0, gt=0, description="weight of the pseudo-anomalies among the negatives")

    @property
    def negative_weight(self) -> float:
        """``alpha``."""
        return self.alpha

    def trusted_set(
        self,
        features: np.ndarray,
        cluster: Callable[[np.ndarray], Assignment] | None,
        true_normals: np.ndarray | None,
    ) -> Assignment | None:
        """The shots among the (n, d) features of T_fit.

        Raises:
            TwofoldError: T_fit has fewer normals than ``shots``.
        """
        if true_normals is None:
            raise ValueError("few_shot supervision needs the true normals")
        normals = np.flatnonzero(true_normals)
        if len(normals) < self.shots:
            raise TwofoldError(
                f"shots = {self.shots}, but there are {len(normals)} target normals to train on"
            )
        shots = np.zeros(len(features), dtype=bool)
        # The order is the same for every number of shots; which images stand where changes with the split.
        shots[generator("few_shot").permutation(normals)[: self.shots]] = True
        return trusted_assignment(features, shots)
