"""Faults inside units, workers and the driver: each costs what it must, and the next call does the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from harness import (
    ENVIRONMENT,
    TWOFOLD,
    Finished,
    draw_domains,
    folder_data,
    modified,
    processes_with,
    twofold,
    twofold_here,
    wait_until,
    with_faults,
    write_space,
)
from mlflow.tracking import MlflowClient

from orchestrator.ledger import Ledger, UnitRecord, read_units
from orchestrator.storage import Storage

FAULTS = ("none", "raise", "nan", "kill_once", "kill")
SCORES = ("source_centre", "knn")


def statuses(folder: Path) -> dict[str, list[str]]:
    """Unit key -> statuses of its MLflow runs."""
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(folder.name)
    assert experiment is not None
    found: dict[str, list[str]] = defaultdict(list)
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        if "twofold.key" in run.data.tags:
            found[run.data.tags["twofold.key"]].append(run.info.status)
    return dict(found)


def records(folder: Path) -> dict[str, UnitRecord]:
    keys = [path.stem for path in (folder / "units").glob("*.arrow")]
    return {key: record for key in keys if (record := Ledger(Storage(str(folder))).read(key)) is not None}


@pytest.fixture(scope="module")
def faulty(
    cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Finished, dict[str, UnitRecord], dict[str, list[str]]]:
    """A sweep in which trainings raise, diverge and kill their worker: folder, outcome, records and runs."""
    folder = tmp_path_factory.mktemp("faulty")
    root = draw_domains(folder / "images")
    space = write_space(
        folder / "faults.yaml",
        cache,
        data=folder_data(root, classes=["plain bar"], anomaly_classes=["Größe"]),
        space=[
            {"alignment": "faulty", "clusterer": "all", "fault": list(FAULTS), "score": list(SCORES)},
            {"alignment": "positive", "clusterer": "all", "learning_rate": 1e30, "score": "knn"},
        ],
        resources={"workers": 1},
    )
    done = twofold("sweep", space, env=with_faults(folder / "environment"))
    return folder / "faults", done, records(folder / "faults"), statuses(folder / "faults")


@pytest.mark.usefixtures("faulty")
def test_every_unit_of_a_faulty_sweep_has_one_record(faulty: Any) -> None:
    folder, done, ended, _ = faulty
    assert len(ended) == len(FAULTS) * len(SCORES) + 2
    assert done.code == 1 and "Traceback" not in done.output
    failed = sum(record.state == "failed" for record in ended.values())
    assert f"{failed} units failed" in done.message and f"twofold retry {folder}" in done.message
    assert {unit["key"] for unit in read_units(folder / "units.parquet")} == set(ended)
    assert not list((folder / "attempts").iterdir())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("none", None),
        ("kill_once", None),
        ("raise", "ValueError: a fault of the test"),
        ("nan", "the loss is nan in epoch 1"),
        ("kill", "the worker process died while it ran this unit"),
    ],
)
def test_a_fault_ends_the_units_that_share_its_training_alone(
    fault: str, error: str | None, faulty: Any
) -> None:
    ended = [record for record in faulty[2].values() if record.config.get("fault") == fault]
    assert len(ended) == len(SCORES)
    for record in ended:
        if error is None:
            assert record.state == "done" and record.error is None and len(record.test)
        else:
            assert record.state == "failed" and error in str(record.error)
            assert not len(record.test) and not len(record.target_sel)
    if fault in ("raise", "nan"):
        assert all("Traceback" in str(record.error) for record in ended)


def test_a_training_that_diverges_is_a_failure_and_not_a_result(faulty: Any) -> None:
    (record,) = [record for record in faulty[2].values() if record.config.get("learning_rate") == 1e30]
    assert record.state == "failed" and "Try a lower learning_rate" in str(record.error)


def test_a_failed_unit_is_a_failed_run_and_never_chosen(faulty: Any) -> None:
    folder, _, ended, runs = faulty
    assert {key: [{"done": "FINISHED", "failed": "FAILED"}[r.state]] for key, r in ended.items()} == runs
    for choice in json.loads((folder / "selection.json").read_text())["choices"]:
        ranked = {entry["key"] for entry in choice["ranking"]} | {choice["chosen"], *choice["ensemble"]}
        assert all(ended[key].state == "done" for key in ranked)
    assert "ValueError: a fault of the test" in (folder / "report.html").read_text()


def test_retry_runs_exactly_the_failed_units(faulty: Any) -> None:
    folder, _, ended, _ = faulty
    environment = folder.parent / "environment"
    (environment / "mended").touch()
    paths = {key: folder / "units" / f"{key}.arrow" for key in ended}
    good = [paths[key] for key, record in ended.items() if record.state == "done"]
    before = modified(good)
    called = {"PYTHONPATH": str(environment), "TWOFOLD_TEST_FAULTS": str(environment)}
    done = twofold("retry", folder, env=called)
    # A learning rate without bounds is still one: this unit fails again.
    assert done.code == 1
    assert f"{len(ended) - len(good)} failed units will run again" in done.message
    assert f"{len(ended) - len(good)} to run" in done.message and "1 units failed" in done.message
    assert modified(good) == before
    again = records(folder)
    assert {key for key, record in again.items() if record.state == "failed"} == {
        key for key, record in ended.items() if record.config.get("learning_rate") == 1e30
    }
    assert {k: [{"done": "FINISHED", "failed": "FAILED"}[r.state]] for k, r in again.items()} == statuses(
        folder
    )


def test_a_sweep_in_which_everything_fails_says_so(ray_local: None, cache: Path, tmp_path: Path) -> None:
    diverging = {"alignment": "positive", "clusterer": "all", "learning_rate": 1e30, "score": "knn"}
    data = folder_data(draw_domains(tmp_path / "images"), classes=["plain bar"], anomaly_classes=["Größe"])
    space = write_space(tmp_path / "lost.yaml", cache, data=data, default=diverging, space=[diverging])
    for _ in range(2):
        done = twofold_here("sweep", space)
        assert done.code == 1
        assert "1 units failed" in done.message and "Try a lower learning_rate" in done.message
    assert {record.state for record in records(tmp_path / "lost").values()} == {"failed"}


def start(space: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A sweep that runs on while the test goes on, in a process group of its own."""
    return subprocess.Popen(
        [TWOFOLD, "sweep", space],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**ENVIRONMENT, **environment},
        start_new_session=True,
        # A test run that a shell put in the background ignores SIGINT, and its children would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def end(sweep: subprocess.Popen[str], number: int, marker: str) -> tuple[str, float]:
    """Send a signal to the driver; return its output, and the seconds until no worker was left.

    After a SIGKILL, Ray's agents look for the rest of their cluster once a minute; nobody waits for them.
    """
    sent = time.monotonic()
    os.kill(sweep.pid, number)
    agents = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent") if number == signal.SIGKILL else ()
    try:
        wait_until(lambda: not processes_with(marker, but=agents), 60)
        return sweep.communicate()[0], time.monotonic() - sent
    finally:
        for process in processes_with(marker):
            os.kill(process, signal.SIGKILL)
        sweep.wait(10)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_an_interrupted_and_a_killed_sweep_are_completed_by_the_next_call(
    cache: Path, tmp_path: Path
) -> None:
    data = folder_data(draw_domains(tmp_path / "images"), classes=["plain bar"], anomaly_classes=["Größe"])
    slow = {"alignment": "faulty", "clusterer": "all", "fault": "slow", "score": list(SCORES)}
    trainings = {"lambda_align": [0.2, 0.4, 0.6, 0.8, 1.0, 1.2], "batch_size": 4}
    space = write_space(
        tmp_path / "slow.yaml", cache, data=data, space=[{**slow, **trainings}], resources={"workers": 1}
    )
    environment = with_faults(tmp_path / "environment")
    marker, folder = str(tmp_path / "environment"), tmp_path / "slow"
    kept: dict[Path, int] = {}
    for number in (signal.SIGINT, signal.SIGKILL):
        sweep = start(space, environment)
        try:
            wait_until(lambda: len(records(folder)) > len(kept), 90)  # noqa: B023
        finally:
            output, seconds = end(sweep, number, marker)
        assert sweep.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
        assert seconds < 30
        assert "Traceback" not in output
        assert ("The same command goes on" in output) == (number == signal.SIGINT)
        assert modified(list(kept)) == kept
        kept = modified([folder / "units" / f"{key}.arrow" for key in records(folder)])
    missing = 13 - len(kept)
    assert missing > 0
    (tmp_path / "environment" / "mended").touch()
    done = twofold("sweep", space, env=environment)
    assert done.code == 0 and f"{len(kept)} recorded, {missing} to run" in done.output
    assert modified(list(kept)) == kept
    assert {record.state for record in records(folder).values()} == {"done"}
    assert statuses(folder) == {key: ["FINISHED"] for key in records(folder)}
    assert len(records(folder)) == 13
