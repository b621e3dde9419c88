"""The watchdog: ends a worker process that hangs, since a thread that hangs cannot be ended."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType

GRACE_SECONDS = 30.0
"""How much longer a process may live that does not even let the watchdog run."""


class Watchdog:
    """Ends this process when a step of the block takes longer than ``seconds``.

    A thread notices, tells where the watched thread stands, and exits. Code that never gives up Python's lock
    would keep it from running; after ``GRACE_SECONDS`` more, a timer outside of Python ends such a process.

    Args:
        seconds: longest time from ``feed`` to the next ``feed`` or ``rest``.
        on_timeout: told the stack of the watched thread, as text, before the process ends.
    """

    def __init__(self, seconds: float, on_timeout: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._on_timeout = on_timeout
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._fed: float | None = None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.feed()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rest()
        self._ended.set()
        self._thread.join()

    def feed(self) -> None:
        """Begin a step."""
        self._fed = time.monotonic()
        # sys.stderr may be captured by a test or a notebook, and is no file then.
        file = sys.__stderr__ or 2
        faulthandler.dump_traceback_later(self._seconds + GRACE_SECONDS, exit=True, file=file)

    def rest(self) -> None:
        """End a step; what happens until the next one is not this process's doing."""
        self._fed = None
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._seconds / 10)):
            fed = self._fed
            if fed is not None and time.monotonic() - fed >= self._seconds:
                try:
                    self._on_timeout(self._stack())
                finally:
                    os._exit(1)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._watched)
        return "".join(traceback.format_stack(frame)) if frame else ""
