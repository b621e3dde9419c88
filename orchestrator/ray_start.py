"""Connecting to Ray: a cluster that is running, or one on this machine with an explicit number of cores."""

from __future__ import annotations

import logging
import os
import socket

import ray

from orchestrator.config import SweepConfig
from trainables.errors import TwofoldError


def start_ray(config: SweepConfig, address: str | None) -> bool:
    """Connect to a cluster, or start Ray here with an explicit number of cores; say whether we started it."""
    # Tune complains that it finds no result files; the ledger has the results.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return False
    if address is not None:
        _check_answers(address)
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
