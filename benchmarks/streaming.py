"""What is done over all records at once, up to ten thousand units of real size: seconds and peak memory.

python benchmarks/streaming.py [--units 1000 10000] [--folder FOLDER]

Writes records of random scores, 5,000 in each and 62 units on a setting, as the default sweep has them.
Then looks which units are done, compacts the records, chooses, lets the oracle judge and writes the report,
each in a process of its own. Prints a table in Markdown: a row per size, for each step the seconds, those of
the CPU, and the peak resident set in MB. A step streams where its memory does not grow with the units.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from orchestration import memory
from rows import Row

from orchestrator.ledger import Ledger, UnitRecord
from orchestrator.oracle import Drawn, write_drawn, write_results
from orchestrator.report.page import write_report
from orchestrator.select import select_folder
from orchestrator.storage import Storage
from trainables.configuration import Configuration
from trainables.types import Setting, Task

PER_SETTING = 62
SIZES = (1000, 10000)
SOURCE, FIT, SEL, TEST = 300, 1500, 500, 3700
"""Images of S_val, T_fit, T_sel and the test set. T_sel is scored twice, so 5,000 scores a unit."""


@dataclass(frozen=True)
class Steps:
    """Seconds, CPU seconds and peak memory (MB) of every step over one ledger."""

    units: int
    found: dict[str, tuple[float, float, int]]


def configurations() -> list[dict[str, object]]:
    """The canonical configurations of a setting, the default first."""
    space = {"encoder": "efficientnet_lite0", "clusterer": "density", "alignment": "identity", "score": "knn"}
    return [
        Configuration.parse({**space, "neighbours": count}).as_dict() for count in range(1, PER_SETTING + 1)
    ]


def draw_setting(number: int) -> Drawn:
    """A setting of made-up images, a tenth of them anomalous."""
    task = Task("digits", "typeset", "mnist", str(number % 10))
    target = tuple(f"{number}/{index}" for index in range(FIT + SEL + TEST))
    parts = (target[:FIT], target[FIT : FIT + SEL], target[FIT + SEL :])
    setting = Setting(task, 0.1, number // 10, ("s",), ("v",) * SOURCE, *parts)
    return Drawn(setting, {image: index % 10 == 0 for index, image in enumerate(target)})


def draw_record(
    drawn: Drawn, config: dict[str, object], number: int, draws: np.random.Generator
) -> UnitRecord:
    """A finished unit: anomalies score higher, the better the smaller its number."""
    quality = 2 / (1 + number / 20)
    level = quality * np.array(list(drawn.anomalous.values()), dtype=np.float32)
    target = np.abs(draws.standard_normal(len(level), dtype=np.float32) + level + 5)
    proxies = ("dominant_stability", "dominant_silhouette", "source_affinity", "compactness")
    diagnostics = {"effective_rank": 9.0, "score_variation": 0.5}
    return UnitRecord(
        key=f"{drawn.setting.key[:10]}{number:04d}",
        setting=drawn.setting.key,
        state="done",
        seed=0,
        config=config,
        ended=time.time(),
        stage_a={name: float(draws.random()) for name in proxies},
        seconds={"cluster": 0.1, "train": 0.0, "score": 0.1},
        diagnostics={**diagnostics, **{f"{name}_initial": value for name, value in diagnostics.items()}},
        trusted_fit=target[:FIT] < 6,
        trusted_sel=target[FIT : FIT + SEL] < 6,
        source_val=draws.standard_normal(SOURCE, dtype=np.float32) + 5,
        target_sel=target[FIT : FIT + SEL],
        pseudo=target[FIT : FIT + SEL] + 1,
        test=target[FIT + SEL :],
        **drawn.setting.description,
    )


def fill(folder: Path, units: int) -> None:
    """Settings, labels and records of about ``units`` units."""
    draws = np.random.default_rng(0)
    drawn = [draw_setting(number) for number in range(round(units / PER_SETTING))]
    write_drawn(folder, drawn)
    ledger = Ledger(Storage(str(folder)))
    ledger.open()
    for one in drawn:
        for number, config in enumerate(configurations()):
            ledger.write(draw_record(one, config, number, draws))


def compact(folder: Path) -> None:
    """One Parquet file of all records, setting by setting; the keys of a setting begin alike."""
    storage = Storage(str(folder))
    keys = [name.removesuffix(".arrow") for name in storage.names("units")]
    groups = [list(same) for _, same in itertools.groupby(keys, lambda key: key[:10])]
    Ledger(storage).compact(groups, folder / "units.parquet")


def look(folder: Path) -> None:
    """Which units are done, as each launch and each Tune run ask."""
    storage = Storage(str(folder))
    Ledger(storage).states(name.removesuffix(".arrow") for name in storage.names("units"))


def select(folder: Path) -> None:
    """The choice."""
    select_folder(folder, "streaming", configurations()[0])


STEPS: dict[str, Callable[[Path], object]] = {
    "look": look,
    "compact": compact,
    "select": select,
    "oracle": write_results,
    "report": write_report,
}


def run(units: int, folder: Path) -> Steps:
    """Fill a new folder and take every step over it."""
    folder.mkdir(parents=True)
    fill(folder, units)
    found = {}
    for step in STEPS:
        command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
        found[step] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    count = len(Storage(str(folder)).names("units"))
    return Steps(count, found)


def ledgers(folder: Path, sizes: Sequence[int]) -> Iterator[Steps]:
    """One ledger after the other."""
    for units in sizes:
        yield run(units, folder / str(units))


def lines(measured: Iterable[Steps]) -> Iterator[str]:
    """The rows in Markdown, line by line as they come."""
    columns = [f"{step}, {unit}" for step in STEPS for unit in ("s", "CPU s", "MB")]
    yield f"| units | {' | '.join(columns)} |\n|{'--:|' * (len(columns) + 1)}"
    for row in measured:
        cells = ["{:.1f} | {:.1f} | {}".format(*row.found[step]) for step in STEPS]
        yield f"| {row.units} | {' | '.join(cells)} |"


def measure() -> list[Row]:
    """The rows of this benchmark."""
    with tempfile.TemporaryDirectory() as name:
        small, large = ledgers(Path(name), SIZES)
    found = []
    for step in STEPS:
        (_, few, low), (seconds, many, high) = small.found[step], large.found[step]
        ratio = many / large.units / (few / small.units)
        growth = 1024 * (high - low) / (large.units - small.units)
        measured = f"{growth:.1f} KB; {seconds:.0f} s, CPU time per unit {ratio:.2f}x that of {small.units}"
        what = f"{step}, {large.units} units of 5,000 scores: growth of memory per unit"
        found.append(Row(what, "<= 15 KB", measured, growth <= 15))
    return found


def main() -> None:
    """Read the arguments, and take one step here or all of them in processes of their own."""
    parser = argparse.ArgumentParser(description="What is done over all records at once.")
    parser.add_argument("--units", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        started, cpu = time.perf_counter(), time.process_time()
        STEPS[arguments.step](arguments.folder)
        peak = memory("VmHWM") // 1024
        print(json.dumps([time.perf_counter() - started, time.process_time() - cpu, peak]))
        return
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for line in lines(ledgers(folder, arguments.units)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
