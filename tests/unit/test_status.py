"""``twofold status``: what is counted, what is estimated, and how it reads."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.leases import TTL_SECONDS, Leases, Owner
from orchestrator.ledger import Ledger, UnitRecord
from orchestrator.plan import Unit
from orchestrator.status import read_status, show_status
from orchestrator.storage import Storage

NOW = 1_000_000.0
TRACE = 'Traceback (most recent call last):\n  File "x.py", line 3\nValueError: '
UNITS = [Unit(f"k{i}", "s", {}, 0, f"b{i // 2}", False) for i in range(12)]
"""Two in each of six bundles."""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def write(storage: Storage, numbers: Any, state: str = "done", **values: Any) -> None:
    for number in numbers:
        start: dict[str, Any] = dict(
            key=f"k{number}", setting="s", state=state, dataset="d", source="a", target="b", normal_class="0",
            contamination=0.1, split_seed=0, seed=0, config={}, ended=NOW - 60,
        )  # fmt: skip
        Ledger(storage).write(UnitRecord(**{**start, **values}))


def lease(storage: Storage, bundle: str, session: str, age: float = 0) -> None:
    owner = replace(Owner.here(), session=session)
    assert Leases(storage, owner, lambda: NOW - age).acquire(bundle)


def shown(storage: Storage, width: int = 110) -> str:
    out = io.StringIO()
    show_status("demo", read_status(UNITS, storage, NOW), Console(file=out, width=width))
    return out.getvalue()


def test_every_unit_is_in_one_state(storage: Storage) -> None:
    write(storage, range(3))
    write(storage, [3], "failed", failure="error", error=TRACE + "boom")
    write(storage, [4], "stopped")
    (storage.location / Path("units/k0.arrow")).write_bytes(b"damaged")
    lease(storage, "b2", "one")
    lease(storage, "b3", "one")
    lease(storage, "b4", "two")
    lease(storage, "mlflow", "three")
    status = read_status(UNITS, storage, NOW)
    # k0 is damaged, k10 and k11 are planned; of the bundles under way, k4 is recorded.
    assert status.counts == {"planned": 3, "running": 5, "done": 2, "failed": 1, "stopped": 1}
    assert sum(status.counts.values()) == len(UNITS)
    assert status.drivers == 2, "who only logs runs no units"


def test_records_of_another_plan_do_not_count(storage: Storage) -> None:
    write(storage, [0, 99], attempts=3)
    status = read_status(UNITS, storage, NOW)
    assert status.counts["done"] == 1 and status.repeated == 2


def test_a_lease_that_has_ended_is_not_running(storage: Storage) -> None:
    lease(storage, "b1", "one", age=TTL_SECONDS + 1)
    status = read_status(UNITS, storage, NOW)
    assert status.counts["running"] == status.drivers == 0
    assert "Nothing runs now" in shown(storage)


def test_failures_are_grouped_by_cause_and_last_line(storage: Storage) -> None:
    write(storage, [0, 1, 2], "failed", failure="error", error=TRACE + "boom\n")
    write(storage, [3], "failed", failure="error", error=TRACE + "bang")
    write(storage, [4], "failed", failure="no_result", error="")
    causes = read_status(UNITS, storage, NOW).causes
    assert dict(causes) == {
        ("error", "ValueError: boom"): 3, ("error", "ValueError: bang"): 1, ("no_result", ""): 1,
    }  # fmt: skip


def test_attempts_beyond_the_first_and_lost_nodes_are_counted_apart(storage: Storage) -> None:
    write(storage, [0, 1], attempts=1)
    write(storage, [2], attempts=4, preemptions=3)
    write(storage, [3], attempts=2)
    status = read_status(UNITS, storage, NOW)
    assert (status.repeated, status.preemptions) == (4, 3)
    assert "4 attempts were repeated, 3 of them after the loss of a node." in shown(storage)


@pytest.mark.parametrize(
    ("ended", "seconds"),
    [
        ([100, 80, 60, 40], 8 * 25),  # four in 100 s, eight are left
        ([100, 100, 100, 100], 8 * 25),
        ([5000, 4000, 100, 50], 8 * 50),  # what ended long ago says nothing of now
        ([5000, 4000, 3000, 50], None),
        ([], None),
    ],
)
def test_time_left_is_that_of_the_last_minutes(
    ended: list[float], seconds: float | None, storage: Storage
) -> None:
    for number, age in enumerate(ended):
        write(storage, [number], ended=NOW - age)
    lease(storage, "b4", "one")
    assert read_status(UNITS, storage, NOW).seconds_left == seconds


def test_without_a_driver_there_is_no_time_left_to_tell(storage: Storage) -> None:
    write(storage, range(4))
    assert read_status(UNITS, storage, NOW).seconds_left is None


def test_status_reads_well(storage: Storage) -> None:
    for number in range(4):
        write(storage, [number], ended=NOW - 1000 / 3 * (number + 1) / 2)
    write(
        storage, [4, 5], "failed", failure="gpu_out_of_memory", error="torch.OutOfMemoryError: [CUDA] 2 GiB"
    )
    lease(storage, "b4", "one")
    text = shown(storage)
    assert text.splitlines()[:2] == [
        "demo: 12 units: 4 planned, 2 running, 4 done, 2 failed",
        "Drivers at work: 1; time left: about 10 min",
    ]
    row = next(line for line in text.splitlines() if "gpu_out_of_memory" in line)
    assert "2" in row and "torch.OutOfMemoryError: [CUDA] 2 GiB" in row, "brackets are no markup"


def test_a_long_error_wraps_and_leaves_the_cause_whole(storage: Storage) -> None:
    line = "RuntimeError: " + "word " * 60 + "end"
    write(storage, [0], "failed", failure="gpu_out_of_memory", error=line)
    text = shown(storage)
    assert max(map(len, text.splitlines())) <= 110
    assert "gpu_out_of_memory" in text and "units" in text and "…" not in text
    table = [part for row in text.splitlines() if "│" in row or "┃" in row for part in row.split()]
    assert table.count("word") == 60 and "end" in table


def test_a_finished_sweep_says_so_in_one_line(storage: Storage) -> None:
    write(storage, range(12))
    assert shown(storage) == "demo: 12 units: 12 done\n"
