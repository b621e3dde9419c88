"""Mahalanobis distance with a shrunk covariance (Ledoit & Wolf, J. Multivariate Analysis 2004).

S = (1 - a) S_n + a m I, with S_n the sample covariance, m its mean eigenvalue and a the Ledoit-Wolf
shrinkage. S^-1 follows from the singular vectors of the n rows, without a (e, e) matrix.
"""

from __future__ import annotations

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage

from trainables.scores.base import SCORES, Reference, Score

SMALLEST_VARIANCE = 1e-12


@SCORES.register("mahalanobis")
class Mahalanobis(Score):
    """s(x) = (z - m)^T S^-1 (z - m), m and S of the trusted embeddings; of the source without a target."""

    def __call__(self, embeddings: np.ndarray, reference: Reference) -> np.ndarray:
        """Score (n, e) embeddings: (n,)."""
        bank = reference.normals.astype(np.float64)
        mean = bank.mean(axis=0)
        _, singular, axes = np.linalg.svd(bank - mean, full_matrices=False)
        shrinkage = float(ledoit_wolf_shrinkage(bank))
        variances = np.square(singular) / len(bank)
        isotropic = max(shrinkage * variances.sum() / bank.shape[1], SMALLEST_VARIANCE)
        offsets = embeddings - mean
        along = np.square(offsets @ axes.T)
        # What the axes do not span varies by the isotropic part alone.
        across = np.maximum(np.square(offsets).sum(axis=1) - along.sum(axis=1), 0)
        inside = (along / ((1 - shrinkage) * variances + isotropic)).sum(axis=1)
        return np.asarray(inside + across / isotropic)
