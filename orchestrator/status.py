"""``twofold status``: how far a sweep is, from its ledger alone, while drivers run or after they ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.leases import Leases, Owner
from orchestrator.ledger import STATES, Ledger
from orchestrator.plan import Unit
from orchestrator.report.words import counted
from orchestrator.storage import Storage

RECENT_SECONDS = 600.0


@dataclass(frozen=True)
class Status:
    """How far a sweep is.

    Attributes:
        counts: state -> units: planned (not begun), running, done, failed, stopped.
        causes: (failure, last line of its error) -> units.
        preemptions: attempts that ended with the loss of their node.
        repeated: attempts beyond the first.
        drivers: drivers that run units now.
        seconds_left: estimate from the last minutes; None where nothing ended lately.
    """

    counts: dict[str, int]
    causes: Counter[tuple[str, str]]
    preemptions: int
    repeated: int
    drivers: int
    seconds_left: float | None


def read_status(units: Sequence[Unit], storage: Storage, now: float | None = None) -> Status:
    """Read the ledger of planned units.

    Args:
        units: the plan.
        storage: where the ledger is.
        now: seconds since the epoch.
    """
    moment = time.time() if now is None else now
    rows = Ledger(storage).outlines(unit.key for unit in units)
    held = Leases(storage, Owner.here(), lambda: moment).held_by_others()
    recorded = {row["key"] for row in rows}
    left = [unit for unit in units if unit.key not in recorded]
    running = sum(unit.bundle in held for unit in left)
    states = Counter(row["state"] for row in rows)
    counts: dict[str, int] = {"planned": len(left) - running, "running": running}
    counts.update((state, states[state]) for state in STATES)
    bundles = {unit.bundle for unit in units}
    return Status(
        counts=counts,
        causes=Counter(_cause(row) for row in rows if row["state"] == "failed"),
        preemptions=sum(row["preemptions"] for row in rows),
        repeated=sum(row["attempts"] - 1 for row in rows),
        drivers=len({owner.session for name, owner in held.items() if name in bundles}),
        seconds_left=_seconds_left([row["ended"] for row in rows], len(left), moment) if running else None,
    )


def show_status(name: str, status: Status, console: Console) -> None:
    """Print the counts, the time left and the failures grouped by cause."""
    total = sum(status.counts.values())
    parts = [f"{count} {state}" for state, count in status.counts.items() if count]
    console.print(f"[bold]{name}[/]: {counted(total, 'unit')}: {', '.join(parts)}", highlight=False)
    if status.drivers:
        left = "unknown" if status.seconds_left is None else f"about {_duration(status.seconds_left)}"
        console.print(f"Drivers at work: {status.drivers}; time left: {left}", highlight=False)
    elif status.counts["planned"]:
        console.print("Nothing runs now. The same `twofold sweep` command goes on with what is left.")
    if status.repeated:
        lost = f", {status.preemptions} of them after the loss of a node" if status.preemptions else ""
        console.print(f"{status.repeated} attempts were repeated{lost}.", highlight=False)
    if status.causes:
        table = Table("units", "cause", "last line of the error", title="Failures", title_justify="left")
        for (failure, line), count in status.causes.most_common():
            table.add_row(str(count), failure, escape(line))
        console.print(table)


def _cause(row: dict[str, Any]) -> tuple[str, str]:
    lines = (row["error"] or "").strip().splitlines()
    return str(row["failure"]), lines[-1] if lines else ""


def _seconds_left(ended: Sequence[float], left: int, now: float) -> float | None:
    """Units left times the seconds that one took, of those that ended in the last minutes."""
    recent = sorted(time for time in ended if now - time < RECENT_SECONDS)
    if len(recent) < 2:
        return None
    return left * (now - recent[0]) / len(recent)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
