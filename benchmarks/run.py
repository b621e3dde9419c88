"""Every benchmark of speed in one run, one table: benchmarks/RESULTS.md.

python benchmarks/run.py [--pacs-root FOLDER] [--repeats 3] [--only NAME]...

The machine should have nothing else to do. Ratios are of two measurements of the same run.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import optimisations
import orchestration
import plan_accuracy
import preparation
import scaling
import speed
import streaming
import training
from rows import Row, table

HERE = Path(__file__).parent
PACKAGES = ("ray", "torch", "mlflow", "pyarrow", "scikit-learn", "timm")
Measure = Callable[[Path | None, int], list[Row]]
"""Folder of PACS and repeats of whole sweeps -> rows."""

BENCHMARKS: dict[str, tuple[str, Measure]] = {
    "plan": ("plan_accuracy.py", lambda root, _: plan_accuracy.measure(root)),
    "speed": ("speed.py", lambda _, repeats: speed.measure(speed.SPACE, repeats)),
    "scaling": ("scaling.py", lambda _, repeats: scaling.measure(scaling.SPACE, repeats)),
    "training": ("training.py", lambda *_: training.measure(3, 3)),
    "preparation": ("preparation.py", lambda root, _: preparation.measure(3, root)),
    "optimisations": ("optimisations.py", lambda *_: optimisations.measure(5)),
    "orchestration": ("orchestration.py", lambda _, repeats: orchestration.measure(repeats)),
    "streaming": ("streaming.py", lambda *_: streaming.measure()),
}


def hardware() -> str:
    """Processor, cores and memory, GPU if any."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    name = ", ".join(sorted(names)) or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB, {gpu}"


def commit() -> str:
    """The commit that is measured, with a mark where files differ from it."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def main() -> None:
    """Run what was asked for, print each table as it comes, and write all of them."""
    parser = argparse.ArgumentParser(description="every benchmark of speed")
    parser.add_argument("--pacs-root", type=Path, help="folder of PACS, for the rows that use it")
    parser.add_argument("--repeats", type=int, default=3, help="of whole sweeps")
    parser.add_argument("--only", action="append", choices=list(BENCHMARKS), help="benchmark to run")
    given = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    parts = [
        "# Speed",
        f"Written by `make bench` at commit {commit()}: {hardware()}; Python {platform.python_version()}, "
        f"{versions}. Ranges are over the repeats; whole sweeps were repeated {given.repeats} times.",
    ]
    for name in given.only or BENCHMARKS:
        script, measure = BENCHMARKS[name]
        started = time.monotonic()
        rows = table(measure(given.pacs_root, given.repeats))
        parts.append(f"## {name}\n\n`benchmarks/{script}`, {time.monotonic() - started:.0f} s\n\n{rows}")
        print(f"\n{parts[-1]}", flush=True)
        # After each of them: the last ones take long.
        (HERE / "RESULTS.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
