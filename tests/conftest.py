"""What every test shares: a quiet environment, one thread per process, and one local Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Ray and MLflow read these when they are imported, and processes started by a test inherit them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
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

    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, object_store_memory=300_000_000)
    try:
        yield
    finally:
        ray.shutdown()
