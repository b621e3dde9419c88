"""The driver killed three times at random moments: every unit once in the ledger and once in MLflow."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from harness import REPOSITORY

_spec = importlib.util.spec_from_file_location("survive", REPOSITORY / "benchmarks" / "survive.py")
assert _spec is not None and _spec.loader is not None
survive = importlib.util.module_from_spec(_spec)
sys.modules["survive"] = survive  # dataclasses look their module up
_spec.loader.exec_module(survive)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.slow
def test_three_kills_of_the_driver_lose_and_double_nothing(tmp_path: Path) -> None:
    outcome = survive.survive(120, seed=5, folder=tmp_path / "survive")
    assert outcome.holds, outcome.table()
    assert len(outcome.killed_at) == 3 and sum(outcome.killed_at) > 0
