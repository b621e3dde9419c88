"""``log_skewness``: have the target scores a long upper tail, as few anomalies above normals make?

mean of ((x - mean) / std)^3, x = log a(T_sel): the moment coefficient of skewness (Pearson 1895), on the
log so that the skewness every squared distance has does not count.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from orchestrator.proxies.base import PROXIES, Proxy, ScoreEvidence, log_scores
from trainables.errors import UndefinedScore


@PROXIES.register("log_skewness")
class LogSkewness(Proxy):
    """Skewness without unit; larger = longer upper tail; 0 = symmetric.

    Inputs: ``target_sel``. The same for a distance and its square, in any unit. Undefined where the scores
    are equal.
    Known failure: falls to 0 as the contamination nears one half, and a few near-zero scores outweigh the
    tail.
    """

    name: ClassVar[str] = "log_skewness"
    stage: ClassVar[Literal["A", "B"]] = "B"

    def __call__(self, evidence: ScoreEvidence) -> float:
        """Return the skewness of the log scores."""
        logs = log_scores(evidence.target_sel)
        if np.ptp(logs) == 0:
            raise UndefinedScore("all scores of T_sel are equal")
        standard = (logs - logs.mean()) / logs.std()
        return float(np.mean(standard**3))
