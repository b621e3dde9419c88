"""The spec of a ledger: what its units were planned from, so that no other sweep is mixed into it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from orchestrator.config import SweepConfig
from orchestrator.leases import Leases
from orchestrator.plan import SCHEMA
from orchestrator.storage import Storage
from trainables.errors import TwofoldError

SECTIONS = ("data", "fixed", "default", "space", "search", "objective", "scheduler", "seeds")
"""Sections of the sweep file that decide what is run; the others decide where, how fast and how long."""


def describe_spec(config: SweepConfig, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """Everything the units depend on, JSON-safe.

    Args:
        config: the sweep.
        fingerprints: domain name -> hash of its images.
    """
    content = config.model_dump(mode="json", include=set(SECTIONS))
    # Where the images lie does not matter; what they are does.
    content["data"] = {k: v for k, v in content["data"].items() if k not in ("root", "source", "target")}
    return {"schema": SCHEMA, **content, "images": dict(fingerprints)}


def open_spec(storage: Storage, leases: Leases, spec: Mapping[str, Any], accept_changes: bool) -> None:
    """Write the spec of a new ledger, or compare it with that of an old one.

    Args:
        storage: where the ledger is.
        leases: of the driver that opens it.
        spec: what ``describe_spec`` says.
        accept_changes: put the new spec in place of another one; records that both plan are kept.

    Raises:
        TwofoldError: the ledger belongs to another spec; the message names every difference.
    """
    with leases.exclusive("spec"):
        if storage.read("id") is None:
            storage.write("id", uuid.uuid4().hex.encode())
        stored = _read(storage)
        changes = [] if stored is None else differences(stored, spec)
        if changes and not accept_changes:
            raise TwofoldError(
                "\n".join(
                    [
                        f"{storage.location} holds a sweep that was planned otherwise:",
                        *(f"  {change}" for change in changes),
                        "Give this one another --name (and another `ledger:`, if it has one), undo the "
                        "change, or go on in the same folder with --accept-changes: units of both plans "
                        "keep their records.",
                    ]
                )
            )
        if stored is None or changes:
            storage.write("spec.json", json.dumps(spec, indent=1).encode())


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """One line per value that is not the same in two JSON values, with its key."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        return [line for i, (a, b) in enumerate(pairs) for line in differences(a, b, f"{where}.{i}")]
    return [] if old == new else [f"{where}: {json.dumps(old)} -> {json.dumps(new)}"]


def _read(storage: Storage) -> Any:
    """The stored spec; a damaged one counts as missing, since its units are found by their keys anyhow."""
    try:
        return json.loads(storage.read("spec.json") or b"null")
    except ValueError:
        return None
