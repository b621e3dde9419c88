"""The sweep driver: plan, prepare, run the missing units as Ray Tune trials, and keep the user informed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from orchestrator.config import SweepConfig
from orchestrator.group import GroupRun
from orchestrator.ledger import Ledger
from orchestrator.plan import Unit, group_units
from orchestrator.prepare import Prepared
from orchestrator.trial import UnitGroup
from trainables.errors import TwofoldError

MAX_REFITS = 3
RAY_ENVIRONMENT = {
    # Ray's own loggers write three files per trial and cost more than a short trial does.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ray turns tokens on for a local start and off for a remote one, unless it is told.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray runs its workers at niceness 15, where anything else on the machine starves them.
    "RAY_worker_niceness": "0",
    # Tune's own tables would hide the progress shown here.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Tune takes Ctrl-C as the end of one fit, and what is left would be fitted again.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


@dataclass(frozen=True)
class Ended:
    """Keys of the units that a trial has just recorded."""

    done: Sequence[str]
    failed: Sequence[str]


class _Listener(tune.Callback):
    """Tells the driver of every unit that ended."""

    def __init__(self, on_ended: Callable[[Ended], None]) -> None:
        self._on_ended = on_ended

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        """Tune pickles its callbacks into a snapshot that is never restored; a progress bar cannot be."""
        return tune.Callback, ()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Forward the keys of a step that ended units."""
        ended = Ended(result.get("finished", []), result.get("failed", []))
        if ended.done or ended.failed:
            self._on_ended(ended)


def run_units(
    config: SweepConfig,
    prepared: Prepared,
    units: Sequence[Unit],
    ledger: Ledger,
    on_ended: Callable[[Ended], None],
    address: str | None = None,
) -> None:
    """Run units on Ray until each has a record; ``on_ended`` hears of them as they end.

    A failure of Tune itself (its memory monitor ends the whole run, for one) is followed by another run
    over what is left. Units still without a record after that are recorded as failed.
    """
    started = _start_ray(config, address)
    try:
        left = list(units)
        # An interrupted sweep leaves attempts that say nothing about their units.
        ledger.forget_attempts(unit.key for unit in left)
        for _ in range(MAX_REFITS):
            reason = _fit(config, prepared, left, ledger, on_ended)
            recorded = ledger.states(unit.key for unit in left)
            left = [unit for unit in left if unit.key not in recorded]
            if not left:
                return
    finally:
        if started:
            ray.shutdown()
    for unit in left:
        for record in GroupRun(prepared, [unit]).fail([unit], f"Ray Tune did not run this unit: {reason}"):
            ledger.write(record)
    on_ended(Ended([], [unit.key for unit in left]))


def _start_ray(config: SweepConfig, address: str | None) -> bool:
    """Connect to a cluster, or start Ray here with an explicit number of cores; say whether we started it."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
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


def _fit(
    config: SweepConfig,
    prepared: Prepared,
    units: Sequence[Unit],
    ledger: Ledger,
    on_ended: Callable[[Ended], None],
) -> str:
    """Run Tune once over the groups of ``units``; return the first trial's error, if any, in words."""
    groups = group_units(units, config.resources.trainings_per_trial)
    trainable = tune.with_parameters(
        UnitGroup,
        prepared=prepared,
        groups=[ray.put(group) for group in groups],
        folder=str(ledger.folder.absolute()),
        threads=config.resources.cpus_per_worker,
    )
    resources = {"cpu": config.resources.cpus_per_worker, "gpu": config.resources.gpus_per_worker}
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={"group": tune.grid_search(list(range(len(groups))))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=config.resources.workers),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str((config.folder / "ray").absolute()),
            callbacks=[_Listener(on_ended)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            # Every unit ends a worker at most twice before it is recorded as failed.
            failure_config=tune.FailureConfig(max_failures=2 * max(len(group) for group in groups)),
            verbose=0,
        ),
    )
    errors = tuner.fit().errors
    return str(errors[0]) if errors else "no trial reported an error"
