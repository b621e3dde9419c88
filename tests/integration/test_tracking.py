"""MLflow: one run per unit, whatever happens to the tracking server meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    Sweep,
    copy_sweep,
    draw_domains,
    folder_data,
    free_port,
    mlflow_server,
    refused,
    twofold,
    twofold_here,
    write_space,
)
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

KEY = "twofold.key"
PARENT = "mlflow.parentRunId"


def runs_of(uri: str, name: str) -> tuple[list[Run], list[Run]]:
    """Parent runs and child runs of an experiment."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id], max_results=1000))
    return [r for r in runs if PARENT not in r.data.tags], [r for r in runs if PARENT in r.data.tags]


def test_one_finished_parent_holds_the_results(swept: Sweep) -> None:
    (parent,), _ = runs_of(swept.config.mlflow_uri, swept.config.name)
    assert parent.info.status == "FINISHED"
    client = MlflowClient(swept.config.mlflow_uri)
    files = {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "selection.json", "units.parquet", "config.yaml", "environment.json"} <= files
    stored = client.download_artifacts(parent.info.run_id, "selection.json")
    assert Path(stored).read_bytes() == (swept.folder / "selection.json").read_bytes()
    assert any(name.endswith("chosen") for name in parent.data.metrics)


def test_every_unit_is_one_finished_child(swept: Sweep) -> None:
    (parent,), children = runs_of(swept.config.mlflow_uri, swept.config.name)
    by_key = {run.data.tags[KEY]: run for run in children}
    units = {unit["key"]: unit for unit in swept.units()}
    assert len(by_key) == len(children) == len(units) and set(by_key) == set(units)
    for key, run in by_key.items():
        config = json.loads(units[key]["config"])
        assert run.info.status == "FINISHED"
        assert run.data.tags[PARENT] == parent.info.run_id
        assert run.data.params.items() >= {name: str(value) for name, value in config.items()}.items()
        assert run.data.params["normal_class"] == units[key]["normal_class"]
        assert run.data.params["seed"] == "0"


def test_every_epoch_is_a_step(swept: Sweep) -> None:
    client = MlflowClient(swept.config.mlflow_uri)
    _, children = runs_of(swept.config.mlflow_uri, swept.config.name)
    losses = {unit["key"]: json.loads(unit["epochs"]) for unit in swept.units()}
    trained = [run for run in children if losses[run.data.tags[KEY]]]
    assert len(trained) == 10 and len(children) == 30
    for run in trained:
        history = sorted(client.get_metric_history(run.info.run_id, "loss"), key=lambda metric: metric.step)
        epochs = losses[run.data.tags[KEY]]
        assert [metric.step for metric in history] == [1, 2]
        assert [metric.value for metric in history] == pytest.approx([epoch["loss"] for epoch in epochs])


@pytest.fixture(scope="module")
def port() -> int:
    """Where no server listens until a test starts one."""
    return free_port()


@pytest.fixture(scope="module")
def untracked(ray_local: None, cache: Path, port: int, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep whose tracking server is away."""
    folder = tmp_path_factory.mktemp("untracked")
    root = draw_domains(folder / "images")
    data = folder_data(root, classes=["plain bar", "Größe"])
    space = write_space(folder / "away.yaml", cache, data=data, tracking_uri=f"http://127.0.0.1:{port}")
    sweep = Sweep(space, ())
    return Sweep(space, (), twofold_here("sweep", *sweep.arguments))


@pytest.fixture(scope="module")
def server(untracked: Sweep, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server, back again, and not to be called by another name than 127.0.0.1."""
    options = ("--allowed-hosts", f"127.0.0.1:{port}")
    with mlflow_server(tmp_path_factory.mktemp("server"), port, *options) as address:
        yield address


def test_a_server_that_is_away_costs_seconds_and_no_result(untracked: Sweep) -> None:
    first = untracked.first
    assert first is not None and first.code == 1
    assert first.seconds < 90
    assert {unit["state"] for unit in untracked.units()} == {"done"} and len(untracked.units()) == 6
    assert (untracked.folder / "report.html").exists()
    assert str(untracked.config.tracking_uri) in first.message
    assert f"`twofold sync {untracked.folder}` logs the rest" in first.message


def test_a_later_call_still_says_that_mlflow_lacks_the_runs(untracked: Sweep) -> None:
    again = twofold_here("sweep", *untracked.arguments)
    assert again.code == 1
    assert "0 to run" in again.output and "twofold sync" in again.message


def test_sync_with_no_server_is_one_clear_error(untracked: Sweep) -> None:
    done = twofold("sync", untracked.folder)
    refused(done, str(untracked.config.tracking_uri), "Start the server")
    assert done.seconds < 60


def test_sync_logs_every_unit_once(untracked: Sweep, server: str) -> None:
    first = twofold_here("sync", untracked.folder)
    assert first.code == 0 and "6 units logged" in first.message
    parents, children = runs_of(server, "away")
    assert sorted(run.data.tags[KEY] for run in children) == sorted(untracked.records)
    assert [run.info.status for run in parents] == ["FINISHED"]
    files = {entry.path for entry in MlflowClient(server).list_artifacts(parents[0].info.run_id)}
    assert {"report.html", "selection.json", "units.parquet"} <= files
    second = twofold_here("sync", untracked.folder)
    assert second.code == 0 and "0 units logged" in second.message
    assert len(runs_of(server, "away")[1]) == 6
    assert twofold_here("sweep", *untracked.arguments).code == 0


def test_a_run_that_was_left_half_written_is_logged_anew(untracked: Sweep, server: str) -> None:
    client = MlflowClient(server)
    _, children = runs_of(server, "away")
    client.update_run(children[0].info.run_id, "RUNNING")
    done = twofold_here("sync", untracked.folder)
    assert "1 units logged" in done.message
    _, children = runs_of(server, "away")
    assert sorted(run.data.tags[KEY] for run in children) == sorted(untracked.records)


def test_a_server_that_refuses_the_host_name_is_explained(
    untracked: Sweep, server: str, tmp_path: Path
) -> None:
    folder = copy_sweep(untracked, tmp_path)
    config = folder / "config.yaml"
    other_name = server.replace("127.0.0.1", "localhost")
    config.write_text(config.read_text().replace(server, other_name))
    refused(twofold_here("sync", folder), other_name, "403", "--allowed-hosts")
