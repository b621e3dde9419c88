"""MLflow: one run per unit, whatever happens to the tracking server meanwhile."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    Finished,
    Sweep,
    TrackingServer,
    copy_sweep,
    draw_domains,
    folder_data,
    free_port,
    mlflow_server,
    refused,
    sets,
    twofold,
    twofold_here,
    wait_until,
    write_space,
)
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from orchestrator.tracking import BackgroundTracker, Outbox, open_tracker
from tests.stubs import Unshared, assert_each_once, listener, stub_ledger

KEY = "twofold.key"
PARENT = "mlflow.parentRunId"


def runs_of(uri: str, name: str) -> tuple[list[Run], list[Run]]:
    """Parent runs and child runs of an experiment."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id], max_results=1000))
    return [r for r in runs if PARENT not in r.data.tags], [r for r in runs if PARENT in r.data.tags]


def test_one_finished_parent_holds_the_results(swept: Sweep) -> None:
    (parent,), _ = runs_of(swept.config.mlflow_uri, swept.config.name)
    assert parent.info.status == "FINISHED"
    client = MlflowClient(swept.config.mlflow_uri)
    files = {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "selection.json", "units.parquet", "config.yaml", "environment.json"} <= files
    stored = client.download_artifacts(parent.info.run_id, "selection.json")
    assert Path(stored).read_bytes() == (swept.folder / "selection.json").read_bytes()
    assert any(name.endswith("chosen") for name in parent.data.metrics)


def test_every_unit_is_one_finished_child(swept: Sweep) -> None:
    (parent,), children = runs_of(swept.config.mlflow_uri, swept.config.name)
    by_key = {run.data.tags[KEY]: run for run in children}
    units = {unit["key"]: unit for unit in swept.units()}
    assert len(by_key) == len(children) == len(units) and set(by_key) == set(units)
    for key, run in by_key.items():
        config = json.loads(units[key]["config"])
        assert run.info.status == "FINISHED"
        assert run.data.tags[PARENT] == parent.info.run_id
        assert run.data.params.items() >= {name: str(value) for name, value in config.items()}.items()
        assert run.data.params["normal_class"] == units[key]["normal_class"]
        assert run.data.params["seed"] == "0"


def test_every_epoch_is_a_step(swept: Sweep) -> None:
    client = MlflowClient(swept.config.mlflow_uri)
    _, children = runs_of(swept.config.mlflow_uri, swept.config.name)
    losses = {unit["key"]: json.loads(unit["epochs"]) for unit in swept.units()}
    trained = [run for run in children if losses[run.data.tags[KEY]]]
    assert len(trained) == 10 and len(children) == 30
    for run in trained:
        history = sorted(client.get_metric_history(run.info.run_id, "loss"), key=lambda metric: metric.step)
        epochs = losses[run.data.tags[KEY]]
        assert [metric.step for metric in history] == [1, 2]
        assert [metric.value for metric in history] == pytest.approx([epoch["loss"] for epoch in epochs])


@pytest.fixture(scope="module")
def port() -> int:
    """Where no server listens until a test starts one."""
    return free_port()


@pytest.fixture(scope="module")
def untracked(ray_local: None, cache: Path, port: int, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep whose tracking server is away."""
    folder = tmp_path_factory.mktemp("untracked")
    root = draw_domains(folder / "images")
    data = folder_data(root, classes=["plain bar", "Größe"])
    space = write_space(folder / "away.yaml", cache, data=data, tracking_uri=f"http://127.0.0.1:{port}")
    sweep = Sweep(space, ())
    return Sweep(space, (), twofold_here("sweep", *sweep.arguments))


@pytest.fixture(scope="module")
def server(untracked: Sweep, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server, back again, and not to be called by another name than 127.0.0.1."""
    options = ("--allowed-hosts", f"127.0.0.1:{port}")
    with mlflow_server(tmp_path_factory.mktemp("server"), port, *options) as address:
        yield address


def test_a_server_that_is_away_costs_seconds_and_no_result(untracked: Sweep) -> None:
    first = untracked.first
    assert first is not None and first.code == 1
    assert first.seconds < 90
    assert {unit["state"] for unit in untracked.units()} == {"done"} and len(untracked.units()) == 6
    assert (untracked.folder / "report.html").exists()
    assert str(untracked.config.tracking_uri) in first.message
    assert f"`twofold sync {untracked.folder}` logs the rest" in first.message


def test_a_later_call_still_says_that_mlflow_lacks_the_runs(untracked: Sweep) -> None:
    again = twofold_here("sweep", *untracked.arguments)
    assert again.code == 1
    assert "0 to run" in again.output and "twofold sync" in again.message


def test_sync_with_no_server_is_one_clear_error(untracked: Sweep) -> None:
    done = twofold("sync", untracked.folder)
    refused(done, str(untracked.config.tracking_uri), "Start the server")
    assert done.seconds < 60


def test_sync_logs_every_unit_once(untracked: Sweep, server: str) -> None:
    first = twofold_here("sync", untracked.folder)
    assert first.code == 0 and "6 units logged" in first.message
    parents, children = runs_of(server, "away")
    assert sorted(run.data.tags[KEY] for run in children) == sorted(untracked.records)
    assert [run.info.status for run in parents] == ["FINISHED"]
    files = {entry.path for entry in MlflowClient(server).list_artifacts(parents[0].info.run_id)}
    assert {"report.html", "selection.json", "units.parquet"} <= files
    second = twofold_here("sync", untracked.folder)
    assert second.code == 0 and "0 units logged" in second.message
    assert len(runs_of(server, "away")[1]) == 6
    assert twofold_here("sweep", *untracked.arguments).code == 0


def test_a_run_that_was_left_half_written_is_logged_anew(untracked: Sweep, server: str) -> None:
    client = MlflowClient(server)
    _, children = runs_of(server, "away")
    client.update_run(children[0].info.run_id, "RUNNING")
    done = twofold_here("sync", untracked.folder)
    assert "1 unit logged" in done.message
    _, children = runs_of(server, "away")
    assert sorted(run.data.tags[KEY] for run in children) == sorted(untracked.records)


def test_a_server_that_refuses_the_host_name_is_explained(
    untracked: Sweep, server: str, tmp_path: Path
) -> None:
    folder = copy_sweep(untracked, tmp_path)
    config = folder / "config.yaml"
    other_name = server.replace("127.0.0.1", "localhost")
    config.write_text(config.read_text().replace(server, other_name))
    refused(twofold_here("sync", folder), other_name, "403", "--allowed-hosts")


# ---- outages ------------------------------------------------------------------------------------


@pytest.fixture
def flaky(tmp_path: Path) -> Iterator[TrackingServer]:
    """A server that a test starts and kills."""
    server = TrackingServer(tmp_path / "flaky")
    try:
        yield server
    finally:
        server.kill()


def test_a_writer_outlives_a_server_that_is_down_at_start_and_again_later(
    flaky: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.tracking.LONGEST_PAUSE_SECONDS", 1.0)
    ledger, keys = stub_ledger(tmp_path / "stubs", 60)
    writer = BackgroundTracker(Outbox(flaky.address, "stubs", ledger, tmp_path, Unshared()))
    writer.put(keys[:20])
    flaky.start()
    wait_until(lambda: writer.waiting == 0, 120)
    writer.put(keys[20:40])
    wait_until(lambda: writer.waiting < 15, 120)
    flaky.kill()
    writer.put(keys[40:])
    flaky.start()
    wait_until(lambda: writer.waiting == 0, 120)
    assert writer.close() is None
    assert_each_once(flaky.address, "stubs", keys)


# Of these calls this many are answered before an answer gets lost; the first run created is the parent.
LOST = {"runs/create": (0, 4), "runs/log-batch": (5,), "runs/update": (7,), "runs/delete": (0,)}


@contextlib.contextmanager
def losing_answers(server: str, lost: list[str]) -> Iterator[str]:
    """A way to ``server`` on which every request arrives, and some answers do not: those are noted."""
    port = int(server.rpartition(":")[2])
    made: Counter[str] = Counter()

    def forward(connection: socket.socket) -> None:
        request = b""
        while not _is_whole(request):
            request += connection.recv(65536)
        head, _, body = request.partition(b"\r\n\r\n")
        # Otherwise the server keeps the connection, and the end of its answer is not seen.
        head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head) + b"\r\nConnection: close"
        # The server answers to its own name alone.
        head = re.sub(rb"(?i)\r\nhost:[^\r]*", f"\r\nHost: 127.0.0.1:{port}".encode(), head)
        with socket.create_connection(("127.0.0.1", port)) as onward:
            onward.sendall(head + b"\r\n\r\n" + body)
            answer = b"".join(iter(lambda: onward.recv(65536), b""))
        call = "/".join(head.split()[1].decode().split("/")[-2:])
        made[call] += 1
        if made[call] - 1 in LOST.get(call, ()):
            lost.append(call)
        else:
            connection.sendall(answer)

    with listener(forward) as address:
        yield address


def _is_whole(request: bytes) -> bool:
    head, separator, body = request.partition(b"\r\n\r\n")
    lengths = [
        line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    ]
    return bool(separator) and len(body) >= int((lengths or [b"0"])[0])


def test_a_call_whose_answer_is_lost_is_not_made_twice(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.tracking.FIRST_PAUSE_SECONDS", 0.05)
    ledger, keys = stub_ledger(tmp_path, 12)
    lost: list[str] = []
    with losing_answers(server, lost) as address:
        writer = BackgroundTracker(Outbox(address, "lost", ledger, tmp_path, Unshared()))
        writer.put(keys)
        wait_until(lambda: writer.waiting == 0, 120)
        assert writer.close() is None
    assert Counter(lost) == {call: len(times) for call, times in LOST.items()}
    with open_tracker(Outbox(server, "lost", ledger, tmp_path, Unshared())) as tracker:
        assert tracker.log(keys) == 0
    assert_each_once(server, "lost", keys)
    parents, _ = runs_of(server, "lost")
    assert len(parents) == 1


UNITS = 120


@pytest.fixture(scope="module")
def many_units(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep file of 120 units of a few milliseconds, in twelve settings."""
    folder = tmp_path_factory.mktemp("many")
    root = draw_domains(folder / "images")
    data = folder_data(root, classes=["plain bar", "Größe"], split_seeds=list(range(6)))
    grid = {"alignment": "identity", "clusterer": "density", "score": "knn", "neighbours": [*range(1, 11)]}
    return write_space(folder / "many.yaml", cache, data=data, space=[grid])


def recorded(folder: Path) -> list[float]:
    """When each record was written, in seconds since the epoch."""
    times = []
    for path in (folder / "units").glob("*.arrow"):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return sorted(times)


def duration(folder: Path) -> float:
    """Seconds from the first record to the last: what a sweep that waits for MLflow would prolong."""
    times = recorded(folder)
    assert len(times) == UNITS
    return times[-1] - times[0]


def test_an_outage_in_the_middle_third_does_not_slow_the_sweep(
    ray_local: None, many_units: Path, flaky: TrackingServer
) -> None:
    """10 % and 4 s: what two equal sweeps may differ by on a busy machine, and less than the outage."""
    flaky.start()
    arguments = [str(many_units), *sets(f"tracking_uri={flaky.address}")]
    folder = many_units.parent
    assert twofold_here("sweep", *arguments, "--name", "up").code == 0

    def outage() -> None:
        wait_until(lambda: len(recorded(folder / "down")) >= UNITS / 3, 120)
        flaky.kill()
        wait_until(lambda: len(recorded(folder / "down")) >= 2 * UNITS / 3, 120)
        flaky.launch()

    away = threading.Thread(target=outage)
    away.start()
    done = twofold_here("sweep", *arguments, "--name", "down")
    away.join()
    assert duration(folder / "down") < 1.1 * duration(folder / "up") + 4
    assert done.code == 0 or "twofold sync" in done.message
    flaky.wait()
    assert twofold_here("sync", folder / "down").code == 0
    for name in ("up", "down"):
        keys = [path.stem for path in (folder / name / "units").glob("*.arrow")]
        assert_each_once(flaky.address, name, keys)
        assert [run.info.status for run in runs_of(flaky.address, name)[0]] == ["FINISHED"]
    assert "0 units logged" in twofold_here("sync", folder / "down").message


# ---- passwords ----------------------------------------------------------------------------------

SECRET = "s3cr3t-pässwörd"


def test_a_password_is_nowhere_but_in_the_environment(
    untracked: Sweep,
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A sweep while the server is away, a sync with a database that is away, a sync with the server."""
    space = tmp_path / "secret.yaml"
    content = untracked.space.read_text().replace("tracking_uri:", "# ").replace("name: away", "name: secret")
    space.write_text(content.replace(f"output: {untracked.space.parent}", f"output: {tmp_path / 'runs'}"))
    folder = tmp_path / "runs" / "secret"
    away = f"me:{SECRET}@127.0.0.1:{free_port()}"
    said: list[Finished] = []
    for address, command in (
        (f"http://{away}", ("sweep", space)),
        (f"postgresql://{away}/db", ("sync", folder)),
        (server.replace("://", f"://me:{SECRET}@"), ("sync", folder)),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        said.append(twofold_here(*command))
    assert [done.code for done in said] == [1, 2, 0], [done.output for done in said]
    assert all("me:***@127.0.0.1" in done.message for done in said)
    assert SECRET not in "".join([*(done.output for done in said), *capfd.readouterr()])
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    parents, children = runs_of(server, "secret")
    assert len(children) == 6 and SECRET not in str([run.to_dictionary() for run in parents + children])


@pytest.mark.parametrize("where", ["file", "set"])
def test_a_password_in_the_sweep_file_or_on_the_command_line_is_refused(
    where: str, cache: Path, tmp_path: Path
) -> None:
    address = f"postgresql://me:{SECRET}@host/db"
    changes = {"tracking_uri": address} if where == "file" else {}
    space = write_space(tmp_path / "secret.yaml", cache, data={"dataset": "digits"}, **changes)
    done = twofold_here("sweep", space, *([] if changes else sets(f"tracking_uri={address}")))
    refused(done, "tracking_uri", "MLFLOW_TRACKING_URI")
    assert SECRET not in done.output
    assert not (tmp_path / "secret").exists()
