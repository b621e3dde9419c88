"""The MLflow writer: exactly one run per record, whatever happens to writers, leases and servers."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from orchestrator import tracking
from orchestrator.ledger import Ledger
from orchestrator.tracking import (
    KEY_TAG,
    PARENT_TAG,
    SWEEP_TAG,
    BackgroundTracker,
    NotOurTurn,
    Outbox,
    Tracker,
    Turn,
    open_tracker,
)
from tests.stubs import (
    Unshared,
    assert_each_once,
    listener,
    runs_per_key,
    stub_keys,
    stub_ledger,
    stub_record,
)
from trainables.errors import TwofoldError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests: creating it takes longer than most of them."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(uri)


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> str:
    """An experiment of its own for each test."""
    return str(request.node.name)


@pytest.fixture
def outbox(uri: str, sweep: str, tmp_path: Path) -> Outbox:
    """A sweep of eight records."""
    ledger, _ = stub_ledger(tmp_path, 8)
    return Outbox(uri, sweep, ledger, tmp_path / "artifacts", Unshared())


def keys_of(outbox: Outbox) -> list[str]:
    """Keys of the eight records of the outbox."""
    return [key for key in stub_keys(8) if outbox.ledger.read(key) is not None]


def log_all(outbox: Outbox) -> int:
    with open_tracker(outbox) as tracker:
        return tracker.log(keys_of(outbox))


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing happened for {seconds:.0f} s"
        time.sleep(0.05)


class OneAtATime:
    """A lease that several drivers share; each has its own ``Claim`` on it."""

    def __init__(self) -> None:
        self.holder: Claim | None = None


class Claim:
    def __init__(self, shared: OneAtATime) -> None:
        self._shared = shared
        self.asked = 0

    def acquire(self, name: str) -> bool:
        assert name == "mlflow"
        self.asked += 1
        self._shared.holder = self._shared.holder or self
        return self._shared.holder is self

    def release(self, name: str) -> None:
        if self._shared.holder is self:
            self._shared.holder = None


def with_lock(outbox: Outbox, lock: tracking.Lock) -> Outbox:
    return Outbox(outbox.uri, outbox.sweep, outbox.ledger, outbox.artifacts, lock)


# ---- what is logged -----------------------------------------------------------------------------


def test_logging_twice_logs_once(outbox: Outbox) -> None:
    assert (log_all(outbox), log_all(outbox)) == (8, 0)
    assert_each_once(outbox.uri, outbox.sweep, keys_of(outbox))


def test_a_sweep_of_many_pages_is_read_whole(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-written runs are deleted only when all pages are read: deleting shifts the pages that are left."""
    monkeypatch.setattr(tracking, "PAGE_RUNS", 2)
    log_all(outbox)
    client = MlflowClient(outbox.uri)
    with open_tracker(outbox) as tracker:
        experiment = tracker.experiment
    runs = client.search_runs([experiment], f"tags.`{KEY_TAG}` != ''", order_by=["attributes.start_time ASC"])
    for run in list(runs)[:3]:
        client.update_run(run.info.run_id, "RUNNING")
    assert log_all(outbox) == 3
    assert_each_once(outbox.uri, outbox.sweep, keys_of(outbox))


def test_a_failed_run_gives_way_to_a_later_success(outbox: Outbox) -> None:
    failed, stopped, again = keys_of(outbox)[:3]
    for key, state in ((failed, "failed"), (stopped, "stopped"), (again, "failed")):
        outbox.ledger.write(stub_record(key, state=state, error="a fault of the test"))
    assert log_all(outbox) == 8
    found = runs_per_key(outbox.uri, outbox.sweep)
    assert (found[failed], found[stopped]) == (["FAILED"], ["KILLED"])
    for key in (failed, stopped):
        outbox.ledger.write(stub_record(key))
    assert log_all(outbox) == 2
    found = runs_per_key(outbox.uri, outbox.sweep)
    assert found.pop(again) == ["FAILED"]
    assert set(map(tuple, found.values())) == {("FINISHED",)}


def test_a_long_training_is_logged_whole(outbox: Outbox, client: MlflowClient) -> None:
    """More than the 1,000 metrics that MLflow takes at once."""
    key = keys_of(outbox)[0]
    epochs = [{"epoch": float(epoch), "loss": 1 / epoch, "align": 0.5} for epoch in range(1, 701)]
    outbox.ledger.write(stub_record(key, epochs=epochs))
    with open_tracker(outbox) as tracker:
        tracker.log([key])
        (run,) = client.search_runs([tracker.experiment], f"tags.`{KEY_TAG}` = '{key}'")
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 700
    assert run.data.metrics["proxy.silhouette"] == 0.5


def test_a_record_that_mlflow_refuses_holds_up_no_other(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "FIRST_PAUSE_SECONDS", 0.05)
    keys = keys_of(outbox)
    outbox.ledger.write(stub_record(keys[0], config={"a*name*mlflow*refuses": 1}))
    writer = BackgroundTracker(outbox)
    writer.put(keys)
    failure = writer.close()
    assert isinstance(failure, TwofoldError) and "a*name*mlflow*refuses" in str(failure)
    found = runs_per_key(outbox.uri, outbox.sweep)
    assert [found[key] for key in keys[1:]] == [["FINISHED"]] * 7


# ---- writers that die, and calls that arrive late -----------------------------------------------

DIES = """
import os, signal, sys
from pathlib import Path
from mlflow.tracking import MlflowClient
from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from orchestrator.tracking import Outbox, open_tracker
from tests.stubs import Unshared

ended = MlflowClient.set_terminated
def die(*arguments, **options):
    if not keys[3:]:
        os.kill(os.getpid(), signal.SIGKILL)
    keys.pop()
    ended(*arguments, **options)
MlflowClient.set_terminated = die

uri, sweep, folder, *keys = sys.argv[1:]
with open_tracker(Outbox(uri, sweep, Ledger(Storage(folder)), Path(folder), Unshared())) as tracker:
    tracker.log(list(keys))
"""


def test_a_writer_killed_before_it_ends_a_run_leaves_it_to_be_logged_anew(
    outbox: Outbox, tmp_path: Path
) -> None:
    keys = keys_of(outbox)
    command = [sys.executable, "-c", DIES, outbox.uri, outbox.sweep, str(tmp_path), *keys]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == -signal.SIGKILL
    found = runs_per_key(outbox.uri, outbox.sweep)
    assert sorted(found.values()) == [["FINISHED"]] * 5 + [["RUNNING"]]
    assert log_all(outbox) == 3
    assert_each_once(outbox.uri, outbox.sweep, keys)


def test_mlflow_writes_to_no_deleted_run(outbox: Outbox, client: MlflowClient) -> None:
    """The argument for exactly-once rests on it: a call that arrives late cannot revive a run."""
    log_all(outbox)
    with open_tracker(outbox) as tracker:
        run = client.create_run(tracker.experiment, tags={PARENT_TAG: tracker.parent, KEY_TAG: "late"})
    with open_tracker(outbox):
        pass
    with pytest.raises(MlflowException, match="active"):
        client.set_terminated(run.info.run_id, "FINISHED")
    with pytest.raises(MlflowException, match="active"):
        client.log_param(run.info.run_id, "name", 1)
    assert "late" not in runs_per_key(outbox.uri, outbox.sweep)


def test_of_two_runs_of_a_suspended_driver_the_older_stays(outbox: Outbox, client: MlflowClient) -> None:
    log_all(outbox)
    key = keys_of(outbox)[3]
    with open_tracker(outbox) as tracker:
        (first,) = client.search_runs([tracker.experiment], f"tags.`{KEY_TAG}` = '{key}'")
        second = client.create_run(tracker.experiment, tags={PARENT_TAG: tracker.parent, KEY_TAG: key})
        client.set_terminated(second.info.run_id)
    assert runs_per_key(outbox.uri, outbox.sweep)[key] == ["FINISHED"] * 2
    assert log_all(outbox) == 0
    assert_each_once(outbox.uri, outbox.sweep, keys_of(outbox))
    assert client.get_run(first.info.run_id).info.lifecycle_stage == "active"


def test_a_parent_that_arrives_late_takes_no_children(outbox: Outbox, client: MlflowClient) -> None:
    """Its creation was given up and repeated, so it has the earlier time."""
    log_all(outbox)
    with open_tracker(outbox) as tracker:
        parent = tracker.parent
        late = client.create_run(tracker.experiment, start_time=1, tags={SWEEP_TAG: outbox.sweep})
    with open_tracker(outbox) as tracker:
        assert tracker.parent == parent
    assert client.get_run(late.info.run_id).info.lifecycle_stage == "deleted"
    assert_each_once(outbox.uri, outbox.sweep, keys_of(outbox))


# ---- several drivers ----------------------------------------------------------------------------


def test_a_second_driver_waits_for_the_first_and_then_logs_the_rest(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "ASK_SECONDS", 0.1)
    keys = keys_of(outbox)
    shared = OneAtATime()
    one, two = Claim(shared), Claim(shared)
    first = BackgroundTracker(with_lock(outbox, one))
    wait_until(lambda: shared.holder is one)
    second = BackgroundTracker(with_lock(outbox, two))
    first.put(keys[:5])
    second.put(keys[3:])  # both hand over two of them
    wait_until(lambda: first.waiting == 0 and two.asked > 5)
    assert second.waiting == 5 and shared.holder is one
    assert first.close() is None
    wait_until(lambda: shared.holder is two)
    assert second.close() is None and shared.holder is None
    assert_each_once(outbox.uri, outbox.sweep, keys)


def test_keys_that_wait_for_another_driver_are_no_failure_and_no_delay(outbox: Outbox) -> None:
    shared = OneAtATime()
    shared.holder = Claim(shared)
    writer = BackgroundTracker(with_lock(outbox, Claim(shared)))
    writer.put(keys_of(outbox))
    started = time.monotonic()
    assert writer.close() is None
    assert time.monotonic() - started < 2
    assert writer.waiting == 8 and runs_per_key(outbox.uri, outbox.sweep) == {}


def test_a_driver_that_lost_the_lease_writes_no_more(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "ASK_SECONDS", -1.0)  # ask before every call
    keys = keys_of(outbox)
    shared = OneAtATime()
    claim = Claim(shared)
    turn = Turn(claim)
    turn.take()
    tracker = Tracker(with_lock(outbox, claim), turn)
    tracker.log(keys[:3])
    shared.holder = Claim(shared)
    with pytest.raises(NotOurTurn):
        tracker.log(keys[3:])
    assert len(runs_per_key(outbox.uri, outbox.sweep)) == 3


def test_the_end_of_a_sweep_waits_for_the_lease(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(tracking, "TURN_SECONDS", 0.5)
    shared = OneAtATime()
    shared.holder = other = Claim(shared)
    mine = with_lock(outbox, Claim(shared))
    with pytest.raises(TwofoldError, match="another driver of this sweep is logging"), open_tracker(mine):
        pass
    other.release("mlflow")
    with open_tracker(mine) as tracker:
        assert shared.holder is mine.lock
        tracker.log(keys_of(outbox))
        tracker.finish([], {})
    assert shared.holder is None
    assert_each_once(outbox.uri, outbox.sweep, keys_of(outbox))


def test_the_lease_is_given_back_when_the_server_fails(outbox: Outbox) -> None:
    shared = OneAtATime()
    away = Outbox("http://127.0.0.1:9", outbox.sweep, outbox.ledger, outbox.artifacts, Claim(shared))
    with pytest.raises(TwofoldError, match="Start the server"), open_tracker(away):
        pass
    assert shared.holder is None


def test_a_lease_that_cannot_be_stored_is_a_failure_that_passes(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(Unshared):
        broken = True

        def acquire(self, name: str) -> bool:
            if self.broken:
                raise OSError(28, "No space left on device")
            return True

    monkeypatch.setattr(tracking, "FIRST_PAUSE_SECONDS", 0.05)
    lock = Full()
    writer = BackgroundTracker(with_lock(outbox, lock))
    writer.put(keys_of(outbox))
    time.sleep(0.2)
    assert writer.waiting == 8
    lock.broken = False
    assert writer.close() is None
    assert_each_once(outbox.uri, outbox.sweep, keys_of(outbox))


# ---- servers that are away or hang --------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return stub_ledger(tmp_path, 8)[0]


def ended_in(uri: str, ledger: Ledger) -> tuple[float, float, Exception | None]:
    """Seconds to hand over and seconds to close, and the failure, of a writer that runs for a moment."""
    writer = BackgroundTracker(Outbox(uri, "away", ledger, Path(), Unshared()))
    started = time.monotonic()
    writer.put(stub_keys(8))
    handed_over = time.monotonic()
    time.sleep(0.5)
    closing = time.monotonic()
    failure = writer.close()
    return handed_over - started, time.monotonic() - closing, failure


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time-out of a request; ten times as long outside of the tests."""
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


@pytest.mark.parametrize("scheme", ["http", "postgresql", "mysql+pymysql"])
def test_where_nothing_listens_the_end_comes_at_once(ledger: Ledger, scheme: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"{scheme}://me:s3cr3t@127.0.0.1:{free.getsockname()[1]}/db"
        put, close, failure = ended_in(address, ledger)
    assert put < 0.1 and close < 2
    assert isinstance(failure, TwofoldError) and "Start the server" in str(failure)
    assert f"{scheme}://me:***@127.0.0.1" in str(failure) and "s3cr3t" not in str(failure)


@pytest.mark.usefixtures("one_second")
def test_a_server_that_accepts_and_never_answers_costs_one_time_out(ledger: Ledger) -> None:
    with listener(lambda connection: time.sleep(30)) as address:
        put, close, failure = ended_in(address, ledger)
    assert put < 0.1 and close < 3
    assert isinstance(failure, TwofoldError) and "timed out" in str(failure)


@pytest.mark.usefixtures("one_second")
def test_a_server_that_answers_for_ever_is_given_up(ledger: Ledger) -> None:
    """A byte at a time, so that no time-out of the connection ends it."""

    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(40):
            connection.sendall(b" ")
            time.sleep(0.2)

    with listener(drip) as address:
        put, close, failure = ended_in(address, ledger)
    assert put < 0.1 and close < 8
    assert "has not answered for 6 s" in str(failure)


def test_a_writer_that_was_given_up_writes_no_more(outbox: Outbox) -> None:
    shared = OneAtATime()
    claim = Claim(shared)
    turn = Turn(claim)
    turn.take()
    tracker = Tracker(with_lock(outbox, claim), turn)
    turn.withdraw()
    assert shared.holder is None
    with pytest.raises(tracking._Withdrawn):
        tracker.log(keys_of(outbox))
    assert runs_per_key(outbox.uri, outbox.sweep) == {}
    # Another writer of this driver may have taken the lease by now.
    assert claim.acquire("mlflow")
    turn.give_back()
    assert shared.holder is claim


def test_pauses_grow_and_have_a_limit(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(tracking, "LONGEST_PAUSE_SECONDS", 0.4)
    times: list[float] = []

    class Noted(Unshared):
        def acquire(self, name: str) -> bool:
            times.append(time.monotonic())
            raise OSError("away")

    writer = BackgroundTracker(Outbox("sqlite://", "away", ledger, Path(), Noted()))
    wait_until(lambda: len(times) > 5)
    writer.close()
    pauses = [later - earlier for earlier, later in itertools.pairwise(times[:6])]
    for pause, least in zip(pauses, (0.1, 0.2, 0.4, 0.4, 0.4), strict=True):
        assert least <= pause < least + 0.3


def test_a_missing_driver_is_named_with_the_remedy(ledger: Ledger) -> None:
    with listener(lambda connection: None) as address:
        uri = address.replace("http://", "mssql+pymssql://me:s3cr3t@") + "/db"
        with (
            pytest.raises(TwofoldError, match="needs a package: No module named") as error,
            open_tracker(Outbox(uri, "away", ledger, Path(), Unshared())),
        ):
            pass
    assert "s3cr3t" not in str(error.value)


@pytest.fixture(autouse=True)
def no_writer_is_left() -> Iterator[None]:
    """Those given up are waited for, lest they act in another test."""
    before = set(threading.enumerate())  # one that another file left behind is no fault of these tests
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name == "mlflow-writer":
            thread.join(25)
            assert not thread.is_alive()
