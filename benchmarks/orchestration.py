"""What the orchestrator costs per unit, up to ten thousand units that cost next to nothing themselves.

python benchmarks/orchestration.py [--units 1000 2000 10000] [--repeats 1] [--folder FOLDER]

Each sweep is a real one in a process of its own: the Supervisor, Ray Tune with two workers, the ledger on the
local disk, MLflow on sqlite, the choice, the oracle and the report. Its units read one coordinate of frozen
features of small images as their score, 62 on a setting as in the default sweep; the features are cached
beforehand. What the units take themselves is in the table and subtracted from nothing. Times are taken from
outside, around functions of the product. Prints two tables in Markdown: every sweep, and what is asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from PIL import Image
from rows import Row, spread, table

# The score that costs nothing, and the environment in which it is found, are those of the integration tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))

T = TypeVar("T")
PER_SETTING = 62
SIZES = (1000, 2000, 10000)


@dataclass(frozen=True)
class Sweep:
    """One sweep. Times are in seconds, memory is in KB, per unit where the name says so.

    Attributes:
        units: recorded, each done and with a finished MLflow run.
        start: from the launch to the first record: imports, planning, the start of Ray and of its workers.
        ms_per_unit: milliseconds from the launch to the last record, per unit.
        ms_next_unit: milliseconds from the first record to the last, per unit.
        own_ms: milliseconds that the scores of a unit took, mean.
        drained: MLflow runs ended when the last record was written, had they come evenly.
        ms_per_run: milliseconds from the first record until the writer has ended the last run, per run.
        cpu_ms_per_run: user and system milliseconds of the driver's process from the preparation until then,
            per run: the writer's, Tune's loop and the start of Ray.
        plan, compact, select, oracle, report, finish: seconds of the steps before and after; ``finish`` reads
            anew what MLflow holds and ends the parent run.
        prepared_memory: resident set of the driver's process before the sweep.
        sweep_memory: its peak from there until the last run is logged.
        memory: its peak until the end of the command.
    """

    units: int
    start: float
    ms_per_unit: float
    ms_next_unit: float
    own_ms: float
    drained: int
    ms_per_run: float
    cpu_ms_per_run: float
    plan: float
    compact: float
    select: float
    oracle: float
    report: float
    finish: float
    prepared_memory: int
    sweep_memory: int
    memory: int


def write_space(folder: Path, units: int) -> Path:
    """A sweep file of ``units`` units on tiny images, whole settings of 62 but for the last ones."""
    draws = np.random.default_rng(0)
    for domain in ("light", "dark"):
        for label, level in (("a", 60), ("b", 180)):
            for index in range(16):
                path = folder / "images" / domain / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draws.integers(0, level, (16, 16), dtype=np.uint8)).save(path)
    frozen = {"alignment": "identity", "clusterer": "density", "score": "costless"}
    content = {
        "name": f"units{units}",
        "data": {
            **{"dataset": "folder", "root": str(folder / "images"), "pairs": [["light", "dark"]]},
            **{"image_size": 32, "classes": ["a"], "anomaly_classes": ["b"]},
            "split_seeds": list(range(round(units / PER_SETTING))),
        },
        "fixed": {"encoder": "efficientnet_lite0"},
        "default": frozen,
        "space": [{**frozen, "column": list(range(PER_SETTING))}],
        "resources": {"workers": 2},
        "output": str(folder),
        "cache": str(folder.parent / "cache"),
    }
    path = folder / f"units{units}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class Stopwatch:
    """Of the last calls of functions: when they ended, their seconds, CPU time and peak memory by then."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.peaks: dict[str, int] = {}

    def wrap(self, owner: Any, name: str, label: str) -> None:
        """Time the calls of ``owner.name`` under a label."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.time()
            try:
                return function(*arguments, **named)
            finally:
                self.ended[label] = time.time()
                self.seconds[label] = self.ended[label] - started
                self.cpu[label] = time.process_time()
                self.peaks[label] = memory("VmHWM")

        setattr(owner, name, timed)


def memory(name: str) -> int:
    """``VmRSS``, the resident set of this process, or ``VmHWM``, its peak, in KB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def forget_peak(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let the peak of the memory begin anew after a function: Linux does so on request."""

    @functools.wraps(function)
    def forgetting(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        Path("/proc/self/clear_refs").write_text("5")
        return result

    return forgetting


def sweep(space: Path) -> Sweep:
    """Run a sweep in this process, which has run nothing before."""
    launched = time.time()
    from rich.console import Console

    from orchestrator import pipeline, tracking
    from orchestrator.config import load_config
    from orchestrator.ledger import Ledger

    watch = Stopwatch()
    watch.wrap(pipeline, "make_plan", "plan")
    pipeline.prepare = forget_peak(pipeline.prepare)
    watch.wrap(pipeline, "prepare", "prepare")
    watch.wrap(tracking.BackgroundTracker, "close", "drain")
    watch.wrap(Ledger, "compact", "compact")
    watch.wrap(pipeline, "choose", "select")
    watch.wrap(subprocess, "run", "oracle")
    watch.wrap(pipeline, "make_report", "report")
    watch.wrap(pipeline, "_finish_tracking", "finish")
    config = load_config(space)
    outcome = pipeline.run_sweep(config, Console(stderr=True), None)
    return make_row(config.folder, watch, launched, outcome)


def make_row(folder: Path, watch: Stopwatch, launched: float, outcome: Any) -> Sweep:
    """The figures of a sweep that has ended.

    Raises:
        SystemExit: a unit failed, or MLflow misses some.
    """
    from orchestrator.ledger import read_units

    units = read_units(folder / "units.parquet", ["ended", "seconds"])
    if outcome.failed or outcome.untracked or outcome.done != len(units):
        raise SystemExit(f"{folder}: not every unit is done and logged: {outcome}")
    count, times = len(units), [unit["ended"] for unit in units]
    first, last = min(times), max(times)
    own = [json.loads(unit["seconds"]) for unit in units]
    drained = watch.ended["drain"] - first
    seconds = watch.seconds
    return Sweep(
        units=count,
        start=first - launched,
        ms_per_unit=1000 * (last - launched) / count,
        ms_next_unit=1000 * (last - first) / count,
        own_ms=1000 * sum(one["score"] for one in own) / count,
        drained=count - round((watch.ended["drain"] - last) / drained * count),
        ms_per_run=1000 * drained / count,
        cpu_ms_per_run=1000 * (watch.cpu["drain"] - watch.cpu["prepare"]) / count,
        plan=seconds["plan"],
        compact=seconds["compact"],
        select=seconds["select"],
        oracle=seconds["oracle"],
        report=seconds["report"] - seconds["oracle"],
        finish=seconds["finish"],
        prepared_memory=watch.peaks["prepare"],
        sweep_memory=watch.peaks["drain"],
        memory=memory("VmHWM"),
    )


def run(units: int, folder: Path) -> Sweep:
    """Run a sweep of about ``units`` units in a process of its own, in a new folder."""
    from harness import ENVIRONMENT, with_faults

    folder.mkdir(parents=True)
    command = [sys.executable, __file__, "--sweep", str(write_space(folder.absolute(), units))]
    environment = {**ENVIRONMENT, **with_faults(folder.absolute() / "environment")}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    return Sweep(**json.loads(done.stdout.splitlines()[-1]))


def sweeps(folder: Path, sizes: Sequence[int], repeats: int) -> Iterator[Sweep]:
    """One sweep after the other; sizes alternate, so that whatever else the machine does weighs on all."""
    run(PER_SETTING, folder / "warm-up")
    for repeat in range(repeats):
        for units in sizes:
            yield run(units, folder / f"{repeat}-{units}")


def lines(measured: Iterable[Sweep]) -> Iterator[str]:
    """The sweeps in Markdown, line by line as they come."""
    names = [field.name for field in fields(Sweep)]
    yield f"| {' | '.join(names)} |\n|{'--:|' * len(names)}"
    for one in measured:
        cells = (f"{value:.1f}" if isinstance(value, float) else str(value) for value in astuple(one))
        yield f"| {' | '.join(cells)} |"


def kept(items: Iterable[T], by: list[T]) -> Iterator[T]:
    """The items, which a list keeps as well."""
    for item in items:
        by.append(item)
        yield item


def judged(measured: Sequence[Sweep], repeats: int) -> list[Row]:
    """What is asked for; each size was swept ``repeats`` times, the same ones each time."""
    count = len(measured) // repeats
    small, middle, *_, large = (measured[position::count] for position in range(count))
    per_unit = [one.ms_per_unit for one in middle]
    per_run = [one.ms_per_run for one in middle]
    pairs = list(zip(large, small, strict=True))
    ratio = [most.ms_next_unit / least.ms_next_unit for most, least in pairs]
    growth = [(most.memory - least.memory) / (most.units - least.units) for most, least in pairs]
    sizes = f"{large[0].units} units / {small[0].units}"
    return [
        _row(f"launch to last record, {middle[0].units} units", "8 ms per unit", per_unit, 8),
        _row(f"MLflow drained beside it and after, {middle[0].units} runs", "25 ms per run", per_run, 25),
        _row(f"{sizes}: first record to last, per unit", "1.2x", ratio, 1.2),
        _row(f"{sizes}: growth of the driver's memory", "15 KB per unit", growth, 15),
    ]


def _row(what: str, target: str, values: Sequence[float], most: float) -> Row:
    return Row(what, f"<= {target}", spread(values), statistics.median(values) <= most)


def measure(repeats: int) -> list[Row]:
    """The rows of this benchmark."""
    with tempfile.TemporaryDirectory() as name:
        return judged(list(sweeps(Path(name), SIZES, repeats)), repeats)


def main() -> None:
    """Read the arguments, and run one sweep here or several in processes of their own."""
    parser = argparse.ArgumentParser(description="What the orchestrator costs per unit.")
    parser.add_argument("--units", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--sweep", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sweep:
        print(json.dumps(asdict(sweep(arguments.sweep))))
        return
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        measured: list[Sweep] = []
        for line in lines(kept(sweeps(folder, arguments.units, arguments.repeats), measured)):
            print(line, flush=True)
    if len(arguments.units) > 2:
        print(f"\n{table(judged(measured, arguments.repeats))}")


if __name__ == "__main__":
    main()
