"""The objective of a search or a scheduler: one stage-B proxy of one unit, larger = better, or no value."""

from __future__ import annotations

import numpy as np

from orchestrator.ledger import UnitRecord
from orchestrator.proxies.base import PROXIES, ScoreEvidence, evaluate
from trainables.errors import UndefinedScore


def objective_value(name: str, evidence: ScoreEvidence) -> float | None:
    """The finite value of proxy ``name``, larger = better, or None where it is undefined."""
    try:
        return evaluate(PROXIES.get(name)(), evidence)
    except UndefinedScore:
        return None


def record_objective(name: str, record: UnitRecord) -> float | None:
    """The objective of a finished unit on all of T_sel, or None where it is undefined."""
    rho = record.diagnostics.get("contamination")
    return objective_value(name, score_evidence(record, np.arange(len(record.target_sel)), rho))


def score_evidence(record: UnitRecord, sample: np.ndarray, contamination: float | None) -> ScoreEvidence:
    """What stage B sees of a finished unit on the T_sel images ``sample`` (m,), without peers.

    Args:
        record: of the unit.
        sample: positions in T_sel; one may occur several times.
        contamination: estimated rho of its setting; None = not estimated.
    """
    trusted = record.trusted_sel if record.trusted_sel.size else np.ones(len(record.target_sel), dtype=bool)
    return ScoreEvidence(
        source_val=record.source_val,
        target_sel=record.target_sel[sample],
        trusted_sel=trusted[sample],
        pseudo=record.pseudo[sample],
        peers=np.empty((0, len(sample))),
        purpose=record.key,
        contamination=contamination,
    )
