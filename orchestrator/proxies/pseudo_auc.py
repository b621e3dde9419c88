"""``pseudo_auc``: does the detector score made-up anomalies above the target images?

sign(mu) mu^2 / (var_in + var_f + mu^2), mu = mean log a(pseudo) - mean log a(T_sel), var_f and var_in the
two variances. For mu > 0 this is the bound of Cantelli's inequality: the AUC = P(a(pseudo) > a(T_sel)) is
at least that, whatever the distributions; for mu < 0, 1 - AUC is. Choosing by pseudo-anomalies: Wilkinghoff
and Tan; patches: Ge et al. 2021.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from orchestrator.proxies.base import PROXIES, Proxy, ScoreEvidence, log_scores
from trainables.errors import UndefinedScore


@PROXIES.register("pseudo_auc")
class PseudoAuc(Proxy):
    """Signed bound on the AUC against pseudo-anomalies, in (-1, 1]; 0 = equal means; larger = better.

    Inputs: ``target_sel``, ``pseudo``. The same for a distance and its square, in any unit. Unlike the AUC
    itself it goes on growing after the two samples no longer overlap. The sign matters: a detector that
    scores pseudo-anomalies *below* real images is worse than one that cannot tell them apart, and without
    it would win.
    Undefined with fewer than two pseudo-anomalies or where no score varies.
    Known failures: saturates where pseudo-anomalies are easy; anomalies within T_sel enter var_in and mu,
    so the better they are found, the more they lower it.
    """

    name: ClassVar[str] = "pseudo_auc"
    stage: ClassVar[Literal["A", "B"]] = "B"

    def __call__(self, evidence: ScoreEvidence) -> float:
        """Return the signed bound."""
        if len(evidence.pseudo) < 2:
            raise UndefinedScore("fewer than two pseudo-anomalies were scored")
        inside, pseudo = log_scores(evidence.target_sel), log_scores(evidence.pseudo)
        shift = pseudo.mean() - inside.mean()
        whole = inside.var() + pseudo.var() + shift**2
        if whole == 0:
            raise UndefinedScore("no score varies")
        return float(np.sign(shift) * shift**2 / whole)
