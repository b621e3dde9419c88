"""Tables, units and splits come back from disk as they were, or are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from units import unit

from orchestrator.tables.files import (
    read_result,
    read_splits,
    read_unit_lines,
    split_hash,
    write_result,
    write_splits,
    write_units,
)
from orchestrator.tables.result import Cell, Claim, Column, PaperFigures, Row, TableResult
from trainables.data.settings_file import read_settings, write_settings
from trainables.errors import TwofoldError
from trainables.types import Setting, Task

RESULT = TableResult(
    name="alignments",
    title="Täuschung — αβγ",
    question="?",
    data="digits",
    axis=None,
    rows=(Row("mmd.knn", "MMD", "knn"), Row("gone", "BiOST")),
    columns=(Column("typeset->mnist", "typeset→mnist"),),
    cells={("mmd.knn", "typeset->mnist"): Cell(1 / 3 + 80, 70.1, 90.2, None, 0.1 + 0.2, 29, 30)},
    paper=(PaperFigures("P→S", "pacs", {"mmd.knn": 71.84}, None),),
    claims=(Claim("c", "mmd.knn", "gone", None, None, None, "not measured"),),
    missing=("BiOST: not built here",),
    provenance={"encoder": "x", "epochs": [5, 7], "data": {"pairs": [["typeset", "mnist"]]}, "gpus": []},
)


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    write_result(tmp_path / "a" / "table.json", RESULT)
    assert read_result(tmp_path / "a" / "table.json") == RESULT


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1}', '{"schema": 1, "cells": [{"row": 1}]}'])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(TwofoldError, match=r"table\.json"):
        read_result(path)


def test_a_table_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_result(path, RESULT)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(TwofoldError, match="another version"):
        read_result(path)


@given(auroc=st.lists(st.floats(0, 100), min_size=1, max_size=5), name=st.text("äß,\"'\n->x", min_size=1))
@settings(deadline=None, max_examples=30)
def test_units_keep_every_digit(
    tmp_path_factory: pytest.TempPathFactory, auroc: list[float], name: str
) -> None:
    path = tmp_path_factory.mktemp("units") / "units.csv"
    units = [
        ("mmd.knn", unit(value, name, name, split_seed=i, rho=1 / 3, k=None)) for i, value in enumerate(auroc)
    ]
    write_units(path, units)
    assert read_unit_lines(path) == units


@pytest.mark.parametrize("text", ["row,auroc\nx,1\n", "row\n", "x"])
def test_what_are_no_units_is_refused_or_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "units.csv"
    path.write_text(text)
    if text.count("\n") == 2:
        with pytest.raises(TwofoldError, match="does not hold the units"):
            read_unit_lines(path)
    else:
        assert read_unit_lines(path) == []
    with pytest.raises(TwofoldError, match="cannot read"):
        read_unit_lines(tmp_path / "none.csv")


# ---- splits ---------------------------------------------------------------------------------------


def some_settings(count: int = 6) -> list[Setting]:
    rng = np.random.default_rng(0)
    ids = [f"{i:016x}" for i in rng.integers(2**62, size=900)]
    task = Task("digits", "typeset", "mnist", "3")
    return [
        Setting(task, 0.1, i, *(tuple(rng.choice(ids, 300, replace=False).tolist()) for _ in range(5)))
        for i in range(count)
    ]


def test_splits_come_back_in_a_file_named_by_them(tmp_path: Path) -> None:
    drawn = some_settings()
    described = write_splits(tmp_path, drawn)
    assert described["file"] == f"splits/{described['hash']}.parquet"
    assert read_splits(tmp_path, described) == drawn
    assert write_splits(tmp_path, drawn[::-1]) == described, "written once, in whatever order"
    assert split_hash(drawn[1:]) != described["hash"]


def test_splits_are_smaller_than_the_settings_of_a_sweep(tmp_path: Path) -> None:
    drawn = some_settings(20)
    write_settings(tmp_path / "plain.parquet", drawn)
    described = write_splits(tmp_path, drawn)
    assert (tmp_path / described["file"]).stat().st_size < (tmp_path / "plain.parquet").stat().st_size / 3
    assert read_settings(tmp_path / "plain.parquet") == read_splits(tmp_path, described)


def test_other_splits_under_the_same_name_are_refused(tmp_path: Path) -> None:
    drawn = some_settings()
    described = write_splits(tmp_path, drawn)
    changed = [replace(drawn[0], test=drawn[0].test[1:]), *drawn[1:]]
    write_settings(tmp_path / described["file"], changed)
    with pytest.raises(TwofoldError, match="holds other splits than the table was measured on"):
        read_splits(tmp_path, described)


def test_a_changed_image_id_is_refused(tmp_path: Path) -> None:
    described = write_splits(tmp_path, some_settings())
    path = tmp_path / described["file"]
    rows = pq.read_table(path)
    lists = rows["test"].to_pylist()
    lists[2][0] = "0000"
    pq.write_table(rows.set_column(rows.schema.get_field_index("test"), "test", [lists]), path)
    with pytest.raises(TwofoldError, match=r"cannot be used, restore the file.*was changed"):
        read_splits(tmp_path, described)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PAR1")])
def test_missing_and_damaged_splits_are_refused(tmp_path: Path, damage: object) -> None:
    described = write_splits(tmp_path, some_settings(1))
    damage(tmp_path / described["file"])  # type: ignore[operator]
    with pytest.raises(TwofoldError, match="restore"):
        read_splits(tmp_path, described)
