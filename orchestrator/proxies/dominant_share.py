"""``dominant_share``: a control that must lose; r = n_1 / n, the share of the target set that is trusted.

Choosing by size is what is left of any proxy that only reads K off the clusters.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from orchestrator.proxies.base import PROXIES, FeatureEvidence, Proxy


@PROXIES.register("dominant_share")
class DominantShare(Proxy):
    """Control: r in (0, 1], 1 when all is trusted; larger = more images trusted.

    Inputs: the trusted set of T_fit. Known failure: it is no evidence; if it wins, the study is broken.
    """

    name: ClassVar[str] = "dominant_share"
    stage: ClassVar[Literal["A", "B"]] = "A"
    is_control: ClassVar[bool] = True

    def __call__(self, evidence: FeatureEvidence) -> float:
        """Return r."""
        return evidence.share
