"""One real sweep that many tests look at, and images to damage."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))  # the tests share harness.py

from harness import SMALL, TINY, Sweep, draw_domains, twofold


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features shared by all sweeps of the test run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Sweep:
    """The main job once, end to end: the small digits sweep and the oracle upper bound, one worker.

    RAY_ADDRESS names a cluster that is not there: a sweep on this machine does not look at it.
    """
    folder = tmp_path_factory.mktemp("swept")
    content = yaml.safe_load(SMALL.read_text())
    content["space"].append({"supervision": "oracle", "alignment": ["identity", "positive"], "score": "knn"})
    space = folder / "space.yaml"
    space.write_text(yaml.safe_dump(content))
    overrides = (*TINY, f"output={folder}", f"cache={cache}", "resources.workers=1")
    sweep = Sweep(space, overrides)
    first = twofold("sweep", *sweep.arguments, env={"RAY_ADDRESS": "127.0.0.1:1"})
    assert first.code == 0, first.output
    return Sweep(space, overrides, first)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two domains with three classes of 16 tiny images each, to be damaged."""
    return draw_domains(tmp_path / "images")
