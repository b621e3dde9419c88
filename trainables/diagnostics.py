"""Numbers that tell what a training does to its embeddings: collapse, repulsion, wrong negatives."""

from __future__ import annotations

import numpy as np

BAND = 95
"""Percent of the trusted embeddings that the ignore band holds."""


def effective_rank(embeddings: np.ndarray) -> float:
    """Effective rank of (n, e) embeddings (Roy & Vetterli, EUSIPCO 2007), 1..min(n, e); 1 = one direction.

    Hypersphere collapse makes it fall, the repulsion of in-batch negatives makes it grow.
    """
    offsets = (embeddings - embeddings.mean(axis=0)).astype(np.float64)
    # Singular values by the smaller Gram matrix: several times as fast as their decomposition.
    gram = offsets @ offsets.T if len(offsets) < offsets.shape[1] else offsets.T @ offsets
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    share = values[values > 0] / max(values.sum(), 1e-12)
    return float(np.exp(-(share * np.log(share)).sum()))


def score_spread(embeddings: np.ndarray, centre: np.ndarray) -> float:
    """Standard deviation / mean of ||h - c||^2 over (n, e) embeddings; 0 = all equally anomalous."""
    distance = np.square(embeddings - centre).sum(axis=1)
    return float(distance.std() / max(distance.mean(), 1e-12))


def negatives_inside(negatives: np.ndarray, trusted: np.ndarray, centre: np.ndarray) -> float:
    """Share of (m, e) negatives no farther from the centre (e,) than 95 % of the (t, e) trusted embeddings.

    Such negatives are likely normals that the loss pushes away.
    """
    radius = np.percentile(np.square(trusted - centre).sum(axis=1), BAND)
    return float(np.mean(np.square(negatives - centre).sum(axis=1) <= radius))
