from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables.data.settings_file import SCHEMA, read_settings, write_settings
from trainables.errors import TwofoldError
from trainables.types import Setting, Task


def setting(seed: int) -> Setting:
    task = Task("digits", "typeset", "mnist", "3")
    return Setting(task, 0.1, seed, ("a", "b"), ("c",), ("d", "e"), ("f",), tuple(f"t{i}" for i in range(50)))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "settings.parquet"
    settings = [setting(seed) for seed in (2, 0, 1)]
    write_settings(path, settings)
    assert read_settings(path) == settings
    assert pq.read_table(path)["key"].to_pylist() == [one.key for one in settings]


def test_no_settings(tmp_path: Path) -> None:
    write_settings(tmp_path / "settings.parquet", [])
    assert read_settings(tmp_path / "settings.parquet") == []


def test_same_settings_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_settings(tmp_path / name, [setting(0)])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_there_is_no_room_for_labels() -> None:
    assert not {"anomalous", "label", "labels", "class"} & set(SCHEMA.names)


def test_interrupted_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.parquet"
    write_settings(path, [setting(0)])

    def interrupted() -> object:
        yield setting(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_settings(path, interrupted())  # type: ignore[arg-type]
    assert read_settings(path) == [setting(0)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["settings.parquet"]


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match=r"no settings file .*absent\.parquet"):
        read_settings(tmp_path / "absent.parquet")
    path = tmp_path / "settings.parquet"
    write_settings(path, [setting(0)])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TwofoldError, match=r"cannot read the settings file .*settings\.parquet"):
        read_settings(path)


def test_changed_setting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.parquet"
    write_settings(path, [setting(0)])
    rows = pq.read_table(path).to_pylist()
    rows[0]["target_fit"].append("smuggled")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    with pytest.raises(TwofoldError, match="was changed"):
        read_settings(path)
