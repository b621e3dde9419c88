"""Positive alignment: DSVDD's pull (eq. 5) applied to the trusted target images as well, no negatives."""

from __future__ import annotations

import torch

from trainables.alignments.base import ALIGNMENTS, Alignment, Batch


@ALIGNMENTS.register("positive")
class Positive(Alignment):
    """Mean squared distance of the trusted target embeddings to the centre c."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        """(1/b) sum_j ||z_j^t - c||^2."""
        return (batch.trusted - batch.centre).square().sum(dim=1).mean()
