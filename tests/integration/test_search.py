"""Optuna and early stopping through the whole sweep, on two Ray workers, with MLflow."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import optuna
import pytest
from harness import Sweep, draw_domains, folder_data, modified, twofold, twofold_here, write_space
from mlflow.tracking import MlflowClient

from orchestrator.ledger import read_units

SPACE = {
    "alignment": ["positive", "mmd"],
    "clusterer": ["density", "trimmed"],
    "keep": {"low": 0.4, "high": 0.9},
    "lambda_align": {"low": 0.01, "high": 3.0, "log": True},
    "score": ["knn", "both_centres"],
}


@pytest.fixture(scope="module")
def searched(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Ten configurations of one setting, in two rounds; trainings of four epochs end early at 1 and 3."""
    folder = tmp_path_factory.mktemp("searched")
    data = folder_data(draw_domains(folder / "images"), classes=["plain bar"], anomaly_classes=["Größe"])
    fixed = {"encoder": "efficientnet_lite0", "finetune": "head", "epochs": 4}
    default = {"clusterer": "density", "alignment": "positive", "score": "knn"}
    search = {"search": "optuna", "samples": 10, "scheduler": "asha"}
    space = write_space(
        folder / "hunt.yaml", cache, data=data, fixed=fixed, default=default, space=[SPACE], **search
    )
    first = twofold("sweep", space)
    assert first.code == 0, first.output
    return Sweep(space, (), first)


def test_as_many_configurations_as_asked_for_and_none_twice(searched: Sweep) -> None:
    units = searched.units()
    assert len(units) == 10 == len({unit["config"] for unit in units})
    assert searched.first is not None and "up to 10 units" in searched.first.message
    assert any(json.loads(unit["config"])["keep"] == 0.6 for unit in units), "the default is among them"


def test_stopped_units_are_shorter_and_never_chosen(searched: Sweep) -> None:
    states = Counter(unit["state"] for unit in searched.units())
    assert states["failed"] == 0 and states["stopped"] >= 1 and states["done"] >= 1
    chosen = json.loads((searched.folder / "selection.json").read_text())["choices"][0]
    ranked = {entry["key"] for entry in chosen["ranking"]} | {chosen["chosen"], *chosen["ensemble"]}
    for unit in searched.units():
        epochs = json.loads(unit["epochs"])
        judged = [entry["epoch"] for entry in epochs if "objective" in entry]
        if unit["state"] == "stopped":
            assert unit["key"] not in ranked and len(epochs) in (1, 3) and judged[-1] == len(epochs)
        else:
            assert len(epochs) == 4 and judged == [1, 3]


def test_the_study_was_told_of_every_unit(searched: Sweep) -> None:
    storage = f"sqlite:///{searched.folder / 'optuna.db'}"
    (study,) = (
        optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)
    )
    assert len(study.trials) == 10 and all(trial.state.is_finished() for trial in study.trials)
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in study.trials)
    assert pruned == sum(unit["state"] == "stopped" for unit in searched.units())


def test_a_stopped_unit_is_a_killed_run(searched: Sweep) -> None:
    client = MlflowClient(searched.config.mlflow_uri)
    experiment = client.get_experiment_by_name("hunt")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`twofold.key` LIKE '%'")
    statuses = {run.data.tags["twofold.key"]: run.info.status for run in runs}
    expected = {"done": "FINISHED", "stopped": "KILLED"}
    assert statuses == {unit["key"]: expected[unit["state"]] for unit in searched.units()}


def test_more_samples_run_only_the_new_ones(searched: Sweep) -> None:
    assert "Nothing is left to run" in twofold_here("sweep", searched.space).output
    before = modified(list(searched.records.values()))
    more = twofold("sweep", searched.space, "--set", "samples=12")
    assert more.code == 0, more.output
    assert "10 recorded, up to 2 to run" in more.message
    assert modified(list(before)) == before
    assert len(read_units(searched.folder / "units.parquet")) == 12
