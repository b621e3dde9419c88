"""MLflow: one parent run per sweep, one finished child run per unit, written in batches off the sweep's loop.

The ledger is the outbox: what is logged are the records whose key no ended run carries. A tracking server may
be away at any time, and each record still gets exactly one run:

1. One driver writes at a time, the one that holds the lease ``mlflow``. It asks for it again every few
   seconds, and a driver that takes the lease first reads what is logged.
2. A run is ended by the writer that created it, as the last thing that happens to it. So one that is found
   running is half-written: its writer died, or gave it up. It is deleted and its record logged anew. A call
   that was given up and reaches the server late does no harm: MLflow writes to no deleted run, and a run that
   it only now creates is never ended, and deleted by the next reading.
3. Nothing remembered outlives a failure. A call that failed may have had its effect or not; so it is never
   repeated as it is, neither here nor by MLflow, whose own retries are off. The writer starts again by
   reading what is logged.
4. A driver that was suspended for longer than its lease lasts may end one run before it asks again. Where
   another driver has logged the same record meanwhile, the next reading keeps the older of the two runs.

The end of a sweep and ``twofold sync`` each read anew, so what they leave behind is in order.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from orchestrator.ledger import Ledger, UnitRecord
from orchestrator.redact import redacted, without_secrets
from trainables.errors import TwofoldError

# MLflow announces every step of creating its database, and its warnings may hold the address of one.
logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.WARNING)
# A request to create a run that is sent twice may make two runs: see point 3 above.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
# Seconds. A server that accepts a connection and never answers holds up the end of a sweep for as long.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# Otherwise MLflow asks a server for each run that ends, and prints its address, password included.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

SWEEP_TAG = "twofold.sweep"
KEY_TAG = "twofold.key"
PARENT_TAG = "mlflow.parentRunId"
MAX_PARAM_LENGTH = 6000
# A busy server needs up to 10 ms for each run that it lists; a page must come well within the time-out.
PAGE_RUNS = 250
RUN_STATUS = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}

LEASE = "mlflow"
ASK_SECONDS = 5.0
"""Age at which the answer to "is the lease still ours?" is asked for again; leases last for a minute."""
TURN_SECONDS = 90.0
"""How long ``open_tracker`` waits for the lease: longer than that of a driver that died lasts."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""Pauses between attempts at a server that is away; each is twice the one before."""
DATABASE_PATIENCE_SECONDS = 60.0
"""How long ``close`` waits for a sign of life of a database, which is first created and has no time-out."""
LATE_SECONDS = 1.0
"""An attempt under way that fails this long after ``close``, or after its last record, was the last one."""


class Lock(Protocol):
    """What of ``orchestrator.leases.Leases`` is needed here."""

    def acquire(self, name: str) -> bool:
        """Take a lease, or confirm that it is held; False while somebody else has it."""

    def release(self, name: str) -> None:
        """Give it back."""


@dataclass(frozen=True)
class Outbox:
    """The records of a sweep and where they are to be logged.

    Attributes:
        uri: tracking URI, e.g. ``sqlite:///runs/mlflow.db`` or ``http://host:5000``.
        sweep: sweep name, used as experiment name.
        ledger: where the records are.
        artifacts: artifact folder of a new experiment on a database URI; a server chooses its own.
        lock: grants the lease to one driver at a time.
    """

    uri: str
    sweep: str
    ledger: Ledger
    artifacts: Path
    lock: Lock


class NotOurTurn(TwofoldError):
    """Another driver has the lease."""


class _Withdrawn(Exception):
    """This writer has been given up."""


class Turn:
    """The right of one writer to write, as long as the lease is held and the writer has not been given up.

    Attributes:
        alive: monotonic time of the last sign of life of the writer.
    """

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._asked = -math.inf
        self._withdrawn = threading.Event()
        self.alive = time.monotonic()

    def take(self) -> None:
        """Take the lease, or confirm it.

        Raises:
            NotOurTurn: somebody else has it.
            TwofoldError: it cannot be asked for.
        """
        self._asked = self.alive = time.monotonic()
        try:
            granted = self._lock.acquire(LEASE)
        except OSError as error:
            raise TwofoldError(f"cannot take the lease to log to MLflow: {error}") from error
        if not granted:
            raise NotOurTurn("another driver of this sweep is logging to MLflow")

    def check(self) -> None:
        """Confirm before each call that this writer may still write.

        Raises:
            NotOurTurn: the lease was lost.
        """
        if self._withdrawn.is_set():
            raise _Withdrawn
        self.alive = time.monotonic()
        if self.alive - self._asked > ASK_SECONDS:
            self.take()

    def withdraw(self) -> None:
        """Give up a writer that hangs in a call: when the call returns, it writes nothing more."""
        self.give_back()
        self._withdrawn.set()

    def give_back(self) -> None:
        """Let another driver write. The lease of a writer that was given up may be somebody else's now."""
        if not self._withdrawn.is_set():
            # Where it cannot be given back, it ends by itself.
            with contextlib.suppress(OSError):
                self._lock.release(LEASE)


class _Logged(NamedTuple):
    """What matters of a run that MLflow holds: a whole one takes 30 KB of memory.

    Attributes:
        id: of the run.
        started: milliseconds since the epoch.
        status: e.g. ``RUNNING``.
        key: of the unit; None for another run than that of a unit.
        parent: id of the run that it names as its parent.
        is_parent: whether it is the run of the sweep.
    """

    id: str
    started: int
    status: str
    key: str | None
    parent: str | None
    is_parent: bool

    @classmethod
    def of(cls, run: Run) -> _Logged:
        """The excerpt of a run."""
        info, tags = run.info, run.data.tags
        keyed = (tags.get(KEY_TAG), tags.get(PARENT_TAG), SWEEP_TAG in tags)
        return cls(str(info.run_id), int(info.start_time), sys.intern(info.status), *keyed)


class Tracker:
    """Logs the records of one sweep, for ``open_tracker`` and ``BackgroundTracker``, which hold the lease.

    Args:
        outbox: the sweep.
        turn: the right to write, already taken.
    """

    def __init__(self, outbox: Outbox, turn: Turn) -> None:
        self._outbox = outbox
        self._turn = turn
        # Unit key -> run id and status of its only run that has ended.
        self._ended: dict[str, tuple[str, str]] = {}
        with reported(outbox.uri):
            _check_database_answers(outbox.uri)
            self._client = MlflowClient(outbox.uri)
            self.experiment = self._find_experiment()
            runs = self._read_runs()
            children = [run for run in runs if run.key is not None]
            self.parent = self._find_parent([run for run in runs if run.is_parent], children)
            self._put_in_order(children)

    def log(self, keys: Iterable[str]) -> int:
        """Log the records of ``keys`` that have no run yet; return how many were new.

        The run of a unit that failed or was stopped gives way when its record has become another.

        Raises:
            NotOurTurn: the lease was lost.
            TwofoldError: the server does not take them.
        """
        return sum(self._log_key(key) for key in keys)

    def run_of(self, key: str) -> str:
        """Id of the run of a unit that has been logged.

        Raises:
            TwofoldError: it has not, because it has no record.
        """
        if key not in self._ended:
            raise TwofoldError(f"unit {key} has no whole record; run `twofold sweep` again")
        return self._ended[key][0]

    def finish(self, artifacts: Iterable[Path], metrics: Mapping[str, float]) -> None:
        """Attach artifacts and summary metrics to the parent run and end it.

        Raises:
            NotOurTurn: the lease was lost.
            TwofoldError: the server does not take them.
        """
        now = int(time.time() * 1000)
        batch = [Metric(name, value, now, 0) for name, value in metrics.items()]
        with reported(self._outbox.uri):
            for path in artifacts:
                if path.exists():
                    self._turn.check()
                    self._client.log_artifact(self.parent, str(path))
            self._turn.check()
            self._client.log_batch(self.parent, metrics=batch)
            self._client.set_terminated(self.parent, "FINISHED")

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._outbox.sweep)
        if found is not None:
            return str(found.experiment_id)
        is_server = self._outbox.uri.startswith("http")
        location = None if is_server else self._outbox.artifacts.absolute().as_uri()
        self._turn.check()
        return str(self._client.create_experiment(self._outbox.sweep, artifact_location=location))

    def _read_runs(self) -> list[_Logged]:
        """Every run of the experiment, the oldest first.

        All of them are read before anything is deleted, which would shift the pages that are left.
        """
        runs: dict[str, _Logged] = {}
        token = None
        while True:
            self._turn.check()
            page = self._client.search_runs(
                [self.experiment],
                max_results=PAGE_RUNS,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            runs.update({run.info.run_id: _Logged.of(run) for run in page})
            token = page.token
            if not token:
                return sorted(runs.values(), key=lambda run: (run.started, run.id))

    def _find_parent(self, parents: list[_Logged], children: list[_Logged]) -> str:
        """The run that most children name, else the oldest, else a new one; others are left-overs."""
        named = Counter(run.parent for run in children)
        ids = sorted((run.id for run in parents), key=lambda name: -named[name])
        for surplus in ids[1:]:
            if not named[surplus]:
                self._delete(surplus)
        if ids:
            return ids[0]
        tags = {SWEEP_TAG: self._outbox.sweep}
        self._turn.check()
        run = self._client.create_run(self.experiment, tags=tags, run_name=f"sweep {self._outbox.sweep}")
        return str(run.info.run_id)

    def _put_in_order(self, children: list[_Logged]) -> None:
        """Note which keys have a run that ended; delete half-written runs and second ones of a key."""
        for run in sorted(children, key=lambda run: bool(run.status != "FINISHED")):
            assert run.key is not None
            if run.key in self._ended or run.status not in RUN_STATUS.values():
                self._delete(run.id)
            else:
                self._ended[run.key] = (run.id, run.status)

    def _delete(self, run_id: str) -> None:
        self._turn.check()
        self._client.delete_run(run_id)

    def _log_key(self, key: str) -> bool:
        """Log one record unless it has its run; say whether it was new."""
        old, status = self._ended.get(key, (None, None))
        record = None if status == "FINISHED" else self._outbox.ledger.read(key)
        if record is None or status == RUN_STATUS[record.state]:
            return False
        with reported(self._outbox.uri):
            if old is not None:
                self._delete(old)
            self._ended[key] = (self._log_record(record), RUN_STATUS[record.state])
        return True

    def _log_record(self, record: UnitRecord) -> str:
        """One child run: create, one batch, end it; returns its id."""
        now = int(time.time() * 1000)
        name = f"{record.source}->{record.target}/{record.normal_class} {record.key[:6]}"
        tags = {PARENT_TAG: self.parent, KEY_TAG: record.key, "twofold.setting": record.setting}
        self._turn.check()
        run = self._client.create_run(self.experiment, start_time=now, tags=tags, run_name=name)
        values = {**record.task, "seed": record.seed, **record.config}
        error = [RunTag("twofold.error", record.error[-5000:])] if record.error else []
        self._turn.check()
        self._client.log_batch(
            run.info.run_id,
            metrics=_metrics(record, now),
            params=[Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in values.items()],
            tags=error,
        )
        self._turn.check()
        self._client.set_terminated(run.info.run_id, RUN_STATUS[record.state])
        return str(run.info.run_id)


@contextlib.contextmanager
def open_tracker(outbox: Outbox) -> Iterator[Tracker]:
    """A tracker that holds the lease while the block runs; waits for another driver to end its logging.

    Raises:
        TwofoldError: the server does not answer, or another driver goes on logging.
    """
    turn = Turn(outbox.lock)
    end = time.monotonic() + TURN_SECONDS
    while True:
        try:
            turn.take()
            break
        except NotOurTurn as error:
            if time.monotonic() > end:
                raise TwofoldError(
                    f"{error}, and has been for {TURN_SECONDS:.0f} s; log the rest when it has ended"
                ) from error
            time.sleep(ASK_SECONDS)
    try:
        yield Tracker(outbox, turn)
    finally:
        turn.give_back()


@contextlib.contextmanager
def reported(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one message with the remedy and without a password."""
    try:
        yield
    except (TwofoldError, _Withdrawn):
        raise
    except ImportError as error:
        raise TwofoldError(
            f"MLflow at {redacted(uri)} needs a package: {error}. "
            "For PostgreSQL: pip install 'twofold[postgres]'"
        ) from None
    except Exception as error:
        # MLflow passes on whatever its database driver raises. The cause is cut off: it may hold a password.
        reason = _shortened(without_secrets(str(error) or type(error).__name__, uri))
        raise TwofoldError(
            f"MLflow at {redacted(uri)} does not take runs: {reason}. Start the server, or leave out "
            "`tracking_uri` and MLFLOW_TRACKING_URI to log to a local file. A server that answers 403 must "
            "be started with --allowed-hosts and the host name in this address."
        ) from None


def _shortened(text: str) -> str:
    """One line of at most 300 characters: of a long text the beginning, and the end with the cause."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:115]} ... {line[-180:]}"


def _check_database_answers(uri: str) -> None:
    """Refuse a database server that is not there; MLflow itself tries again for minutes.

    Raises:
        OSError: nothing listens there.
    """
    parts = urlsplit(uri)
    port = DATABASE_PORTS.get(parts.scheme.partition("+")[0])
    if port is not None and parts.hostname:
        socket.create_connection((parts.hostname, parts.port or port), timeout=5).close()


def _metrics(record: UnitRecord, now: int) -> list[Metric]:
    """Losses per epoch, then the label-free numbers and the timings of a record."""
    curves = [
        Metric(name, value, now, int(epoch["epoch"]))
        for epoch in record.epochs
        for name, value in epoch.items()
        if name != "epoch"
    ]
    groups: dict[str, dict[str, float]] = {
        "proxy": record.stage_a,
        "seconds": record.seconds,
        "diagnostic": record.diagnostics,
    }
    finals = [
        Metric(f"{group}.{name}", value, now, 0)
        for group, values in groups.items()
        for name, value in values.items()
        if math.isfinite(value)
    ]
    return curves + finals


class BackgroundTracker:
    """Logs in a thread of its own, so that the sweep never waits for MLflow.

    While the server is away, or another driver has the lease, keys wait; the writer tries again after pauses,
    reads what is logged and goes on. What is not logged when the sweep ends, ``twofold sync`` logs.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._turn = Turn(outbox.lock)
        self._keys: deque[str] = deque()
        self._news = threading.Event()
        self._closing = threading.Event()
        self._closed = math.inf
        self._last_logged = -math.inf
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many of the keys handed over are not logged yet."""
        return len(self._keys)

    def put(self, keys: Iterable[str]) -> None:
        """Hand over keys whose records are in the ledger."""
        self._keys.extend(keys)
        self._news.set()

    def close(self) -> Exception | None:
        """Wait until everything handed over is logged; return what stopped the logging, if anything.

        In an outage there is one last attempt. It ends at once where nothing listens, and with the time-out
        of a request where a server does not answer. Keys that wait for the lease of another driver are no
        failure: whoever ends the parent run logs them first.
        """
        self._closed = time.monotonic()
        self._closing.set()
        self._news.set()
        while self._thread.is_alive():
            self._thread.join(0.2)
            silent = time.monotonic() - max(self._closed, self._turn.alive)
            if silent > self._patience():
                self._turn.withdraw()
                where = redacted(self._outbox.uri)
                return TwofoldError(f"MLflow at {where} has not answered for {silent:.0f} s.")
        return self._failure

    def _patience(self) -> float:
        """Seconds without a sign of life after which a call will not return in time."""
        if self._outbox.uri.startswith("http"):
            return float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) + 5
        return DATABASE_PATIENCE_SECONDS

    def _work(self) -> None:
        """Attempt after attempt, until one has logged everything or comes too late."""
        next_pause = FIRST_PAUSE_SECONDS
        while True:
            started, is_last = time.monotonic(), self._closing.is_set()
            try:
                self._turn.take()
                self._log_handed_over(Tracker(self._outbox, self._turn))
                self._failure = None
                return
            except NotOurTurn:
                self._failure = None
                pause = ASK_SECONDS
            except Exception as error:
                # The sweep is worth more than its log: it goes on, and the command line reports this.
                self._failure = error
                pause = FIRST_PAUSE_SECONDS if self._last_logged > started else next_pause
                next_pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            finally:
                self._turn.give_back()
            if self._is_over(is_last and self._last_logged < started):
                return
            self._closing.wait(pause)

    def _is_over(self, failed_last_attempt: bool) -> bool:
        late = time.monotonic() - max(self._closed, self._last_logged) > LATE_SECONDS
        return self._closing.is_set() and (failed_last_attempt or late)

    def _log_handed_over(self, tracker: Tracker) -> None:
        """Log keys as they come, until the last one after ``close``."""
        while True:
            self._news.clear()
            is_last = self._closing.is_set()
            while self._keys:
                key = self._keys.popleft()
                try:
                    tracker.log([key])
                except Exception:
                    # To the end of the queue: a record that MLflow refuses must not hold up the others.
                    self._keys.append(key)
                    raise
                self._last_logged = time.monotonic()
            if is_last:
                return
            # An idle writer keeps its lease.
            self._news.wait(ASK_SECONDS)
            self._turn.check()
