"""Multi-kernel maximum mean discrepancy (Gretton et al., JMLR 2012; Long et al., ICML 2015)."""

from __future__ import annotations

import torch

from trainables.alignments.base import ALIGNMENTS, Alignment, Batch

BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)


@ALIGNMENTS.register("mmd")
class MMD(Alignment):
    """Squared distance between the kernel means of source and trusted target.

    Gaussian kernels with sigma^2 = a * (mean squared distance of the batch), a in 1/8..2, averaged; the
    biased estimate, which is never negative.
    """

    def __call__(self, batch: Batch) -> torch.Tensor:
        """MMD^2 between (b, e) source and (b, e) trusted embeddings."""
        both = torch.cat([batch.source, batch.trusted])
        norms = both.square().sum(dim=1)
        squared = (norms.unsqueeze(1) + norms - 2 * both @ both.T).clamp_min(0)  # (2b, 2b)
        scale = squared.detach().mean().clamp_min(1e-12)
        kernel = torch.stack([torch.exp(-squared / (2 * a * scale)) for a in BANDWIDTHS]).mean(dim=0)
        b = len(batch.source)
        return kernel[:b, :b].mean() + kernel[b:, b:].mean() - 2 * kernel[:b, b:].mean()
