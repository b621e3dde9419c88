"""Encoding on the workers of a cluster: the driver decodes, every worker runs the network on its share."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
import torch

from orchestrator.config import ResourceConfig, SweepConfig
from orchestrator.ray_start import RaySession
from trainables.extract import Encode, InProcess, Tap
from trainables.memory import keep_freed_memory
from trainables.networks import Pretrained

AHEAD = 2
"""Batches handed to a worker at a time, so that it never waits for the driver."""


class EncodingWorker:
    """One process with the network that ran last; an actor.

    Args:
        threads: CPU threads of the worker.
    """

    def __init__(self, threads: int) -> None:
        keep_freed_memory()
        torch.set_num_threads(threads)
        self._encoder = InProcess()

    def run(self, pretrained: Pretrained, taps: tuple[Tap, ...], batch: np.ndarray) -> dict[Tap, np.ndarray]:
        """Outputs of one batch of images (b, s, s, 3) uint8."""
        return self._encoder.load(pretrained, taps).run(batch)


class EncodingWorkers:
    """Shares the batches of a domain among actors, and gives their outputs back in order.

    Args:
        resources: what a worker takes of the cluster, and how many there are.
    """

    def __init__(self, resources: ResourceConfig) -> None:
        actor: Any = ray.remote(EncodingWorker)
        # On another node after theirs is lost; the batches under way run again.
        options = actor.options(
            num_cpus=resources.cpus_per_worker,
            num_gpus=resources.gpus_per_worker,
            max_restarts=-1,
            max_task_retries=-1,
        )
        self._actors = [
            options.remote(resources.cpus_per_worker)
            for _ in range(resources.workers or _room_for(resources))
        ]

    def __call__(
        self, pretrained: Pretrained, taps: tuple[Tap, ...], batches: Iterator[np.ndarray]
    ) -> Iterator[dict[Tap, np.ndarray]]:
        """The outputs of each batch.

        Raises:
            TwofoldError: what a worker raised; the weights cannot be had, for one.
        """
        network = ray.put(pretrained)
        running: deque[Any] = deque()
        for turn, batch in enumerate(batches):
            if len(running) == AHEAD * len(self._actors):
                yield _result(running.popleft())
            running.append(self._actors[turn % len(self._actors)].run.remote(network, taps, batch))
        while running:
            yield _result(running.popleft())

    def close(self) -> None:
        """End the actors, so that the trials have their cores and their memory."""
        for actor in self._actors:
            ray.kill(actor)


@contextlib.contextmanager
def encoding_workers(config: SweepConfig, session: RaySession) -> Iterator[Encode]:
    """What encodes the images of a sweep: the workers where there is more than this process can use.

    One process uses all cores of its machine, or one GPU. There it is as fast as workers are, which would
    first have to start.
    """
    if not session.is_cluster and torch.cuda.device_count() < 2:
        yield InProcess()
        return
    session.wait()
    workers = EncodingWorkers(config.resources)
    try:
        yield workers
    finally:
        workers.close()


def _room_for(resources: ResourceConfig) -> int:
    """How many workers the cluster holds now; at least one, for which it may start a node."""
    cluster = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room = cluster.get("CPU", 0) / resources.cpus_per_worker
    if resources.gpus_per_worker:
        room = min(room, cluster.get("GPU", 0) / resources.gpus_per_worker)
    return max(1, int(room))


def _result(reference: Any) -> dict[Tap, np.ndarray]:
    try:
        outputs: dict[Tap, np.ndarray] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # Its own text is the traceback of another process.
        raise error.cause from None
    return outputs
