"""The array cache: damaged entries are computed again, writers do not disturb each other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trainables.cache import ArrayCache, write_atomically
from trainables.errors import TwofoldError

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


def entry(root: Path) -> Path:
    (path,) = root.rglob("*.arrow")
    return path


def fail() -> np.ndarray:
    raise AssertionError("computed although the cache has the entry")


def test_second_call_reads_the_entry(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    cache.get("features", {"a": 1}, lambda: ARRAY)
    stored = cache.get("features", {"a": 1}, fail)
    assert np.array_equal(stored, ARRAY) and stored.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        stored[0, 0] = 1


@pytest.mark.parametrize("change", [{"a": 2}, {"a": 1, "b": None}])
def test_other_content_is_another_entry(tmp_path: Path, change: dict[str, object]) -> None:
    cache = ArrayCache(tmp_path)
    cache.get("features", {"a": 1}, lambda: ARRAY)
    assert np.array_equal(cache.get("features", change, lambda: ARRAY + 1), ARRAY + 1)


@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.99])
def test_truncated_entry_is_computed_again(tmp_path: Path, kept: float) -> None:
    cache, big = ArrayCache(tmp_path), np.random.default_rng(0).normal(size=(100, 9))
    cache.get("features", {"a": 1}, lambda: big)
    whole = entry(tmp_path).read_bytes()
    entry(tmp_path).write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    assert np.array_equal(cache.get("features", {"a": 1}, lambda: big), big)
    assert np.array_equal(cache.get("features", {"a": 1}, fail), big)


def test_overwritten_header_is_computed_again(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    cache.get("features", {"a": 1}, lambda: ARRAY)
    entry(tmp_path).write_bytes(b"not an arrow file, but longer than one" * 20)
    assert np.array_equal(cache.get("features", {"a": 1}, lambda: ARRAY), ARRAY)


def test_concurrent_writers_leave_one_whole_entry(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def write(_: int) -> np.ndarray:
        def compute() -> np.ndarray:
            together.wait(timeout=20)  # all of them found no entry
            return ARRAY

        return ArrayCache(tmp_path).get("features", {"a": 1}, compute)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(write, range(8)))
    assert all(np.array_equal(result, ARRAY) for result in results)
    assert sorted(p.suffix for p in tmp_path.rglob("*") if p.is_file()) == [".arrow", ".json"]


def test_reader_keeps_its_array_while_the_entry_is_replaced(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    before = cache.get("features", {"a": 1}, lambda: ARRAY)
    write_atomically(entry(tmp_path), Path.touch)
    assert np.array_equal(before, ARRAY)


def test_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "entry", write)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    root = tmp_path / "file" / "cache"
    with pytest.raises(TwofoldError, match=r"cannot write the cache folder .*file/cache.*`cache:`"):
        ArrayCache(root).get("features", {"a": 1}, lambda: ARRAY)


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.uint8, np.int32]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5),
    )
)
def test_round_trip_keeps_every_bit(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    stored = ArrayCache(tmp_path_factory.mktemp("cache")).get("any", {}, lambda: array)
    assert stored.dtype == array.dtype and stored.shape == array.shape and stored.tobytes() == array.tobytes()


@pytest.mark.parametrize("position", [8, 300, -40, -1])
def test_one_flipped_byte_is_computed_again(tmp_path: Path, position: int) -> None:
    cache, big = ArrayCache(tmp_path), np.random.default_rng(0).normal(size=(100, 9))
    cache.get("features", {"a": 1}, lambda: big)
    content = bytearray(entry(tmp_path).read_bytes())
    content[position] ^= 1
    entry(tmp_path).write_bytes(content)
    assert ArrayCache(tmp_path).read("features", {"a": 1}) is None
    assert np.array_equal(cache.get("features", {"a": 1}, lambda: big), big)


def fill(root: Path, ages: dict[str, float]) -> int:
    """Entries named by their age in seconds; the size of one."""
    for name, age in ages.items():
        ArrayCache(root).write("features", {"name": name}, ARRAY)
        then = time.time() - age
        for path in root.rglob("*.arrow"):
            if path.stat().st_mtime > time.time() - 60:
                os.utime(path, (then, then))
    return entry_size(root)


def entry_size(root: Path) -> int:
    return max(path.stat().st_size for path in root.rglob("*.arrow"))


def left(root: Path, names: Iterable[str]) -> set[str]:
    return {name for name in names if ArrayCache(root).read("features", {"name": name}) is not None}


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    ages = {"week": 7 * 86400.0, "day": 86400.0, "hours": 3 * 3600.0}
    size = fill(tmp_path, ages)
    ArrayCache(tmp_path, most_bytes=3 * size).write("features", {"name": "new"}, ARRAY)
    assert left(tmp_path, [*ages, "new"]) == {"day", "hours", "new"}
    assert len(list(tmp_path.rglob("*.json"))) == 3


def test_what_is_in_use_stays_however_large_the_cache_is(tmp_path: Path) -> None:
    fill(tmp_path, {"read here": 86400.0, "by another sweep": 600.0, "by nobody": 86400.0})
    cache = ArrayCache(tmp_path, most_bytes=1)
    assert cache.read("features", {"name": "read here"}) is not None
    old = time.time() - 86400
    for path in tmp_path.rglob("*.arrow"):
        if path.stat().st_mtime > time.time() - 60:
            os.utime(path, (old, old))
    cache.write("features", {"name": "new"}, ARRAY)
    names = ["read here", "by another sweep", "by nobody", "new"]
    assert left(tmp_path, names) == {"read here", "by another sweep", "new"}


def test_two_processes_that_write_and_evict_at_once_never_read_half(tmp_path: Path) -> None:
    """Each of four processes reads only what it wrote, whole, while all of them make room."""
    code = (
        "import sys, numpy as np; from pathlib import Path; from trainables import cache\n"
        "cache.IN_USE_SECONDS = 0\n"
        "mine = cache.ArrayCache(Path(sys.argv[1]), most_bytes=3e5)\n"
        "for i in range(60):\n"
        "    array = np.full((100, 100), i, np.float32)\n"
        "    got = mine.get('features', {'i': i % 20}, lambda: array)\n"
        "    assert got.shape == (100, 100) and len(np.unique(got)) == 1\n"
        "    mine._used.clear()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in running] == [0] * 4


def test_another_sweep_may_remove_an_entry_the_moment_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_lose(path: Path, write: Callable[[Path], None], durable: bool = True) -> None:
        write_atomically(path, write, durable)
        path.unlink()

    monkeypatch.setattr("trainables.cache.write_atomically", write_and_lose)
    assert np.array_equal(ArrayCache(tmp_path).get("features", {"a": 1}, lambda: ARRAY), ARRAY)


def test_an_entry_damaged_while_it_is_written_is_an_error_and_never_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.cache._digest", lambda content: os.urandom(32))
    with pytest.raises(TwofoldError, match="damaged while it was written; is the disk full"):
        ArrayCache(tmp_path).write("features", {"a": 1}, ARRAY)
    assert not list(tmp_path.rglob("*.arrow"))
