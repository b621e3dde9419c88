"""Printing of a measured table; kept to the least until the renderers are in."""

from __future__ import annotations

from pathlib import Path

from orchestrator.tables.result import TableResult


def write(result: TableResult, folder: Path) -> None:
    """Write the printed forms of a table."""


def terminal(result: TableResult) -> str:
    """The table for a terminal."""
    return result.title
