"""What every test shares: a quiet environment, one thread per process, and one local Ray."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.ray_environment import ALWAYS, ON_THIS_MACHINE

# Ray and MLflow read these when they are imported, and processes started by a test inherit them.
os.environ.update(
    ALWAYS | ON_THIS_MACHINE,
    AWS_ACCESS_KEY_ID="test",
    AWS_SECRET_ACCESS_KEY="test",
    AWS_EC2_METADATA_DISABLED="true",
    HF_HUB_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",  # a dozen processes, of which no test wants anything
)
# The tests' runs do not belong on the server of the person who runs them.
os.environ.pop("MLFLOW_TRACKING_URI", None)

import pytest
from hypothesis import settings

# The same examples on every run, and no failure because a shared machine was slow.
settings.register_profile("twofold", deadline=None, derandomize=True)
settings.load_profile("twofold")


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of two CPUs on this machine, whatever cluster RAY_ADDRESS names; stopped when the tests end."""
    import ray

    ray.init(
        "local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=300_000_000,
        # As in a sweep. The last words of one test's workers would else come out during the next test.
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """A real S3 server on this machine; a call makes a bucket and returns the address of a folder."""
    folder = tmp_path_factory.mktemp("s3")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            endpoint = _wait_for(server, folder / "server.log")
            yield lambda: _new_bucket(endpoint)
        finally:
            server.terminate()
            server.wait(30)


def _wait_for(server: subprocess.Popen[bytes], log: Path) -> str:
    """The address of the server, by its own word: a port chosen for it may be taken before it starts."""
    end = time.monotonic() + 60
    while time.monotonic() < end and server.poll() is None:
        if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"the S3 server does not answer: {log.read_text()}")


def _new_bucket(endpoint: str) -> str:
    from pyarrow import fs

    bucket = f"twofold-{uuid.uuid4().hex[:8]}"
    files = fs.S3FileSystem(endpoint_override=endpoint, region="us-east-1", allow_bucket_creation=True)
    files.create_dir(bucket)
    return f"s3://{bucket}/sweep?endpoint_override={endpoint}&region=us-east-1"
