"""A folder on a local disk or in an object store: small files, each written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from trainables.cache import write_atomically
from trainables.errors import TwofoldError

_REMOTE_READERS = 32
"""Files read at once from an object store, where each takes a round trip."""


class Storage:
    """Files below one folder, addressed by names such as ``units/3f.arrow``.

    A write is a temporary file and a rename on a local disk, one upload in an object store; a reader sees
    the old content, the new one or nothing. Instances can be pickled and opened again on another node.

    Args:
        location: a path, or a URI of a pyarrow file system: ``s3://bucket/folder``, ``gs://bucket/folder``.
            Credentials come from the environment of each node, never from the URI.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._root, self._files = _open(location)
        self.is_local = isinstance(self._files, fs.LocalFileSystem)

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.location,)

    def __truediv__(self, folder: str) -> Storage:
        """The folder of that name inside this one."""
        head, mark, options = self.location.partition("?")
        return Storage(f"{head.rstrip('/')}/{folder}{mark}{options}")

    def read(self, name: str) -> bytes | None:
        """Content of a file, or None where there is none."""
        try:
            if self.is_local:
                return Path(self._path(name)).read_bytes()
            with self._files.open_input_file(self._path(name)) as file:
                return bytes(file.readall())
        except FileNotFoundError:
            return None

    def read_all(self, names: Iterable[str]) -> list[bytes | None]:
        """Contents of many files, in the order of their names."""
        if self.is_local:
            return [self.read(name) for name in names]
        with ThreadPoolExecutor(_REMOTE_READERS) as pool:
            return list(pool.map(self.read, names))

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
            stream.write(content)

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
    if urlsplit(location).username is not None:
        scheme, _, rest = location.partition("://")
        raise TwofoldError(
            f"{scheme}://...@{rest.rpartition('@')[2]}: leave credentials out of the address, and give "
            "them in the environment of every node (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for one)"
        )
    try:
        files, root = fs.FileSystem.from_uri(location)
    except (ValueError, OSError, NotImplementedError) as error:
        raise TwofoldError(f"cannot open {location}: {error}") from error
    return root, files


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)
