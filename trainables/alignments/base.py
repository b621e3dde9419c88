"""What every alignment shares: the second term of eq. 10, and what it needs from a batch."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from trainables.registry import Component, Registry
from trainables.types import Assignment


@dataclass(frozen=True)
class Batch:
    """Embeddings of one training step, all L2-normalised.

    Attributes:
        source: (b, e) source normals.
        trusted: (b, e) trusted target images; (0, e) where the alignment does not use the target.
        negatives: (m, e) target images outside the trusted set, or pseudo-anomalies; (0, e) without them.
        centre: (e,) hypersphere centre c.
        negative_weight: how much a negative counts, 1 = as much as eq. 8 says.
        critic: the alignment's own network; None where it has none.
        progress: share of the training that is over, 0..1; 0 where the alignment does not use it.
    """

    source: torch.Tensor
    trusted: torch.Tensor
    negatives: torch.Tensor
    centre: torch.Tensor
    negative_weight: float = 1.0
    critic: nn.Module | None = None
    progress: float = 0.0


class Alignment(Component):
    """The loss L_uda of eq. 10.

    One that ``uses_progress`` makes each epoch depend on how many there are in all.
    """

    trains: ClassVar[bool] = True
    uses_trusted: ClassVar[bool] = True
    uses_progress: ClassVar[bool] = False

    @property
    def uses_negatives(self) -> bool:
        """Whether a batch must hold target images from outside the trusted set."""
        return False

    def critic(self, embedding_dim: int) -> nn.Module | None:
        """A network of embeddings (b, e) that is trained beside the backbone, then dropped; None = none."""
        return None

    def negative_candidates(
        self, assignment: Assignment, target: np.ndarray, source: np.ndarray
    ) -> np.ndarray:
        """Mask (n,) of the target features (n, d) that may be negatives; source features (s, d)."""
        return ~assignment.trusted

    @abstractmethod
    def __call__(self, batch: Batch) -> torch.Tensor:
        """Scalar loss, smaller = better aligned."""


ALIGNMENTS: Registry[Alignment] = Registry("alignment", "trainables.alignments")
