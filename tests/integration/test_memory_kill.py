"""Ray's memory monitor ends a worker, and with it the whole of Tune's run: one failed unit, and no other."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    draw_domains,
    finished,
    folder_data,
    processes_with,
    records,
    start,
    statuses,
    with_faults,
    write_space,
)

LIMIT = 7 * 2**29
"""Bytes that the sweep may take: twice what it needs; the fault alone takes 2 GiB."""
PAGE = 4096
SCORES = ["source_centre", "knn"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, to give Ray a limit of its own")
@pytest.mark.slow
def test_a_kill_by_the_memory_monitor_fails_the_unit_that_took_the_memory_alone(
    cache: Path, tmp_path: Path
) -> None:
    data = folder_data(draw_domains(tmp_path / "images"), classes=["plain bar"], anomaly_classes=["Größe"])
    faulty = {"alignment": "faulty", "clusterer": "all", "score": SCORES}
    slow = {"fault": "slow", "epochs": 20, "lambda_align": [0.5, 1.0]}
    space = write_space(
        tmp_path / "memory.yaml",
        cache,
        data=data,
        space=[{**faulty, "fault": "memory"}, {**faulty, **slow}],
        resources={"workers": 2, "trainings_per_trial": 1},
    )
    environment = {
        **with_faults(tmp_path / "environment"),
        "RAY_memory_usage_threshold": "0.9",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    with limited_memory(tmp_path / "group", str(tmp_path / "environment")) as prefix:
        sweep = start(["sweep", space], environment, prefix)
        try:
            done = finished(sweep, 240)
        finally:
            sweep.kill()
            sweep.wait(10)
    assert done.code == 1 and "Traceback" not in done.output, done.output
    ended = records(tmp_path / "memory")
    assert len(ended) == 2 + 2 * 2 + 1
    failed = {key: record for key, record in ended.items() if record.state == "failed"}
    assert {record.config.get("fault") for record in failed.values()} == {"memory"}
    assert len(failed) == 2
    for record in failed.values():
        assert record.failure == "out_of_memory" and "memory monitor" in str(record.error)
        assert record.attempts == 2 and record.preemptions == 0
    wanted = {key: ["FAILED" if key in failed else "FINISHED"] for key in ended}
    assert statuses(tmp_path / "memory") == wanted


@contextlib.contextmanager
def limited_memory(group: Path, marker: str) -> Iterator[list[str]]:
    """What to put before a command, so that Ray sees a limit on the memory of that command alone.

    Ray reads the limit and the use of its control group from files. The command gets a mount namespace of its
    own in which these files say what the processes with ``marker`` in their environment really use, whatever
    else the machine does, and whether or not a test may make control groups.
    """
    (group / "memory").mkdir(parents=True)
    prefix = ["unshare", "--mount", "sh", "-c", f'mount --bind "{group}" /sys/fs/cgroup && exec "$@"', "sh"]
    done = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()[-300:]} (it takes root)")
    ended = threading.Event()
    _tell_use(group, marker)
    thread = threading.Thread(target=lambda: _keep_telling_use(group, marker, ended), daemon=True)
    thread.start()
    try:
        yield prefix
    finally:
        ended.set()
        thread.join()


def _keep_telling_use(group: Path, marker: str, ended: threading.Event) -> None:
    while not ended.wait(0.1):
        _tell_use(group, marker)


def _tell_use(group: Path, marker: str) -> None:
    """Write the files of a memory control group, of both versions of Linux's."""
    used = sum(_private_memory(process) for process in processes_with(marker))
    files = {"memory/memory.limit_in_bytes": LIMIT, "memory/memory.usage_in_bytes": used}
    files |= {"memory.max": LIMIT, "memory.current": used}
    texts = {name: str(value) for name, value in files.items()}
    texts["memory/memory.stat"] = "total_inactive_file 0\ntotal_active_file 0\n"
    texts["memory.stat"] = "inactive_file 0\nactive_file 0\n"
    for name, text in texts.items():
        written = group / f"{name}.new"
        written.write_text(text)
        written.replace(group / name)


def _private_memory(process: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        _, resident, shared, *_ = map(int, Path(f"/proc/{process}/statm").read_text().split())
        return PAGE * (resident - shared)
    return 0
