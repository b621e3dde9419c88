"""Domain-adversarial alignment by gradient reversal (Ganin et al., JMLR 2016, arXiv 1505.07818)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from trainables.alignments.base import ALIGNMENTS, Alignment, Batch

HIDDEN = 256
GAMMA = 10.0


@ALIGNMENTS.register("grl")
class GradientReversal(Alignment):
    """A classifier learns to tell the domains apart, and the embeddings learn the opposite.

    Between the two the gradient is multiplied by -(2 / (1 + e^(-10 p)) - 1), p = share of the training that
    is over: the classifier learns first.
    """

    uses_progress: ClassVar[bool] = True

    def critic(self, embedding_dim: int) -> nn.Module:
        """The domain classifier: (b, e) embeddings -> (b, 1) logits, > 0 = target."""
        return nn.Sequential(
            nn.Linear(embedding_dim, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 1),
        )

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy of the domain over (b, e) source and (t, e) trusted embeddings, each half of it.

        Raises:
            ValueError: the batch has no classifier.
        """
        if batch.critic is None:
            raise ValueError("grl needs the domain classifier that `critic` builds")
        losses = []
        for embeddings, domain in ((batch.source, 0.0), (batch.trusted, 1.0)):
            reversed_ = _Reversed.apply(embeddings, reversal(batch.progress))
            # Entries of an embedding of norm 1 are near 1/sqrt(e), too small for freshly drawn weights.
            logits = batch.critic(reversed_ * math.sqrt(embeddings.shape[1]))
            losses.append(F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain)))
        return torch.stack(losses).mean()


def reversal(progress: float) -> float:
    """The coefficient at a share ``progress`` of the training: 0 at its start, nearly 1 at its end."""
    return 2 / (1 + math.exp(-GAMMA * progress)) - 1


class _Reversed(torch.autograd.Function):
    """The identity whose gradient is multiplied by minus the coefficient."""

    @staticmethod
    def forward(ctx: Any, embeddings: torch.Tensor, coefficient: float) -> torch.Tensor:
        ctx.coefficient = coefficient
        return embeddings.view_as(embeddings)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.coefficient * gradient, None
