"""A sweep submitted to a running cluster, as the cluster files document it."""

from __future__ import annotations

import os
import secrets
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
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@pytest.fixture
def head() -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head of its own on the loopback: where it takes jobs, and what those it lets in must know."""
    # Not tmp_path: the names of Ray's sockets must stay below 108 characters.
    with tempfile.TemporaryDirectory(prefix="twofold-") as folder:
        ports = {name: free_port() for name in ("port", "dashboard-port", "ray-client-server-port")}
        options = [f"--{name}={port}" for name, port in ports.items()]
        options += ["--dashboard-host=127.0.0.1", "--dashboard-agent-listen-port=0", f"--temp-dir={folder}"]
        options += ["--num-cpus=2", "--num-gpus=0", "--object-store-memory=200000000"]
        environment = {**ENVIRONMENT, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        started = subprocess.Popen(
            [RAY, "start", "--head", "--block", *options],
            env={**environment, "TWOFOLD_TEST_HEAD": folder, "RAY_worker_niceness": "0", **LOOPBACK},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        marker = f"TWOFOLD_TEST_HEAD={folder}"
        try:
            yield f"http://127.0.0.1:{ports['dashboard-port']}", environment
        finally:
            started.terminate()
            started.wait(30)
            for process in processes_with(marker):
                os.kill(process, signal.SIGKILL)
            wait_until(lambda: not processes_with(marker), 10)


def submit(address: str, environment: dict[str, str], *command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", "submit", "--address", address, "--", *map(str, command)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_a_submitted_sweep_runs_on_the_cluster(
    head: tuple[str, dict[str, str]], images: Path, tmp_path: Path
) -> None:
    data = folder_data(images, classes=["环"], anomaly_classes=["Größe"])
    space = write_space(tmp_path / "job.yaml", tmp_path / "cache", data=data)
    # Ray takes jobs some seconds after it has started; the client itself does not try again.
    attempt: list[subprocess.CompletedProcess[str]] = []

    def submitted() -> bool:
        attempt[:] = [submit(*head, TWOFOLD, "sweep", space, "--address", "auto")]
        return not any(text in attempt[0].stdout for text in ("Failed to connect", "try again later"))

    wait_until(submitted, 60)
    assert attempt[0].returncode == 0, attempt[0].stdout
    assert "succeeded" in attempt[0].stdout and "Traceback" not in attempt[0].stdout
    sweep = Sweep(space, ())
    assert set(sweep.records) == sweep.planned()

    stranger = submit(head[0], {**ENVIRONMENT, "RAY_AUTH_MODE": "disabled"}, "true")
    assert stranger.returncode != 0 and "Missing authentication token" in stranger.stdout, stranger.stdout
    failed = submit(*head, TWOFOLD, "sweep", tmp_path / "nothing.yaml", "--address", "auto")
    assert failed.returncode != 0 and "cannot read" in failed.stdout, "the job ends as the sweep does"
