"""The tests share units.py, and made-up tables."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.unit.tables.made_up import everything, make

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def result():
    return everything()


@pytest.fixture
def build():
    return make
