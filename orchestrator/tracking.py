"""MLflow: one parent run per sweep, one finished child run per unit, written in batches off the sweep's loop.

The ledger is the outbox. A record without a run that carries its key is logged; one that has a run is left
alone, so logging twice changes nothing and a tracking server may be away for a while.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from orchestrator.ledger import Ledger, UnitRecord
from trainables.errors import TwofoldError

# MLflow announces every step of creating its database.
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
# A server that is away is given up after seconds, not after the minutes that MLflow would retry.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

SWEEP_TAG = "twofold.sweep"
KEY_TAG = "twofold.key"
PARENT_TAG = "mlflow.parentRunId"
MAX_METRICS = 1000
MAX_PARAM_LENGTH = 6000


class Tracker:
    """Logs the records of one sweep.

    Args:
        uri: tracking URI, e.g. ``sqlite:///runs/mlflow.db`` or ``http://host:5000``.
        sweep: sweep name, used as experiment name.
        ledger: where the records are.
        artifacts: artifact folder of a new experiment on a database URI; a server chooses its own.
    """

    def __init__(self, uri: str, sweep: str, ledger: Ledger, artifacts: Path) -> None:
        self._client = MlflowClient(uri)
        self._uri = uri
        self._sweep = sweep
        self._ledger = ledger
        self._failed: dict[str, str] = {}
        with _reported(uri):
            self.experiment = self._find_experiment(None if uri.startswith("http") else artifacts)
            self.parent = self._find_parent()
            self._logged = self._logged_keys()

    def log(self, keys: Iterable[str]) -> int:
        """Log the records of ``keys`` that have no run yet; return how many were new.

        The run of a failed unit gives way to that of a later success.

        Raises:
            TwofoldError: the server does not take them.
        """
        new = 0
        for key in keys:
            record = None if key in self._logged else self._ledger.read(key)
            if record is None or (record.state == "failed" and key in self._failed):
                continue
            with _reported(self._uri):
                if key in self._failed:
                    self._client.delete_run(self._failed.pop(key))
                self._log_record(record)
            self._logged.add(key)
            new += 1
        return new

    def finish(self, artifacts: Iterable[Path], metrics: Mapping[str, float]) -> None:
        """Attach artifacts and summary metrics to the parent run and end it.

        Raises:
            TwofoldError: the server does not take them.
        """
        now = int(time.time() * 1000)
        batch = [Metric(name, value, now, 0) for name, value in metrics.items()]
        with _reported(self._uri):
            for path in artifacts:
                if path.exists():
                    self._client.log_artifact(self.parent, str(path))
            self._client.log_batch(self.parent, metrics=batch)
            self._client.set_terminated(self.parent, "FINISHED")

    def _find_experiment(self, artifacts: Path | None) -> str:
        found = self._client.get_experiment_by_name(self._sweep)
        if found is not None:
            return str(found.experiment_id)
        location = None if artifacts is None else artifacts.absolute().as_uri()
        return str(self._client.create_experiment(self._sweep, artifact_location=location))

    def _find_parent(self) -> str:
        runs = self._client.search_runs(
            [self.experiment], f"tags.`{SWEEP_TAG}` = '{self._sweep}'", max_results=1
        )
        if runs:
            return str(runs[0].info.run_id)
        run = self._client.create_run(
            self.experiment, tags={SWEEP_TAG: self._sweep}, run_name=f"sweep {self._sweep}"
        )
        return str(run.info.run_id)

    def _logged_keys(self) -> set[str]:
        """Keys of the sweep's finished child runs; one left half-written is deleted and logged anew.

        Failed runs are noted apart, with their ids.
        """
        keys: set[str] = set()
        token = None
        while True:
            page = self._client.search_runs(
                [self.experiment],
                f"tags.`{PARENT_TAG}` = '{self.parent}'",
                max_results=5000,
                page_token=token,
            )
            for run in page:
                if run.info.status == "RUNNING":
                    self._client.delete_run(run.info.run_id)
                elif run.info.status == "FAILED":
                    self._failed[run.data.tags[KEY_TAG]] = run.info.run_id
                else:
                    keys.add(run.data.tags[KEY_TAG])
            token = page.token
            if not token:
                return keys

    def _log_record(self, record: UnitRecord) -> None:
        """One child run: create, one batch, terminate."""
        now = int(time.time() * 1000)
        name = f"{record.source}->{record.target}/{record.normal_class} {record.key[:6]}"
        tags = {PARENT_TAG: self.parent, KEY_TAG: record.key, "twofold.setting": record.setting}
        run = self._client.create_run(self.experiment, start_time=now, tags=tags, run_name=name)
        values = {**record.task, "seed": record.seed, **record.config}
        error = [RunTag("twofold.error", record.error[-5000:])] if record.error else []
        self._client.log_batch(
            run.info.run_id,
            metrics=_metrics(record, now)[:MAX_METRICS],
            params=[Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in values.items()],
            tags=error,
        )
        status = "FINISHED" if record.state == "done" else "FAILED"
        self._client.set_terminated(run.info.run_id, status)


@contextlib.contextmanager
def _reported(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one message with the remedy."""
    try:
        yield
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise TwofoldError(
            f"MLflow at {uri} does not take runs: {reason}. Start the server, or leave `tracking_uri` out to "
            "log to a local file. A server that answers 403 must be started with --allowed-hosts and the "
            "host name in this address."
        ) from error


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
    """Runs a tracker in a thread of its own, so that the sweep never waits for MLflow.

    A tracking failure stops the logging and not the sweep; ``close`` returns it, and ``twofold sync`` logs
    what is missing.
    """

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments
        self._keys: queue.Queue[str | None] = queue.Queue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def put(self, keys: Iterable[str]) -> None:
        """Hand over keys whose records are in the ledger."""
        for key in keys:
            self._keys.put(key)

    def close(self) -> Exception | None:
        """Wait until everything handed over is logged; return what stopped the logging, if anything."""
        self._keys.put(None)
        self._thread.join()
        return self._failure

    def _work(self) -> None:
        try:
            tracker = Tracker(*self._arguments)
            while (key := self._keys.get()) is not None:
                tracker.log([key])
        except Exception as error:
            # The sweep is worth more than its log: it goes on, and the command line reports this.
            self._failure = error
