"""``contamination_split``: do the scores part where the estimated contamination says that they should?

w0 w1 (mu0 - mu1)^2 / (w0 var0 + w1 var1) of log a(T_sel), cut above its lowest 1 - rho: the criterion of Otsu
1979 at one threshold. The size of the upper group is not up to the scores, so a few strays make no split.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from orchestrator.proxies.base import PROXIES, Proxy, ScoreEvidence, log_scores
from trainables.errors import UndefinedScore

SMALLEST = 0.05
"""Least share of T_sel above the threshold: below it, a handful of images would decide."""


@PROXIES.register("contamination_split")
class ContaminationSplit(Proxy):
    """Variance between the groups over that within them, at least 0, without unit; larger = a clearer split.

    Inputs: ``target_sel``, ``contamination``. The same for a distance and its square, in any unit.
    Undefined without an estimate of the contamination, with fewer than two images on a side, or where no
    group varies. Known failure: an estimate that is far off, and hard normals.
    """

    name: ClassVar[str] = "contamination_split"
    stage: ClassVar[Literal["A", "B"]] = "B"

    def __call__(self, evidence: ScoreEvidence) -> float:
        """Return the criterion at the threshold that the contamination gives."""
        if evidence.contamination is None:
            raise UndefinedScore("the contamination is not estimated")
        logs = np.sort(log_scores(evidence.target_sel))
        below = round((1 - max(evidence.contamination, SMALLEST)) * len(logs))
        if min(below, len(logs) - below) < 2:
            raise UndefinedScore(f"{len(logs)} images of T_sel are too few to be split")
        low, high = logs[:below], logs[below:]
        weight = below / len(logs)
        within = weight * low.var() + (1 - weight) * high.var()
        if within == 0:
            raise UndefinedScore("no group of T_sel scores varies")
        return float(weight * (1 - weight) * np.square(high.mean() - low.mean()) / within)
