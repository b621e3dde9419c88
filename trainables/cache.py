"""Content-addressed arrays on disk: computed once, memory-mapped ever after.

An entry's address is the hash of everything its content depends on. The file is an Arrow IPC tensor written
to a temporary name and renamed, so a reader sees a whole entry or none, and two writers of one entry leave
the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from trainables.errors import TwofoldError
from trainables.seeding import stable_hash

DIGEST_BYTES = 32
LARGEST_BYTES = 50e9
IN_USE_SECONDS = 3600
"""An entry that was used this recently is not removed."""


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
    """Arrays under ``root/<kind>/<address>.arrow`` with their description in a JSON file beside them.

    A hash of the content is behind every array, and is checked when the array is read. When the folder has
    grown larger than it may, what was not used for longest is removed. What this instance has read or
    written stays, and so does what anybody used within the last hour: another sweep may be about to read it.

    Args:
        root: folder of the cache.
        most_bytes: size above which entries are removed.
    """

    def __init__(self, root: Path, most_bytes: float = LARGEST_BYTES) -> None:
        self.root = root
        self._most_bytes = most_bytes
        self._used: set[Path] = set()

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
        stored = self.read(kind, content)
        return stored if stored is not None else self.write(kind, content, compute())

    def read(self, kind: str, content: Mapping[str, Any]) -> np.ndarray | None:
        """The read-only, memory-mapped array of ``content``, or None where it is absent or damaged."""
        path = self._path(kind, content)
        stored = _read(path)
        if stored is not None:
            self._used.add(path)
            # A folder that can only be read is as good, though nobody sees what of it is used.
            with contextlib.suppress(OSError):
                os.utime(path)
        return stored

    def write(self, kind: str, content: Mapping[str, Any], array: np.ndarray) -> np.ndarray:
        """Store an array and return it read-only and memory-mapped.

        Raises:
            TwofoldError: the cache folder cannot be written.
        """
        path = self._path(kind, content)
        stored: list[np.ndarray] = []

        def write_and_map(temporary: Path) -> None:
            # Mapped before anybody can see it: once renamed, another sweep may already be removing it.
            _write(temporary, np.ascontiguousarray(array))
            mapped = _read(temporary)
            if mapped is None:
                raise TwofoldError(f"{path} was damaged while it was written; is the disk full?")
            stored.append(mapped)

        try:
            # No need to wait for the disk: what a power cut damages has a wrong hash, and is computed again.
            write_atomically(path.with_suffix(".json"), lambda p: _write_json(p, content), durable=False)
            write_atomically(path, write_and_map, durable=False)
        except OSError as error:
            raise TwofoldError(
                f"cannot write the cache folder {self.root}: {error.strerror}. "
                "Set `cache:` to a folder you can write, with free space."
            ) from error
        self._used.add(path)
        self._evict()
        return stored[0]

    def _path(self, kind: str, content: Mapping[str, Any]) -> Path:
        return self.root / kind / f"{stable_hash(dict(content), 32)}.arrow"

    def _evict(self) -> None:
        """Remove entries that nobody used lately, the oldest first, until the rest is small enough."""
        entries = sorted(_entries(self.root), key=lambda entry: entry.used)
        excess = sum(entry.size for entry in entries) - self._most_bytes
        for entry in entries:
            if excess <= 0 or entry.used > time.time() - IN_USE_SECONDS:
                break
            if entry.path not in self._used:
                # Whoever maps it keeps its content.
                entry.path.with_suffix(".json").unlink(missing_ok=True)
                entry.path.unlink(missing_ok=True)
                excess -= entry.size


class _Entry(NamedTuple):
    """A stored array: its size in bytes, and when it was used last, in seconds since the epoch."""

    path: Path
    size: int
    used: float


def _entries(root: Path) -> Iterator[_Entry]:
    for path in root.glob("*/*.arrow"):
        with contextlib.suppress(FileNotFoundError):  # removed by another sweep
            status = path.stat()
            yield _Entry(path, status.st_size, status.st_mtime)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(content), indent=1, sort_keys=True))


def _write(path: Path, array: np.ndarray) -> None:
    with pa.OSFile(str(path), "wb") as sink:
        pa.ipc.write_tensor(pa.Tensor.from_numpy(array), sink)
    with pa.memory_map(str(path)) as written:
        digest = _digest(written.read_buffer())
    with path.open("ab") as file:
        file.write(digest)


def _digest(content: pa.Buffer | memoryview) -> bytes:
    """SHA-256, which processors have instructions for."""
    return hashlib.sha256(content).digest()


def _read(path: Path) -> np.ndarray | None:
    """Return the stored array, or None where there is no whole entry."""
    try:
        with pa.memory_map(str(path)) as source:
            stored = memoryview(source.read_buffer())
            # Before anything else: Arrow trusts its input, and one wrong byte can end the process.
            if _digest(stored[:-DIGEST_BYTES]) != bytes(stored[-DIGEST_BYTES:]):
                return None
            source.seek(0)
            array: np.ndarray = pa.ipc.read_tensor(source).to_numpy()
    except (OSError, pa.ArrowInvalid):
        return None
    return array
