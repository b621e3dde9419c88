"""Connecting to Ray: a cluster that is running, or one on this machine with an explicit number of cores."""

from __future__ import annotations

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
    """Ray for as long as the block of a ``with`` lasts.

    It starts in a thread, beside what the block does first; ``wait`` for it before Ray is used.

    Args:
        config: the sweep.
        address: of a cluster; None = this machine, with an explicit number of cores.

    Raises:
        TwofoldError: on entry, no cluster answers.
    """

    def __init__(self, config: SweepConfig, address: str | None) -> None:
        self._config = config
        self._address = address
        self._started = False
        self._error: BaseException | None = None
        self._ready, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._start, name="ray-start")

    def __enter__(self) -> RaySession:
        if self._address is not None:
            _check_answers(self._address)
        if threading.current_thread() is threading.main_thread():
            # Ray does this where it starts in the main thread: the block is then left as it should be.
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ready.wait()
        if self._started:
            ray.shutdown()
        self._over.set()
        self._thread.join()

    def wait(self) -> None:
        """Return when Ray can be used.

        Raises:
            Exception: what Ray raised.
        """
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        try:
            self._started = start_ray(self._config, self._address)
        except BaseException as error:  # raised again in ``wait``
            self._error = error
        self._ready.set()
        # Ray's processes end with the thread that started them.
        self._over.wait()


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
