"""The main job: one record a unit, nothing twice, no label in the choice, equal on one and two workers."""

from __future__ import annotations

import ast
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import (
    REPOSITORY,
    SHAPES,
    SMALL,
    TINY,
    Sweep,
    copy_sweep,
    draw_domains,
    folder_data,
    modified,
    refused,
    twofold,
    twofold_here,
    write_space,
)
from mlflow.tracking import MlflowClient
from sklearn.metrics import roc_auc_score

from orchestrator.pipeline import make_plan

SCORES = ("source_val", "target_sel", "pseudo", "test")


class _Loads(HTMLParser):
    """Addresses that a browser would fetch to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            fetched = name in ("src", "srcset", "data", "poster") or (tag == "link" and name == "href")
            if fetched and value and not value.startswith("data:"):
                self.found.append(f"<{tag} {name}={value}>")


def invert_labels(folder: Path) -> None:
    """Call every anomaly normal and every normal image anomalous, for the judge and for the upper bound."""
    path = folder / "oracle" / "labels.parquet"
    table = pq.read_table(path)
    inverted = pa.array([not anomalous for anomalous in table["anomalous"].to_pylist()])
    pq.write_table(table.set_column(table.schema.get_field_index("anomalous"), "anomalous", inverted), path)
    fit = {(row["key"], image) for row in _settings(folder) for image in row["target_fit"]}
    normals = [row for row in table.to_pylist() if row["anomalous"] and (row["setting"], row["id"]) in fit]
    path = folder / "oracle" / "true_normals.parquet"
    schema = pq.read_schema(path)
    pq.write_table(pa.Table.from_pylist([{k: row[k] for k in schema.names} for row in normals], schema), path)


def _settings(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "settings.parquet").to_pylist()
    return rows


def is_oracle(unit: dict[str, Any]) -> bool:
    return bool(json.loads(unit["config"])["supervision"] == "oracle")


def test_every_planned_unit_has_one_record(swept: Sweep) -> None:
    keys = [unit["key"] for unit in swept.units()]
    assert len(keys) == len(set(keys)) == 30
    assert set(keys) == swept.planned() == set(swept.records)
    assert {unit["state"] for unit in swept.units()} == {"done"}
    assert not list((swept.folder / "attempts").iterdir())
    assert swept.first is not None and "30 to run" in swept.first.output


def test_records_hold_a_finite_score_for_every_image_of_their_setting(swept: Sweep) -> None:
    settings = {row["key"]: row for row in _settings(swept.folder)}
    for unit in swept.units():
        setting = settings[unit["setting"]]
        for part in ("source_val", "target_sel", "test"):
            scores = np.array(unit[part])
            assert len(scores) == len(setting[part]) and np.isfinite(scores).all() and np.ptp(scores) > 0
        assert len(unit["pseudo"]) == len(setting["target_sel"])
        epochs = [epoch["epoch"] for epoch in json.loads(unit["epochs"])]
        assert epochs == [1.0, 2.0][: json.loads(unit["config"]).get("epochs", 0)]


def test_the_report_judges_by_the_labels_of_the_dataset(swept: Sweep) -> None:
    """AUROC again, from the digits of scikit-learn by way of the dataset, without the oracle's files."""
    from trainables.data.base import build_dataset

    digit = build_dataset("digits").class_of("optdigits")
    settings = {row["key"]: row for row in _settings(swept.folder)}
    judged = {r["key"]: r["auroc"] for r in pq.read_table(swept.folder / "oracle/auroc.parquet").to_pylist()}
    assert len(judged) == 30
    for unit in swept.units():
        test = settings[unit["setting"]]["test"]
        anomalous = [digit[image] != unit["normal_class"] for image in test]
        assert judged[unit["key"]] == pytest.approx(100 * roc_auc_score(anomalous, unit["test"]))


def test_the_report_shows_in_a_browser_without_a_network(swept: Sweep) -> None:
    page = (swept.folder / "report.html").read_text()
    loads = _Loads()
    loads.feed(page)
    assert loads.found == []
    assert "@import" not in page
    assert "typeset" in page and "Plotly.newPlot" in page


def test_a_second_call_runs_and_logs_nothing(swept: Sweep) -> None:
    files = [path for path in swept.folder.rglob("*") if path.is_file() and path.parent.name == "units"]
    files += [swept.folder / name for name in ("selection.json", "report.html", "units.parquet")]
    before = modified(files)
    client = MlflowClient(swept.config.mlflow_uri)
    experiment = client.get_experiment_by_name(swept.config.name)
    assert experiment is not None
    runs = len(client.search_runs([experiment.experiment_id], run_view_type=3))
    again = twofold("sweep", *swept.arguments)
    assert again.code == 0
    assert "30 recorded, 0 to run" in again.output and "Nothing is left to run" in again.output
    assert again.seconds < 20
    assert modified(files) == before
    assert len(client.search_runs([experiment.experiment_id], run_view_type=3)) == runs


def test_oracle_units_are_reported_as_an_upper_bound_and_never_chosen(swept: Sweep) -> None:
    oracle = {unit["key"] for unit in swept.units() if is_oracle(unit)}
    assert len(oracle) == 4
    selection = json.loads((swept.folder / "selection.json").read_text())
    for choice in selection["choices"]:
        named = {choice["chosen"], choice["default"], choice["compactness_pick"], *choice["ensemble"]}
        named |= {entry["key"] for entry in choice["ranking"]}
        assert not named & oracle
    assert "upper bound" in (swept.folder / "report.html").read_text()


@pytest.fixture(scope="module")
def swept_again(swept: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The same sweep on two workers, without the oracle units, with garbage for labels from the start."""
    output = tmp_path_factory.mktemp("two_workers")
    overrides = (*TINY, f"output={output}", f"cache={swept.config.cache}", "resources.workers=2")
    sweep = Sweep(SMALL, overrides)
    assert twofold_here("plan", *sweep.arguments, "--no-pilot").code == 0
    invert_labels(sweep.folder)
    garbage = (sweep.folder / "oracle" / "labels.parquet").read_bytes()
    first = twofold("sweep", *sweep.arguments)
    assert first.code == 0, first.output
    assert (sweep.folder / "oracle" / "labels.parquet").read_bytes() == garbage
    return Sweep(SMALL, overrides, first)


def test_one_and_two_workers_give_equal_scores(swept: Sweep, swept_again: Sweep) -> None:
    first = {unit["key"]: unit for unit in swept.units() if not is_oracle(unit)}
    second = {unit["key"]: unit for unit in swept_again.units()}
    assert set(first) == set(second)
    for key, unit in second.items():
        for part in (*SCORES, "trusted_fit", "trusted_sel"):
            assert unit[part] == first[key][part]
        for column in ("epochs", "stage_a", "diagnostics", "config", "setting"):
            assert unit[column] == first[key][column]


def test_garbage_labels_and_oracle_units_change_no_choice(swept: Sweep, swept_again: Sweep) -> None:
    """The other sweep also had two workers: the choice depends on none of the three."""
    assert (swept.folder / "selection.json").read_bytes() == (
        swept_again.folder / "selection.json"
    ).read_bytes()
    ours, theirs = (pq.read_table(s.folder / "oracle/auroc.parquet") for s in (swept, swept_again))
    assert np.mean(ours["auroc"]) > 60 and np.mean(theirs["auroc"]) < 40


@pytest.mark.parametrize("labels", ["inverted", "absent"])
def test_choosing_again_with_other_labels_gives_the_same_bytes(
    labels: str, swept: Sweep, tmp_path: Path
) -> None:
    folder = copy_sweep(swept, tmp_path)
    original = (swept.folder / "selection.json").read_bytes()
    (folder / "selection.json").unlink()
    if labels == "inverted":
        invert_labels(folder)
    else:
        shutil.rmtree(folder / "oracle")
    before = modified([swept.folder / "selection.json"])
    assert twofold_here("select", folder).code == 0
    assert (folder / "selection.json").read_bytes() == original
    assert modified([swept.folder / "selection.json"]) == before


def test_labels_are_opened_by_the_oracle_alone() -> None:
    allowed = {
        "labels.parquet": {"oracle.py"},
        "true_normals.parquet": {"oracle.py", "prepare.py"},
        "class_of": {"oracle.py"},
    }
    files = [path for top in ("orchestrator", "trainables") for path in (REPOSITORY / top).rglob("*.py")]
    assert len(files) > 60
    for path in files:
        tree = ast.parse(path.read_text())
        documentation = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        }
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        used = {name for name in allowed for text in texts if name in text and text not in documentation}
        used |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in allowed}
        assert all(path.name in allowed[name] for name in used), (path, used)


def test_true_normals_are_not_even_read_without_oracle_units(swept_again: Sweep) -> None:
    from orchestrator.plan import enumerate_grid
    from orchestrator.prepare import domain_fingerprints, draw_settings, prepare

    config = swept_again.config
    kept = swept_again.folder / "oracle"
    hidden = kept.rename(kept.with_name("hidden"))
    try:
        prepared = prepare(config, enumerate_grid(config), draw_settings(config, domain_fingerprints(config)))
    finally:
        hidden.rename(kept)
    assert all(setting.true_normals is None for setting in prepared.settings.values())


@pytest.fixture(scope="module")
def folder_sweep(ray_local: None, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A folder of PNG files whose domains and classes have blanks and letters of three scripts."""
    folder = tmp_path_factory.mktemp("folder")
    root = draw_domains(folder / "bilder 图")
    trained = {"alignment": "mmd", "clusterer": "all", "score": ["source_centre", "both_centres"]}
    identity = {"alignment": "identity", "clusterer": "kmeans", "k": [1, 2], "score": "knn"}
    space = write_space(folder / "shapes.yaml", cache, data=folder_data(root), space=[identity, trained])
    sweep = Sweep(space, ())
    first = twofold_here("sweep", *sweep.arguments)
    assert first.code == 0, first.output
    return Sweep(space, (), first)


def test_a_folder_of_images_is_swept_end_to_end(folder_sweep: Sweep) -> None:
    units = folder_sweep.units()
    assert len(units) == 3 * 5 and {unit["state"] for unit in units} == {"done"}
    assert {unit["normal_class"] for unit in units} == set(SHAPES)
    assert {(unit["source"], unit["target"]) for unit in units} == {("light", "dark paper")}
    assert pq.read_table(folder_sweep.folder / "oracle" / "auroc.parquet").num_rows == len(units)
    page = (folder_sweep.folder / "report.html").read_text()
    assert "Größe" in page and "环" in page and "dark paper" in page


def test_a_lost_and_a_truncated_record_are_run_again_and_nothing_else(folder_sweep: Sweep) -> None:
    """Whatever else lies about their bundles, in whatever state, is no reason to run less or more."""
    records = folder_sweep.records
    lost, damaged, *others = sorted(records)
    content = {key: path.read_bytes() for key, path in records.items()}
    scores = {unit["key"]: unit["test"] for unit in folder_sweep.units()}
    before = modified([records[key] for key in others])
    records[lost].unlink()
    records[damaged].write_bytes(content[damaged][: len(content[damaged]) // 2])
    for bundle in {unit.bundle for unit in make_plan(folder_sweep.config).units}:
        for file in (f"attempts/{bundle}.json", f"leases/{bundle}.0123.json", f"checkpoints/{bundle}"):
            path = folder_sweep.folder / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b'{"begun": "garbage')
    again = twofold_here("sweep", *folder_sweep.arguments)
    assert again.code == 0
    assert "13 recorded, 2 to run" in again.output and "2/2 units, 0 failed" in again.output
    assert modified([records[key] for key in others]) == before
    assert {unit["key"]: unit["test"] for unit in folder_sweep.units()} == scores
    assert {unit["attempts"] for unit in folder_sweep.units()} == {1}
    client = MlflowClient(folder_sweep.config.mlflow_uri)
    experiment = client.get_experiment_by_name("shapes")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`twofold.key` LIKE '%'")
    assert sorted(run.data.tags["twofold.key"] for run in runs) == sorted(records)


def test_results_that_were_not_written_before_a_crash_are_written_by_the_next_call(
    folder_sweep: Sweep,
) -> None:
    """No unit is missing, and what stands in the folder belongs to another plan."""
    narrow = Sweep(folder_sweep.space, ("space.0.k=[1]",))
    for sweep, units in ((narrow, 12), (folder_sweep, 15)):
        refused(twofold_here("sweep", *sweep.arguments), "space.0.k", "--accept-changes")
        done = twofold_here("sweep", *sweep.arguments, "--accept-changes")
        assert done.code == 0 and "0 to run" in done.output and "Chosen without labels" in done.output
        assert {unit["key"] for unit in folder_sweep.units()} == sweep.planned()
        assert len(sweep.units()) == units


def test_unlabelled_images_are_swept_chosen_and_reported_without_auroc(
    ray_local: None, cache: Path, tmp_path: Path
) -> None:
    root = draw_domains(tmp_path / "images")
    data = {"dataset": "unlabelled", "source": str(root / "light"), "target": str(root / "dark paper")}
    space = write_space(tmp_path / "own.yaml", cache, data={**data, "image_size": 32})
    done = twofold_here("sweep", space)
    assert done.code == 0, done.output
    folder = tmp_path / "own"
    assert len(json.loads((folder / "selection.json").read_text())["choices"]) == 1
    assert pq.read_table(folder / "oracle" / "auroc.parquet").num_rows == 0
    assert "nan" not in done.output.lower()
    assert "Nothing is left to run" in twofold_here("sweep", space).output
