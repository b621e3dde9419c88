"""Encoding on the workers of a cluster: the driver decodes, every worker runs the network on its share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
import torch

from orchestrator.config import ResourceConfig, SweepConfig
from orchestrator.ray_start import RaySession
from trainables.errors import TwofoldError
from trainables.extract import Encode, InProcess, Tap
from trainables.memory import keep_freed_memory
from trainables.networks import Pretrained

AHEAD = 2
"""Batches that are handed over for each worker, so that none waits for the driver."""


class EncodingWorkers:
    """Shares the batches of a domain among the workers of a cluster, and gives their outputs back in order.

    A batch is a task, which runs on whatever node has room, and again on another where a node is lost. Ray
    keeps the processes, and they the network that ran last, until they have been idle for a while.

    Args:
        resources: what a worker takes of the cluster, and how many there are.
    """

    def __init__(self, resources: ResourceConfig) -> None:
        self._resources = resources
        # Without `max_calls`, Ray ends a process with a GPU after each task.
        task: Any = ray.remote(max_calls=0)(_encode)
        self._task = task.options(
            num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker, max_retries=-1
        )

    def __call__(
        self, pretrained: Pretrained, taps: tuple[Tap, ...], batches: Iterator[np.ndarray]
    ) -> Iterator[dict[Tap, np.ndarray]]:
        """The outputs of each batch.

        Raises:
            TwofoldError: what a worker raised, the weights cannot be had for one; or no worker answers.
        """
        network, threads = ray.put(pretrained), self._resources.cpus_per_worker
        running: deque[Any] = deque()
        for batch in batches:
            # Asked each time, since the cluster may grow meanwhile.
            if len(running) >= AHEAD * (self._resources.workers or _room_for(self._resources)):
                yield self._result(running.popleft())
            running.append(self._task.remote(network, taps, batch, threads))
        while running:
            yield self._result(running.popleft())

    def _result(self, reference: Any) -> dict[Tap, np.ndarray]:
        minutes = self._resources.step_minutes
        try:
            outputs: dict[Tap, np.ndarray] = ray.get(reference, timeout=60 * minutes)
        except ray.exceptions.RayTaskError as error:
            # Its own text is the traceback of another process.
            raise error.cause from None
        except ray.exceptions.GetTimeoutError:
            raise TwofoldError(
                f"no worker has encoded a batch of images for {minutes:g} minutes; see with `ray status` "
                "whether the cluster has room for one (`resources:`)"
            ) from None
        return outputs


_encoder = InProcess()
"""Of a worker's process."""


def _encode(
    pretrained: Pretrained, taps: tuple[Tap, ...], batch: np.ndarray, threads: int
) -> dict[Tap, np.ndarray]:
    """On a worker: the outputs of one batch of images (b, s, s, 3) uint8."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    return _encoder.load(pretrained, taps).run(batch)


def encoding_workers(config: SweepConfig, session: RaySession) -> Encode | None:
    """The workers, where there is more than the driver's process can use: its cores, or one GPU."""
    if not session.is_cluster and torch.cuda.device_count() < 2:
        return None
    session.wait()
    return EncodingWorkers(config.resources)


def _room_for(resources: ResourceConfig) -> int:
    """How many workers the cluster holds now; at least one, for which it may start a node."""
    cluster = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room = cluster.get("CPU", 0) / resources.cpus_per_worker
    if resources.gpus_per_worker:
        room = min(room, cluster.get("GPU", 0) / resources.gpus_per_worker)
    return max(1, int(room))
