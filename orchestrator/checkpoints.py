"""Checkpoints of long trainings: one safetensors file, checked before it is read, and never a pickle.

A file is safetensors (the tensors, and the progress as canonical JSON in its metadata) with 16 bytes of
BLAKE2 behind it. It takes about three times the trained tail: the weights and Adam's two moments.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from orchestrator.checksum import sealed, unsealed
from orchestrator.storage import Storage
from trainables.methods.base import Method, Training, TrainingInputs
from trainables.seeding import canonical_json

SCHEMA = 1
SECONDS_BETWEEN = 60.0
_LENGTH_BYTES = 8
_log = logging.getLogger(__name__)


class DamagedCheckpoint(ValueError):
    """A file that is truncated, altered, or not a checkpoint of this version: train from the start."""


def pack(state: Mapping[str, torch.Tensor], progress: Mapping[str, Any]) -> bytes:
    """A checkpoint file from contiguous CPU tensors that share no memory, and JSON-safe progress."""
    metadata = {"twofold": canonical_json({"schema": SCHEMA, "progress": dict(progress)})}
    return sealed(save(dict(state), metadata))


def unpack(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Inverse of ``pack``.

    Raises:
        DamagedCheckpoint: the file is not exactly what ``pack`` of this version made.
    """
    body = unsealed(content)
    if body is None:
        raise DamagedCheckpoint("its checksum is wrong: it is truncated, altered or no checkpoint")
    try:
        state = load(body)
        header = json.loads(
            body[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")]
        )
        metadata = json.loads(header["__metadata__"]["twofold"])
        schema, progress = metadata["schema"], metadata["progress"]
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedCheckpoint(f"it is no checkpoint: {error!r}") from error
    if schema != SCHEMA:
        raise DamagedCheckpoint(f"its schema is {schema!r}, and this version reads {SCHEMA}")
    return state, progress


class Checkpoints(Protocol):
    """Where checkpoints are kept, and when. An OSError costs the checkpoint and not the training."""

    def load(self, bundle: str) -> bytes | None:
        """The file kept for a bundle, if any; asked for once, as its training begins."""

    def save(self, bundle: str, content: bytes) -> None:
        """Keep a file in place of the bundle's last one."""

    def due(self) -> bool:
        """Whether to save now; asked after every epoch but the last."""


class Pace:
    """Says when to save: once ``seconds`` have passed since the training began or was last saved.

    Args:
        seconds: the most training, apart from the epoch in progress, that an interruption may cost.
        clock: seconds that never go back.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Count anew: a training begins, or has just been saved."""
        self._since = self._clock()

    def due(self) -> bool:
        """Whether it is time to save."""
        return self._clock() - self._since >= self._seconds


class StoredCheckpoints:
    """Checkpoints under ``checkpoints/<bundle>``: the last one of each training that is not over.

    Args:
        storage: where the ledger is, so that any node finds them.
        pace: when to save.
    """

    def __init__(self, storage: Storage, pace: Pace | None = None) -> None:
        self._storage = storage
        self._pace = pace or Pace(SECONDS_BETWEEN)

    def load(self, bundle: str) -> bytes | None:
        """The file kept for a bundle, if any; its training begins now."""
        self._pace.restart()
        return self._storage.read(_file(bundle))

    def save(self, bundle: str, content: bytes) -> None:
        """Keep a file in place of the bundle's last one."""
        self._storage.write(_file(bundle), content)
        self._pace.restart()

    def due(self) -> bool:
        """Whether it is time to save."""
        return self._pace.due()

    def remove(self, bundle: str) -> None:
        """Forget a training that is over."""
        self._storage.remove(_file(bundle))


def _file(bundle: str) -> str:
    return f"checkpoints/{bundle}"


@dataclass
class Past:
    """The epochs a training has behind it, as far as its state does not hold them.

    Attributes:
        batch_size: images per domain in a step, where it is not the configuration's.
        initial: diagnostics before the first epoch.
        losses: mean losses of each epoch.
        objectives: unit key -> epoch -> the objective at a rung of early stopping.
        seconds: wall time of its start and epochs.
    """

    batch_size: int | None
    initial: dict[str, float] = field(default_factory=dict)
    losses: list[dict[str, float]] = field(default_factory=list)
    objectives: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def epoch(self) -> int:
        """Whole epochs so far."""
        return len(self.losses)


@dataclass(frozen=True)
class Bookmark:
    """The checkpoint of one bundle.

    Attributes:
        checkpoints: where it is kept; None keeps nothing.
        bundle: its name.
    """

    checkpoints: Checkpoints | None
    bundle: str

    def begin(
        self, method: Method, inputs: TrainingInputs, batch_size: int | None, most: int
    ) -> tuple[Training, Past]:
        """Continue from the checkpoint, or start where there is none that is whole and fits.

        Args:
            method: starts the training.
            inputs: of the training.
            batch_size: in place of the method's own. None takes what the checkpoint was trained with, and a
                checkpoint of another size than the one given is not used.
            most: epochs after which the first unit ends. A checkpoint after more of them is not used.
        """
        try:
            if self.checkpoints is not None and (content := self.checkpoints.load(self.bundle)) is not None:
                state, progress = unpack(content)
                past = Past(**progress)
                if batch_size in (None, past.batch_size) and past.epoch <= most:
                    training = _sized(method, past.batch_size).start(inputs)
                    training.restore(state, past.epoch)
                    return training, past
        except (OSError, ValueError) as error:
            _log.warning("checkpoint %s is not used, its training starts anew: %s", self.bundle, error)
        return _sized(method, batch_size).start(inputs), Past(batch_size)

    def save_if_due(self, training: Training, past: Past) -> None:
        """Save where it is time to."""
        if self.checkpoints is not None and self.checkpoints.due():
            self.save(training, past)

    def save(self, training: Training, past: Past) -> None:
        """Save now; a place that cannot be written is a warning."""
        try:
            if self.checkpoints is not None:
                self.checkpoints.save(self.bundle, pack(training.state(), asdict(past)))
        except OSError as error:
            _log.warning("checkpoint %s could not be written: %s", self.bundle, error)


def _sized(method: Method, batch_size: int | None) -> Method:
    return method if batch_size is None else method.model_copy(update={"batch_size": batch_size})
