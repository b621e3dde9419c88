"""``excess_mass``: how much mass do regions of low scores hold beyond t times their volume?

Mean over t in [0, 2] of EM(t) = max(0, max_u F(u) - t v(u)): the excess-mass criterion of Goix 2016, "How to
evaluate the quality of unsupervised anomaly detection algorithms?" (arXiv 1607.01152). Mass F and
volume v are one-dimensional, as in ``mass_volume``. Goix stops at t = EM^-1(0.9), for nearly clean data and
a volume far larger than the data; with v = 1 for the span of the data, the set of everything would win up
to there and every detector would have the same area. Beyond t = 1 only sets denser than a uniform sample
count.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from orchestrator.proxies.base import PROXIES, Proxy, ScoreEvidence
from orchestrator.proxies.mass_volume import volume_and_mass

HIGHEST_PRICE = 2.0
GRID = 200


@PROXIES.register("excess_mass")
class ExcessMass(Proxy):
    """Mean excess mass in [0, 1]; scores uniform on the log axis give 0.25; larger = denser bulk.

    Inputs: ``target_sel``. The same for a distance and its square, in any unit.
    Undefined where the central scores are equal. Known failure: weak alone; as ``mass_volume``.
    """

    name: ClassVar[str] = "excess_mass"
    stage: ClassVar[Literal["A", "B"]] = "B"

    def __call__(self, evidence: ScoreEvidence) -> float:
        """Return the mean of EM over 200 even values of t."""
        volume, mass = volume_and_mass(evidence.target_sel)
        price = np.linspace(0, HIGHEST_PRICE, GRID)
        excess = (mass - price[:, None] * volume).max(axis=1)
        return float(np.maximum(excess, 0).mean())
