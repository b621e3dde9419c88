"""What Ray has to be told through the environment, before anything imports it."""

from __future__ import annotations

import os

ALWAYS = {
    # Ray's own loggers write three files per trial and cost more than a short trial does.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ray turns tokens on for a local start and off for a remote one, unless it is told.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray runs its workers at niceness 15, where anything else on the machine starves them.
    "RAY_worker_niceness": "0",
    # Tune's own tables would hide the progress shown here.
    "RAY_AIR_NEW_OUTPUT": "0",
    # No snapshot of Tune's state is ever read.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # Where a task has failed, the tracebacks of those beside it, which nobody asks for, would be shown, too.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    # Tune takes Ctrl-C as the end of one fit, and what is left would be fitted again.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
ON_THIS_MACHINE = {
    # Every process of Ray listens on all interfaces, and whoever reaches one can run code. Without clusters,
    # which macOS and Windows lack and this variable is named after, all of them keep to the loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


def set_ray_environment(address: str | None) -> None:
    """Set what the caller's environment leaves open.

    Args:
        address: of the Ray cluster; None = this machine, where nothing then listens on a public address.
    """
    for name, value in {**ALWAYS, **({} if address else ON_THIS_MACHINE)}.items():
        os.environ.setdefault(name, value)
