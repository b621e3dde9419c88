"""Opt-in tests of real clusters on one machine: ``make test-cluster``; ``make test`` leaves them alone."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("cluster", "integration"):  # hosts.py and harness.py
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
