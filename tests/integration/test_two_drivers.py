"""Two drivers on one sweep share it: each unit is run once, and one finishes what the other cannot."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from drivers import launched, marked, slow_space, steps
from harness import records, statuses, wait_until, with_faults

from orchestrator.storage import Storage

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
TRAININGS = 6


@pytest.mark.slow
def test_two_drivers_started_at_once_run_no_unit_twice(cache: Path, tmp_path: Path) -> None:
    space = slow_space(tmp_path / "shared.yaml", cache, TRAININGS, epochs=1)
    environment = with_faults(tmp_path / "environment")
    with (
        launched("sweep", space, env=marked(environment, "a")) as a,
        launched("sweep", space, env=marked(environment, "b")) as b,
    ):
        outputs = [driver.communicate(timeout=120)[0] for driver in (a, b)]
    assert [a.returncode, b.returncode] == [0, 0], "\n".join(outputs)
    storage = Storage(str(tmp_path / "shared"))
    ended = records(storage)
    assert len(ended) == TRAININGS + 2 and {record.state for record in ended.values()} == {"done"}
    assert {record.attempts for record in ended.values()} == {1}
    trained = steps(environment)
    assert trained["none"] > 0 and trained["slow"] == TRAININGS * trained["none"]
    assert storage.names("leases") == storage.names("attempts") == storage.names("checkpoints") == []
    assert set(statuses(tmp_path / "shared")) == set(ended)


@pytest.mark.slow
def test_a_driver_finishes_alone_when_the_other_is_killed(cache: Path, tmp_path: Path) -> None:
    space = slow_space(tmp_path / "shared.yaml", cache, TRAININGS, epochs=3)
    environment = with_faults(tmp_path / "environment")
    storage = Storage(str(tmp_path / "shared"))

    def at_work() -> int:
        """Drivers that have a bundle under way."""
        names = [name.split(".") for name in storage.names("leases")]
        return len({session for name, session, *_ in names if name not in ("spec", "mlflow")})

    with (
        launched("sweep", space, env=marked(environment, "a")) as a,
        launched("sweep", space, env=marked(environment, "b")) as b,
    ):
        wait_until(lambda: at_work() == 2, 120)
        before = records(storage)
        os.kill(a.pid, signal.SIGKILL)
        output = b.communicate(timeout=120)[0]
    assert b.returncode == 0, output
    ended = records(storage)
    assert len(before) < len(ended) == TRAININGS + 2
    assert {record.state for record in ended.values()} == {"done"}
    per_training = steps(environment)["none"]
    repeated = steps(environment)["slow"] - TRAININGS * per_training
    assert repeated <= per_training, "at most what was under way is repeated"
    assert set(statuses(tmp_path / "shared")) == set(ended)
