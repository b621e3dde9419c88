"""Connecting to Ray: a cluster that is running, or one on this machine with an explicit number of cores."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
from types import TracebackType

import ray

from orchestrator.config import SweepConfig
from trainables.errors import TwofoldError


class RaySession:
    """Ray until the block of a ``with`` is left, or until ``end``.

    It starts and ends in a thread, beside what the block does meanwhile.

    Args:
        config: the sweep.
        address: of a cluster; None = this machine, with an explicit number of cores.
    """

    def __init__(self, config: SweepConfig, address: str | None) -> None:
        self.is_cluster = address is not None
        self._config = config
        self._address = address
        self._error: BaseException | None = None
        self._ready, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RaySession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        if self._thread is not None:
            self._thread.join()

    def start(self) -> None:
        """Begin to start Ray.

        Raises:
            TwofoldError: no cluster answers.
        """
        if self._address is not None:
            _check_answers(self._address)
        if threading.current_thread() is threading.main_thread():
            # Ray does this where it starts in the main thread: the block is then left as it should be.
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        self._thread = threading.Thread(target=self._live, name="ray-session")
        self._thread.start()

    def wait(self) -> None:
        """Return when Ray can be used.

        Raises:
            TwofoldError: no cluster answers.
            Exception: what Ray raised.
        """
        if self._thread is None:
            self.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Begin to end Ray, which is no longer needed."""
        # Tune leaves references to Ray's objects in cycles. One that the collector comes upon while Ray ends
        # in its thread makes Ray end this process.
        gc.collect()
        self._over.set()

    def _live(self) -> None:
        """The life of Ray: its processes end with the thread that started them."""
        started = False
        try:
            started = start_ray(self._config, self._address)
        except BaseException as error:  # raised again in ``wait``
            self._error = error
        self._ready.set()
        self._over.wait()
        if started:
            ray.shutdown()


def start_ray(config: SweepConfig, address: str | None) -> bool:
    """Connect to a cluster, or start Ray here with an explicit number of cores; say whether we started it."""
    # It is said that no handler of SIGTERM is set in this thread.
    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)
    # Tune complains that it finds no result files; the ledger has the results.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return False
    if address is not None:
        ray.init(address=address, log_to_driver=False)
        return True
    workers = config.resources.workers or max(1, (os.cpu_count() or 1) // config.resources.cpus_per_worker)
    ray.init(
        "local",  # never the cluster that RAY_ADDRESS or an earlier `ray start` names
        num_cpus=workers * config.resources.cpus_per_worker,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    return True


def _check_answers(address: str) -> None:
    """Refuse a cluster that is not there; Ray itself tries again for minutes.

    Raises:
        TwofoldError: nothing listens at ``address``.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon:  # "auto", for one, which Ray looks up
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise TwofoldError(
            f"--address {address}: no Ray cluster answers ({error}). Start one with `ray up` or "
            "`ray start --head`, or leave --address out to run on this machine."
        ) from error
