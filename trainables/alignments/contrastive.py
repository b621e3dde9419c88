"""Contrastive alignment of source and trusted target (Mejri et al., arXiv 2502.21022, eq. 8 and 9).

l_ij = -log( e^{cos(z_i, z_j)/tau} / (e^{cos(z_i, z_j)/tau} + sum_{k in N} e^{cos(z_i, z_k)/tau}) )

for source i and trusted target j, averaged over all pairs of the batch. The paper does not define the
negatives N.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.spatial.distance import cdist

from trainables.alignments.base import ALIGNMENTS, Alignment, Batch
from trainables.types import Assignment


@ALIGNMENTS.register("contrastive")
class Contrastive(Alignment):
    """Every source image is pulled to every trusted target image, and pushed from the negatives.

    ``negatives``: ``non_dominant`` = target images outside the trusted set; ``in_batch`` = the other trusted
    images of the batch; ``both`` = their union; ``ignore_band`` = ``non_dominant`` without the share ``band``
    of them that lies nearest to the trusted or the source centroid, since those are likely normals.
    """

    tau: float = Field(0.2, gt=0, description="temperature tau of the contrastive loss")
    negatives: Literal["non_dominant", "in_batch", "both", "ignore_band"] = Field(
        "non_dominant", description="which target images are pushed away"
    )
    band: float = Field(0.5, ge=0, lt=1, description="share of the outside images that is ignored")

    def used(self) -> dict[str, Any]:
        """All but ``band`` where nothing is ignored."""
        return self.model_dump(exclude=None if self.negatives == "ignore_band" else {"band"})

    @property
    def uses_negatives(self) -> bool:
        """True unless all negatives come from the trusted batch itself."""
        return self.negatives != "in_batch"

    def negative_candidates(
        self, assignment: Assignment, target: np.ndarray, source: np.ndarray
    ) -> np.ndarray:
        """Mask (n,) of the images outside the trusted set; with ``ignore_band`` the farthest of them."""
        outside = ~assignment.trusted
        if self.negatives != "ignore_band" or not outside.any():
            return outside
        centroids = np.stack([assignment.centre, source.mean(axis=0)])
        nearest = cdist(target, centroids).min(axis=1)
        return np.asarray(outside & (nearest >= np.quantile(nearest[outside], self.band)))

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Mean of l_ij over the (b, b) pairs."""
        positive = batch.source @ batch.trusted.T / self.tau  # (b, b)
        terms = []
        if self.uses_negatives:
            pushed = torch.logsumexp(batch.source @ batch.negatives.T / self.tau, dim=1, keepdim=True)
            pushed = pushed + math.log(batch.negative_weight)
            terms.append(pushed.expand_as(positive))
        if self.negatives in ("in_batch", "both"):
            terms.append(_log_sum_of_others(positive))
        denominator = torch.logsumexp(torch.stack([positive, *terms]), dim=0)
        return (denominator - positive).mean()


def _log_sum_of_others(logits: torch.Tensor) -> torch.Tensor:
    """(b, b) -> (b, b): entry (i, j) is log sum_{k != j} exp logits[i, k]."""
    size = logits.shape[1]
    rows = logits.unsqueeze(1).expand(-1, size, -1)  # (b, j, k)
    own = torch.eye(size, dtype=torch.bool, device=logits.device)
    return torch.logsumexp(rows.masked_fill(own, -torch.inf), dim=2)
