"""``dominant_gap``: is the dominant cluster tighter than clustering would make it in a single blob?

mean_b log W_b - log W - sd_b(log W_b) sqrt(1 + 1/B), the gap statistic of Tibshirani, Walther and Hastie 2001
with its standard error s_K, on the dominant cluster alone: W = mean over D of ||z - m||^2.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np

from orchestrator.proxies.base import PROXIES, FeatureEvidence, Proxy, spread, unit_rows
from trainables.errors import UndefinedScore
from trainables.seeding import generator

REFERENCES = 5
DIMENSIONS = 20


@PROXIES.register("dominant_gap")
class DominantGap(Proxy):
    """Gap in nats of log W; larger = tighter than chance; about 0 when all is trusted.

    Inputs: ``target_fit``, the trusted set, ``cluster``. W_b is the scatter of what the same clusterer
    trusts in reference b: n draws from a Gaussian with the mean and covariance of T_fit, at unit length as
    features are.
    Approximations: W and W_b live in the 20 leading principal directions of T_fit (at unit length) and B =
    5; the assignment itself is the one found on the whole features.
    Undefined where a trusted set has no scatter. Known failure: rewards splitting normals of several modes.
    """

    name: ClassVar[str] = "dominant_gap"
    stage: ClassVar[Literal["A", "B"]] = "A"

    def __call__(self, evidence: FeatureEvidence) -> float:
        """Return the gap less its standard error."""
        rows = evidence.reduced(DIMENSIONS)
        seen = _log_spread(rows[evidence.groups == 0])
        chance = [_reference(evidence, rows, draw) for draw in range(REFERENCES)]
        error = float(np.std(chance)) * math.sqrt(1 + 1 / REFERENCES)
        return float(np.mean(chance)) - seen - error


def _reference(evidence: FeatureEvidence, rows: np.ndarray, draw: int) -> float:
    """Return log W_b of one Gaussian reference of rows (n, e)."""
    rng = generator(DominantGap.name, evidence.purpose, draw)
    covariance = np.cov(rows, rowvar=False).reshape(rows.shape[1], rows.shape[1])
    blob = rng.multivariate_normal(rows.mean(axis=0), covariance, len(rows), method="eigh")
    blob = unit_rows(blob)
    return _log_spread(blob[evidence.recluster(blob, rng)])


def _log_spread(rows: np.ndarray) -> float:
    """Return log W of rows (k, e); undefined where they do not scatter."""
    scatter = spread(rows) if len(rows) > 1 else 0.0
    if scatter == 0:
        raise UndefinedScore("a trusted set has no scatter")
    return math.log(scatter)
