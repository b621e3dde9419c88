"""No alignment: DSVDD on the source alone (Ruff et al., ICML 2018; eq. 5)."""

from __future__ import annotations

from typing import ClassVar

import torch

from trainables.alignments.base import ALIGNMENTS, Alignment, Batch


@ALIGNMENTS.register("none")
class NoAlignment(Alignment):
    """A constant zero, so that eq. 10 is eq. 5."""

    uses_trusted: ClassVar[bool] = False

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Zero."""
        return batch.source.new_zeros(())
