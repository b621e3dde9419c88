"""``tail_separation``: does the upper tail of the target scores part from their bulk?

mean over thresholds above the (1 - pi_max) quantile of w0 w1 (mu0 - mu1)^2 / (w0 var0 + w1 var1) on log
a(T_sel): the criterion of Otsu 1979 (variance between over variance within), averaged, not maximised, as
one stray image can make a maximum.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np

from orchestrator.proxies.base import PI_MAX, PROXIES, Proxy, ScoreEvidence, log_scores
from trainables.errors import UndefinedScore


@PROXIES.register("tail_separation")
class TailSeparation(Proxy):
    """Mean ratio of variances, at least 0, without unit; larger = a more separate tail.

    Inputs: ``target_sel``. The same for a distance and its square, in any unit. One threshold between each
    two neighbouring different scores that leaves at least 1 - pi_max = 55 % of T_sel below.
    Undefined where there is no such threshold. Known failure: hard normals (an unusual style, a blurred
    image) make a tail of their own.
    """

    name: ClassVar[str] = "tail_separation"
    stage: ClassVar[Literal["A", "B"]] = "B"

    def __call__(self, evidence: ScoreEvidence) -> float:
        """Return the mean criterion over the thresholds."""
        logs = np.sort(log_scores(evidence.target_sel))
        below = np.arange(1, len(logs))
        below = below[np.diff(logs) > 0]
        below = below[below >= math.ceil((1 - PI_MAX) * len(logs))]
        if len(below) == 0:
            raise UndefinedScore("no threshold parts the upper scores of T_sel")
        return float(np.mean(_criterion(logs, below)))


def _criterion(logs: np.ndarray, below: np.ndarray) -> np.ndarray:
    """(t,) variance between over within, of sorted logs (m,) cut after their first below (t,) values."""
    centred = logs - logs.mean()
    weight = below / len(logs)
    lower_sum = np.cumsum(centred)[below - 1]
    # The centred values sum to 0, so mu0 = lower/b, mu1 = -lower/(m - b): one sum gives both means.
    between = np.square(lower_sum / len(logs)) / (weight * (1 - weight))
    within = centred.var() - between
    if within.min() <= 1e-12 * centred.var():
        raise UndefinedScore("the scores of T_sel take two values only")
    return np.asarray(between / within)
