"""A training that does not keep the promises of ``Training``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from trainables.methods.base import METHODS, Part, Training, TrainingInputs
from trainables.methods.cluster_align import ClusterAlign

Flaw = Literal["none", "no_loss", "nan_loss", "few_rows", "nan_rows"]


@METHODS.register("broken")
class Broken(ClusterAlign):
    flaw: Flaw = "none"

    def start(self, inputs: TrainingInputs) -> Training:
        return _BrokenTraining(super().start(inputs), self.flaw)


class _BrokenTraining(Training):
    def __init__(self, inner: Training, flaw: Flaw) -> None:
        self._inner = inner
        self._flaw = flaw
        self._trained = False
        self.assignment = inner.assignment

    def fit_epoch(self) -> dict[str, float]:
        self._trained = True
        losses = self._inner.fit_epoch()
        return {"no_loss": {}, "nan_loss": {**losses, "loss": float("nan")}}.get(self._flaw, losses)

    def embed(self, part: Part) -> np.ndarray:
        rows = self._inner.embed(part)
        if not self._trained:
            return rows
        return {"few_rows": rows[:-1], "nan_rows": rows * np.float32("nan")}.get(self._flaw, rows)

    @property
    def centre(self) -> np.ndarray:
        return self._inner.centre

    def state(self) -> dict[str, torch.Tensor]:
        return self._inner.state()

    def restore(self, state: Mapping[str, torch.Tensor], epoch: int) -> None:
        self._inner.restore(state, epoch)
