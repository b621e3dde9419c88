"""Tracking with PostgreSQL: behind a server that is killed in the middle of a sweep, and directly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    TrackingServer,
    draw_domains,
    folder_data,
    free_port,
    sets,
    twofold_here,
    wait_until,
    write_space,
)

from orchestrator.tracking import BackgroundTracker, Outbox
from tests.postgres.server import PASSWORD, Cluster
from tests.stubs import Unshared, assert_each_once, stub_ledger


@pytest.fixture(scope="module")
def server(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """An MLflow server on PostgreSQL that is called by one name only."""
    port = free_port()
    options = ("--allowed-hosts", f"127.0.0.1:{port}")
    server = TrackingServer(tmp_path_factory.mktemp("server"), *options, port=port, store=postgres.uri)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def records(folder: Path) -> list[str]:
    return [path.stem for path in (folder / "units").glob("*.arrow")]


def test_a_sweep_outlives_its_server_and_sync_logs_each_unit_once(
    ray_local: None, server: TrackingServer, cache: Path, tmp_path: Path
) -> None:
    data = folder_data(draw_domains(tmp_path / "images"), split_seeds=[0, 1, 2, 3])
    grid = {"alignment": "identity", "clusterer": "density", "score": "knn", "neighbours": [1, 2, 3, 4, 5]}
    space = write_space(tmp_path / "pg.yaml", cache, data=data, space=[grid])

    def kill() -> None:
        wait_until(lambda: len(records(tmp_path / "pg")) >= 20, 120)
        server.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    done = twofold_here("sweep", space, *sets(f"tracking_uri={server.address}"))
    killer.join()
    assert done.code == 1 and "twofold sync" in done.message
    assert len(records(tmp_path / "pg")) == 60
    server.start()
    assert twofold_here("sync", tmp_path / "pg").code == 0
    assert_each_once(server.address, "pg", records(tmp_path / "pg"))
    assert "0 units logged" in twofold_here("sync", tmp_path / "pg").message


def test_a_database_that_restarts_gets_every_run_once(
    server: TrackingServer, postgres: Cluster, tmp_path: Path
) -> None:
    """The address of the database itself, with its password, as the tracking URI."""
    ledger, keys = stub_ledger(tmp_path, 60)
    writer = BackgroundTracker(Outbox(postgres.uri, "direct", ledger, tmp_path / "artifacts", Unshared()))
    writer.put(keys[:40])
    wait_until(lambda: writer.waiting < 30, 120)
    postgres.stop()
    writer.put(keys[40:])
    postgres.start()
    wait_until(lambda: writer.waiting == 0, 120)
    assert writer.close() is None
    assert_each_once(postgres.uri, "direct", keys)


def test_a_wrong_password_is_not_shown(
    postgres: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("orchestrator.tracking.DATABASE_PATIENCE_SECONDS", 4)
    ledger, keys = stub_ledger(tmp_path, 2)
    uri = postgres.uri.replace(PASSWORD, "wr0ng")
    writer = BackgroundTracker(Outbox(uri, "wrong", ledger, tmp_path, Unshared()))
    writer.put(keys)
    failure = str(writer.close())
    assert "postgresql://me:***@127.0.0.1" in failure and "has not answered" in failure
    assert "wr0ng" not in "".join([failure, *capfd.readouterr()])
