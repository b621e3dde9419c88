"""A sweep whose ledger is in an object store: a real S3 server, the real command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import draw_domains, folder_data, records, refused, sets, twofold_here, write_space

from orchestrator.storage import Storage


@pytest.fixture
def space(cache: Path, tmp_path: Path) -> Path:
    """Two units that end well and one training that diverges."""
    data = folder_data(draw_domains(tmp_path / "images"), classes=["plain bar"], anomaly_classes=["Größe"])
    blocks: list[dict[str, Any]] = [
        {"alignment": "identity", "clusterer": "kmeans", "k": [1], "score": "knn"},
        {"alignment": "positive", "clusterer": "all", "learning_rate": 1e30, "score": "knn"},
    ]
    return write_space(tmp_path / "remote.yaml", cache, data=data, space=blocks, resources={"workers": 1})


def test_a_sweep_whose_ledger_is_in_an_object_store(
    ray_local: None, space: Path, s3: Callable[[], str], tmp_path: Path
) -> None:
    location = s3()
    folder, storage = tmp_path / "remote", Storage(location)
    command = ["sweep", space, *sets(f"ledger={location}")]
    first = twofold_here(*command)
    assert first.code == 1 and "1 unit failed" in first.message, first.output
    ended = records(storage)
    assert sorted(record.state for record in ended.values()) == ["done", "done", "failed"]
    assert storage.names("leases") == storage.names("attempts") == storage.names("checkpoints") == []
    local = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "units.parquet", "selection.json", "report.html", "complete"} <= local
    assert local.isdisjoint({"units", "id", "spec.json", "leases", "attempts", "checkpoints"})

    again = twofold_here(*command)
    assert again.code == 1 and "Nothing is left to run" in again.message
    assert {key: record.ended for key, record in records(storage).items()} == {
        key: record.ended for key, record in ended.items()
    }
    told = twofold_here("status", folder)
    assert told.code == 0 and "3 units: 2 done, 1 failed" in told.message and "non_finite" in told.message

    # One record is lost, another damaged, and the failed one is asked for again: all run again at once.
    lost, damaged = (key for key, record in ended.items() if record.state == "done")
    storage.remove(f"units/{lost}.arrow")
    content = storage.read(f"units/{damaged}.arrow")
    assert content is not None
    storage.write(f"units/{damaged}.arrow", content[:-1])
    retried = twofold_here("retry", folder)
    assert retried.code == 1
    assert "1 failed units will run again" in retried.message and "0 recorded, 3 to run" in retried.message
    after = records(storage)
    assert {key: record.state for key, record in after.items()} == {
        key: record.state for key, record in ended.items()
    }
    assert all(after[key].ended > ended[key].ended for key in ended)


def test_a_bucket_that_does_not_exist_is_a_mistake_of_the_input(space: Path, s3: Callable[[], str]) -> None:
    location = s3().replace("twofold-", "no-such-bucket-")
    done = twofold_here("sweep", space, *sets(f"ledger={location}"))
    refused(done, "cannot write the ledger s3://no-such-bucket", "does not exist", "`ledger:`")


def test_credentials_in_the_address_are_refused_and_written_nowhere(space: Path, tmp_path: Path) -> None:
    done = twofold_here("sweep", space, *sets("ledger=s3://AKIAKEY:sec/ret@bucket/folder"))
    refused(done, "leave credentials out of the address")
    assert "AKIAKEY" not in done.output and "sec/ret" not in done.output
    written = [path for path in (tmp_path / "remote").rglob("*") if path.is_file()]
    assert not any(b"AKIAKEY" in path.read_bytes() for path in written)
