"""Correlation alignment (Sun & Saenko, Deep CORAL, ECCV 2016 workshops, arXiv 1607.01719)."""

from __future__ import annotations

import torch

from trainables.alignments.base import ALIGNMENTS, Alignment, Batch


@ALIGNMENTS.register("coral")
class CORAL(Alignment):
    """Squared Frobenius distance between the covariances of source and trusted target, ||C_s - C_t||_F^2.

    Deep CORAL divides by 4 e^2, which suits features whose variances do not depend on e. Embeddings of norm
    1 have covariances whose trace is about 1 at most, and the factor would leave nothing of the loss. Means
    are not aligned.
    """

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The distance for (b, e) source and (t, e) trusted embeddings, at least two of each."""
        return (_covariance(batch.source) - _covariance(batch.trusted)).square().sum()


def _covariance(embeddings: torch.Tensor) -> torch.Tensor:
    """(b, e) -> (e, e), divided by b - 1."""
    offsets = embeddings - embeddings.mean(dim=0)
    return offsets.T @ offsets / max(len(embeddings) - 1, 1)
