"""A sweep submitted to a running cluster, as the cluster files document it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    ENVIRONMENT,
    TWOFOLD,
    Sweep,
    folder_data,
    free_port,
    processes_with,
    wait_until,
    write_space,
)

RAY = Path(sys.executable).with_name("ray")
# `ray start --head` would listen on the machine's address; a local Ray with a dashboard takes jobs as well.
HEAD = """
import ray, signal, sys
ray.init(
    "local",
    num_cpus=2,
    num_gpus=0,
    object_store_memory=200_000_000,
    include_dashboard=True,
    dashboard_host="127.0.0.1",
    dashboard_port=int(sys.argv[1]),
    _temp_dir=sys.argv[2],
)
signal.sigwait([signal.SIGTERM])
ray.shutdown()
"""


@pytest.fixture
def jobs() -> Iterator[str]:
    """Address at which a Ray of its own on the loopback takes jobs; ended with all that it started."""
    # Not tmp_path: the names of Ray's sockets must stay below 108 characters.
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        port, marker = str(free_port()), f"TWOFOLD_TEST_HEAD={folder}"
        settings = {"TWOFOLD_TEST_HEAD": folder, "RAY_worker_niceness": "0"}
        head = subprocess.Popen(
            [sys.executable, "-c", HEAD, port, folder],
            env={**ENVIRONMENT, **settings},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(30)
            for process in processes_with(marker):
                os.kill(process, signal.SIGKILL)
            wait_until(lambda: not processes_with(marker), 10)


def submit(address: str, *command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", "submit", "--address", address, "--", *map(str, command)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )


def test_a_submitted_sweep_runs_on_the_cluster(jobs: str, images: Path, tmp_path: Path) -> None:
    data = folder_data(images, classes=["环"], anomaly_classes=["Größe"])
    space = write_space(tmp_path / "job.yaml", tmp_path / "cache", data=data)
    # Ray takes jobs some seconds after it has started; the client itself does not try again.
    attempt: list[subprocess.CompletedProcess[str]] = []

    def submitted() -> bool:
        attempt[:] = [submit(jobs, TWOFOLD, "sweep", space, "--address", "auto")]
        return not any(text in attempt[0].stdout for text in ("Failed to connect", "try again later"))

    wait_until(submitted, 60)
    assert attempt[0].returncode == 0, attempt[0].stdout
    assert "succeeded" in attempt[0].stdout and "Traceback" not in attempt[0].stdout
    sweep = Sweep(space, ())
    assert set(sweep.records) == sweep.planned()

    failed = submit(jobs, TWOFOLD, "sweep", tmp_path / "nothing.yaml", "--address", "auto")
    assert failed.returncode != 0 and "cannot read" in failed.stdout, "the job ends as the sweep does"
