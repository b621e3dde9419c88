"""Records without a sweep, and tracking servers that misbehave, for the tests of tracking."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from orchestrator.ledger import Ledger, UnitRecord
from orchestrator.storage import Storage


class Unshared:
    """The lease of a sweep with a single driver: always granted."""

    def acquire(self, name: str) -> bool:
        return True

    def release(self, name: str) -> None:
        return


def stub_record(key: str, **changes: Any) -> UnitRecord:
    values: dict[str, Any] = {
        "state": "done",
        "setting": "s",
        "dataset": "stub",
        "source": "light",
        "target": "dark",
        "normal_class": "0",
        "contamination": 0.1,
        "split_seed": 0,
        "seed": 0,
        "config": {"clusterer": "density", "alignment": "identity", "score": "knn", "neighbours": 5},
        "stage_a": {"silhouette": 0.5},
        "seconds": {"score": 0.01},
    }
    return UnitRecord(key=key, **{**values, **changes})


def stub_keys(count: int) -> list[str]:
    return [f"{index:032x}" for index in range(count)]


def stub_ledger(folder: Path, count: int) -> tuple[Ledger, list[str]]:
    """A ledger with ``count`` records, and their keys."""
    ledger = Ledger(Storage(str(folder)))
    ledger.open()
    keys = stub_keys(count)
    for key in keys:
        ledger.write(stub_record(key))
    return ledger, keys


def runs_per_key(uri: str, sweep: str) -> dict[str, list[str]]:
    """Unit key -> statuses of its runs that are not deleted."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(sweep)
    found: dict[str, list[str]] = {}
    for run in client.search_runs([experiment.experiment_id], max_results=5000) if experiment else []:
        if "twofold.key" in run.data.tags:
            found.setdefault(run.data.tags["twofold.key"], []).append(run.info.status)
    return found


def assert_each_once(uri: str, sweep: str, keys: list[str]) -> None:
    """Exactly one run of each key, finished."""
    found = runs_per_key(uri, sweep)
    assert Counter(map(tuple, found.values())) == {("FINISHED",): len(keys)}
    assert set(found) == set(keys)


@contextlib.contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that hands each connection to ``answer`` in a thread of its own; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=serve, args=[connection], daemon=True).start()

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                answer(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
