"""``shuffled``: a control that must lose; a number fixed by the unit's purpose and by nothing else."""

from __future__ import annotations

from typing import ClassVar, Literal

from orchestrator.proxies.base import PROXIES, Proxy, ScoreEvidence
from trainables.seeding import unit_interval


@PROXIES.register("shuffled")
class Shuffled(Proxy):
    """Control: a hash of ``purpose`` in [0, 1), so units need purposes of their own (their keys).

    Inputs: ``purpose``. Known failure: it is a random pick by design; if it wins, the study is broken.
    """

    name: ClassVar[str] = "shuffled"
    stage: ClassVar[Literal["A", "B"]] = "B"
    is_control: ClassVar[bool] = True

    def __call__(self, evidence: ScoreEvidence) -> float:
        """Return the hashed number."""
        return unit_interval(self.name, evidence.purpose)
