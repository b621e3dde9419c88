"""No training at all: the encoder's features are the embedding. The opponent that training must beat."""

from __future__ import annotations

from typing import ClassVar

import torch

from trainables.alignments.base import ALIGNMENTS, Alignment, Batch


@ALIGNMENTS.register("identity")
class Identity(Alignment):
    """Marks a configuration without a backbone; there is no step to take a loss of."""

    trains: ClassVar[bool] = False
    uses_trusted: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Zero: nothing is pulled anywhere."""
        return batch.source.new_zeros(())
