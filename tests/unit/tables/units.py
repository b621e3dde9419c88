"""Judged units for tests, made from (row, pair, class, split seed) and AUROC."""

from __future__ import annotations

from typing import Any

from orchestrator.tables.measure import JudgedUnit
from trainables.seeding import stable_hash

FLAT: dict[str, Any] = {"supervision": "unsupervised", "alignment": "identity", "score": "knn"}


def unit(
    auroc: float,
    target: str = "mnist",
    normal_class: str = "3",
    split_seed: int = 0,
    rho: float = 0.1,
    seed: int = 0,
    **flat: Any,
) -> JudgedUnit:
    setting = stable_hash([target, normal_class, split_seed, rho])
    return JudgedUnit(
        setting, "typeset", target, normal_class, rho, split_seed, seed, {**FLAT, **flat}, auroc
    )
