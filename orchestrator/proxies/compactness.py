"""``compactness``: minus the scatter of the dominant cluster, the first idea everybody has.

W = mean over D of ||z - m||^2. The index "STD" of Ma et al. 2023, "The need for unsupervised outlier model
selection" (SIGKDD Explorations 25), turned to the dominant cluster of Mejri et al. 2025 (arXiv 2502.21022),
eq. 6.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from orchestrator.proxies.base import PROXIES, FeatureEvidence, Proxy, spread


@PROXIES.register("compactness")
class Compactness(Proxy):
    """-W in squared feature units, in [-1, 0]; larger (nearer 0) = tighter dominant cluster.

    Inputs: ``target_fit`` and the trusted set. Defined for one cluster too.
    Known failure: W falls mechanically with K, so over K it asks for the most and smallest clusters.
    """

    name: ClassVar[str] = "compactness"
    stage: ClassVar[Literal["A", "B"]] = "A"

    def __call__(self, evidence: FeatureEvidence) -> float:
        """Return -W."""
        return -spread(evidence.trusted_features())
