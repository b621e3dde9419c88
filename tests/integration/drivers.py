"""What the tests of running, stopped and killed drivers share."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness import ENVIRONMENT, TWOFOLD, draw_domains, folder_data, processes_with, write_space

STATUS = {"done": "FINISHED", "failed": "FAILED"}


def slow_space(
    path: Path, cache: Path, trainings: int, epochs: int, images: int = 16, batch_size: int = 4
) -> Path:
    """One setting: some trainings of 0.3 s a step, one that does not sleep, and the default."""
    data = folder_data(
        draw_domains(path.parent / "images", images), classes=["plain bar"], anomaly_classes=["Größe"]
    )
    slow = {
        "alignment": "faulty",
        "clusterer": "all",
        "batch_size": batch_size,
        "epochs": epochs,
        "score": "knn",
    }
    return write_space(
        path,
        cache,
        data=data,
        space=[
            {**slow, "fault": "none"},
            {**slow, "fault": "slow", "lambda_align": [round(0.1 * (i + 1), 1) for i in range(trainings)]},
        ],
        resources={"workers": 1, "trainings_per_trial": 2},
    )


def steps(environment: dict[str, str]) -> Counter[str]:
    """Fault -> steps trained so far with it."""
    folder = Path(environment["TWOFOLD_TEST_FAULTS"])
    return Counter(path.name.partition(".")[0] for path in folder.glob("*.[0-9]*"))


@contextlib.contextmanager
def launched(*arguments: object, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A command that runs on while the test goes on; afterwards nothing that it started is left."""
    mark = env["TWOFOLD_TEST_DRIVER"]
    driver = subprocess.Popen(
        [TWOFOLD, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**ENVIRONMENT, **env},
        start_new_session=True,
    )
    try:
        yield driver
    finally:
        for process in processes_with(f"TWOFOLD_TEST_DRIVER={mark}\0"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        driver.communicate()


def marked(environment: dict[str, str], name: str) -> dict[str, str]:
    """The environment of one driver, by which all processes that it starts are known."""
    return {**environment, "TWOFOLD_TEST_DRIVER": f"{environment['TWOFOLD_TEST_FAULTS']}/{name}"}
