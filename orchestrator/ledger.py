"""The ledger: one file per unit, written whole or not at all, so that resuming is planned minus done."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.attempts import Failure
from orchestrator.checksum import sealed, unsealed
from orchestrator.storage import Storage
from trainables.cache import write_atomically
from trainables.errors import TwofoldError

State = Literal["done", "failed", "stopped"]
STATES: tuple[State, ...] = get_args(State)
_SCORES = pa.list_(pa.float32())
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "setting": pa.string(),
        "state": pa.string(),
        "failure": pa.string(),
        "error": pa.string(),
        "attempts": pa.int32(),
        "preemptions": pa.int32(),
        "ended": pa.float64(),
        "dataset": pa.string(),
        "source": pa.string(),
        "target": pa.string(),
        "normal_class": pa.string(),
        "contamination": pa.float64(),
        "split_seed": pa.int64(),
        "seed": pa.int64(),
        "config": pa.string(),
        "epochs": pa.string(),
        "stage_a": pa.string(),
        "seconds": pa.string(),
        "diagnostics": pa.string(),
        "batch_size": pa.int32(),
        "cluster_sizes": pa.list_(pa.int32()),
        "trusted_fit": pa.list_(pa.bool_()),
        "trusted_sel": pa.list_(pa.bool_()),
        "source_val": _SCORES,
        "target_sel": _SCORES,
        "pseudo": _SCORES,
        "test": _SCORES,
    }
)
_JSON_FIELDS = ("config", "epochs", "stage_a", "seconds", "diagnostics")
_SMALLEST_ROOM = 2**14
_NO_SCORES = np.empty(0, dtype=np.float32)
_NO_MASK = np.empty(0, dtype=bool)


@dataclass(frozen=True)
class UnitRecord:
    """The result of one unit. Scores are (n,) float32, higher = more anomalous; masks are (n,) bool.

    Attributes:
        state: ``done``; ``failed``, with the cause in ``failure`` and the traceback in ``error``; or
            ``stopped`` early, by a scheduler.
        attempts: how often a worker began this unit, this time included.
        preemptions: how many of these ended with the loss of the worker's node.
        ended: seconds since the epoch.
        config: canonical flat configuration.
        epochs: one mapping of mean losses per epoch.
        stage_a: label-free proxies of the trusted set; an undefined one is absent.
        seconds: wall time spent on clustering, training and scoring.
        diagnostics: effective rank and score variation, before and after training.
        batch_size: images per domain in a step where the GPU's memory could not hold the configuration's.
        cluster_sizes: (K,) images per cluster in T_fit.
        trusted_fit, trusted_sel: which images of T_fit and T_sel are trusted.
        source_val, target_sel, pseudo, test: scores of S_val, T_sel, patch-shuffled T_sel and test images.
    """

    key: str
    setting: str
    state: State
    dataset: str
    source: str
    target: str
    normal_class: str
    contamination: float
    split_seed: int
    seed: int
    config: dict[str, Any]
    failure: Failure | None = None
    error: str | None = None
    attempts: int = 1
    preemptions: int = 0
    ended: float = 0.0
    epochs: list[dict[str, float]] = field(default_factory=list)
    stage_a: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)
    batch_size: int | None = None
    cluster_sizes: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    trusted_fit: np.ndarray = field(default_factory=lambda: _NO_MASK)
    trusted_sel: np.ndarray = field(default_factory=lambda: _NO_MASK)
    source_val: np.ndarray = field(default_factory=lambda: _NO_SCORES)
    target_sel: np.ndarray = field(default_factory=lambda: _NO_SCORES)
    pseudo: np.ndarray = field(default_factory=lambda: _NO_SCORES)
    test: np.ndarray = field(default_factory=lambda: _NO_SCORES)

    @property
    def task(self) -> dict[str, Any]:
        """Dataset, source, target, normal_class, contamination and split_seed."""
        names = ("dataset", "source", "target", "normal_class", "contamination", "split_seed")
        return {name: getattr(self, name) for name in names}

    def to_row(self) -> dict[str, Any]:
        """The record as one row of ``SCHEMA``."""
        row = asdict(self)
        row.update({name: json.dumps(row[name], sort_keys=True, allow_nan=False) for name in _JSON_FIELDS})
        return row

    @classmethod
    def from_table(cls, table: pa.Table) -> list[UnitRecord]:
        """The records of rows of ``SCHEMA``; their arrays are views of the columns."""
        table = table.combine_chunks()
        plain = [entry.name for entry in SCHEMA if not pa.types.is_list(entry.type)]
        rows = table.select(plain).to_pylist()
        for row in rows:
            row.update({name: json.loads(row[name]) for name in _JSON_FIELDS})
        for name in set(SCHEMA.names) - set(plain):
            for row, values in zip(rows, arrays(table[name]), strict=True):
                row[name] = values
        return [cls(**row) for row in rows]


class Ledger:
    """Unit records of one sweep under ``units``.

    A record is an Arrow stream of one row with its checksum behind it. A damaged file counts as missing, and
    its unit runs again.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def open(self) -> None:
        """Check that records can be written.

        Raises:
            TwofoldError: they cannot.
        """
        try:
            # Even a full disk has room for an empty file.
            self._storage.write("units/.writable", bytes(_SMALLEST_ROOM))
            self._storage.remove("units/.writable")
        except OSError as error:
            reason = error.strerror or error
            raise TwofoldError(
                f"cannot write the ledger {self._storage.location}: {reason}. "
                "Set `output:`, or `ledger:`, to a folder you can write."
            ) from error

    def write(self, record: UnitRecord) -> None:
        """Store a record under its key; the last one wins.

        Raises:
            OSError: the disk is full, or the store refuses.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(pa.Table.from_pylist([record.to_row()], schema=SCHEMA))
        content = sink.getvalue().to_pybytes()
        self._storage.write(_file(record.key), sealed(content))

    def read(self, key: str) -> UnitRecord | None:
        """The record of a unit, or None where it is missing or damaged."""
        table = _table(self._storage.read(_file(key)))
        return None if table is None else UnitRecord.from_table(table)[0]

    def states(self, keys: Iterable[str]) -> dict[str, State]:
        """State of every recorded unit among ``keys``; a damaged record is absent."""
        return {row["key"]: row["state"] for row in self.outlines(keys)}

    def outlines(self, keys: Iterable[str]) -> list[dict[str, Any]]:
        """Rows with the columns ``OUTLINE`` of every recorded unit among ``keys``."""
        return [row for table in self._tables(keys) for row in table.select(OUTLINE).to_pylist()]

    def forget(self, keys: Iterable[str]) -> None:
        """Remove records, so that their units run again."""
        for key in keys:
            self._storage.remove(_file(key))

    def compact(self, groups: Iterable[Sequence[str]], path: Path) -> Counter[State]:
        """Write records to one Parquet file, a row per unit and a row group per group; count the states.

        Args:
            groups: keys of units, those of one setting together.
            path: of the file.
        """
        states: Counter[State] = Counter()

        def fill(temporary: Path) -> None:
            with pq.ParquetWriter(temporary, SCHEMA) as writer:
                for keys in groups:
                    if tables := list(self._tables(keys)):
                        whole = pa.concat_tables(tables)
                        writer.write_table(whole)
                        states.update(whole["state"].to_pylist())

        write_atomically(path, fill)
        return states

    def _tables(self, keys: Iterable[str]) -> Iterator[pa.Table]:
        contents = self._storage.read_all(_file(key) for key in keys)
        return (table for content in contents if (table := _table(content)) is not None)


OUTLINE = ["key", "state", "failure", "error", "attempts", "preemptions", "ended"]


def _file(key: str) -> str:
    return f"units/{key}.arrow"


def _table(stored: bytes | None) -> pa.Table | None:
    """The row of a stored record, or None where it is missing, damaged or of another version."""
    # Arrow trusts its input: one wrong byte can end the process.
    content = None if stored is None else unsealed(stored)
    if content is None:
        return None
    table = pa.ipc.open_stream(content).read_all()
    return table if table.schema.equals(SCHEMA) else None


def arrays(column: pa.ChunkedArray) -> list[np.ndarray]:
    """The lists of a column as arrays (n,), views of one buffer; an absent list is empty."""
    found: list[np.ndarray] = []
    for chunk in column.chunks:
        values = chunk.values.to_numpy(zero_copy_only=False)
        ends = chunk.offsets.to_numpy()
        found.extend(values[start:end] for start, end in itertools.pairwise(ends))
    return found


def read_units(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows of a ``units.parquet``, with only some columns where given."""
    rows: list[dict[str, Any]] = pq.read_table(path, columns=list(columns) if columns else None).to_pylist()
    return rows


def read_by_setting(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a ``units.parquet``, setting by setting, with only some columns where given.

    ``setting`` must be one of the columns.
    """
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=list(columns) if columns else None)
            # A file of an earlier version has all settings in one row group.
            for setting in table["setting"].unique():
                yield table.filter(pc.equal(table["setting"], setting))
