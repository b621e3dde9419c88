"""How far the wall time that `twofold plan` predicts is from the one that `twofold sweep` then takes.

python benchmarks/plan_accuracy.py [--pacs-root FOLDER] [--set KEY=VALUE]... [--only NAME] [--folder FOLDER]

For the digits sweep and, with the images of PACS (root/<domain>/<class>/*), the PACS sweep with
EfficientNet-Lite0: runs `twofold plan`, then the sweep in a new folder with an empty cache. Prints a table in
Markdown. `--set` makes both sweeps smaller, e.g. `--set 'data.classes=["0","1"]'`. Whatever else the machine
does meanwhile shows in the ratio, so the load average before each of the two commands is told as well.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rows import Row, table

TWOFOLD = Path(sys.executable).with_name("twofold")
SPACES = Path(__file__).parents[1] / "search_spaces"
LITE = ("fixed.encoder=efficientnet_lite0", "fixed.backbone=efficientnet_lite0")
TOLERANCE = 0.2


@dataclass(frozen=True)
class Comparison:
    """A sweep as predicted and as measured; wall times in seconds, load averages before each."""

    units: int
    pilot: float
    predicted: float
    low: float
    high: float
    measured: float
    loads: tuple[float, float]

    def row(self, name: str) -> Row:
        """The comparison as a row of the table."""
        ratio = self.predicted / self.measured
        return Row(
            what=f"`twofold plan` / measured wall time, {name}, {self.units} units, empty cache",
            target=f"within {TOLERANCE:.0%}",
            measured=f"{ratio:.2f}: {self.predicted:.0f} s ({self.low:.0f}-{self.high:.0f}) predicted in "
            f"{self.pilot:.0f} s, {self.measured:.0f} s measured; load average before "
            f"{self.loads[0]:.1f} and {self.loads[1]:.1f}",
            passed=abs(ratio - 1) <= TOLERANCE,
        )


def seconds(text: str) -> float:
    """A duration as `twofold plan` writes it, e.g. ``3 min 41 s``."""
    units = {"h": 3600, "min": 60, "s": 1}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+) (h|min|s)\b", text))


def run(folder: Path, command: str, space: Path, overrides: Sequence[str]) -> tuple[str, float, float]:
    """Output and wall seconds of a command in a folder of its own, and the load average before it."""
    load, started = os.getloadavg()[0], time.monotonic()
    arguments = [TWOFOLD, command, str(space)]
    for override in (*overrides, f"output={folder / command}", f"cache={folder / command / 'cache'}"):
        arguments += ["--set", override]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    (folder / f"{command}.log").write_text(done.stdout)
    if done.returncode != 0:
        raise SystemExit(f"twofold {command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout, time.monotonic() - started, load


def compare(space: Path, overrides: Sequence[str], folder: Path) -> Comparison:
    """Predict a sweep, then run it."""
    told, pilot, before_plan = run(folder, "plan", space, overrides)
    here = next(line for line in told.splitlines() if "(this machine)" in line)
    _, wall, believed, *_ = here.strip("│ ").split("│")
    low, _, high = believed.partition("–")
    units = re.search(r"(\d+) units", told)
    _, measured, before_sweep = run(folder, "sweep", space, overrides)
    return Comparison(
        int(units[1]) if units else 0,
        pilot,
        *(seconds(text) for text in (wall, low, high)),
        measured,
        (before_plan, before_sweep),
    )


def measure(
    pacs_root: Path | None,
    overrides: Sequence[str] = (),
    only: str | None = None,
    folder: Path | None = None,
) -> list[Row]:
    """The rows of this benchmark; PACS where its images are at hand."""
    sweeps: list[tuple[str, Path, tuple[str, ...]]] = [("digits", SPACES / "digits.yaml", ())]
    if pacs_root is not None:
        sweeps.append(("pacs", SPACES / "pacs.yaml", (f"data.root={pacs_root}", *LITE)))
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        root = (folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))).absolute()
        for name, space, own in sweeps:
            if only in (None, name):
                (root / name).mkdir(parents=True)
                rows.append(compare(space, [*own, *overrides], root / name).row(name))
    return rows


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description="predicted against measured wall time of sweeps")
    parser.add_argument("--pacs-root", type=Path, help="images of PACS; default: digits alone")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--only", choices=("digits", "pacs"), help="one of the sweeps")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    given = parser.parse_args()
    print(table(measure(given.pacs_root, given.overrides, given.only, given.folder)))


if __name__ == "__main__":
    main()
