"""``relative_compactness``: the scatter of the dominant cluster against that of the whole target set.

-W / T, W = mean over D of ||z - m||^2, T = mean over T_fit of ||z - mean||^2: the share of variance left
unexplained, as in Calinski and Harabasz 1974, for the dominant cluster alone.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from orchestrator.proxies.base import PROXIES, FeatureEvidence, Proxy, spread
from trainables.errors import UndefinedScore


@PROXIES.register("relative_compactness")
class RelativeCompactness(Proxy):
    """-W / T, without unit, -1 when all is trusted; larger = tighter; blind to the scale of the features.

    Inputs: ``target_fit`` and the trusted set. Undefined where all target features are equal.
    Known failure: falls with K as W does, only comparable over data sets, not over K.
    """

    name: ClassVar[str] = "relative_compactness"
    stage: ClassVar[Literal["A", "B"]] = "A"

    def __call__(self, evidence: FeatureEvidence) -> float:
        """Return -W / T."""
        whole = spread(evidence.target_fit)
        if whole == 0:
            raise UndefinedScore("all target features are equal")
        return -spread(evidence.trusted_features()) / whole
