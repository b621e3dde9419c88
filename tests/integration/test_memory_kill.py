"""Ray's memory monitor ends a worker, and with it the whole of Tune's run: one failed unit, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import draw_domains, folder_data, records, statuses, twofold, with_faults, write_space

GIB = 2**30
ROOM = 3 * GIB
"""What the sweep itself and the fault may take together; the fault stops at 2 GiB."""
SCORES = ["source_centre", "knn"]


def memory() -> dict[str, int]:
    """Bytes by the names of /proc/meminfo."""
    lines = (line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return {name: 1024 * int(rest.split()[0]) for name, rest in lines}


def test_a_kill_by_the_memory_monitor_fails_the_unit_that_took_the_memory_alone(
    cache: Path, tmp_path: Path
) -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("needs Linux, to see how much memory is in use")
    before = memory()
    if before["MemAvailable"] < 2 * ROOM:
        pytest.skip(f"only {before['MemAvailable'] / GIB:.1f} GiB of memory are free, too few to take some")
    threshold = 1 - (before["MemAvailable"] - ROOM) / before["MemTotal"]
    data = folder_data(draw_domains(tmp_path / "images"), classes=["plain bar"], anomaly_classes=["Größe"])
    faulty = {"alignment": "faulty", "clusterer": "all", "score": SCORES}
    space = write_space(
        tmp_path / "memory.yaml",
        cache,
        data=data,
        space=[
            {**faulty, "fault": "memory"},
            {**faulty, "fault": "slow", "epochs": 40, "lambda_align": [0.5, 1.0]},
        ],
        resources={"workers": 2, "trainings_per_trial": 1},
    )
    environment = {
        **with_faults(tmp_path / "environment"),
        "RAY_memory_usage_threshold": f"{threshold:.4f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    done = twofold("sweep", space, env=environment)
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
