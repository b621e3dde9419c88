"""Content-addressed arrays on disk: computed once, memory-mapped ever after.

An entry's address is the hash of everything its content depends on. The file is an Arrow IPC tensor written
to a temporary name and renamed, so a reader sees a whole entry or none, and two writers of one entry leave
the same bytes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trainables.errors import TwofoldError
from trainables.seeding import stable_hash


def write_atomically(path: Path, write: Callable[[Path], None], durable: bool = True) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, then rename it into place.

    Args:
        path: of the file; its folder is made.
        write: fills the file whose path it is given.
        durable: flush before renaming; what is worthless after a power cut need not wait for the disk.

    Raises:
        OSError: with ``path`` as its file name; there is then no file, or the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        # mkstemp makes files that only their owner can read; others share the folder on a cluster.
        temporary.chmod(0o644)
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # A write that fails, on a full disk for one, does not say where.
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


class ArrayCache:
    """Arrays under ``root/<kind>/<address>.arrow`` with their description in a JSON file beside them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, kind: str, content: Mapping[str, Any], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array described by ``content``, computing and storing it when absent or damaged.

        Args:
            kind: folder of the entry, e.g. ``features``.
            content: JSON-safe description of everything the array depends on.
            compute: called without arguments when there is no valid entry.

        Returns:
            A read-only, memory-mapped array.

        Raises:
            TwofoldError: the cache folder cannot be written.
        """
        path = self.root / kind / f"{stable_hash(dict(content), 32)}.arrow"
        stored = _read(path)
        if stored is not None:
            return stored
        array = np.ascontiguousarray(compute())
        try:
            write_atomically(path.with_suffix(".json"), lambda p: _write_json(p, content))
            write_atomically(path, lambda p: _write(p, array))
        except OSError as error:
            raise TwofoldError(
                f"cannot write the cache folder {self.root}: {error.strerror}. "
                "Set `cache:` to a folder you can write, with free space."
            ) from error
        stored = _read(path)
        if stored is None:
            raise TwofoldError(f"{path} was damaged while it was written; is the disk full?")
        return stored


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=1, sort_keys=True))


def _write(path: Path, array: np.ndarray) -> None:
    with pa.OSFile(str(path), "wb") as sink:
        pa.ipc.write_tensor(pa.Tensor.from_numpy(array), sink)


def _read(path: Path) -> np.ndarray | None:
    """Return the stored array, or None where there is no whole entry."""
    if not path.exists():
        return None
    try:
        with pa.memory_map(str(path)) as source:
            array: np.ndarray = pa.ipc.read_tensor(source).to_numpy()
    except (OSError, pa.ArrowInvalid):
        return None
    return array
