"""What a configuration can be expected to be worth before any evidence: what its choices were elsewhere.

An additive model, so that a configuration nobody has tried has a worth: one term for the clusterer, one for
the training, one for the score, what it costs to trust more, or less, of the target than its estimated share
of normals 1 - rho, and what the source alone gains where target images mix with it. That is how the choice
follows the contamination and the shift between the domains. The terms are the coefficients of a ridge
regression (Hoerl & Kennard, 1970) that ``benchmarks/selection/freeze.py`` froze on digits, and that of the
mixing on digits and emojis; what it does not know counts as average. A prior from other datasets is the idea
of MetaOD (Zhao et al., 2021).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("worth.json")


def worth(config: Mapping[str, Any], share: float | None, contamination: float, mixing: float) -> float:
    """Expected AUROC relative to the best of the grid, in points; larger = better.

    A sum of terms that is not held below 0: that of the source alone exceeds it where the domains are one.

    Args:
        config: canonical configuration.
        share: share of T_fit that is trusted; None without a target.
        contamination: estimated rho.
        mixing: of target and source, from 0 = apart to about 0.5 = one domain.
    """
    coefficients, found = _table(), terms(config, share, contamination, mixing)
    return sum(value * coefficients.get(name, 0.0) for name, value in found.items())


def terms(
    config: Mapping[str, Any], share: float | None, contamination: float, mixing: float
) -> dict[str, float]:
    """Name -> value of everything that the worth adds up; see ``worth`` for the arguments."""
    training = str(config["alignment"])
    if "finetune" in config:
        training += f"/{config['finetune']}"
    normals = 1 - contamination
    over = 0.0 if share is None else max(0.0, share - normals)
    under = 0.0 if share is None else max(0.0, normals - share)
    score = config["score"]
    return {
        "constant": 1.0,
        f"clusterer {config.get('clusterer', 'none')}": 1.0,
        f"training {training}": 1.0,
        f"score {score}": 1.0,
        "over": over,
        "under": under,
        "over squared": over**2,
        "under squared": under**2,
        f"over, score {score}": over,
        f"under, score {score}": under,
        "mixing, source only": mixing if config["supervision"] == "source_only" else 0.0,
    }


@cache
def _table() -> dict[str, float]:
    coefficients: dict[str, float] = json.loads(TABLE.read_text())
    return coefficients
