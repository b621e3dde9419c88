"""``mass_volume``: how small a region of low scores holds the mass that must be normal?

-mean over alpha in [1 - pi_max, 0.9] of MV(alpha), MV(alpha) = min {v(u) : F(u) >= alpha}: the mass-volume
criterion of Goix 2016, "How to evaluate the quality of unsupervised anomaly detection algorithms?" (arXiv
1607.01152).

In one dimension. Goix measures the volume of {x : a(x) <= u} by uniform draws in the input space, which is
hopeless for images, and uniform draws over the range of scores hang on the largest one. Here v(u) is a
length on the axis of log scores, exact, as a fraction of the span between the 2 % and 98 % quantiles of
T_sel; F is the share of T_sel with a <= u. Goix' alpha runs over [0.9, 0.999], the mass of nearly clean
data; of a contaminated set only 1 - pi_max is safe.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from orchestrator.proxies.base import PI_MAX, PROXIES, Proxy, ScoreEvidence, log_scores
from trainables.errors import UndefinedScore

STRAY = 0.02
HIGHEST_MASS = 0.9
LEVELS = 50


@PROXIES.register("mass_volume")
class MassVolume(Proxy):
    """Minus the mean volume, in [-1, 0]; larger = the bulk of T_sel lies far below the end of its tail.

    Inputs: ``target_sel``. The same for a distance and its square, in any unit.
    Undefined where the central scores are equal. Known failure: weak alone; a few near-zero scores stretch
    the axis.
    """

    name: ClassVar[str] = "mass_volume"
    stage: ClassVar[Literal["A", "B"]] = "B"

    def __call__(self, evidence: ScoreEvidence) -> float:
        """Return minus the mean of MV over the levels."""
        volume, _ = volume_and_mass(evidence.target_sel)
        levels = np.linspace(1 - PI_MAX, HIGHEST_MASS, LEVELS)
        return -float(np.quantile(volume, levels, method="inverted_cdf").mean())


def volume_and_mass(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Volume v in [0, 1] and mass F in (0, 1] of {a <= u}, u the sorted scores (m,): two (m,) arrays.

    Raises:
        UndefinedScore: the 2 % and 98 % quantiles of the log scores agree.
    """
    logs = np.sort(log_scores(scores))
    low, high = np.quantile(logs, [STRAY, 1 - STRAY])
    if low == high:
        raise UndefinedScore("the scores of T_sel do not vary")
    volume = np.clip((logs - low) / (high - low), 0, 1)
    mass = np.searchsorted(logs, logs, side="right") / len(logs)
    return volume, mass
