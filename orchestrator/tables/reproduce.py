"""``twofold reproduce TABLE:ROW/COLUMN``: run one cell of a shipped table again, and compare."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from orchestrator.config import DataConfig, ResourceConfig, SweepConfig
from orchestrator.environment import describe_environment
from orchestrator.pipeline import Outcome, open_folder, run_sweep
from orchestrator.plan import Unit
from orchestrator.prepare import domain_fingerprints, draw_settings, image_hashes
from orchestrator.tables.files import read_result, read_splits, read_unit_lines
from orchestrator.tables.measure import JudgedUnit, canonical, read_judged
from orchestrator.tables.result import TableResult
from orchestrator.tables.run import column_name
from orchestrator.tables.sweeps import check_root, sweep_of
from trainables.configuration import Configuration
from trainables.data.settings_file import PARTS
from trainables.errors import TwofoldError, UnknownName, nearest_name
from trainables.types import Setting

TOLERANCE = 1e-4
"""Largest difference of an AUROC in percent that counts as the same."""

UnitName = tuple[str, str, int]
"""Setting, canonical configuration and seed."""


@dataclass(frozen=True)
class Shipped:
    """A cell as it was shipped.

    Attributes:
        table: its table.
        cell: as the user calls it.
        units: behind the cell, at least one.
        settings: of these units.
    """

    table: TableResult
    cell: str
    units: list[JudgedUnit]
    settings: list[Setting]


def reproduce(cell: str, data: str, root: Path | None, results: Path, console: Console) -> Outcome:
    """Run the configurations of a cell afresh; units whose AUROC is not what was shipped count as failed.

    Args:
        cell: ``TABLE:ROW/COLUMN``.
        data: name of the preset it was measured on.
        root: folder of the images; None where it needs none.
        results: folder of the shipped tables.
        console: where to say what happens.

    Raises:
        TwofoldError: no such cell, nothing measured there, or other images or splits than those shipped.
    """
    shipped = read_cell(cell, results / data)
    config = _sweep(shipped, root)
    check_root(config, data)
    # Neither records nor splits of an earlier attempt may be read.
    shutil.rmtree(config.folder, ignore_errors=True)
    open_folder(config)
    _check_data(shipped, config)
    wanted = {(unit.setting, canonical(unit.configuration), unit.seed) for unit in shipped.units}

    def is_wanted(unit: Unit) -> bool:
        return (unit.setting, canonical(unit.configuration), unit.seed) in wanted

    outcome = run_sweep(config, console, None, chooses=False, only=is_wanted)
    if outcome.stopped:
        return outcome
    others = _compare(shipped, read_judged(config.folder), console)
    # A cell is reproduced whether or not MLflow was told.
    return Outcome(len(shipped.units) - others, others, untracked=False, stopped=False)


def read_cell(cell: str, folder: Path) -> Shipped:
    """Find a cell among the tables of one dataset.

    Args:
        cell: ``TABLE:ROW/COLUMN``.
        folder: with one folder per table.

    Raises:
        TwofoldError: there is no such cell, or nothing was measured for it.
    """
    table_name, colon, place = cell.partition(":")
    row, slash, column = place.partition("/")
    if not (colon and slash):
        raise TwofoldError(f"'{cell}' names no cell; write TABLE:ROW/COLUMN, e.g. {_example(folder)}")
    known = sorted(path.parent.name for path in folder.glob("*/table.json"))
    if not known:
        raise TwofoldError(f"there are no measured tables in {folder}; name their folder with --results")
    _check_known("table", table_name, known)
    result = read_result(folder / table_name / "table.json")
    _check_known("row", row, [one.name for one in result.rows])
    _check_known("column", column, [one.name for one in result.columns])
    columns = "contamination" if column.startswith("rho=") else "pair"
    lines = read_unit_lines(folder / table_name / "units.csv")
    units = [unit for name, unit in lines if name == row and column_name(columns, unit) == column]
    if not units:
        raise TwofoldError(f"nothing was measured for {cell}, so there is nothing to reproduce")
    return Shipped(result, cell, units, _settings(folder, result, units))


def _check_known(kind: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        hint = nearest_name(name, known)
        raise UnknownName(f"there is no {kind} '{name}'.{hint} Known: {', '.join(known)}.")


def _example(folder: Path) -> str:
    """A cell that exists, where any does."""
    for path in sorted(folder.glob("*/table.json")):
        for row, column in read_result(path).cells:
            return f"'{path.parent.name}:{row}/{column}'"
    return "'alignments:mmd.knn/typeset->mnist'"


def _settings(folder: Path, result: TableResult, units: Iterable[JudgedUnit]) -> list[Setting]:
    """The shipped settings of some units, each once."""
    by_key = {setting.key: setting for setting in read_splits(folder, result.provenance["splits"])}
    keys = dict.fromkeys(unit.setting for unit in units)
    unknown = [key for key in keys if key not in by_key]
    if unknown:
        raise TwofoldError(
            f"the table's splits lack the setting {unknown[0]} of units.csv; restore the files"
        )
    return [by_key[key] for key in keys]


def _sweep(shipped: Shipped, root: Path | None) -> SweepConfig:
    """The configurations of the cell on its pairs and contaminations, with all classes of the table."""
    provenance, units = shipped.table.provenance, shipped.units
    own = {
        "root": root,
        "pairs": list(dict.fromkeys((unit.source, unit.target) for unit in units)),
        "contamination": list(dict.fromkeys(unit.contamination for unit in units)),
        "split_seeds": list(dict.fromkeys(unit.split_seed for unit in units)),
    }
    configurations = [Configuration.parse(unit.configuration) for unit in units]
    flat = configurations[0].as_dict()
    plain = SweepConfig(
        name="reproduce",
        data=DataConfig.model_validate({**provenance["data"], **own}),
        default=flat,
        space=[flat],
        seeds=list(dict.fromkeys(unit.seed for unit in units)),
        resources=_resources(provenance["resources"]),
    )
    name = re.sub(r"[^A-Za-z0-9._]+", "-", f"reproduce-{shipped.table.data}-{shipped.cell}")
    return sweep_of(plain, name, configurations)


def _resources(shipped: Mapping[str, Any]) -> ResourceConfig:
    """What a worker had: sums over another number of threads end in other digits. A GPU only where one is."""
    gpus = shipped["gpus_per_worker"] if describe_environment()["gpus"] else 0
    return ResourceConfig(cpus_per_worker=shipped["cpus_per_worker"], gpus_per_worker=gpus)


def _check_data(shipped: Shipped, config: SweepConfig) -> None:
    """Refuse other images, or other splits of them, than those shipped.

    Raises:
        TwofoldError: names every domain and split that is not the same.
    """
    known = shipped.table.provenance["images"]
    changed = [name for name, found in image_hashes(config).items() if found != known.get(name)]
    problems = [f"the images of domain {name} are others" for name in changed]
    drawn = {_place(setting): setting for setting in draw_settings(config, domain_fingerprints(config))}
    problems += [
        problem
        for setting in shipped.settings
        for problem in _differences(setting, drawn.get(_place(setting)))
    ]
    if problems:
        shown = problems[:10] + ([f"and {len(problems) - 10} more"] if len(problems) > 10 else [])
        raise TwofoldError(
            "\n".join([f"{shipped.cell} cannot be reproduced, the data are not those shipped:", *shown])
        )


def _place(setting: Setting) -> tuple[Any, ...]:
    return tuple(setting.description.values())


def _differences(shipped: Setting, drawn: Setting | None) -> Iterator[str]:
    """A line for every part of a setting that holds other images."""
    where = f"{shipped.task}, rho {shipped.contamination:g}, split seed {shipped.split_seed}"
    if drawn is None:
        yield f"{where}: is not drawn"
    elif drawn.key != shipped.key:
        for part in PARTS:
            old, new = getattr(shipped, part), getattr(drawn, part)
            if old != new:
                same = len({*old} & {*new})
                yield f"{where}: {part} has {len(new)} images, {same} of the {len(old)} shipped"


def _compare(shipped: Shipped, reproduced: Sequence[JudgedUnit], console: Console) -> int:
    """Print shipped and reproduced AUROC side by side; count the units that do not agree."""
    found = {_name(unit): unit.auroc for unit in reproduced}
    table = Table(box=box.SIMPLE_HEAD, title=f"{shipped.cell}: AUROC in percent")
    for heading in ("pair", "class", "rho", "split seed", "seed", "shipped", "reproduced", "difference"):
        table.add_column(heading, justify="left" if heading in ("pair", "class") else "right")
    differences = []
    for unit in shipped.units:
        again = found.get(_name(unit))
        place = (
            unit.pair,
            unit.normal_class,
            f"{unit.contamination:g}",
            str(unit.split_seed),
            str(unit.seed),
        )
        if again is None:
            table.add_row(*place, f"{unit.auroc:.4f}", "failed", "")
        else:
            differences.append(abs(again - unit.auroc))
            table.add_row(*place, f"{unit.auroc:.4f}", f"{again:.4f}", f"{again - unit.auroc:+.6f}")
    console.print(table)
    return _judge(shipped, differences, console)


def _judge(shipped: Shipped, differences: Sequence[float], console: Console) -> int:
    """Say how far apart the AUROC are, and what may be the cause; count the units that do not agree."""
    failed = len(shipped.units) - len(differences)
    largest = max(differences, default=0.0)
    others = failed + sum(difference > TOLERANCE for difference in differences)
    if differences:
        console.print(
            f"Largest difference: {largest:.6f} points of AUROC; up to {TOLERANCE:g} counts as the same.",
            highlight=False,
        )
    if failed:
        console.print(f"[red]{failed} of {len(shipped.units)} units failed.[/]", highlight=False)
    if not others:
        console.print("[green]Reproduced.[/]")
    else:
        console.print("[red]Not reproduced.[/]")
        for line in _changes(shipped.table.provenance):
            console.print(f"  {line}", highlight=False)
    return others


def _changes(provenance: Mapping[str, Any]) -> list[str]:
    """What is not as it was where the table was measured."""
    here = describe_environment()
    now = {"twofold": here["twofold"], "python": here["python"], **here["packages"]}
    now |= {name: here[name] for name in ("commit", "cpu", "gpus")}
    then = {**provenance["versions"], "commit": provenance["commit"], **provenance["hardware"]}
    return [
        f"{name}: shipped with {then[name]}, here {value}"
        for name, value in now.items()
        if name in then and then[name] != value
    ]


def _name(unit: JudgedUnit) -> UnitName:
    return unit.setting, canonical(unit.configuration), unit.seed
