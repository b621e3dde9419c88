"""A table from made-up scores: plan, ledger and oracle are real, only the training is not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from orchestrator.config import SweepConfig
from orchestrator.ledger import UnitRecord
from orchestrator.pipeline import Outcome, _by_setting, judge, make_plan
from orchestrator.plan import Unit
from orchestrator.tables import run
from orchestrator.tables.files import read_result, read_splits, read_unit_lines
from orchestrator.tables.result import TableResult
from orchestrator.tables.run import TableRun, _missing, make_table
from orchestrator.tables.sweeps import pairs_left_out, preset_of_table
from trainables.data.pacs import PACS
from trainables.errors import TwofoldError, UnknownName
from trainables.seeding import generator

ROWS: list[dict[str, Any]] = [
    {"name": "two", "label": "K = 2", "configuration": {"k": 2}},
    {"name": "three", "label": "K = 3", "configuration": {"k": 3}},
    {"name": "twin", "label": "the same", "configuration": {"k": 2, "tau": 0.4}},
    {"name": "gone", "label": "BiOST", "kind": "missing"},
]
PAPER = [
    {"dataset": "pacs", "source": "photo", "target": name, "label": name, "figures": {"two": 70.0}}
    for name in ("art_painting", "sketch", "cartoon")
] + [{"dataset": "visda", "source": "train", "target": "validation", "label": "V", "figures": {"gone": 50.0}}]
SETS = ['data.classes=["0","1","7"]', "data.pairs=[[typeset, mnist], [typeset, optdigits]]"]

Fake = Callable[[Unit], bool]


@pytest.fixture
def define(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes the table ``made``; commands run in ``tmp_path``."""
    monkeypatch.setattr("orchestrator.tables.definition.FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)

    def write(**values: Any) -> None:
        base = {"alignment": "identity", "clusterer": "kmeans", "score": "knn"}
        start = {"title": "t", "question": "q", "base": base, "rows": ROWS, "paper": PAPER}
        (tmp_path / "made.yaml").write_text(yaml.safe_dump({**start, **values}))

    return write


@pytest.fixture
def succeed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fake], list[str]]:
    """Instead of training, a unit that ``works`` gets scores drawn for its key, another one fails.

    Returns the keys of what is run.
    """

    def use(works: Fake) -> list[str]:
        ran: list[str] = []

        def sweep(config: SweepConfig, *_: object, **options: Any) -> Outcome:
            assert options == {"accept_changes": True, "chooses": False}
            plan = make_plan(config)
            sizes = {setting.key: len(setting.test) for setting in plan.settings}
            tasks = {setting.key: setting.description for setting in plan.settings}
            left = plan.rounds.missing()
            for unit in left:
                done = works(unit)
                size = sizes[unit.setting] if done else 0
                scores = generator("scores", unit.key).random(size).astype(np.float32)
                record = UnitRecord(
                    key=unit.key, setting=unit.setting, state="done" if done else "failed", seed=unit.seed,
                    config=dict(unit.configuration), test=scores, **tasks[unit.setting],
                )  # fmt: skip
                plan.ledger.write(record)
            ran.extend(unit.key for unit in left)
            states = plan.ledger.compact(_by_setting(plan.units), config.folder / "units.parquet")
            judge(config)
            return Outcome(states["done"], states["failed"], False, False)

        monkeypatch.setattr(run, "run_sweep", sweep)
        return ran

    return use


def measure(*sets: str, fast: bool = False) -> TableResult:
    make_table("made", "digits", None, fast, [*SETS, *sets], None, Console(file=io.StringIO()))
    return read_result(Path("runs/tables/digits/made/table.json"))


def test_rows_columns_and_units(define: Callable[..., None], succeed: Callable[[Fake], list[str]]) -> None:
    define(claims=[{"text": "c", "better": "twin", "than": "two"}])
    ran = succeed(lambda unit: True)
    result = measure()
    assert len(ran) == 2 * 3 * 3 * 2, "pairs, classes, seeds and the two configurations that differ"
    assert [row.name for row in result.rows] == ["two", "three", "twin", "gone"]
    assert [column.name for column in result.columns] == ["typeset->mnist", "typeset->optdigits"]
    assert len(result.cells) == 6
    assert all(cell.units == cell.planned == 9 for cell in result.cells.values())
    twin = result.cells["twin", "typeset->mnist"]
    assert twin.mean == result.cells["two", "typeset->mnist"].mean and twin.seed_std is not None
    assert result.claims[0].difference == 0 and result.claims[0].verdict == "not clear"
    lines = read_unit_lines(Path("runs/tables/digits/made/units.csv"))
    means = [unit.auroc for row, unit in lines if row == "twin" and unit.target == "mnist"]
    assert np.mean(means) == pytest.approx(twin.mean) and len(lines) == 54
    settings = read_splits(Path("runs/tables/digits"), result.provenance["splits"])
    assert {unit.setting for _, unit in lines} == {setting.key for setting in settings}
    assert len(result.missing) == 5


def test_contaminations_as_columns_are_means_over_pairs(
    define: Callable[..., None], succeed: Callable[[Fake], list[str]]
) -> None:
    define(columns="contamination", contamination=[0.0, 0.25])
    succeed(lambda unit: True)
    result = measure(fast=True)
    assert [(column.name, column.label) for column in result.columns] == [
        ("rho=0", "ρ = 0"),
        ("rho=0.25", "ρ = 0.25"),
    ]
    assert all(cell.units == cell.planned == 6 and cell.seed_std is None for cell in result.cells.values())
    lines = read_unit_lines(Path("runs/tables/digits/made/units.csv"))
    found = [unit.auroc for row, unit in lines if row == "three" and unit.contamination == 0.25]
    assert result.cells["three", "rho=0.25"].mean == pytest.approx(np.mean(found))


def test_a_unit_that_failed_leaves_its_cell_incomplete_and_is_run_by_the_next_call(
    define: Callable[..., None], succeed: Callable[[Fake], list[str]]
) -> None:
    define()
    dropped: list[str] = []

    def works(unit: Unit) -> bool:
        if unit.configuration["k"] == 3 or dropped:
            return unit.configuration["k"] != 3
        dropped.append(unit.key)
        return False

    succeed(works)
    result = measure(fast=True)
    assert sorted(cell.units for cell in result.cells.values()) == [2, 2, 3, 3]
    assert all(cell.planned == 3 for cell in result.cells.values())
    assert not any(row == "three" for row, _ in result.cells), "an empty cell is absent"
    ran = succeed(lambda unit: True)
    assert all(cell.units == 3 for cell in measure(fast=True).cells.values())
    assert len(ran) == 1 + 6 and dropped[0] in ran


def test_nothing_finished_is_an_error(
    define: Callable[..., None], succeed: Callable[[Fake], list[str]]
) -> None:
    define()
    succeed(lambda unit: False)
    with pytest.raises(TwofoldError, match="no unit of table made finished"):
        measure(fast=True)


def test_a_table_of_missing_rows_alone_cannot_be_run(define: Callable[..., None]) -> None:
    define(rows=ROWS[3:], paper=[])
    with pytest.raises(TwofoldError, match="no row that can be run"):
        measure(fast=True)


def test_a_claim_about_an_unknown_row_is_refused_before_anything_runs(define: Callable[..., None]) -> None:
    define(claims=[{"text": "c", "better": "too", "than": "three"}])
    with pytest.raises(UnknownName, match=r"no row 'too'\. Did you mean 'two'"):
        measure(fast=True)
    assert not Path("runs").exists()


def test_a_stopped_sweep_writes_no_table(
    define: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    define()
    monkeypatch.setattr(run, "run_sweep", lambda *_, **__: Outcome(1, 0, False, True))
    outcome = make_table("made", "digits", None, True, SETS, None, Console(file=io.StringIO()))
    assert outcome.stopped and not Path("runs/tables/digits/made").exists()


def test_what_is_missing_says_what_it_takes(define: Callable[..., None], tmp_path: Path) -> None:
    """PACS without cartoon, asked for the sketches alone, or for all there is."""
    define()
    for domain in ("photo", "art_painting", "sketch"):
        for name in PACS.selected_classes:
            (tmp_path / "images" / domain / name).mkdir(parents=True)

    def missing(*sets: str, **values: Any) -> list[str]:
        define(**values)
        definition = run.read_table("made")
        config = preset_of_table(definition, "pacs", tmp_path / "images", True, sets)
        rows = run.plan_rows(definition, config)
        table = TableRun("made", definition, "pacs", config, rows, [], pairs_left_out(config), tmp_path)
        pairs = config.data.pairs or [("photo", "art_painting"), ("photo", "sketch")]
        columns = [run.Column("->".join(pair), "") for pair in pairs]
        return _missing(table, columns if definition.columns == "pair" else [run.Column("rho=0.1", "")])

    built, cartoon, visda = missing()
    assert "BiOST: not built here" in built and "photo→cartoon: this copy of pacs lacks cartoon" in cartoon
    assert "`twofold table made --data visda --data-root DIR` measures it" in visda
    assert str(tmp_path) not in built + cartoon + visda
    asked = missing("data.pairs=[[photo, sketch]]")
    assert [line.partition(" of the paper")[0] for line in asked[1:]] == ["art_painting", "cartoon", "V"]
    assert 'add ["photo", "cartoon"] to it' in asked[2]
    shares = missing(columns="contamination")
    assert sum("each a mean over the pairs" in line for line in shares) == 2
