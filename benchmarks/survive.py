"""A sweep whose driver is killed three times: is every planned unit recorded once, and what is repeated?

python benchmarks/survive.py [UNITS] [--seed SEED] [--folder FOLDER]

Draws tiny images, sweeps UNITS cheap units (2,000 unless said otherwise) through the whole orchestrator
with MLflow on sqlite, kills the driver with SIGKILL at random moments, and gives the same command again each
time. Prints a table, and exits with 1 where a record or a finished run is missing or there twice, a recorded
unit was run again, or more units were repeated than were in flight.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

# The images, the sweep file and the score that counts its calls are those of the integration tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))

from harness import ENVIRONMENT, TWOFOLD, draw_domains, folder_data, processes_with, with_faults, write_space
from mlflow.tracking import MlflowClient

from orchestrator.attempts import AttemptLog
from orchestrator.ledger import Ledger
from orchestrator.storage import Storage

KILLS = 3
WORKERS = 2
NEIGHBOURS = 200
SCORES_PER_UNIT = 4


@dataclass
class Survival:
    """What a sweep came to.

    Attributes:
        units: planned.
        killed_at: records at each kill.
        records: whole records at the end.
        runs: key -> statuses of its MLflow runs.
        rewritten: records that were written again after a kill.
        repeated: scorings beyond one per unit.
        in_flight: units that the workers were at, at each kill.
        seconds: wall time of all launches.
        code: exit code of the last launch.
    """

    units: int
    killed_at: list[int] = field(default_factory=list)
    records: int = 0
    runs: dict[str, list[str]] = field(default_factory=dict)
    rewritten: int = 0
    repeated: int = 0
    in_flight: list[int] = field(default_factory=list)
    seconds: float = 0.0
    code: int = -1

    @property
    def finished(self) -> int:
        """Units with one run, which is finished."""
        return sum(statuses == ["FINISHED"] for statuses in self.runs.values())

    @property
    def duplicates(self) -> int:
        """Runs beyond one per unit."""
        return sum(len(statuses) - 1 for statuses in self.runs.values())

    @property
    def holds(self) -> bool:
        """Whether every unit was recorded and logged once, and no more was repeated than in flight."""
        return (
            self.code == 0
            and self.records == self.finished == self.units
            and self.duplicates == self.rewritten == 0
            and self.repeated <= sum(self.in_flight)
        )

    def table(self) -> str:
        """The figures in Markdown."""
        rows = {
            "units": self.units,
            "kills": f"{len(self.killed_at)}, at {', '.join(map(str, self.killed_at))} records",
            "records": self.records,
            "finished MLflow runs": self.finished,
            "duplicate runs": self.duplicates,
            "records written again": self.rewritten,
            "repeated units": self.repeated,
            "units in flight at each kill": ", ".join(map(str, self.in_flight)),
            "wall time": f"{self.seconds:.0f} s",
        }
        return "\n".join(["| | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in rows.items())])


def survive(units: int, seed: int, folder: Path) -> Survival:
    """Run the sweep and kill its driver ``KILLS`` times.

    Args:
        units: to plan.
        seed: of the moments.
        folder: empty; holds everything.
    """
    environment = with_faults(folder / "environment")
    space = _write_space(folder, units)
    draws = random.Random(seed)
    outcome = Survival(units)
    kept: dict[str, int] = {}
    started = time.monotonic()
    try:
        for number in range(KILLS + 1):
            # Somewhere in this launch's share of the sweep, and at any moment of its start-up, too.
            share = units / (KILLS + 1)
            threshold = int((number + draws.random()) * share) if number < KILLS else None
            outcome.code = _launch(space, environment, threshold, draws.random())
            in_flight = _under_way(space.with_suffix(""))
            stamps = _stamps(space.with_suffix(""))
            outcome.rewritten += sum(stamps[key] != kept[key] for key in kept)
            kept = stamps
            if threshold is not None:
                outcome.killed_at.append(len(stamps))
                outcome.in_flight.append(in_flight)
    finally:
        _end_processes(str(folder / "environment"))
    outcome.seconds = time.monotonic() - started
    _judge(outcome, space.with_suffix(""), folder / "environment")
    return outcome


def _write_space(folder: Path, units: int) -> Path:
    """A sweep of ``units`` scores of frozen features: each takes milliseconds, and no training."""
    keep = max(1, units // NEIGHBOURS)
    if units % keep or units // keep > NEIGHBOURS:
        sys.exit(f"{units} units are no product of {keep} trusted sets and at most {NEIGHBOURS} scores")
    unit = {"alignment": "identity", "clusterer": "density", "score": "counted"}
    shares = [round(0.9 - 0.4 * i / keep, 4) for i in range(keep)]
    neighbours = list(range(1, units // keep + 1))
    return write_space(
        folder / "survive.yaml",
        folder / "cache",
        data=folder_data(draw_domains(folder / "images"), classes=["plain bar"], anomaly_classes=["Größe"]),
        default={**unit, "keep": shares[0], "neighbours": 1},
        space=[{**unit, "keep": shares, "neighbours": neighbours}],
        resources={"workers": WORKERS, "trainings_per_trial": 1},
    )


def _launch(space: Path, environment: dict[str, str], threshold: int | None, delay: float) -> int:
    """Run ``twofold sweep``, killed ``delay`` seconds after ``threshold`` records; return its exit code."""
    with (space.parent / "output.txt").open("a") as output:
        driver = subprocess.Popen(
            [TWOFOLD, "sweep", space],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**ENVIRONMENT, **environment},
            start_new_session=True,
        )
    records = space.with_suffix("") / "units"
    while driver.poll() is None:
        if threshold is not None and len(list(records.glob("*.arrow"))) >= threshold:
            time.sleep(delay)
            driver.send_signal(signal.SIGKILL)
            return driver.wait()
        time.sleep(0.02)
    return driver.returncode


def _stamps(folder: Path) -> dict[str, int]:
    """Key -> when the record was written, of every whole record."""
    paths = {path.stem: path for path in (folder / "units").glob("*.arrow")}
    whole = Ledger(Storage(str(folder))).states(paths)
    return {key: paths[key].stat().st_mtime_ns for key in whole}


def _under_way(folder: Path) -> int:
    """Bundles that a worker has begun and not ended; it is at one unit of each."""
    log = AttemptLog(Storage(str(folder)))
    return sum(log.read(bundle).open is not None for bundle in log.bundles())


def _judge(outcome: Survival, folder: Path, environment: Path) -> None:
    """Count records, runs and scorings."""
    outcome.records = len(_stamps(folder))
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(folder.name)
    assert experiment is not None
    token = None
    while token != "":
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
        for run in page:
            if "twofold.key" in run.data.tags:
                outcome.runs.setdefault(run.data.tags["twofold.key"], []).append(run.info.status)
        token = page.token or ""
    # A process scores one unit after another, on four parts each; the last may have been cut off.
    begun = sum(-(-path.stat().st_size // SCORES_PER_UNIT) for path in environment.glob("counted.*"))
    outcome.repeated = begun - outcome.units


def _end_processes(marker: str) -> None:
    """Kill what Ray left behind of the killed drivers: its agents look for their cluster once a minute."""
    for process in processes_with(marker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("units", nargs="?", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="empty; a temporary one unless given, and kept then")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        outcome = survive(arguments.units, arguments.seed, folder)
        print(outcome.table())
        if not outcome.holds:
            print((folder / "output.txt").read_text(), file=sys.stderr)
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
