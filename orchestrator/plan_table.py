"""What ``twofold plan`` prints of an estimate: where the time goes, and a table of workers, time and cost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from orchestrator.config import SweepConfig
from orchestrator.cost import Prediction, predict, worker_counts
from orchestrator.estimate import Estimate

LEAST_GAIN = 0.05
"""Twice the workers for less than this share of the wall time are not worth a row."""
BUSY_SHARE = 0.3


def show_estimate(config: SweepConfig, found: Estimate, console: Console) -> None:
    """Print an estimate."""
    for line in _notes(config, found):
        console.print(f"  {line}", highlight=False)
    columns = _columns(config)
    table = Table("workers", title="Predicted", title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    for row in _rows(config, found):
        here = row.workers == found.machine.workers
        cells = [text(row) for text in columns.values()]
        table.add_row(
            f"{row.workers}{' (this machine)' if here else ''}", *cells, style="bold" if here else ""
        )
    console.print(table)
    console.print(
        f"  Above {found.machine.workers}, workers run on more machines like this one; above "
        f"{found.load.useful_workers}, there are no more Ray trials for them.",
        highlight=False,
    )


def duration(seconds: float) -> str:
    """Wall time in words of two units at most."""
    whole = round(max(0.0, seconds))
    if whole < 100:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def _rows(config: SweepConfig, found: Estimate) -> list[Prediction]:
    configured = config.resources.workers or found.machine.workers
    rows: list[Prediction] = []
    for count in worker_counts(found.load, {configured, found.machine.workers}):
        row = predict(found.load, found.fixed, found.machine, count, config.prices)
        asked = count <= max(configured, found.machine.workers)
        if rows and not asked and row.seconds > (1 - LEAST_GAIN) * rows[-1].seconds:
            break
        rows.append(row)
    return rows


def _columns(config: SweepConfig) -> dict[str, Callable[[Prediction], str]]:
    columns: dict[str, Callable[[Prediction], str]] = {
        "wall time": lambda row: duration(row.seconds),
        "believed range": lambda row: f"{duration(row.low)} – {duration(row.high)}",
        "worker-hours": lambda row: f"{row.worker_hours:.2f}",
    }
    if config.resources.gpus_per_worker:
        columns["GPU-hours"] = lambda row: f"{row.gpu_hours:.2f}"
    if config.prices is not None:
        columns[f"cost, {config.prices.currency}"] = lambda row: f"{row.cost or 0:.2f}"
    return columns


def _notes(config: SweepConfig, found: Estimate) -> list[str]:
    """What the prediction rests on, and what it does not know."""
    machine, notes = found.machine, []
    if found.piloted:
        notes.append(
            f"Pilot: {found.piloted} short units, whose results are thrown away; {found.pilot_seconds:.0f} s "
            f"with {machine.workers} workers at once."
        )
    else:
        notes.append("The records of this sweep tell what its units take; no pilot of units was needed.")
    if found.images:
        preparing = duration(found.fixed.preparing)
        notes.append(f"To prepare: {found.images} images that the cache does not have, {preparing}.")
    here = predict(found.load, found.fixed, machine, machine.workers)
    rest = here.seconds - here.running - found.fixed.preparing
    notes.append(
        f"With {machine.workers} workers: {duration(here.running)} in units; {duration(rest)} to start, to "
        "choose and to report."
    )
    if found.piloted and found.busy > BUSY_SHARE * machine.cores:
        notes.append(
            f"Other processes were at work (load {found.busy:.1f} on {machine.cores} cores); the sweep is "
            "taken to meet the same."
        )
    if machine.gpus and not torch.cuda.is_available():
        notes.append("This machine has no GPU: the pilot and the times are those of its CPU.")
    if config.search == "optuna":
        notes.append("What Optuna will draw is not known; random draws from the same space stand in for it.")
    if config.scheduler != "none":
        notes.append(f"Trainings that `scheduler: {config.scheduler}` ends early make it shorter.")
    if config.budget.hours is not None:
        notes.append(
            f"`budget.hours` ends a launch after {config.budget.hours:g} h; this is the time without."
        )
    return notes
