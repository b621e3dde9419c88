"""A measured table on disk: ``table.json``, ``units.csv``, and the splits as data that others can check."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.tables.measure import JudgedUnit, RowUnit
from orchestrator.tables.result import Cell, Claim, Column, PaperFigures, Row, TableResult
from trainables.cache import write_atomically
from trainables.data.settings_file import read_settings, write_shared_settings
from trainables.errors import TwofoldError
from trainables.seeding import canonical_json, stable_hash
from trainables.types import Setting

SCHEMA = 1
UNIT_COLUMNS = (
    "row",
    "source",
    "target",
    "normal_class",
    "contamination",
    "split_seed",
    "seed",
    "setting",
    "configuration",
    "auroc",
)


def write_result(path: Path, result: TableResult) -> None:
    """Write a table as JSON."""
    content = {"schema": SCHEMA, **asdict(result)}
    content["cells"] = [
        {"row": row, "column": column, **asdict(cell)} for (row, column), cell in result.cells.items()
    ]
    _write(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_result(path: Path) -> TableResult:
    """The table that ``write_result`` wrote.

    Raises:
        TwofoldError: there is none, or it cannot be read.
    """
    try:
        content = json.loads(path.read_text())
        if content.pop("schema") != SCHEMA:
            raise TwofoldError(f"{path} was written by another version of twofold; run the table again")
        return _result(content)
    except OSError as error:
        raise TwofoldError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TwofoldError(f"{path} is not a table that twofold wrote: {error!r}") from error


def _result(content: dict[str, Any]) -> TableResult:
    cells = {(cell.pop("row"), cell.pop("column")): Cell(**cell) for cell in content.pop("cells")}
    parts: dict[str, type] = {"rows": Row, "columns": Column, "paper": PaperFigures, "claims": Claim}
    for name, part in parts.items():
        content[name] = tuple(part(**one) for one in content[name])
    return TableResult(**{**content, "cells": cells, "missing": tuple(content["missing"])})


def write_units(path: Path, units: Sequence[RowUnit]) -> None:
    """One line per unit behind a cell, with every digit of its AUROC."""

    def fill(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            lines = csv.DictWriter(file, UNIT_COLUMNS, lineterminator="\n")
            lines.writeheader()
            for row, unit in units:
                values = {**vars(unit), "configuration": canonical_json(dict(unit.configuration))}
                lines.writerow({**values, "row": row, "auroc": repr(unit.auroc)})

    write_atomically(path, fill)


def read_unit_lines(path: Path) -> list[RowUnit]:
    """The lines that ``write_units`` wrote.

    Raises:
        TwofoldError: there are none, or they cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [(line.pop("row"), _unit(line)) for line in csv.DictReader(file)]
    except OSError as error:
        raise TwofoldError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TwofoldError(f"{path} does not hold the units of a table: {error!r}") from error


def _unit(line: Mapping[str, str]) -> JudgedUnit:
    numbers: dict[str, Any] = {
        "contamination": float(line["contamination"]),
        "split_seed": int(line["split_seed"]),
        "seed": int(line["seed"]),
        "auroc": float(line["auroc"]),
        "configuration": json.loads(line["configuration"]),
    }
    return JudgedUnit(**{**line, **numbers})


def write_splits(folder: Path, settings: Sequence[Setting]) -> dict[str, str]:
    """Write the splits once under their hash; return the name of the file below ``folder``, and the hash."""
    name = split_hash(settings)
    file = f"splits/{name}.parquet"
    if not (folder / file).exists():
        write_shared_settings(folder / file, settings)
    return {"file": file, "hash": name}


def read_splits(folder: Path, described: Mapping[str, str]) -> list[Setting]:
    """The settings that ``write_splits`` wrote.

    Args:
        folder: as given to ``write_splits``.
        described: what it returned.

    Raises:
        TwofoldError: the file is missing, or its splits are not those of the table.
    """
    path = folder / described["file"]
    if not path.is_file():
        raise TwofoldError(f"the table's splits {path} are missing; restore that file")
    try:
        settings = read_settings(path)
    except TwofoldError as error:
        raise TwofoldError(f"the table's splits cannot be used, restore the file: {error}") from error
    if split_hash(settings) != described["hash"]:
        raise TwofoldError(
            f"{path} holds other splits than the table was measured on: their hash is "
            f"{split_hash(settings)}, the table's is {described['hash']}; restore the file"
        )
    return settings


def split_hash(settings: Sequence[Setting]) -> str:
    """Hash of the keys of some settings, in any order."""
    return stable_hash(sorted(setting.key for setting in settings))


def _write(path: Path, text: str) -> None:
    def fill(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, fill)
