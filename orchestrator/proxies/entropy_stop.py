"""``entropy_stop``: do few target images carry most of the anomaly score?

sum u log u with u = a / sum a over T_sel: minus the entropy of Huang et al. 2024, "EntropyStop: unsupervised
deep outlier detection with loss entropy" (KDD, arXiv 2405.12502), with the anomaly scores in place of the
losses. They end a training where the entropy is lowest, because it falls as the AUC rises. So the entropy
itself, taken as larger = better, would choose the detector that tells the images apart least; hence the sign.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from scipy.special import xlogy

from orchestrator.proxies.base import PROXIES, Proxy, ScoreEvidence, distances
from trainables.errors import UndefinedScore


@PROXIES.register("entropy_stop")
class EntropyStop(Proxy):
    """Minus the entropy in nats, in [-log m, 0]; larger = the score lies on fewer of the m images.

    Inputs: ``target_sel``. The same in any unit of distance, but not for a distance and its square. -log m
    when all scores are equal, so only values for equally many images compare: it is meant for the epochs of
    one training. Undefined where all scores are 0.
    Known failure: hard normals concentrate the score as anomalies do; a single wild image can make it.
    """

    name: ClassVar[str] = "entropy_stop"
    stage: ClassVar[Literal["A", "B"]] = "B"

    def __call__(self, evidence: ScoreEvidence) -> float:
        """Return sum u log u; 0 log 0 is 0."""
        scores = distances(evidence.target_sel)
        if scores.max() == 0:
            raise UndefinedScore("all scores of T_sel are 0")
        # By the largest first: the sum of scores near the largest float is not finite.
        shares = scores / scores.max()
        shares /= shares.sum()
        return float(xlogy(shares, shares).sum())
