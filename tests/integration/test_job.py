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


@pytest.fixture
def jobs() -> Iterator[str]:
    """Address at which a Ray head of its own on the loopback takes jobs; ended with all that it started."""
    # Not tmp_path: the names of Ray's sockets must stay below 108 characters.
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        ports = {name: free_port() for name in ("port", "dashboard-port", "ray-client-server-port")}
        options = [f"--{name}={port}" for name, port in ports.items()]
        options += [
            "--dashboard-host=127.0.0.1",
            "--node-ip-address=127.0.0.1",
            "--num-cpus=2",
            "--num-gpus=0",
        ]
        options += ["--dashboard-agent-listen-port=0", "--object-store-memory=200000000"]
        marker = f"TWOFOLD_TEST_HEAD={folder}"
        head = subprocess.Popen(
            [RAY, "start", "--head", "--block", f"--temp-dir={folder}", *options],
            env={**ENVIRONMENT, "TWOFOLD_TEST_HEAD": folder, "PATH": f"{RAY.parent}:{os.environ['PATH']}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield f"http://127.0.0.1:{ports['dashboard-port']}"
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
        timeout=120,
    )


def test_a_submitted_sweep_runs_on_the_cluster(jobs: str, images: Path, tmp_path: Path) -> None:
    space = write_space(tmp_path / "job.yaml", tmp_path / "cache", data=folder_data(images))
    # The head takes jobs some seconds after it takes connections; the client itself does not try again.
    attempt: list[subprocess.CompletedProcess[str]] = []

    def submitted() -> bool:
        attempt[:] = [submit(jobs, TWOFOLD, "sweep", space, "--address", "auto")]
        return "Failed to connect" not in attempt[0].stdout

    wait_until(submitted, 60)
    assert attempt[0].returncode == 0, attempt[0].stdout
    assert "succeeded" in attempt[0].stdout and "Traceback" not in attempt[0].stdout
    sweep = Sweep(space, ())
    assert set(sweep.records) == sweep.planned()

    failed = submit(jobs, TWOFOLD, "sweep", space, "--address", "auto", "--set", "fixed.encoder=nothing")
    assert failed.returncode != 0 and "failed" in failed.stdout, "the job ends as the sweep does"
