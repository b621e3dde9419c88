"""A choice in words: what was chosen, why, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.report.words import describe


def explain(choice: Mapping[str, Any], most: float, bounds: tuple[float, float]) -> list[str]:
    """Sentences for a reader of ``selection.json`` and of the report.

    Args:
        choice: as in ``selection.json``.
        most: points that the evidence can add at this contamination.
        bounds: confidence below which trust is low, and from which it is high.
    """
    rho = choice["contamination"]
    own = next(entry for entry in choice["ranking"] if entry["key"] == choice["chosen"])
    return [
        f"About {rho['estimate']:.0%} of the target images look anomalous "
        f"({rho['low']:.0%} to {rho['high']:.0%}).",
        f"Of the nearest neighbours of target images, {choice['mixing']:.0%} are source images "
        "(half, if the domains were one).",
        f"Chosen: {describe(choice['config'])}; {choice['reason']}.",
        "By what was learned on digits and emojis, such choices come within "
        f"{max(0.0, -own['worth']):.1f} points of the best; "
        f"{_evidence(own, most)}.",
        *_runner_up(choice, own),
        _trust(choice, bounds),
    ]


def _evidence(own: Mapping[str, Any], most: float) -> str:
    if most == 0:
        return "with so few anomalies, the evidence on these images has no say"
    return f"the evidence on these images adds {own['value'] - own['worth']:.1f} of at most {most:.1f}"


def _runner_up(choice: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    others = [entry for entry in choice["ranking"] if entry["key"] != own["key"] and not entry["gates"]]
    if not others:
        return []
    lead = own["value"] - others[0]["value"]
    where = f"{lead:.1f} points behind" if lead >= 0 else f"{-lead:.1f} points ahead"
    return [f"Runner-up: {describe(others[0]['config'])}, {where}."]


def _trust(choice: Mapping[str, Any], bounds: tuple[float, float]) -> str:
    tail, (doubtful, clear) = choice["confidence"], bounds
    found = f"the highest scores stand out {tail:.1f} times as far as the lowest"
    if choice["trust"] == "high":
        return f"Trust: high, because {found} (at least {clear:g})."
    if choice["trust"] == "medium":
        return f"Trust: medium, because {found} (between {doubtful:g} and {clear:g})."
    if tail < doubtful:
        return f"Trust: low, because {found} (below {doubtful:g}): nothing sets the anomalies apart."
    return "Trust: low, because what was chosen fails a gate."
