"""A measured table for a reader: on the terminal, and as Markdown, LaTeX, CSV and a plot."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import RenderableType

from orchestrator.tables.latex import latex
from orchestrator.tables.layout import lay_out
from orchestrator.tables.long_csv import long_csv
from orchestrator.tables.markdown import markdown
from orchestrator.tables.plot import save_plot
from orchestrator.tables.result import TableResult
from orchestrator.tables.terminal import TerminalTable
from trainables.cache import write_atomically


def terminal(result: TableResult) -> RenderableType:
    """The table for a console, which it fits itself to: 80 characters are enough."""
    return TerminalTable(lay_out(result))


def write(result: TableResult, folder: Path) -> list[Path]:
    """Write ``table.md``, ``table.tex``, ``table.csv`` and ``table.png``, each whole or not at all.

    Equal results give equal bytes.

    Args:
        result: what is written.
        folder: made where it is missing; files of these names in it are replaced.

    Returns:
        Their paths, in this order.

    Raises:
        OSError: the folder cannot be written.
    """
    layout = lay_out(result)
    texts = {
        "table.md": markdown(layout, picture="table.png"),
        "table.tex": latex(layout),
        "table.csv": long_csv(result),
    }
    fills: dict[str, Callable[[Path], None]] = {name: partial(_fill, text) for name, text in texts.items()}
    fills["table.png"] = partial(save_plot, result)
    for name, fill in fills.items():
        write_atomically(folder / name, fill)
    return [folder / name for name in fills]


def _fill(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
