"""The life of Ray around a sweep, without Ray."""

import gc
import weakref
from pathlib import Path

import pytest
import ray

from orchestrator import ray_start
from orchestrator.config import load_config

SPACE = Path(__file__).parents[2] / "search_spaces" / "digits.yaml"


class Reference:
    """Stands for a reference to one of Ray's objects that Tune left in a cycle."""

    def __init__(self) -> None:
        self.cycle = self


def test_references_in_cycles_are_dropped_before_ray_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dropped while Ray ends in its thread, one would make Ray end the process with exit code 1."""
    left: list[object] = []
    monkeypatch.setattr(ray_start, "start_ray", lambda config, address: True)
    monkeypatch.setattr(ray, "shutdown", lambda: left.append(reference()))
    gc.disable()
    try:
        with ray_start.RaySession(load_config(SPACE), None) as session:
            session.wait()
            reference = weakref.ref(Reference())
            assert reference() is not None, "the cycle must outlive its last name"
    finally:
        gc.enable()
    assert left == [None]
