"""The array cache: damaged entries are computed again, writers do not disturb each other."""

from __future__ import annotations

import threading
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
