"""Live progress of a sweep: counts and time left in a terminal, an occasional line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_SECONDS = 20.0


class SweepProgress:
    """Counts the units that ended.

    Args:
        console: where to write.
        total: units to run.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._failed = 0
        self._started = time.monotonic()
        self._last_line = self._started
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("[red]{task.fields[failed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("units", total=total, failed="")

    def __enter__(self) -> SweepProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if not self._console.is_terminal:
            self._print_line()

    def advance(self, done: int, failed: int) -> None:
        """Count units that ended."""
        self._done += done
        self._failed += failed
        shown = f"{self._failed} failed" if self._failed else ""
        self._bar.update(self._task, completed=self._done + self._failed, failed=shown)
        if not self._console.is_terminal and time.monotonic() - self._last_line > LINE_EVERY_SECONDS:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        ended = self._done + self._failed
        elapsed = self._last_line - self._started
        left = elapsed / ended * (self._total - ended) if ended else 0.0
        self._console.print(
            f"{ended}/{self._total} units, {self._failed} failed, {elapsed:.0f} s, about {left:.0f} s left",
            highlight=False,
        )
