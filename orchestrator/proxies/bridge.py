"""``bridge``: does the detector score the trusted target images as it scores unseen source normals?

-|med log a(S_val) - med log a(D_sel)| / MAD(log a(S_val)): what the alignment loss of Mejri et al. 2025
(arXiv 2502.21022), eq. 9, is meant to reach, read off held-out scores in robust units.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from orchestrator.proxies.base import PROXIES, Proxy, ScoreEvidence, log_scores
from trainables.errors import UndefinedScore


@PROXIES.register("bridge")
class Bridge(Proxy):
    """Minus the gap of medians in median absolute deviations, at most 0; larger = the domains are closer.

    Inputs: ``source_val``, ``target_sel``, ``trusted_sel``. The same for a distance and its square, in any
    unit.
    Undefined where D_sel is empty or the source scores do not vary.
    Known failure: a collapsed embedding bridges everything, and a large lambda optimises it directly.
    """

    name: ClassVar[str] = "bridge"
    stage: ClassVar[Literal["A", "B"]] = "B"

    def __call__(self, evidence: ScoreEvidence) -> float:
        """Return minus the distance of the two medians over the MAD of the source."""
        source = log_scores(evidence.source_val)
        trusted = log_scores(evidence.target_sel[evidence.trusted_sel])
        middle = np.median(source)
        deviation = np.median(np.abs(source - middle))
        if deviation == 0:
            raise UndefinedScore("the source scores do not vary")
        return -float(np.abs(middle - np.median(trusted)) / deviation)
