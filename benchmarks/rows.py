"""What every benchmark returns: one row of the table that ``make bench`` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure that is to be shown.

    Attributes:
        what: what is measured.
        target: the figure that is asked for.
        measured: the figure in words, with the spread over repeats.
        passed: whether it is reached.
    """

    what: str
    target: str
    measured: str
    passed: bool


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | target | measured | reached |", "|---|---|---|---|"]
    lines += [f"| {r.what} | {r.target} | {r.measured} | {'yes' if r.passed else '**no**'} |" for r in rows]
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range, e.g. ``1.04 (1.02-1.07)``."""
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return f"{middle:.{digits}f} ({ordered[0]:.{digits}f}-{ordered[-1]:.{digits}f})"
