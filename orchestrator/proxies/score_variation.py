"""``score_variation``: how much the target scores vary, std / mean of a(T_sel).

The coefficient of variation (Pearson 1896). A collapsed detector gives every image the same score.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from orchestrator.proxies.base import PROXIES, Proxy, ScoreEvidence, distances
from trainables.errors import UndefinedScore


@PROXIES.register("score_variation")
class ScoreVariation(Proxy):
    """Coefficient of variation, at least 0, without unit; larger = scores more spread out; 0 = collapsed.

    Inputs: ``target_sel``. The same in any unit of distance. Undefined where all scores are 0.
    Known failure: squaring a distance about doubles it, so it prefers squared distances to plain ones; one
    wild image can make it.
    """

    name: ClassVar[str] = "score_variation"
    stage: ClassVar[Literal["A", "B"]] = "B"

    def __call__(self, evidence: ScoreEvidence) -> float:
        """Return std / mean."""
        scores = distances(evidence.target_sel)
        if scores.max() == 0:
            raise UndefinedScore("all scores of T_sel are 0")
        scores = scores / scores.max()
        return float(np.std(scores) / np.mean(scores))
