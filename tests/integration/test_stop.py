"""``twofold stop`` and the budget: a launch ends early, loses nothing, and the next one goes on."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from drivers import STATUS, launched, marked, slow_space, steps
from harness import (
    draw_domains,
    folder_data,
    records,
    sets,
    statuses,
    twofold,
    twofold_here,
    wait_until,
    with_faults,
    write_space,
)

from orchestrator.attempts import AttemptLog
from orchestrator.storage import Storage

TRAININGS, EPOCHS = 1, 2
TUNE_WAITS = 5.0
"""Seconds after which Ray Tune kills a worker that it has asked to end."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.slow
def test_a_stopped_sweep_goes_on_in_the_middle_of_a_training(cache: Path, tmp_path: Path) -> None:
    space = slow_space(tmp_path / "slow.yaml", cache, TRAININGS, EPOCHS, images=64, batch_size=2)
    environment = with_faults(tmp_path / "environment")
    folder, storage = tmp_path / "slow", Storage(str(tmp_path / "slow"))
    with launched("sweep", space, env=marked(environment, "a")) as driver:
        wait_until(lambda: steps(environment)["slow"] > 0, 90)
        asked = twofold("stop", folder, env=environment)
        assert asked.code == 0 and "Asked to stop" in asked.message
        started = time.monotonic()
        output = driver.communicate(timeout=60)[0]
        seconds = time.monotonic() - started
    assert driver.returncode == 3, output
    assert seconds < 40 and "Traceback" not in output
    assert "Stopped, as `twofold stop` asked." in output and "units are left" in output
    kept = records(storage)
    assert 0 < len(kept) < TRAININGS + 2
    assert statuses(folder) == {key: [STATUS[record.state]] for key, record in kept.items()}
    assert storage.names("leases") == [] and not (folder / "complete").exists()
    log = AttemptLog(storage)
    assert [log.read(bundle).open for bundle in log.bundles()] == [None] * len(log.bundles())
    told = twofold("status", folder, env=environment)
    assert told.code == 0 and f"{len(kept)} done" in told.message and "Nothing runs now" in told.message

    done = twofold("sweep", space, env=environment)
    assert done.code == 0, done.output
    ended = records(storage)
    assert len(ended) == TRAININGS + 2 and {record.state for record in ended.values()} == {"done"}
    assert statuses(folder) == {key: ["FINISHED"] for key in ended}
    trained = steps(environment)
    assert 0.3 * trained["none"] / EPOCHS > TUNE_WAITS, "an epoch is long enough to be killed"
    assert trained["slow"] == TRAININGS * trained["none"], "no epoch is trained twice, and none left out"
    assert {len(record.epochs) for record in ended.values() if record.config.get("fault")} == {EPOCHS}
    assert storage.names("attempts") == storage.names("checkpoints") == []


@pytest.mark.slow
def test_a_budget_ends_a_launch_and_the_next_one_goes_on(
    ray_local: None, cache: Path, tmp_path: Path
) -> None:
    data = folder_data(draw_domains(tmp_path / "images"), classes=["plain bar"], anomaly_classes=["Größe"])
    frozen = {"alignment": "identity", "clusterer": "kmeans", "k": [1, 2], "score": ["knn", "target_centre"]}
    space = write_space(tmp_path / "capped.yaml", cache, data=data, space=[frozen], resources={"workers": 1})
    folder, storage, total = tmp_path / "capped", Storage(str(tmp_path / "capped")), 5
    for budget, most in (("hours=0.0000001", 2), ("units=2", 2), ("units=5", 5)):
        before = len(records(storage))
        done = twofold_here("sweep", space, *sets(f"budget.{budget}"))
        assert done.code == 0, done.output
        left = total - len(records(storage))
        assert len(records(storage)) <= before + most
        assert (f"{left} of {total} units are left" in done.message) == (left > 0)
        assert ("The budget of this launch is spent" in done.message) == (left > 0)
        assert statuses(folder) == {key: ["FINISHED"] for key in records(storage)}
    assert left == 0 and (folder / "complete").exists()
    assert {record.attempts for record in records(storage).values()} == {1}
