"""``twofold stop``: a file beside the ledger that every running driver of the sweep looks for."""

from __future__ import annotations

import json
import time

from orchestrator.storage import Storage

POLL_SECONDS = 2.0
"""How often a request to stop, and another driver's units, are looked for."""


def request_stop(storage: Storage) -> None:
    """Ask every driver of a sweep that is running now to stop after the steps under way."""
    storage.write("stop", json.dumps({"asked": time.time()}).encode())


def stop_requested(storage: Storage, since: float) -> bool:
    """Whether a stop was asked for after ``since``, in seconds since the epoch."""
    try:
        return float(json.loads(storage.read("stop") or b"{}").get("asked", 0)) > since
    except (ValueError, TypeError, AttributeError, OSError):
        return False
