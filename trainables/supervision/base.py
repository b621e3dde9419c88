"""What every kind of target supervision shares: where the trusted set comes from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np

from trainables.registry import Component, Registry
from trainables.types import Assignment


class Supervision(Component):
    """Gives the trusted set of a setting."""

    uses_target: ClassVar[bool] = True
    uses_clusterer: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    negatives: ClassVar[Literal["target_fit", "tiled"]] = "target_fit"

    @property
    def negative_weight(self) -> float:
        """How much a negative counts in the alignment loss."""
        return 1.0

    @abstractmethod
    def trusted_set(
        self,
        features: np.ndarray,
        cluster: Callable[[np.ndarray], Assignment] | None,
        true_normals: np.ndarray | None,
    ) -> Assignment | None:
        """The trusted set among the (n, d) features of T_fit, or None where the target is not used.

        Args:
            features: (n, d) features of T_fit.
            cluster: the configuration's clusterer, seeded.
            true_normals: (n,) bool, given only where ``needs_labels``.
        """


SUPERVISIONS: Registry[Supervision] = Registry("supervision", "trainables.supervision")
