"""A disk that is full, at each place that a sweep writes to: said loudly, and nothing half counts as done."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    Sweep,
    draw_domains,
    folder_data,
    modified,
    records,
    refused,
    statuses,
    twofold_here,
    write_space,
)

pytestmark = pytest.mark.usefixtures("ray_local")
UNITS = 40


class Disk:
    """A file system of a few kilobytes in memory.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no small disk here: {done.stderr.strip() or 'mount failed'} (it takes root)")

    def resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)

    def fill(self) -> None:
        """Take all the room that is left."""
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb") as file:
            while True:
                file.write(bytes(512))
                file.flush()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk", "100k")
    try:
        yield disk
    finally:
        # Lazily: this process and Ray's workers still have some of its files open.
        subprocess.run(["umount", "--lazy", disk.folder], check=True)


def space(tmp_path: Path, cache: Path, **changes: str) -> Path:
    unit = {"alignment": "identity", "clusterer": "all", "score": "knn"}
    return write_space(
        tmp_path / "full.yaml",
        cache,
        data=folder_data(draw_domains(tmp_path / "images"), classes=["plain bar"], anomaly_classes=["Größe"]),
        default=unit,
        space=[{**unit, "neighbours": list(range(1, UNITS + 1))}],
        resources={"workers": 1},
        **changes,
    )


def test_a_full_ledger_ends_the_sweep_and_room_completes_it(cache: Path, tmp_path: Path, disk: Disk) -> None:
    ledger = disk.folder / "ledger"
    file = space(tmp_path, cache, ledger=str(ledger))
    planned = Sweep(file, ()).planned()
    refused(twofold_here("sweep", file), str(ledger), "No space left on device")
    before = records(ledger)
    assert 0 < len(before) < UNITS
    assert {record.state for record in before.values()} == {"done"}
    kept = modified([ledger / "units" / f"{key}.arrow" for key in before])
    # Full from the start: said before anything is prepared.
    disk.fill()
    refused(twofold_here("sweep", file), f"cannot write the ledger {ledger}", "No space left on device")
    disk.resize("10m")
    done = twofold_here("sweep", file)
    assert done.code == 0 and f"{len(before)} recorded, {UNITS - len(before)} to run" in done.message
    assert modified(list(kept)) == kept
    ended = records(ledger)
    assert set(ended) == planned and {record.state for record in ended.values()} == {"done"}
    assert statuses(tmp_path / "full") == {key: ["FINISHED"] for key in planned}


def test_a_full_cache_is_refused_and_room_completes_it(tmp_path: Path, disk: Disk) -> None:
    file = space(tmp_path, disk.folder / "cache")
    refused(
        twofold_here("sweep", file), f"cannot write the cache folder {disk.folder / 'cache'}", "free space"
    )
    assert not records(tmp_path / "full")
    disk.resize("100m")
    assert twofold_here("sweep", file).code == 0
    assert len(records(tmp_path / "full")) == UNITS


def test_a_full_output_folder_is_refused_and_room_completes_it(
    cache: Path, tmp_path: Path, disk: Disk
) -> None:
    file = space(tmp_path, cache, output=str(disk.folder), ledger=str(tmp_path / "ledger"))
    disk.resize("24k")
    refused(twofold_here("sweep", file), "the disk is full", str(disk.folder))
    disk.resize("100m")
    assert twofold_here("sweep", file).code == 0
    assert len(records(tmp_path / "ledger")) == UNITS
