"""Settings on disk, one Parquet row each: image ids and what they are for, without labels."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.cache import write_atomically
from trainables.errors import TwofoldError
from trainables.types import Setting, Task

PARTS = ("source_fit", "source_val", "target_fit", "target_sel", "test")
_IDS = pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "dataset": pa.string(),
        "source": pa.string(),
        "target": pa.string(),
        "normal_class": pa.string(),
        "contamination": pa.float64(),
        "split_seed": pa.int64(),
        **dict.fromkeys(PARTS, _IDS),
    }
)


def write_settings(path: Path, settings: Iterable[Setting]) -> None:
    """Write all settings to ``path``, or leave what was there if the writing fails."""

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            for setting in settings:
                writer.write_table(pa.Table.from_pylist([_row(setting)], SCHEMA))

    write_atomically(path, write)


def write_shared_settings(path: Path, settings: Iterable[Setting]) -> None:
    """As ``write_settings``, but small, to be passed on: the settings share one dictionary of image ids.

    All of them are held in memory.
    """
    table = pa.Table.from_pylist([_row(setting) for setting in settings], SCHEMA)

    def write(temporary: Path) -> None:
        pq.write_table(table, temporary, compression="zstd", dictionary_pagesize_limit=2**28)

    write_atomically(path, write)


def read_settings(path: Path) -> list[Setting]:
    """Read the settings in the order in which they were written.

    Raises:
        TwofoldError: there is no such file, it cannot be read, or a row no longer matches its key.
    """
    if not path.is_file():
        raise TwofoldError(f"there is no settings file {path}; start the sweep again to write it.")
    try:
        batches = pq.ParquetFile(path).iter_batches(batch_size=1, columns=SCHEMA.names)
        return [_setting(path, row) for batch in batches for row in batch.to_pylist()]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise TwofoldError(
            f"cannot read the settings file {path}: {error}. Remove it and start again."
        ) from error


def _row(setting: Setting) -> dict[str, Any]:
    return {"key": setting.key, **setting.description, **{part: getattr(setting, part) for part in PARTS}}


def _setting(path: Path, row: Mapping[str, Any]) -> Setting:
    task = Task(row["dataset"], row["source"], row["target"], row["normal_class"])
    # The same ids come back in many settings: interning keeps one copy of each in memory.
    parts = {part: tuple(map(sys.intern, row[part])) for part in PARTS}
    setting = Setting(task, row["contamination"], row["split_seed"], **parts)
    if setting.key != row["key"]:
        raise TwofoldError(
            f"{path}: setting {row['key']} ({task}) was changed; remove the file and start again."
        )
    return setting
