"""Units per minute: twofold, with an empty and with a filled cache, against benchmarks/plain_tune.py.

python benchmarks/speed.py [SPACE] [--repeats 3] [--folder FOLDER]

Every command is timed as a user waits for it, from start to exit, and they take turns, so that whatever
else the machine does weighs on all. Ends with 1 if a score of twofold differs by more than 1e-4 from the
script's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from orchestrator.ledger import UnitRecord, read_units
from trainables.seeding import canonical_json

SPACE = Path(__file__).with_name("plain_tune.yaml")
SCRIPT = Path(__file__).with_name("plain_tune.py")
TWOFOLD = Path(sys.executable).with_name("twofold")
PARTS = ("source_val", "target_sel", "pseudo", "test")
TOLERANCE = 1e-4
GOALS = {"cold": 20, "warm": 40}
HEADINGS = ("command", "seconds, median (all)", "CPU seconds", "units per minute", "times the script", "goal")
NAMES = {"plain": "plain Ray Tune script", "cold": "twofold, empty cache", "warm": "twofold, filled cache"}
MARK = "TWOFOLD_BENCHMARK"
SAMPLE_SECONDS = 0.5
ENVIRONMENT = {
    **os.environ,
    # What only one of the two would otherwise wait for, or suffer from.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
}

Scores = dict[str, np.ndarray]
"""Setting, configuration and seed as JSON -> the scores of all held-out parts, one after the other."""


@dataclass
class Speed:
    """What was measured.

    Attributes:
        units: of the sweep.
        times: wall and CPU seconds of each command, by kind: ``plain``, ``cold``, ``warm``.
        difference: largest one between a score of twofold and the script's; relative to scores above 1.
    """

    units: int = 0
    times: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {kind: [] for kind in NAMES})
    difference: float = 0.0

    def rows(self) -> list[tuple[str, ...]]:
        """The table below ``HEADINGS``."""
        walls = {kind: [wall for wall, _ in times] for kind, times in self.times.items()}
        medians = {kind: statistics.median(wall) for kind, wall in walls.items()}
        return [
            (
                NAMES[kind],
                f"{medians[kind]:.1f} ({', '.join(f'{wall:.1f}' for wall in walls[kind])})",
                f"{statistics.median(cpu for _, cpu in times):.0f}",
                f"{60 * self.units / medians[kind]:.1f}",
                f"{medians['plain'] / medians[kind]:.1f}",
                f">= {GOALS[kind]}" if kind in GOALS else "",
            )
            for kind, times in self.times.items()
        ]


def measure(space: Path, repeats: int, folder: Path) -> Speed:
    """Time ``repeats`` rounds of the three commands and compare their scores.

    Args:
        space: sweep file that the script can run.
        repeats: rounds.
        folder: empty; holds everything.
    """
    name = yaml.safe_load(space.read_text())["name"]
    speed = Speed()
    for number in range(repeats):
        plain, cold, warm = (folder / f"{kind}{number}" for kind in NAMES)
        cache = folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        speed.times["plain"].append(_time(sys.executable, SCRIPT, space, "--folder", plain))
        expected = _script_scores(plain / name)
        for kind, output in (("cold", cold), ("warm", warm)):
            sets = [f"output={output}", f"cache={cache}", f"tracking_uri=sqlite:///{output}/mlflow.db"]
            arguments = [argument for one in sets for argument in ("--set", one)]
            speed.times[kind].append(_time(TWOFOLD, "sweep", space, *arguments))
            difference = _difference(expected, _twofold_scores(output / name))
            speed.difference = max(speed.difference, difference)
        speed.units = len(expected)
    return speed


def _time(*command: object) -> tuple[float, float]:
    """Wall time of a command that has to end well, and CPU time of all processes it starts."""
    mark = uuid.uuid4().hex
    spent: dict[str, float] = {}
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        running = subprocess.Popen(
            list(map(str, command)), env={**ENVIRONMENT, MARK: mark}, stdout=output, stderr=output
        )
        while running.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(SAMPLE_SECONDS)
            _sample(mark, spent)
        seconds = time.monotonic() - started
        if running.returncode != 0:
            output.seek(0)
            raise SystemExit(
                f"{' '.join(map(str, command))} ended with {running.returncode}:\n{output.read()}"
            )
    return seconds, sum(spent.values())


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
    records = [UnitRecord.from_row(row) for row in read_units(folder / "units.parquet")]
    return {_key(one.setting, one.config, one.seed): _joined(vars(one)) for one in records}


def _key(setting: str, configuration: Mapping[str, object], seed: int) -> str:
    return canonical_json([setting, configuration, seed])


def _joined(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([scores[part] for part in PARTS])


def _difference(expected: Scores, found: Scores) -> float:
    """Largest difference of two scores, relative to those above 1: a Mahalanobis distance can be 10,000.

    Infinite where the units or the images are not the same.
    """
    if expected.keys() != found.keys():
        return float("inf")
    pairs = [(expected[key], found[key]) for key in expected]
    if not pairs or any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max(float((np.abs(a - b) / np.maximum(1, np.abs(a))).max()) for a, b in pairs)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("space", nargs="?", type=Path, default=SPACE, help="sweep file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="empty; a temporary one unless given, and kept then")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        speed = measure(arguments.space, arguments.repeats, folder.absolute())
    print("\n".join(f"| {' | '.join(row)} |" for row in (HEADINGS, ("---", *["--:"] * 5), *speed.rows())))
    print(f"\n{speed.units} units; largest difference of a score: {speed.difference:.1e}")
    return 0 if speed.difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
