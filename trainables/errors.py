"""Errors that a user can mend: one sentence that names the file or key, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TwofoldError(Exception):
    """A mistake in the input; the command line prints the message alone and exits with 2."""


class UnknownName(TwofoldError):
    """A name that no registry entry or configuration key carries."""


class UndefinedScore(TwofoldError):
    """A proxy has no value for these inputs; raised instead of returning NaN."""


class NonFinite(TwofoldError):
    """A loss, an embedding or an anomaly score stopped being a finite number."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
