"""``twofold table NAME``: run the rows that have no record, open the labels, and write the table."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.config import SweepConfig
from orchestrator.environment import describe_environment
from orchestrator.pipeline import Outcome, forget_failed, run_sweep
from orchestrator.prepare import image_hashes
from orchestrator.tables import render
from orchestrator.tables.definition import PaperColumn, TableDefinition, read_table
from orchestrator.tables.files import write_result, write_splits, write_units
from orchestrator.tables.measure import (
    JudgedUnit,
    RowUnit,
    measure_cell,
    measure_claim,
    read_judged,
    units_chosen,
    units_of_rows,
)
from orchestrator.tables.result import Cell, Column, TableResult
from orchestrator.tables.rows import PlannedClaim, PlannedRow, plan_claims, plan_paper, plan_rows
from orchestrator.tables.sweeps import pairs_left_out, preset_of_table, resolved_data, sweep_of
from trainables.data.settings_file import read_settings
from trainables.errors import TwofoldError
from trainables.types import Setting

Key = tuple[str, str]
"""Name of a row and of a column."""


@dataclass(frozen=True)
class TableRun:
    """A table on a dataset, before anything is run.

    Attributes:
        name: of the table.
        definition: what its file says.
        data: name of the preset.
        config: the preset under the table's protocol.
        rows: printed rows.
        claims: between printed rows.
        left_out: published pairs that cannot be measured -> the domains that are not there.
        folder: where its files go.
    """

    name: str
    definition: TableDefinition
    data: str
    config: SweepConfig
    rows: list[PlannedRow]
    claims: list[PlannedClaim]
    left_out: dict[tuple[str, str], list[str]]
    folder: Path


def make_table(
    name: str,
    data: str,
    root: Path | None,
    fast: bool,
    overrides: Sequence[str],
    to: Path | None,
    console: Console,
) -> Outcome:
    """Run what is missing of a table, judge, write and print it.

    Args:
        name: of the table.
        data: name of a preset with labels.
        root: folder of its images; None where it needs none.
        fast: one split seed instead of three.
        overrides: ``key=value`` over the preset.
        to: folder of all tables; None: ``tables`` in the folder of all sweeps.
        console: where to say what happens.

    Raises:
        TwofoldError: unknown names, data that is not there, or no unit finished.
    """
    definition = read_table(name)
    config = preset_of_table(definition, data, root, fast, overrides)
    folder = (to or config.output / "tables") / data / name
    rows = plan_rows(definition, config)
    claims = plan_claims(definition.claims, rows)
    table = TableRun(name, definition, data, config, rows, claims, pairs_left_out(config), folder)
    sweeps = _sweeps(table)
    outcome = _run(sweeps, console)
    if outcome.stopped:
        return outcome
    result, units = _measure(
        table, sweeps, read_settings(next(iter(sweeps.values())).folder / "settings.parquet")
    )
    if not units:
        raise TwofoldError(f"no unit of table {name} finished, so there is nothing to measure")
    _write(table, result, units, console)
    return outcome


def _sweeps(table: TableRun) -> dict[str, SweepConfig]:
    """The sweeps that the rows need: ``rows`` for those with a configuration, ``choice`` to choose from."""
    sweeps = {}
    if configurations := [row.configuration for row in table.rows if row.configuration is not None]:
        sweeps["rows"] = sweep_of(table.config, f"table-{table.data}-{table.name}", configurations)
    if any(row.kind == "choice" for row in table.rows):
        sweeps["choice"] = table.config.model_copy(update={"name": f"table-{table.data}-choice"})
    if not sweeps:
        raise TwofoldError(f"table {table.name} has no row that can be run")
    return sweeps


def _run(sweeps: dict[str, SweepConfig], console: Console) -> Outcome:
    """Run one sweep after the other, until one is stopped."""
    total = Outcome(0, 0, False, False)
    for kind, config in sweeps.items():
        # A unit without a result leaves a hole in the table, so failed ones get another try.
        forget_failed(config, Console(quiet=True))
        # Tables share a ledger, so each finds the spec of the one before.
        one = run_sweep(config, console, None, accept_changes=True, chooses=kind == "choice")
        total = Outcome(
            total.done + one.done, total.failed + one.failed, total.untracked or one.untracked, one.stopped
        )
        if one.stopped:
            break
    return total


def _measure(
    table: TableRun, sweeps: dict[str, SweepConfig], settings: Sequence[Setting]
) -> tuple[TableResult, list[RowUnit]]:
    """The table, and the units behind its cells."""
    units = _units(table, sweeps)
    columns = _columns(table.definition, settings)
    paper = plan_paper(
        table.definition, table.rows, table.config.data.dataset, [column.name for column in columns]
    )
    result = TableResult(
        name=table.name,
        title=table.definition.title,
        question=table.definition.question,
        data=table.data,
        axis=table.definition.axis,
        rows=tuple(row.row for row in table.rows),
        columns=columns,
        cells=_cells(table, units, settings),
        paper=tuple(paper),
        claims=tuple(measure_claim(claim, units) for claim in table.claims),
        missing=tuple(_missing(table, columns)),
        provenance=_provenance(table, units, settings),
    )
    return result, units


def _units(table: TableRun, sweeps: dict[str, SweepConfig]) -> list[RowUnit]:
    units: list[RowUnit] = []
    if "rows" in sweeps:
        units += units_of_rows(table.rows, read_judged(sweeps["rows"].folder))
    if "choice" in sweeps:
        folder = sweeps["choice"].folder
        selection = folder / "selection.json"
        # There is none where no unit of it has finished within the budget.
        if selection.exists():
            units += units_chosen(table.rows, read_judged(folder), json.loads(selection.read_text()))
    order = {row.row.name: place for place, row in enumerate(table.rows)}
    return sorted(units, key=lambda named: order[named[0]])


def column_name(columns: str, unit: JudgedUnit) -> str:
    """Name of the column of a unit in a table whose columns are pairs or contaminations."""
    return unit.pair if columns == "pair" else _rho(unit.contamination)


def _rho(contamination: float) -> str:
    return f"rho={contamination:g}"


def _columns(definition: TableDefinition, settings: Sequence[Setting]) -> tuple[Column, ...]:
    if definition.columns == "contamination":
        shares = dict.fromkeys(setting.contamination for setting in settings)
        return tuple(Column(_rho(share), f"ρ = {share:g}") for share in shares)
    pairs = dict.fromkeys((setting.task.source, setting.task.target) for setting in settings)
    return tuple(Column(f"{source}->{target}", f"{source}→{target}") for source, target in pairs)


def _cells(table: TableRun, units: Sequence[RowUnit], settings: Sequence[Setting]) -> dict[Key, Cell]:
    columns = table.definition.columns
    planned: dict[str, int] = defaultdict(int)
    for setting in settings:
        pair = f"{setting.task.source}->{setting.task.target}"
        planned[pair if columns == "pair" else _rho(setting.contamination)] += len(set(table.config.seeds))
    found: dict[Key, list[JudgedUnit]] = defaultdict(list)
    for row, unit in units:
        found[row, column_name(columns, unit)].append(unit)
    return {key: measure_cell(same, planned[key[1]], *key) for key, same in found.items()}


def _missing(table: TableRun, columns: Sequence[Column]) -> list[str]:
    """A line for every row that is not built and every column that is not measured."""
    lines = [
        f"{row.row.label}: not built here, so only the paper's figures are shown; it would take an "
        "implementation under the same protocol"
        for row in table.rows
        if row.kind == "missing"
    ]
    lines += [
        f"{source}→{target}: this copy of {table.data} lacks {' and '.join(domains)}; add the images as "
        "<domain>/<class>/* below --data-root"
        for (source, target), domains in table.left_out.items()
    ]
    measured = {column.name for column in columns}
    for paper in table.definition.paper:
        if reason := _unmeasured(table, paper, measured):
            lines.append(f"{paper.label} of the paper: {reason}")
    return lines


def _unmeasured(table: TableRun, paper: PaperColumn, measured: set[str]) -> str | None:
    """Why a column of the paper has no measured one beside it, and what it would take; None where it has."""
    pair = (paper.source, paper.target)
    if paper.dataset != table.config.data.dataset:
        return f"`twofold table {table.name} --data {paper.dataset} --data-root DIR` measures it"
    if "->".join(pair) in measured or pair in table.left_out:
        return None
    if table.definition.columns == "contamination":
        return "here the columns are contaminations, each a mean over the pairs"
    return f'left out by `data.pairs`; add ["{paper.source}", "{paper.target}"] to it'


def _provenance(table: TableRun, units: Sequence[RowUnit], settings: Sequence[Setting]) -> dict[str, Any]:
    """What the figures depend on, without anything that is true of one machine alone but its hardware."""
    environment = describe_environment()
    flats = [unit.configuration for _, unit in units]
    names = ("encoder", "backbone", "finetune", "epochs")
    return {
        **{name: _values(flat[name] for flat in flats if name in flat) for name in names},
        "seeds": table.config.seeds,
        "split_seeds": table.config.data.split_seeds,
        "data": resolved_data(table.config),
        "resources": table.config.resources.model_dump(include={"cpus_per_worker", "gpus_per_worker"}),
        "commit": environment["commit"],
        "versions": {name: environment[name] for name in ("twofold", "python")} | environment["packages"],
        "hardware": {name: environment[name] for name in ("cpu", "cores", "machine", "gpus")},
        "splits": write_splits(table.folder.parent, settings),
        "images": image_hashes(table.config),
    }


def _values(found: Iterable[Any]) -> Any:
    """The value that all have in common, or the sorted list of them; None where there is none."""
    values = sorted(set(found))
    return values if len(values) > 1 else next(iter(values), None)


def _write(table: TableRun, result: TableResult, units: Sequence[RowUnit], console: Console) -> None:
    """Write every form of the table and print it."""
    write_units(table.folder / "units.csv", units)
    write_result(table.folder / "table.json", result)
    render.write(result, table.folder)
    console.print(render.terminal(result))
    console.print(f"Written: {table.folder}", highlight=False)
    row, column = next(iter(result.cells))
    cell = f"{table.name}:{row}/{column}"
    where = f"--data {table.data} --results {table.folder.parent.parent}"
    if table.config.data.root is not None:
        where += f" --data-root {table.config.data.root}"
    console.print(f"Repeat a cell: twofold reproduce '{cell}' {where}", highlight=False, soft_wrap=True)
