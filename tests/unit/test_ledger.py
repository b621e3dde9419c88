"""The ledger: a record is whole or absent, whatever happened to its file."""

from __future__ import annotations

import errno
import math
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ledger import SCHEMA, Ledger, UnitRecord, arrays, read_by_setting, read_units
from orchestrator.storage import Storage
from trainables.errors import TwofoldError


def record(key: str = "k1", **values: Any) -> UnitRecord:
    start: dict[str, Any] = dict(
        key=key,
        setting="s1",
        state="done",
        dataset="digits",
        source="typeset",
        target="mnist",
        normal_class="3",
        contamination=0.1,
        split_seed=2,
        seed=4,
        config={"alignment": "mmd", "k": 5, "embedding_dim": None, "tau": 0.2},
        error=None,
        epochs=[{"epoch": 1.0, "loss": 0.5}, {"epoch": 2.0, "loss": 0.25}],
        stage_a={"compactness": -0.25},
        seconds={"train": 1.5},
        diagnostics={"effective_rank": 3.5},
        batch_size=16,
        cluster_sizes=np.array([3, 1], dtype=np.int32),
        trusted_fit=np.array([True, False, True, True]),
        trusted_sel=np.array([False, True]),
        source_val=np.array([0.1, 0.2], dtype=np.float32),
        target_sel=np.array([0.3, 1e-30], dtype=np.float32),
        pseudo=np.array([3e38], dtype=np.float32),
        test=np.array([0.5, 0.25, 0.125], dtype=np.float32),
    )
    return UnitRecord(**{**start, **values})


def failed(key: str = "k1") -> UnitRecord:
    names = ("setting", "dataset", "source", "target", "normal_class", "contamination", "split_seed", "seed")
    full = record()
    kept: dict[str, Any] = {name: getattr(full, name) for name in names}
    return UnitRecord(key=key, state="failed", config=full.config, error="Traceback ...\nboom é", **kept)


def opened(folder: Path) -> Ledger:
    ledger = Ledger(Storage(str(folder)))
    ledger.open()
    return ledger


def same(left: UnitRecord, right: UnitRecord) -> bool:
    for entry in fields(UnitRecord):
        a, b = getattr(left, entry.name), getattr(right, entry.name)
        if isinstance(a, np.ndarray):
            if a.dtype != b.dtype or not np.array_equal(a, b):
                return False
        elif a != b or type(a) is not type(b):
            return False
    return True


@pytest.mark.parametrize("stored", [record(), failed()], ids=["done", "failed"])
def test_every_field_comes_back(stored: UnitRecord, tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.write(stored)
    found = Ledger(Storage(str(tmp_path))).read(stored.key)
    assert found is not None and same(found, stored)


def test_every_field_has_a_column() -> None:
    assert {entry.name for entry in fields(UnitRecord)} == set(SCHEMA.names)
    assert not {"label", "labels", "anomalous", "auroc"} & set(SCHEMA.names)


@given(
    scores=st.lists(st.floats(width=32, allow_nan=False), max_size=6),
    mask=st.lists(st.booleans(), max_size=6),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    loss=st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_content_comes_back(scores: list[float], mask: list[bool], text: str, loss: float) -> None:
    stored = record(
        test=np.array(scores, dtype=np.float32),
        trusted_fit=np.array(mask, dtype=bool),
        error=text,
        config={text: loss},
        epochs=[{"epoch": 1.0, "loss": loss}],
    )
    assert same(UnitRecord.from_table(pa.Table.from_pylist([stored.to_row()], SCHEMA))[0], stored)


@pytest.mark.parametrize("name", ["epochs", "stage_a", "diagnostics"])
def test_non_finite_numbers_are_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    bad = {"loss": math.nan}
    with pytest.raises(ValueError):
        ledger.write(record(**{name: [bad] if name == "epochs" else bad}))
    assert ledger.read("k1") is None and not list((tmp_path / "units").iterdir())


def test_the_last_record_wins(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.write(failed())
    ledger.write(record(seed=9))
    found = ledger.read("k1")
    assert found is not None and found.state == "done" and found.seed == 9


def test_states(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.write(record("a"))
    ledger.write(failed("b"))
    ledger.write(record("not asked for"))
    assert ledger.states(["b", "absent", "a"]) == {"b": "failed", "a": "done"}
    ledger.forget(["b", "absent"])
    assert ledger.states(["a", "b"]) == {"a": "done"}


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"\x00" * 500, b"not a record at all" * 40])
def test_foreign_content_counts_as_missing(content: bytes, tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    (tmp_path / "units" / "k1.arrow").write_bytes(content)
    assert ledger.read("k1") is None and ledger.states(["k1"]) == {}
    ledger.compact([["k1"]], tmp_path / "units.parquet")
    assert pq.read_table(tmp_path / "units.parquet").num_rows == 0
    ledger.write(record())
    assert ledger.states(["k1"]) == {"k1": "done"}


def test_truncated_anywhere_counts_as_missing(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.write(record())
    path = tmp_path / "units" / "k1.arrow"
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        assert ledger.read("k1") is None and ledger.states(["k1"]) == {}
    path.write_bytes(whole + b"\x00")
    assert ledger.read("k1") is None


@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=200)
def test_one_wrong_byte_counts_as_missing(
    where: float, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Arrow reads a damaged file without a doubt, up to the end of the process."""
    folder = tmp_path_factory.getbasetemp() / "flipped"
    ledger = opened(folder)
    ledger.write(record())
    path = folder / "units" / "k1.arrow"
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= flip
    path.write_bytes(bytes(content))
    assert ledger.read("k1") is None and ledger.states(["k1"]) == {}


def test_a_crash_while_writing_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened(tmp_path)
    ledger.write(record(seed=1))
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ledger.write(record(seed=2))
    monkeypatch.setattr(os, "fsync", real)
    found = ledger.read("k1")
    assert found is not None and found.seed == 1
    assert [path.name for path in (tmp_path / "units").iterdir()] == ["k1.arrow"], "no half file is left"


def test_a_killed_writers_half_file_is_not_a_record(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.write(record())
    (tmp_path / "units" / ".k2.arrow.abc").write_bytes(b"half")
    assert ledger.states(["k1", "k2"]) == {"k1": "done"}


def test_compact_keeps_the_order_asked_for(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    for key in ("b", "a", "c"):
        ledger.write(record(key, seed=ord(key)))
    ledger.write(failed("f"))
    path = tmp_path / "units.parquet"
    ledger.compact([["c", "f"], ["missing"], ["a", "b"]], path)
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA)
    assert table["key"].to_pylist() == ["c", "f", "a", "b"]
    for found in UnitRecord.from_table(table):
        stored = ledger.read(found.key)
        assert stored is not None and same(found, stored)
    assert [set(row) for row in read_units(path, ["key", "seed"])] == [{"key", "seed"}] * 4
    first = path.read_bytes()
    ledger.compact([["c", "f"], ["missing"], ["a", "b"]], path)
    assert path.read_bytes() == first


def test_settings_are_read_one_by_one(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    settings_of = {"a": "s2", "b": "s1", "c": "s2", "d": "s1"}
    for key, setting in settings_of.items():
        ledger.write(record(key, setting=setting, test=np.full(3, ord(key), dtype=np.float32)))
    path = tmp_path / "units.parquet"
    for groups in (["a", "c"], ["b", "d"]), (["a", "b", "c", "d"],):
        assert ledger.compact(groups, path) == {"done": 4}
        assert pq.ParquetFile(path).num_row_groups == len(groups)
        found = list(read_by_setting(path, ["key", "setting", "test"]))
        assert [set(table["setting"].to_pylist()) for table in found] == [{"s2"}, {"s1"}]
        assert [table["key"].to_pylist() for table in found] == [["a", "c"], ["b", "d"]]
        for table in found:
            assert [set(values) for values in arrays(table["test"])] == [
                {ord(key)} for key in table["key"].to_pylist()
            ]


def test_absent_lists_are_empty_arrays() -> None:
    column = pa.chunked_array([[[1, 2], None], [[], [3]]], pa.list_(pa.float32()))
    assert [values.tolist() for values in arrays(column)] == [[1, 2], [], [], [3]]
    assert [values.tolist() for values in arrays(column.slice(1))] == [[], [], [3]]


def test_opening_twice_keeps_what_is_there(tmp_path: Path) -> None:
    opened(tmp_path).write(record())
    assert opened(tmp_path).states(["k1"]) == {"k1": "done"}
    assert [path.name for path in (tmp_path / "units").iterdir()] == ["k1.arrow"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(TwofoldError, match=r"cannot write the ledger .*file/run.*Set `output:`"):
        Ledger(Storage(str(file / "run"))).open()


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(TwofoldError, match=r"cannot write .*Permission denied"):
        Ledger(Storage(str(tmp_path))).open()


def test_task_of_a_record() -> None:
    assert record().task == {
        "dataset": "digits", "source": "typeset", "target": "mnist", "normal_class": "3",
        "contamination": 0.1, "split_seed": 2,
    }  # fmt: skip
