"""Units per minute: twofold, with an empty and with a filled cache, against the script of plain_tune.py.

python benchmarks/speed.py [--repeats 3] [--space benchmarks/plain_tune.yaml]

Every command is timed as a user waits for it, from start to exit, and they take turns, so that whatever else
the machine does weighs on all. Scores have to be the same. A last row says how much faster than the script a
sweep can be at best, if it takes no longer than empty_tune.py and its units. Prints a table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rows import Row, spread, table
from scaling import measured

from orchestrator.ledger import read_units
from trainables.seeding import canonical_json

SPACE = Path(__file__).with_name("plain_tune.yaml")
SCRIPT = Path(__file__).with_name("plain_tune.py")
EMPTY = Path(__file__).with_name("empty_tune.py")
WORKERS = 2
TWOFOLD = Path(sys.executable).with_name("twofold")
PARTS = ("source_val", "target_sel", "pseudo", "test")
TOLERANCE = 1e-4
GOALS = {"empty": 20, "filled": 40}
MARK = "TWOFOLD_BENCHMARK"
SAMPLE_SECONDS = 0.5
ENVIRONMENT = {
    **os.environ,
    # What twofold sets for itself: the script, too, waits for no telemetry and yields to no other process.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
}

Scores = dict[str, np.ndarray]
"""Setting, configuration and seed as JSON -> the scores of all held-out parts, one after the other."""


@dataclass(frozen=True)
class Cost:
    """Wall time of a command, and CPU time of all processes it started, in seconds."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Round:
    """Each command once.

    Attributes:
        units: of the sweep.
        script: what the script took.
        twofold: state of the cache, as in ``GOALS`` -> what twofold took.
        empty: what a sweep without units takes.
        inside: seconds inside the units, of all workers together, with the cache filled.
        difference: largest one between a score of twofold and the script's; relative to scores above 1.
    """

    units: int
    script: Cost
    twofold: dict[str, Cost]
    empty: Cost
    inside: float
    difference: float


def run_round(space: Path, folder: Path) -> Round:
    """Run the script, then twofold with an empty and with a filled cache, in an empty folder."""
    name = yaml.safe_load(space.read_text())["name"]
    script = timed(sys.executable, SCRIPT, space, "--folder", folder / "script")
    expected = _script_scores(folder / "script" / name)
    costs: dict[str, Cost] = {}
    differences = []
    for cache in GOALS:
        output = folder / cache
        values = [
            f"output={output}",
            f"cache={folder / 'cache'}",
            f"tracking_uri=sqlite:///{output}/mlflow.db",
        ]
        costs[cache] = timed(
            TWOFOLD, "sweep", space, *(word for value in values for word in ("--set", value))
        )
        differences.append(_difference(expected, _twofold_scores(output / name)))
    empty = timed(sys.executable, EMPTY, "--workers", WORKERS)
    columns = ["setting", "seed", "config", "seconds", "ended"]
    rows = read_units(folder / list(GOALS)[-1] / name / "units.parquet", columns)
    inside = measured(rows, WORKERS, 0.0).inside
    return Round(len(expected), script, costs, empty, inside, max(differences))


def timed(*command: object) -> Cost:
    """Run a command that has to end well."""
    mark = uuid.uuid4().hex
    spent: dict[str, float] = {}
    environment = {**ENVIRONMENT, MARK: mark}
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        running = subprocess.Popen(list(map(str, command)), env=environment, stdout=output, stderr=output)
        while running.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(SAMPLE_SECONDS)
            _sample(mark, spent)
        wall = time.monotonic() - started
        if running.returncode != 0:
            output.seek(0)
            raise SystemExit(
                f"{' '.join(map(str, command))} ended with {running.returncode}:\n{output.read()}"
            )
    return Cost(wall, sum(spent.values()))


def _sample(mark: str, spent: dict[str, float]) -> None:
    """Note the CPU seconds of the processes that have ``mark`` in their environment, and of their children.

    Ray's processes are not the command's children, and its workers write their titles over their environment.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            known = process.name in spent or fields[1] in spent
            if known or f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                spent[process.name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _script_scores(folder: Path) -> Scores:
    """What the trials left in their folders."""
    found: Scores = {}
    for path in folder.glob("*/scores.npz"):
        config = json.loads(path.with_name("params.json").read_text())
        found[_key(config["setting"], config["configuration"], config["seed"])] = _joined(np.load(path))
    return found


def _twofold_scores(folder: Path) -> Scores:
    rows = read_units(folder / "units.parquet", ["setting", "config", "seed", *PARTS])
    return {_key(row["setting"], json.loads(row["config"]), row["seed"]): _joined(row) for row in rows}


def _key(setting: str, configuration: Mapping[str, object], seed: int) -> str:
    return canonical_json([setting, configuration, seed])


def _joined(scores: Mapping[str, Any]) -> np.ndarray:
    return np.concatenate([scores[part] for part in PARTS])


def _difference(expected: Scores, found: Scores) -> float:
    """Largest difference of two scores, relative to those above 1: a Mahalanobis distance can be 10,000.

    Infinite where the units or the images are not the same.
    """
    if not expected or expected.keys() != found.keys():
        return float("inf")
    pairs = [(expected[key], found[key]) for key in expected]
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max(float((np.abs(a - b) / np.maximum(1, np.abs(a))).max()) for a, b in pairs)


def measure(space: Path, repeats: int) -> list[Row]:
    """The rows of this benchmark."""
    rounds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(run_round(space, Path(folder)))
    return [*(_row(cache, rounds) for cache in GOALS), _bound(rounds)]


def _row(cache: str, rounds: Sequence[Round]) -> Row:
    ratios = [one.script.wall / one.twofold[cache].wall for one in rounds]
    theirs, ours = [one.script for one in rounds], [one.twofold[cache] for one in rounds]
    minutes = [statistics.median(cost.wall for cost in costs) / 60 for costs in (theirs, ours)]
    units, difference = rounds[0].units, max(one.difference for one in rounds)
    return Row(
        f"units per minute, twofold with {cache} cache / plain Ray Tune script, {units} units",
        f">= {GOALS[cache]}x",
        f"{spread(ratios, 1)}x: {units / minutes[1]:.0f} and {units / minutes[0]:.1f}; commands take "
        f"{spread([cost.wall for cost in ours], 1)} s and {spread([cost.wall for cost in theirs], 0)} s, "
        f"CPU {spread([cost.cpu for cost in ours], 0)} s and {spread([cost.cpu for cost in theirs], 0)} s; "
        f"scores equal to {difference:.0e}",
        statistics.median(ratios) >= GOALS[cache] and difference <= TOLERANCE,
    )


def _bound(rounds: Sequence[Round]) -> Row:
    """The ratio if a sweep took as long as one without units, and its units' seconds over the workers."""
    least = [one.empty.wall + one.inside / WORKERS for one in rounds]
    ratios = [one.script.wall / seconds for one, seconds in zip(rounds, least, strict=True)]
    return Row(
        "the same, if a sweep were only imports, Ray and the insides of its units",
        f">= {max(GOALS.values())}x",
        f"{spread(ratios, 1)}x: an empty sweep takes {spread([one.empty.wall for one in rounds], 1)} s (CPU "
        f"{spread([one.empty.cpu for one in rounds], 0)} s), and {WORKERS} workers the insides of the units "
        f"{spread([one.inside / WORKERS for one in rounds], 1)} s",
        statistics.median(ratios) >= max(GOALS.values()),
    )


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description="twofold against an ordinary Ray Tune script")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--space", type=Path, default=SPACE)
    given = parser.parse_args()
    print(table(measure(given.space, given.repeats)))


if __name__ == "__main__":
    main()
