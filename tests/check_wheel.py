"""Build the wheel and compare it with the repository: ``python tests/check_wheel.py``.

A new subpackage without ``__init__.py``, or a data file that no setting includes, works from the checkout and
is missing from every installation. The build runs in a copy, since leftovers in ``build/`` would hide it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("orchestrator", "trainables", "search_spaces")
PROJECT_FILES = ("pyproject.toml", "README.md", "LICENSE")
UNTRACKED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def copy_project(root: Path, to: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(root / package, to / package, ignore=UNTRACKED)
    for name in PROJECT_FILES:
        shutil.copy(root / name, to / name)


def package_files(root: Path) -> set[str]:
    files = (file for package in PACKAGES for file in (root / package).rglob("*"))
    return {file.relative_to(root).as_posix() for file in files if file.is_file()}


def wheel_files(root: Path) -> set[str]:
    """Paths inside the wheel built from ``root``, without the metadata; leaves build products in ``root``."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(root / "dist")]
    build = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if build.returncode:
        raise SystemExit(f"the wheel does not build:\n{build.stdout}{build.stderr}")
    (wheel,) = (root / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def differences(root: Path) -> list[str]:
    """Build ``root`` in a copy; one line for each file that only the repository or only the wheel holds."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_project(root, copy)
        expected = package_files(copy)
        found = wheel_files(copy)
    return [f"not in the wheel: {name}" for name in sorted(expected - found)] + [
        f"only in the wheel: {name}" for name in sorted(found - expected)
    ]


if __name__ == "__main__":
    problems = differences(ROOT)
    if problems:
        sys.exit("\n".join([*problems, "Add the missing __init__.py, or name the file in package-data."]))
    print("The wheel holds every file of the packages.")
