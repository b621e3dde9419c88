"""What an outage of the MLflow server costs a sweep: none, against one for the middle third.

python benchmarks/outage.py [--units 2000] [--repeats 3] [--folder FOLDER]

Sweeps cheap units (frozen features, no training) with a real `mlflow server` on this machine, which is killed
(SIGKILL) when a third of the records is there and started again at two thirds; then runs `twofold sync`.
Prints a table in Markdown, one row a sweep, and fails unless every unit has exactly one finished run.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import yaml
from mlflow.tracking import MlflowClient
from PIL import Image

# The server that can be killed is that of the integration tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))

from harness import ENVIRONMENT, TWOFOLD, TrackingServer, wait_until

SETTINGS = 40
PATIENCE_SECONDS = 600


def write_space(folder: Path, units: int) -> tuple[Path, int]:
    """A sweep file of about ``units`` units on tiny images, and how many they are."""
    draws = np.random.default_rng(0)
    for domain in ("light", "dark"):
        for label, level in (("a", 60), ("b", 180)):
            for index in range(16):
                path = folder / "images" / domain / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draws.integers(0, level, (24, 24), dtype=np.uint8)).save(path)
    per_setting = max(1, round(units / SETTINGS))
    content = {
        "name": "outage",
        "data": {
            **{"dataset": "folder", "root": str(folder / "images"), "pairs": [["light", "dark"]]},
            **{"image_size": 32, "split_seeds": list(range(SETTINGS // 2))},
        },
        "fixed": {"encoder": "efficientnet_lite0"},
        "default": {"clusterer": "density", "alignment": "identity", "score": "knn"},
        "space": [
            {
                **{"alignment": "identity", "clusterer": "density", "score": "knn"},
                "neighbours": list(range(1, per_setting + 1)),
            }
        ],
        "resources": {"workers": 2},
        "output": str(folder),
        "cache": str(folder / "cache"),
    }
    path = folder / "outage.yaml"
    path.write_text(yaml.safe_dump(content))
    return path, per_setting * SETTINGS


def records(folder: Path) -> list[float]:
    """When each record was written, in seconds since the epoch."""
    times = []
    for path in (folder / "units").glob("*.arrow"):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return sorted(times)


def twofold(*arguments: str) -> tuple[int, float]:
    """Exit code and seconds of a command."""
    started = time.monotonic()
    done = subprocess.run([TWOFOLD, *arguments], env=ENVIRONMENT, capture_output=True, check=False)
    return done.returncode, time.monotonic() - started


def interrupt(server: TrackingServer, folder: Path, units: int) -> None:
    """Kill the server while the middle third of the units is recorded."""
    wait_until(lambda: len(records(folder)) >= units / 3, PATIENCE_SECONDS)
    server.kill()
    wait_until(lambda: len(records(folder)) >= 2 * units / 3, PATIENCE_SECONDS)
    server.launch()


def measure(space: Path, server: TrackingServer, units: int, name: str, outage: bool) -> tuple[float, float]:
    """One sweep and its sync; seconds from the first record to the last, and of the whole command."""
    folder = space.parent / name
    away = threading.Thread(target=interrupt, args=(server, folder, units))
    if outage:
        away.start()
    code, command = twofold("sweep", str(space), "--name", name, "--set", f"tracking_uri={server.address}")
    if outage:
        away.join()
        server.wait()
    times = records(folder)
    before = count_finished(server.address, name)
    synced, seconds = twofold("sync", str(folder))
    after = count_finished(server.address, name)
    cells = [
        "middle third" if outage else "none",
        len(times),
        f"{times[-1] - times[0]:.1f}",
        f"{command:.1f}",
    ]
    cells += [code, before[0], f"{seconds:.1f}", *after]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if (len(times), synced, after) != (units, 0, (units, 0, 0)):
        raise SystemExit(f"{name}: not exactly one finished run for each of {units} units")
    return times[-1] - times[0], command


def count_finished(address: str, name: str) -> tuple[int, int, int]:
    """Units with a finished run, runs beyond the first of a unit, and runs that are not finished."""
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(name)
    finished: Counter[str] = Counter()
    others, token = 0, None
    while experiment is not None:
        page = client.search_runs([experiment.experiment_id], max_results=500, page_token=token)
        for run in page:
            key = run.data.tags.get("twofold.key")
            if run.info.status != "FINISHED":
                others += key is not None
            elif key is not None:
                finished[key] += 1
        token = page.token
        if not token:
            break
    return len(finished), finished.total() - len(finished), others


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description="What an outage of the MLflow server costs a sweep.")
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        space, units = write_space(folder.absolute(), arguments.units)
        server = TrackingServer(folder.absolute() / "server")
        stack.callback(server.kill)
        server.start()
        compare(space, server, units, arguments.repeats)


def compare(space: Path, server: TrackingServer, units: int, repeats: int) -> None:
    """Alternate, so that whatever else the machine does weighs on both."""
    columns = ["outage", "records", "first to last record, s", "command, s", "exit code"]
    columns += ["finished runs before sync", "sync, s", "finished runs", "second runs", "unfinished runs"]
    print(f"| {' | '.join(columns)} |\n|---|{'--:|' * (len(columns) - 1)}")
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(repeats):
        for outage in (False, True):
            name = f"{'down' if outage else 'up'}{repeat}"
            seconds[outage].append(measure(space, server, units, name, outage)[0])
    up, down = (statistics.median(seconds[outage]) for outage in (False, True))
    change = f"{up:.1f} s without and {down:.1f} s with the outage: {down / up - 1:+.0%}"
    print(f"\nMedian, first record to last: {change}")


if __name__ == "__main__":
    main()
