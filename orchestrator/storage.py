"""A folder on a local disk or in an object store: small files, each written whole or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from orchestrator.checksum import sealed, unsealed
from trainables.cache import write_atomically
from trainables.errors import TwofoldError

_REMOTE_READERS = 32
"""Files read at once from an object store, where each takes a round trip."""

_READ_AT_ONCE = 256
"""Objects whose content is held in memory until the last of them has come."""

_READS = 10
"""How often an object is read at most, because it was replaced meanwhile."""


class Storage:
    """Files below one folder, addressed by names such as ``units/3f.arrow``.

    A write is a temporary file and a rename on a local disk, one upload in an object store; a reader sees
    the old content, the new one or nothing. Instances can be pickled and opened again on another node.

    Args:
        location: a path, or a URI of a pyarrow file system: ``s3://bucket/folder``, ``gs://bucket/folder``.
            Credentials come from the environment of each node, never from the URI.
    """

    def __init__(self, location: str) -> None:
        self._root, self._files = _open(location)
        self.is_local = isinstance(self._files, fs.LocalFileSystem)
        # A worker on another node has another current folder.
        self.location = self._root if self.is_local else location

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.location,)

    def read(self, name: str) -> bytes | None:
        """Content of a file, or None where there is none, or a damaged object of an object store."""
        try:
            if self.is_local:
                return Path(self._path(name)).read_bytes()
            return self._download(self._path(name))
        except FileNotFoundError:
            return None

    def _download(self, path: str) -> bytes | None:
        """Content of an object whose checksum is right, or None where it stays wrong.

        pyarrow asks for the length, then reads as many bytes: of an object replaced in between come its first
        part, or bytes of nowhere behind it. Such a mixture fails its checksum, and is read again.

        Raises:
            OSError: the store refuses.
        """
        refused: OSError | None = None
        for _ in range(_READS):
            with self._files.open_input_file(path) as file:
                try:
                    stored, refused = bytes(file.readall()), None
                except OSError as error:  # removed or replaced by now, or the store is away
                    refused = error
                    continue
            if (content := unsealed(stored)) is not None:
                return content
        if refused is not None:
            raise refused
        return None

    def read_all(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """Contents of many files, in the order of their names, of which few are in memory at once."""
        if self.is_local:
            yield from map(self.read, names)
            return
        left = iter(names)
        with ThreadPoolExecutor(_REMOTE_READERS) as pool:
            while some := list(itertools.islice(left, _READ_AT_ONCE)):
                yield from pool.map(self.read, some)

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        """Store a file; the last one of a name wins.

        Args:
            name: of the file.
            content: of the file.
            durable: flush it to the disk before it gets its name, so that it outlives a power cut.

        Raises:
            OSError: the disk is full, or the store refuses.
        """
        if self.is_local:
            path = Path(self._path(name))
            write_atomically(path, lambda temporary: _fill(temporary, content), durable)
            return
        with self._files.open_output_stream(self._path(name)) as stream:
            stream.write(sealed(content))

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; without those that are being written."""
        found = self._files.get_file_info(fs.FileSelector(self._path(folder), allow_not_found=True))
        files = [info.base_name for info in found if info.type == fs.FileType.File]
        return sorted(name for name in files if not name.startswith("."))

    def remove(self, name: str) -> None:
        """Delete a file; a missing one is no error."""
        if self.is_local:
            Path(self._path(name)).unlink(missing_ok=True)
            return
        try:
            self._files.delete_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return str(PurePosixPath(self._root, name))


def _open(location: str) -> tuple[str, Any]:
    """Root path and file system of a location.

    Raises:
        TwofoldError: no file system answers to the URI, or it holds credentials.
    """
    if "://" not in location:
        return str(Path(location).absolute()), fs.LocalFileSystem()
    _refuse_credentials(location)
    uri = location
    if location.startswith("s3://"):
        # A small file then takes one request, and not the three of an upload in parts.
        uri += f"{'&' if '?' in location else '?'}allow_delayed_open=true"
    try:
        files, root = fs.FileSystem.from_uri(uri)
    except (ValueError, OSError, NotImplementedError) as error:
        raise TwofoldError(f"cannot open {location}: {error}") from error
    if not root:
        raise TwofoldError(f"{location} names no bucket; write it as s3://bucket/folder")
    return root, files


def _refuse_credentials(location: str) -> None:
    """Refuse ``scheme://user:secret@bucket``, also where the secret holds a slash.

    Raises:
        TwofoldError: there are credentials; the message does not repeat them.
    """
    scheme, _, rest = location.partition("?")[0].partition("://")
    before, at, after = rest.rpartition("@")
    if at and (":" in before or "/" not in before):
        raise TwofoldError(
            f"{scheme}://...@{after}: leave credentials out of the address, and give them in the environment "
            "of every node (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for one)"
        )


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)
