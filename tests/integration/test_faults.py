"""Faults inside units, workers and the driver: each costs what it must, and the next call does the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness import (
    Finished,
    draw_domains,
    folder_data,
    listening,
    modified,
    processes_with,
    records,
    start,
    statuses,
    twofold,
    twofold_here,
    wait_until,
    with_faults,
    write_space,
)

from orchestrator.ledger import UnitRecord, read_units

# Fault or flaw of the test components -> what a record says of it: None = done, or failure and error.
FAULTS: dict[str, tuple[str, str] | None] = {
    "none": None,
    "kill_once": None,
    "gpu_full": None,
    "raise": ("error", "ValueError: a fault of the test"),
    "nan": ("non_finite", "the loss is nan in epoch 1"),
    "kill": ("worker_died", "the worker process died while it ran this unit"),
    "memory_error": ("out_of_memory", "MemoryError"),
}
FLAWS: dict[str, tuple[str, str] | None] = {
    "no_loss": ("error", "epoch 1 reported no loss"),
    "nan_loss": ("non_finite", "loss is nan in epoch 1"),
    "few_rows": ("error", "embeddings of the"),
    "nan_rows": ("non_finite", "the embeddings of source_fit are not all finite"),
}
SCORES = ("source_centre", "knn")


@pytest.fixture(scope="module")
def faulty(
    cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Finished, dict[str, UnitRecord], dict[str, list[str]]]:
    """A sweep in which trainings raise, diverge and kill their worker: folder, outcome, records and runs."""
    folder = tmp_path_factory.mktemp("faulty")
    root = draw_domains(folder / "images")
    faulty = {"alignment": "faulty", "clusterer": "all", "batch_size": 8, "score": list(SCORES)}
    broken = {"alignment": "positive", "clusterer": "all", "method": "broken", "score": "knn"}
    space = write_space(
        folder / "faults.yaml",
        cache,
        data=folder_data(root, classes=["plain bar"], anomaly_classes=["Größe"]),
        space=[
            {**faulty, "fault": list(FAULTS)},
            {**broken, "flaw": list(FLAWS)},
            {"alignment": "positive", "clusterer": "all", "learning_rate": 1e30, "score": "knn"},
        ],
        resources={"workers": 1},
    )
    done = twofold("sweep", space, env=with_faults(folder / "environment"))
    return folder / "faults", done, records(folder / "faults"), statuses(folder / "faults")


@pytest.mark.usefixtures("faulty")
def test_every_unit_of_a_faulty_sweep_has_one_record(faulty: Any) -> None:
    folder, done, ended, _ = faulty
    assert len(ended) == len(FAULTS) * len(SCORES) + len(FLAWS) + 2
    assert done.code == 1 and "Traceback" not in done.output
    failed = sum(record.state == "failed" for record in ended.values())
    assert f"{failed} units failed" in done.message and f"twofold retry {folder}" in done.message
    assert {unit["key"] for unit in read_units(folder / "units.parquet")} == set(ended)
    assert not list((folder / "attempts").iterdir())


@pytest.mark.parametrize(("fault", "expected"), FAULTS.items(), ids=FAULTS)
def test_a_fault_ends_the_units_that_share_its_training_alone(
    fault: str, expected: tuple[str, str] | None, faulty: Any
) -> None:
    ended = [record for record in faulty[2].values() if record.config.get("fault") == fault]
    assert len(ended) == len(SCORES)
    for record in ended:
        if expected is None:
            assert (record.state, record.failure, record.error) == ("done", None, None)
            assert len(record.test)
        else:
            failure, error = expected
            assert (record.state, record.failure) == ("failed", failure) and error in str(record.error)
            assert not len(record.test) and not len(record.target_sel)
        assert ("Traceback" in str(record.error)) == (fault in ("raise", "nan", "memory_error"))
        assert record.attempts == (2 if fault in ("kill_once", "kill") else 1)
        assert record.batch_size == (4 if fault == "gpu_full" else None)
        assert record.preemptions == 0


@pytest.mark.parametrize(("flaw", "expected"), FLAWS.items(), ids=FLAWS)
def test_a_training_that_reports_nothing_or_nonsense_is_a_failed_record(
    flaw: str, expected: tuple[str, str], faulty: Any
) -> None:
    (record,) = [record for record in faulty[2].values() if record.config.get("flaw") == flaw]
    assert (record.state, record.failure) == ("failed", expected[0])
    assert expected[1] in str(record.error) and not len(record.test)


def test_a_hang_is_a_failed_record_that_says_where_the_training_stood(cache: Path, tmp_path: Path) -> None:
    data = folder_data(draw_domains(tmp_path / "images"), classes=["plain bar"], anomaly_classes=["Größe"])
    hanging = {"alignment": "faulty", "clusterer": "all", "fault": ["hang", "hang_locked", "none"]}
    space = write_space(
        tmp_path / "hangs.yaml",
        cache,
        data=data,
        space=[{**hanging, "score": "knn"}],
        resources={"workers": 2, "trainings_per_trial": 1, "step_minutes": 0.25},
    )
    done = twofold("sweep", space, env=with_faults(tmp_path / "faults", watchdog={"GRACE_SECONDS": 1.0}))
    assert done.code == 1 and "2 units failed" in done.message, done.output
    ended = {record.config.get("fault"): record for record in records(tmp_path / "hangs").values()}
    assert len(ended) == 4 and ended["none"].state == ended[None].state == "done"
    hang, locked = ended["hang"], ended["hang_locked"]
    assert (hang.failure, hang.attempts) == ("timeout", 1)
    assert "time.sleep(3600)" in str(hang.error) and "no progress for 15 s" in str(hang.error)
    # Nothing of Python runs any more in such a process, so nothing can be written down of its end.
    assert (locked.failure, locked.attempts) == ("worker_died", 2)


def test_a_score_that_kills_its_worker_fails_alone(cache: Path, tmp_path: Path) -> None:
    """The units that train nothing share a bundle, an attempt and a worker, but no blame."""
    data = folder_data(draw_domains(tmp_path / "images"), classes=["plain bar"], anomaly_classes=["Größe"])
    scores = ["both_centres", "deadly", "knn", "target_centre"]
    space = write_space(
        tmp_path / "deadly.yaml",
        cache,
        data=data,
        space=[{"alignment": "identity", "clusterer": "all", "score": scores}],
        resources={"workers": 1},
    )
    done = twofold("sweep", space, env=with_faults(tmp_path / "faults"))
    assert done.code == 1 and "1 unit failed" in done.message, done.output
    ended = {record.config["score"]: record for record in records(tmp_path / "deadly").values()}
    assert set(ended) >= set(scores)
    assert {score: r.state for score, r in ended.items() if r.state != "done"} == {"deadly": "failed"}
    assert (ended["deadly"].failure, ended["deadly"].attempts) == ("worker_died", 2)


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
    # A learning rate without bounds is still one, and a flaw is not mended: these units fail again.
    assert done.code == 1
    assert f"{len(ended) - len(good)} failed units will run again" in done.message
    assert (
        f"{len(ended) - len(good)} to run" in done.message
        and f"{1 + len(FLAWS)} units failed" in done.message
    )
    assert modified(good) == before
    again = records(folder)
    assert {key for key, record in again.items() if record.state == "failed"} == {
        key
        for key, record in ended.items()
        if record.config.get("learning_rate") == 1e30 or record.config.get("flaw") in FLAWS
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
        assert "1 unit failed" in done.message and "Try a lower learning_rate" in done.message
    assert {record.state for record in records(tmp_path / "lost").values()} == {"failed"}


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
        sweep = start(["sweep", space], environment)
        try:
            wait_until(lambda: len(records(folder)) > len(kept), 90)  # noqa: B023
            listeners = listening(processes_with(marker))
        finally:
            output, seconds = end(sweep, number, marker)
        assert sweep.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
        assert seconds < 30
        assert "Traceback" not in output
        # Whoever reaches a process of Ray can run code in it.
        assert listeners and listeners <= {"127.0.0.1", "::1"}
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
