"""Binary cross-entropy around the centre (the hypersphere classifier of Ruff et al., 2020, arXiv 2006.00339).

With the true target normals trusted (``supervision: oracle``), the images left out are the true anomalies:
the supervised upper bound. With a trusted set found without labels they are likely anomalies alone.
"""

from __future__ import annotations

import torch

from trainables.alignments.base import ALIGNMENTS, Alignment, Batch

SMALLEST_DISTANCE = 1e-6


@ALIGNMENTS.register("bce")
class BinaryCrossEntropy(Alignment):
    """An image is normal with probability exp(-||z - c||^2), which ranks as the paper's score does."""

    @property
    def uses_negatives(self) -> bool:
        """Always."""
        return True

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Mean of -log p(normal) over (t, e) trusted plus that of -log p(anomaly) over (m, e) negatives."""
        inside = (batch.trusted - batch.centre).square().sum(dim=1)
        outside = (batch.negatives - batch.centre).square().sum(dim=1).clamp_min(SMALLEST_DISTANCE)
        return inside.mean() - batch.negative_weight * torch.log(-torch.expm1(-outside)).mean()
