"""How much of the workers' time is spent inside units, and what a second worker is worth.

python benchmarks/scaling.py [--repeats 1] [--space search_spaces/digits.yaml]

Runs the whole `twofold sweep` with one and with two workers, in new folders, after one preparation that both
share. The time of the workers begins when preparation is over and ends with the last record. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rows import Row, spread, table

from orchestrator.ledger import read_units
from trainables.configuration import Configuration

TWOFOLD = Path(sys.executable).with_name("twofold")
SPACE = Path(__file__).parents[1] / "search_spaces" / "digits.yaml"


@dataclass(frozen=True)
class Sweep:
    """One sweep.

    Attributes:
        workers: of the sweep.
        working: seconds from the end of preparation to the last record.
        training: seconds inside trainings, of all workers together.
        inside: seconds inside trainings, clusterings and scores, of all workers together.
    """

    workers: int
    working: float
    training: float
    inside: float


def sweep(space: Path, folder: Path, name: str, workers: int) -> Sweep:
    """Run a sweep in a new folder with the cache of ``folder``."""
    overrides = [f"output={folder}", f"cache={folder / 'cache'}", f"resources.workers={workers}"]
    command = [str(TWOFOLD), "sweep", str(space), "--name", name]
    for override in overrides:
        command += ["--set", override]
    prepared = time.time()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Prepared"):
                prepared = time.time()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    columns = ["setting", "seed", "config", "seconds", "ended"]
    return measured(read_units(folder / name / "units.parquet", columns), workers, prepared)


def measured(rows: list[dict[str, object]], workers: int, prepared: float) -> Sweep:
    """Add up the seconds; what units share counts once."""
    training: dict[tuple[object, ...], float] = {}
    clustering: dict[tuple[object, ...], float] = {}
    scoring = 0.0
    for row in rows:
        seconds = json.loads(str(row["seconds"]))
        configuration = Configuration.parse(json.loads(str(row["config"])))
        key = row["setting"], row["seed"]
        shared = *key, configuration.training_key
        # The seconds of a unit are those up to its own last epoch.
        training[shared] = max(training.get(shared, 0.0), seconds["train"])
        clustering[*key, configuration.trusted_key] = seconds["cluster"]
        scoring += seconds["score"]
    trained = sum(training.values())
    last = max(float(str(row["ended"])) for row in rows)
    return Sweep(workers, last - prepared, trained, trained + sum(clustering.values()) + scoring)


def measure(space: Path, repeats: int) -> list[Row]:
    """The rows of this benchmark."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep(space, folder, "prepare", 2)
        pairs = [
            (sweep(space, folder, f"two{i}", 2), sweep(space, folder, f"one{i}", 1)) for i in range(repeats)
        ]
    training = [two.training / (two.working * two.workers) for two, _ in pairs]
    inside = [two.inside / (two.working * two.workers) for two, _ in pairs]
    gains = [one.working / two.working for two, one in pairs]
    return [
        Row(
            f"training time inside units / (wall time x workers), {space.stem}, 2 workers",
            ">= 0.90",
            f"{spread(training)}; with clustering and scores {spread(inside)}",
            statistics.median(training) >= 0.90,
        ),
        Row(
            f"1 worker / 2 workers, {space.stem}, after preparation",
            ">= 1.8x",
            f"{spread(gains)}x: {statistics.median(one.working for _, one in pairs):.0f} s and "
            f"{statistics.median(two.working for two, _ in pairs):.0f} s",
            statistics.median(gains) >= 1.8,
        ),
    ]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description="use of the workers' time")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--space", type=Path, default=SPACE)
    given = parser.parse_args()
    print(table(measure(given.space, given.repeats)))


if __name__ == "__main__":
    main()
