"""Every shipped table can be read, and its rows run on every dataset."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from orchestrator.config import load_config
from orchestrator.tables.definition import FOLDER, TableDefinition, read_table, table_names
from orchestrator.tables.rows import plan_claims, plan_paper, plan_rows
from orchestrator.tables.sweeps import PRESETS, preset_of_table
from trainables.configuration import Configuration
from trainables.data.base import DATASETS
from trainables.data.folder import Preset

TABLES = table_names()


def test_there_are_tables() -> None:
    assert {"alignments", "k_sensitivity"} <= set(TABLES)
    assert {path.name for path in FOLDER.iterdir() if path.suffix in (".yml", ".yaml")} == {
        f"{name}.yaml" for name in TABLES
    }


@pytest.mark.parametrize("name", TABLES)
def test_first_line_measures_this_very_table(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    assert text.splitlines()[0] == f"# twofold table {name}"
    assert set(yaml.safe_load(text)) <= set(TableDefinition.model_fields)


@pytest.mark.parametrize("data", PRESETS)
@pytest.mark.parametrize("name", TABLES)
def test_every_row_can_be_run_on_every_dataset(name: str, data: str) -> None:
    definition = read_table(name)
    root = None if data == "digits" else Path("images")
    rows = plan_rows(definition, preset_of_table(definition, data, root, False, []))
    assert len({row.row.name for row in rows}) == len(rows)
    assert {row.base for row in rows} == {row.name for row in definition.rows}
    for row in rows:
        assert (row.configuration is None) == (row.kind in ("choice", "missing")), row
        if row.configuration is not None:
            assert Configuration.parse(row.configuration.as_dict()) == row.configuration
    for claim in plan_claims(definition.claims, rows):
        assert claim.better != claim.than
    plan_paper(definition, rows, data, [])


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_a_kind_that_is_not_configured_are_given_no_configuration(name: str) -> None:
    for row in read_table(name).rows:
        assert row.kind == "configuration" or not (row.configuration or row.scores), row


@pytest.mark.parametrize("name", TABLES)
def test_the_paper_has_percentages_of_published_pairs(name: str) -> None:
    for column in read_table(name).paper:
        dataset = DATASETS.get(column.dataset)
        assert isinstance(dataset, type) and issubclass(dataset, Preset)
        assert (column.source, column.target) in dataset.default_pairs
        assert all(30 <= figure <= 100 for figure in column.figures.values())


@pytest.mark.parametrize("name", TABLES)
def test_a_table_with_an_axis_has_numbers_to_draw(name: str) -> None:
    definition = read_table(name)
    if definition.axis is not None:
        assert all(re.search(r"\d", row.label) for row in definition.rows if row.kind == "configuration")


def test_presets_of_tables_have_labels() -> None:
    for data in PRESETS:
        config = load_config(FOLDER.parent / f"{data}.yaml")
        assert config.name == config.data.dataset == data
        assert DATASETS.get(data).labelled
