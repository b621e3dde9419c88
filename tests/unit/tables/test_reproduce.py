"""Cells are found by name, other data are refused, and the comparison tells what differs."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from units import unit

from orchestrator.environment import describe_environment
from orchestrator.prepare import domain_fingerprints, draw_settings, image_hashes
from orchestrator.tables.definition import TableDefinition
from orchestrator.tables.files import write_result, write_splits, write_units
from orchestrator.tables.measure import JudgedUnit, measure_cell
from orchestrator.tables.reproduce import Shipped, _check_data, _compare, _sweep, read_cell
from orchestrator.tables.result import Column, Row, TableResult
from orchestrator.tables.sweeps import preset_of_table, resolved_data
from trainables.configuration import Configuration
from trainables.errors import TwofoldError, UnknownName
from trainables.types import Setting

FLAT = Configuration.parse({"alignment": "identity", "k": 2, "score": "knn"}).as_dict()
DEFINITION = TableDefinition.model_validate(
    {"title": "t", "question": "q", "rows": [{"name": "a", "label": "a"}]}
)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two rows on two digits as ``twofold table`` writes it; one row has no units."""
    folder = tmp_path_factory.mktemp("shipped")
    sets = ['data.classes=["0","1"]', "data.image_size=16", f"output={folder}"]
    config = preset_of_table(DEFINITION, "digits", None, True, sets)
    config.folder.mkdir()
    settings = draw_settings(config, domain_fingerprints(config))
    units = [judged(setting, 80.0 + i) for i, setting in enumerate(settings)]
    column = "typeset->mnist"
    here = describe_environment()
    provenance: dict[str, Any] = {
        "data": resolved_data(config),
        "resources": {"cpus_per_worker": 1, "gpus_per_worker": 0},
        "images": image_hashes(config),
        "splits": write_splits(folder / "digits", settings),
        "commit": here["commit"],
        "versions": {"twofold": here["twofold"], "python": "2.7.18", **here["packages"]},
        "hardware": {"cpu": here["cpu"]},
    }
    result = TableResult(
        name="small", title="t", question="q", data="digits", axis=None,
        rows=(Row("mmd.knn", "MMD"), Row("gone", "gone")),
        columns=(Column(column, column), Column("typeset->optdigits", "x")),
        cells={("mmd.knn", column): measure_cell(units[:2], 2)},
        paper=(), claims=(), missing=(), provenance=provenance,
    )  # fmt: skip
    write_result(folder / "digits" / "small" / "table.json", result)
    write_units(folder / "digits" / "small" / "units.csv", [("mmd.knn", one) for one in units])
    return folder / "digits"


def judged(setting: Setting, auroc: float) -> JudgedUnit:
    return replace(
        unit(auroc, setting.task.target, setting.task.normal_class, setting.split_seed, **FLAT),
        setting=setting.key,
        configuration=FLAT,
    )


CELL = "small:mmd.knn/typeset->mnist"


def test_a_cell_is_its_units_and_their_settings(shipped: Path) -> None:
    cell = read_cell(CELL, shipped)
    assert [one.auroc for one in cell.units] == [80, 81] and {one.target for one in cell.units} == {"mnist"}
    assert [setting.key for setting in cell.settings] == [one.setting for one in cell.units]


@pytest.mark.parametrize(
    ("cell", "error", "message"),
    [
        (
            "smal:mmd.knn/typeset->mnist",
            UnknownName,
            r"no table 'smal'\. Did you mean 'small'\? Known: small\.",
        ),
        ("small:mmd.kn/typeset->mnist", UnknownName, r"no row 'mmd\.kn'\. Did you mean 'mmd\.knn'"),
        (
            "small:mmd.knn/typeset-mnist",
            UnknownName,
            r"no column 'typeset-mnist'\. Did you mean 'typeset->mnist'",
        ),
        ("small", TwofoldError, r"write TABLE:ROW/COLUMN, e\.g\. 'small:mmd\.knn/typeset->mnist'"),
        ("small:mmd.knn", TwofoldError, "write TABLE:ROW/COLUMN"),
        ("small:gone/typeset->mnist", TwofoldError, "nothing was measured for small:gone/typeset->mnist"),
    ],
)
def test_a_bad_name_is_answered_with_the_known_ones(
    shipped: Path, cell: str, error: type[TwofoldError], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_cell(cell, shipped)


def test_no_tables_at_all(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match=r"no measured tables in .*--results"):
        read_cell(CELL, tmp_path)


def data_of(cell: Shipped, folder: Path) -> None:
    config = _sweep(cell, None).model_copy(update={"output": folder})
    config.folder.mkdir(parents=True)
    _check_data(cell, config)


def test_the_settings_are_drawn_again_as_they_were(shipped: Path, tmp_path: Path) -> None:
    cell = read_cell(CELL, shipped)
    data_of(cell, tmp_path)
    config = _sweep(cell, None)
    assert config.name == "reproduce-digits-small-mmd.knn-typeset-mnist"
    assert config.data.pairs == [("typeset", "mnist")] and config.data.image_size == 16
    assert config.space == [FLAT] and config.ledger is None


def test_other_splits_are_named(shipped: Path, tmp_path: Path) -> None:
    cell = read_cell(CELL, shipped)
    first = cell.settings[0]
    other = replace(first, test=first.test[:-2])
    with pytest.raises(
        TwofoldError, match=r"typeset->mnist/0, rho 0\.1, split seed 0: test has \d+ images"
    ) as caught:
        data_of(replace(cell, settings=[other, *cell.settings[1:]]), tmp_path)
    assert str(caught.value).count("\n") == 1, "and nothing else is"


def test_other_images_are_named(shipped: Path, tmp_path: Path) -> None:
    cell = read_cell(CELL, shipped)
    provenance = {**cell.table.provenance, "images": {**cell.table.provenance["images"], "mnist": "other"}}
    with pytest.raises(TwofoldError, match="the images of domain mnist are others"):
        data_of(replace(cell, table=replace(cell.table, provenance=provenance)), tmp_path)


def compared(cell: Shipped, units: list[JudgedUnit]) -> tuple[int, str]:
    """How many units do not agree, and what is printed."""
    file = io.StringIO()
    return _compare(cell, units, Console(file=file, width=120)), file.getvalue()


@pytest.mark.parametrize(("change", "same"), [(0.0, True), (5e-5, True), (-2e-4, False), (float("5"), False)])
def test_a_difference_above_the_tolerance_is_no_reproduction(
    shipped: Path, change: float, same: bool
) -> None:
    cell = read_cell(CELL, shipped)
    again = [replace(cell.units[0], auroc=80 + change), cell.units[1]]
    others, text = compared(cell, again)
    assert others == (0 if same else 1) and f"Largest difference: {abs(change):.6f} points" in text
    assert ("Not reproduced" in text) != same
    assert ("python: shipped with 2.7.18" in text) != same, "what may be the cause is told"


def test_a_unit_that_failed_is_no_reproduction(shipped: Path) -> None:
    cell = read_cell(CELL, shipped)
    others, text = compared(cell, cell.units[1:])
    assert others == 1 and "1 of 2 units failed" in text


def test_keys_that_a_later_version_adds_do_not_matter(shipped: Path) -> None:
    cell = read_cell(CELL, shipped)
    older = {key: value for key, value in FLAT.items() if key != "encoder"}
    units = [replace(one, configuration=older) for one in cell.units]
    assert compared(replace(cell, units=units), cell.units)[0] == 0
