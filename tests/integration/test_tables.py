"""A small table, measured and repeated by the command line on a real Ray."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
import yaml
from harness import SMALL, Finished, refused, sets, statuses, twofold_here

from orchestrator.config import load_config
from orchestrator.ray_environment import set_ray_environment
from orchestrator.tables.files import read_result, read_unit_lines

TABLES = "orchestrator.tables.definition.FOLDER"
DEFINITION = {
    "title": "Small",
    "question": "Does training help?",
    "base": {"clusterer": "kmeans", "k": 2},
    "scores": ["source_centre", "knn"],
    "rows": [
        {"name": "frozen", "label": "frozen", "configuration": {"alignment": "identity"}},
        {"name": "mmd", "label": "MMD", "configuration": {"alignment": "mmd"}},
        {
            "name": "oracle", "label": "true normals", "scores": ["knn"],
            "configuration": {"supervision": "oracle", "alignment": "identity"},
        },
        {"name": "default", "label": "default", "kind": "default"},
        {"name": "chosen", "label": "chosen", "kind": "choice"},
        {"name": "biost", "label": "BiOST", "kind": "missing"},
    ],
    "paper": [
        {
            "dataset": "visda", "source": "train", "target": "validation", "label": "CAD→real",
            "figures": {"mmd": 73.12, "biost": 50.48},
        }
    ],
    "claims": [
        {"text": "Training helps", "better": "mmd", "than": "frozen"},
        {"text": "BiOST is best", "better": "biost", "than": "mmd"},
    ],
}  # fmt: skip
TINY = sets(
    'data.classes=["0","1"]',
    "data.pairs=[[typeset, optdigits]]",
    "data.image_size=32",
    "fixed.finetune=head",
    "fixed.epochs=1",
    "resources.workers=1",
    "space=[{alignment: identity, clusterer: [density, kmeans], k: 2, score: knn}]",
    "default={clusterer: density, alignment: identity, score: knn}",
)
COLUMN = "typeset->optdigits"
FOLDER = Path("runs/tables/digits")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Definitions: the table, and one of the rows that both have."""
    folder = tmp_path_factory.mktemp("definitions")
    (folder / "small.yaml").write_text(yaml.safe_dump(DEFINITION))
    fewer = {**DEFINITION, "rows": DEFINITION["rows"][:1], "paper": [], "claims": []}  # type: ignore[index]
    (folder / "fewer.yaml").write_text(yaml.safe_dump(fewer))
    return folder


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """The commands of this module use the Ray of this process instead of starting one each."""
    set_ray_environment(None)
    from orchestrator.ray_start import start_ray

    config = load_config(SMALL, ["resources.workers=1"])
    start_ray(config, None)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def measured(tables: Path, one_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both tables were measured with one split seed."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TABLES, tables)
        patch.chdir(folder)
        first = twofold_here("table", "small", "--fast", *TINY)
        assert first.code == 0, first.output
        second = twofold_here("table", "fewer", "--fast", *TINY)
        assert second.code == 0, second.output
        assert "4 recorded, 0 to run" in second.message, "rows that tables share are run once"
    return folder


@pytest.fixture
def there(measured: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(measured)
    return measured


def test_every_cell_is_measured(there: Path) -> None:
    result = read_result(FOLDER / "small" / "table.json")
    names = ["frozen.source_centre", "mmd.source_centre", "frozen.knn", "mmd.knn", "oracle.knn"]
    assert [row.name for row in result.rows] == [*names, "default", "chosen", "biost"]
    assert set(result.cells) == {(name, COLUMN) for name in [*names, "default", "chosen"]}
    assert all(cell.units == cell.planned == 2 for cell in result.cells.values())
    assert [claim.verdict for claim in result.claims[2:]] == ["not measured", "not measured"]
    assert all(claim.difference is not None for claim in result.claims[:2])
    assert len(result.missing) == 2 and "BiOST" in result.missing[0] and "--data visda" in result.missing[1]
    assert result.provenance["encoder"] == "efficientnet_lite0" and result.provenance["epochs"] == 1


def test_cells_are_the_means_of_what_the_oracle_says(there: Path) -> None:
    folder = Path("runs/table-digits-small")
    judged = pq.read_table(folder / "oracle" / "auroc.parquet").to_pylist()
    auroc = {row["key"]: row["auroc"] for row in judged}
    units = pq.read_table(folder / "units.parquet", columns=["key", "config"]).to_pylist()
    found = [
        auroc[unit["key"]]
        for unit in units
        if {"alignment": "mmd", "score": "knn"}.items() <= json.loads(unit["config"]).items()
    ]
    cell = read_result(FOLDER / "small" / "table.json").cells["mmd.knn", COLUMN]
    assert len(found) == 2 and cell.mean == pytest.approx(sum(found) / 2)
    lines = read_unit_lines(FOLDER / "small" / "units.csv")
    assert [unit.auroc for row, unit in lines if row == "mmd.knn"] == found, "to the last digit"


def test_the_choice_is_that_of_the_sweep_of_its_own(there: Path) -> None:
    selection = json.loads(Path("runs/table-digits-choice/selection.json").read_text())
    chosen = {choice["setting"]: choice["config"] for choice in selection["choices"]}
    lines = read_unit_lines(FOLDER / "small" / "units.csv")
    assert {unit.setting: unit.configuration for row, unit in lines if row == "chosen"} == chosen


def test_each_experiment_has_a_run_for_each_of_its_units(there: Path) -> None:
    for name in ("small", "fewer", "choice"):
        folder = Path(f"runs/table-digits-{name}").absolute()
        keys = pq.read_table(folder / "units.parquet", columns=["key"])["key"].to_pylist()
        assert statuses(folder) == {key: ["FINISHED"] for key in keys}, name
    assert not (Path("runs/table-digits-small") / "selection.json").exists(), "nothing is chosen among rows"


def test_what_is_shipped_names_no_place(there: Path) -> None:
    for path in (FOLDER / "small").iterdir():
        if path.suffix in (".json", ".csv", ".md"):
            assert str(there) not in path.read_text(), path


def test_a_cell_is_reproduced_and_a_changed_figure_is_not(there: Path, tmp_path: Path) -> None:
    """The shipped figure of one class is changed: one run shows what agrees and what does not."""
    shutil.copytree(FOLDER, tmp_path / "digits")
    path = tmp_path / "digits" / "small" / "units.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    changed = [line for line in lines if line["row"] == "mmd.knn" and line["normal_class"] == "1"]
    changed[0]["auroc"] = repr(float(changed[0]["auroc"]) - 0.5)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    done = twofold_here("reproduce", f"small:mmd.knn/{COLUMN}", "--results", tmp_path)
    assert done.code == 1 and "0 recorded, 2 to run" in done.message, done.output
    assert "Largest difference: 0.500000 points" in done.message
    assert "+0.000000" in done.message and "+0.500000" in done.message


def test_what_cannot_be_reproduced_is_refused(there: Path, tmp_path: Path) -> None:
    def reproduce(cell: str, *options: object) -> Finished:
        return twofold_here("reproduce", cell, "--results", "runs/tables", *options)

    refused(reproduce(f"small:mmd.kn/{COLUMN}"), "no row 'mmd.kn'. Did you mean 'mmd.knn'?")
    refused(reproduce(f"small:biost/{COLUMN}"), "nothing was measured")
    refused(reproduce("small"), "write TABLE:ROW/COLUMN", "'fewer:frozen.source_centre/typeset->optdigits'")
    refused(twofold_here("table", "smal"), "unknown table 'smal'")
    (file,) = (FOLDER / "splits").iterdir()
    kept = tmp_path / file.name
    shutil.move(file, kept)
    refused(reproduce(f"small:mmd.knn/{COLUMN}"), str(file.name), "restore that file")
    shutil.move(kept, file)
