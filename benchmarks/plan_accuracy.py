"""How far the wall time that `twofold plan` predicts is from the one that the sweep then takes.

python benchmarks/plan_accuracy.py [--pacs-root FOLDER] [--set KEY=VALUE]... [--only NAME] [--folder FOLDER]

Predicts the digits sweep and, with the images of PACS (root/<domain>/<class>/*), the PACS sweep with
EfficientNet-Lite0; runs each in a fresh folder with an empty cache; prints a table in Markdown. With `--set`
both sweeps are made smaller, e.g. `--set 'data.classes=["0","1"]'`. Whatever else the machine does meanwhile
shows in the ratio, so the load average before each step is printed as well.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# As the command line does, before PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from orchestrator.config import load_config
from orchestrator.cost import predict
from orchestrator.pipeline import estimate_sweep, make_plan

TWOFOLD = Path(sys.executable).with_name("twofold")
SPACES = Path(__file__).parents[1] / "search_spaces"
LITE = ("fixed.encoder=efficientnet_lite0", "fixed.backbone=efficientnet_lite0")


@dataclass(frozen=True)
class Row:
    """A sweep, as predicted and as measured; times in wall seconds, load averages before each."""

    sweep: str
    units: int
    workers: int
    pilot: float
    predicted: float
    low: float
    high: float
    measured: float
    loads: tuple[float, float]

    @property
    def ratio(self) -> float:
        """Predicted / measured; 1 = exact."""
        return self.predicted / self.measured


def compare(name: str, space: Path, overrides: Sequence[str], folder: Path) -> Row:
    """Predict a sweep, then run it in another folder with an empty cache."""
    apart = [[f"output={folder / part}", f"cache={folder / part / 'cache'}"] for part in ("plan", "run")]
    config = load_config(space, [*overrides, *apart[0]])
    loads = [os.getloadavg()[0]]
    started = time.monotonic()
    plan = make_plan(config)
    found = estimate_sweep(config, plan, time.monotonic() - started)
    pilot = time.monotonic() - started
    predicted = predict(found.load, found.fixed, found.machine, found.machine.workers)
    loads.append(os.getloadavg()[0])
    sets = [part for override in (*overrides, *apart[1]) for part in ("--set", override)]
    started = time.monotonic()
    with (folder / "sweep.log").open("w") as log:
        subprocess.run([TWOFOLD, "sweep", str(space), *sets], stdout=log, stderr=log, check=True)
    measured = time.monotonic() - started
    times = (pilot, predicted.seconds, predicted.low, predicted.high, measured)
    return Row(name, len(plan.units), predicted.workers, *times, (loads[0], loads[1]))


def measure(
    pacs_root: Path | None, overrides: Sequence[str], only: str | None, folder: Path
) -> Iterator[Row]:
    """One row a sweep; PACS where its images are at hand."""
    sweeps = [("digits", SPACES / "digits.yaml", ())]
    if pacs_root is not None:
        sweeps.append(("pacs", SPACES / "pacs.yaml", (f"data.root={pacs_root}", *LITE)))
    for name, space, own in sweeps:
        if only in (None, name):
            (folder / name).mkdir(parents=True)
            yield compare(name, space, [*own, *overrides], folder / name)


def lines(rows: Iterator[Row]) -> Iterator[str]:
    """The table, line by line."""
    columns = ["sweep", "units", "workers", "pilot, s", "predicted, s", "believed range, s", "measured, s"]
    columns += ["predicted / measured", "load before plan, sweep"]
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{'--:|' * (len(columns) - 1)}"
    for row in rows:
        cells = [row.sweep, row.units, row.workers, f"{row.pilot:.0f}", f"{row.predicted:.0f}"]
        cells += [f"{row.low:.0f} – {row.high:.0f}", f"{row.measured:.0f}", f"{row.ratio:.2f}"]
        cells += [", ".join(f"{load:.1f}" for load in row.loads)]
        yield f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description="Predicted against measured wall time of sweeps.")
    parser.add_argument("--pacs-root", type=Path, help="images of PACS; default: digits alone")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--only", choices=("digits", "pacs"), help="one of the sweeps")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = measure(arguments.pacs_root, arguments.overrides, arguments.only, folder.absolute())
        for line in lines(rows):
            print(line, flush=True)


if __name__ == "__main__":
    main()
