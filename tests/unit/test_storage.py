"""Storage: the same promises on a local disk and in a real S3 server."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from trainables.errors import TwofoldError

NAMES = ("a.arrow", "units/3f.arrow", "with blank/und é 环.json", "odd/?x#y%20&z=1+2", "deep/er/and deeper")


@pytest.fixture(params=["local", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "sweep é")
    address: str = request.getfixturevalue("s3")()
    return address


@pytest.fixture
def storage(location: str) -> Storage:
    return Storage(location)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_and_the_last_one_wins(name: str, storage: Storage) -> None:
    assert storage.read(name) is None
    for content in (b"first", b"", bytes(range(256)) * 5000):
        storage.write(name, content)
        assert storage.read(name) == content
    storage.remove(name)
    assert storage.read(name) is None
    storage.remove(name)


def test_names_are_those_of_the_files_of_one_folder(storage: Storage) -> None:
    assert storage.names("units") == []
    for name in ("units/b", "units/a é", "units/.hidden", "units/below/c", "other/d", "e"):
        storage.write(name, b"1")
    assert storage.names("units") == ["a é", "b"]
    assert storage.names("units/below") == ["c"] and storage.names("unit") == []
    storage.remove("units/b")
    assert storage.names("units") == ["a é"]


def test_a_folder_outlives_its_last_file(storage: Storage) -> None:
    for _ in range(2):
        storage.write("leases/a", b"1")
        storage.remove("leases/a")
        assert storage.names("leases") == []


def test_many_files_are_read_in_the_order_asked_for(storage: Storage) -> None:
    for number in range(40):
        storage.write(f"units/{number}", str(number).encode())
    asked = [*range(39, -1, -1), 40, 7]
    expected = [None if number == 40 else str(number).encode() for number in asked]
    assert list(storage.read_all(f"units/{number}" for number in asked)) == expected
    assert list(storage.read_all([])) == []
    # Of many files few are in memory at once.
    asked_for = iter([f"units/{number}" for number in range(1000)])
    next(storage.read_all(asked_for))
    assert len(list(asked_for)) >= 700


def test_a_pickled_storage_is_the_same_folder_in_another_process(storage: Storage, tmp_path: Path) -> None:
    storage.write("a", b"here")
    path = tmp_path / "pickled"
    path.write_bytes(pickle.dumps(storage))
    code = """
import pickle, sys
storage = pickle.load(open(sys.argv[1], "rb"))
storage.write("b", storage.read("a") + b" and there")
"""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code, path], check=True, cwd=elsewhere, env=environment)
    assert storage.read("b") == b"here and there"


def test_a_relative_folder_is_the_same_one_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray starts a worker of another node in another folder."""
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(Storage("ledger"))
    Storage("ledger").write("a", b"1")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert pickle.loads(pickled).read("a") == b"1"


def test_a_reader_never_sees_half_a_file(storage: Storage) -> None:
    contents = {
        bytes([letter]) * length for letter, length in zip(b"abc", (300_000, 100, 4_000), strict=True)
    }
    seen: set[bytes | None] = set()
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            seen.add(storage.read("file"))

    storage.write("file", next(iter(contents)))
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(10):
            for content in contents:
                storage.write("file", content)
    finally:
        ended.set()
        reader.join()
    assert seen and seen <= contents


class _Interrupted:
    """An S3 client; each time an object is read, something may happen after the request for its length.

    Args:
        files: the real one.
        before: what happens before the n-th request for a length.
        after: what happens between the n-th request for a length and that for as many bytes.
    """

    def __init__(
        self, files: Any, after: list[Callable[[], None]], before: list[Callable[[], None]] | None = None
    ) -> None:
        self._files = files
        self._after = after
        self._before = before or []

    @contextlib.contextmanager
    def open_input_file(self, path: str) -> Iterator[Any]:
        if self._before:
            self._before.pop(0)()
        with self._files.open_input_file(path) as file:
            if self._after:
                self._after.pop(0)()
            yield file


LONG, SHORT = b"a" * 3000, b"b" * 40


@pytest.mark.parametrize("new", [b"", b"new", b"of that length", b"a longer file than before", None])
def test_a_file_replaced_while_it_is_read_is_whole(
    new: bytes | None, s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left alone, pyarrow cuts the longer file, and adds whatever is in memory to the shorter."""
    storage = Storage(s3())
    other = Storage(storage.location)
    storage.write("a", b"0123456789abcd")

    def meanwhile() -> None:
        other.remove("a") if new is None else other.write("a", new)

    monkeypatch.setattr(storage, "_files", _Interrupted(storage._files, [meanwhile]))
    assert storage.read("a") == new


@pytest.mark.parametrize(("first", "second"), [(LONG, SHORT), (SHORT, LONG)])
def test_a_file_replaced_there_and_back_is_whole(
    first: bytes, second: bytes, s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same version before and after, and of another one in between."""
    storage = Storage(s3())
    other = Storage(storage.location)
    storage.write("a", first)
    there, back = (lambda: other.write("a", second)), (lambda: other.write("a", first))
    interrupted = _Interrupted(storage._files, [there], before=[lambda: None, back])
    monkeypatch.setattr(storage, "_files", interrupted)
    assert storage.read("a") == first
    assert not interrupted._before, "it was read twice"


def test_an_object_that_the_store_refuses_is_an_error_and_not_missing(
    s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that could not be read, for one, must not pass for one that was given back."""
    storage = Storage(s3())
    storage.write("a", b"1")

    def refuse() -> None:
        raise OSError(errno.EACCES, "access denied")

    class Refusing(_Interrupted):
        @contextlib.contextmanager
        def open_input_file(self, path: str) -> Iterator[Any]:
            with self._files.open_input_file(path):
                yield type("Refused", (), {"readall": staticmethod(refuse)})

    monkeypatch.setattr(storage, "_files", Refusing(storage._files, []))
    with pytest.raises(OSError, match="access denied"):
        storage.read("a")


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[1:], lambda c: b"", lambda c: c + b"x"])
def test_a_damaged_object_counts_as_missing(damage: Callable[[bytes], bytes], s3: Callable[[], str]) -> None:
    storage = Storage(s3())
    storage.write("a", b"content")
    path = storage._path("a")
    with storage._files.open_input_file(path) as file:
        stored = file.readall()
    with storage._files.open_output_stream(path) as stream:
        stream.write(damage(stored))
    assert storage.read("a") is None and list(storage.read_all(["a"])) == [None]


class _Broken:
    """An S3 client whose uploads break in the middle."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def open_output_stream(self, path: str) -> Any:
        raise OSError(errno.EIO, "the connection broke")


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    old: bytes | None, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old is not None:
        storage.write("units/a", old)
    with monkeypatch.context() as patch, pytest.raises(OSError):
        if storage.is_local:
            patch.setattr(Path, "write_bytes", _write_half)
        else:
            patch.setattr(storage, "_files", _Broken(storage._files))
        storage.write("units/a", b"new" * 1000)
    assert storage.read("units/a") == old
    assert storage.names("units") == ([] if old is None else ["a"])
    if storage.is_local and Path(storage.location, "units").exists():
        assert [path.name for path in Path(storage.location, "units").iterdir()] == ["a"] * (old is not None)


def _write_half(self: Path, data: bytes) -> int:
    with self.open("wb") as file:
        file.write(data[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device", str(self))


def test_a_writer_that_is_killed_leaves_the_old_file(storage: Storage) -> None:
    """Killed in the middle of writes that never end."""
    storage.write("units/a", b"0" * 2_000_000)
    code = """
import sys
from orchestrator.storage import Storage
storage = Storage(sys.argv[1])
print("ready", flush=True)
while True:
    for letter in (b"1", b"2"):
        storage.write("units/a", letter * 2_000_000)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for number in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", code, storage.location], stdout=subprocess.PIPE, env=environment
        )
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.03 + 0.02 * number)
        writer.kill()
        writer.communicate()
        content = storage.read("units/a")
        assert content is not None and content in {letter * 2_000_000 for letter in (b"0", b"1", b"2")}
        assert storage.names("units") == ["a"]


# ---- addresses ----------------------------------------------------------------------------------


def test_a_file_uri_is_a_local_folder(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}/sweep")
    storage.write("units/a", b"1")
    assert storage.is_local and (tmp_path / "sweep" / "units" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("account", ["AKIAKEY:sec%2Fret", "AKIAKEY:sec/ret+1", "AKIAKEY", ":secret"])
@pytest.mark.parametrize("path", ["/folder", "", "/folder?region=us-east-1"])
def test_credentials_in_an_address_are_refused_and_not_repeated(scheme: str, account: str, path: str) -> None:
    with pytest.raises(TwofoldError, match="leave credentials out of the address") as refused:
        Storage(f"{scheme}://{account}@bucket{path}")
    text = str(refused.value)
    assert not any(part in text for part in account.replace("/", ":").split(":") if part)
    assert refused.value.__cause__ is None and refused.value.__context__ is None


@given(
    key=st.from_regex(r"AKIA[A-Z0-9]{8}", fullmatch=True),
    secret=st.from_regex(r"[A-Za-z0-9/+]{12,40}", fullmatch=True),
)
def test_no_secret_of_the_form_that_aws_gives_is_repeated(key: str, secret: str) -> None:
    with pytest.raises(TwofoldError) as refused:
        Storage(f"s3://{key}:{secret}@bucket/folder")
    assert key not in str(refused.value) and secret not in str(refused.value)


def test_a_folder_may_hold_an_at_sign(s3: Callable[[], str]) -> None:
    storage = Storage(s3().replace("/sweep?", "/me@home?"))
    storage.write("a", b"1")
    assert storage.read("a") == b"1"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nonsense://bucket/folder", "Unrecognized filesystem type"),
        ("https://bucket/folder", "Unrecognized filesystem type"),
        ("s3://", "names no bucket|Missing bucket|Cannot parse"),
        ("s3://?region=us-east-1", "names no bucket"),
        ("s3://bucket/folder?regoin=x", "regoin"),
        ("s3://bucket/with blank?region=us-east-1", "Cannot parse URI"),
    ],
)
def test_an_address_that_cannot_be_opened_is_named(address: str, reason: str) -> None:
    with pytest.raises(TwofoldError, match=reason) as refused:
        Storage(address)
    assert address.partition("?")[0] in str(refused.value)


def test_a_bucket_that_does_not_exist_is_named_when_the_ledger_is_opened(s3: Callable[[], str]) -> None:
    address = s3().replace("twofold-", "no-such-bucket-")
    with pytest.raises(TwofoldError, match=r"cannot write the ledger s3://no-such-bucket.*NO_SUCH_BUCKET"):
        Ledger(Storage(address)).open()


def test_a_small_file_takes_one_request(s3: Callable[[], str]) -> None:
    """An upload in parts takes three, and leaves parts behind where it is interrupted."""
    storage = Storage(s3())
    assert isinstance(storage._files, fs.S3FileSystem)
    assert storage._files.__reduce__()[1][0]["allow_delayed_open"]
