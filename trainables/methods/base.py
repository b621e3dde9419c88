"""What a method is given and what it gives back: arrays in, losses and embeddings out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch

from trainables.alignments.base import Alignment
from trainables.backbones.base import Tail
from trainables.registry import Component, Registry
from trainables.types import Assignment

Embeddable = Literal["source_fit", "source_val", "target_fit", "target_sel", "pseudo", "test"]
Part = Embeddable | Literal["tiled"]
PARTS: tuple[Embeddable, ...] = get_args(Embeddable)
"""The parts that are embedded and scored; ``tiled`` is there to train on alone."""


@dataclass(frozen=True)
class Rows:
    """Some rows of an array that several trials share; read in slices, so that no trial copies all of it.

    Attributes:
        array: (N, ...) array of a whole domain.
        index: (n,) positions of the rows that are meant.
    """

    array: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        """Number of rows n."""
        return len(self.index)

    def take(self, positions: np.ndarray | slice) -> np.ndarray:
        """Copy the rows at ``positions`` in 0..n-1: (m, ...)."""
        return np.asarray(self.array[self.index[positions]])

    def all(self) -> np.ndarray:
        """Copy all rows: (n, ...)."""
        return np.asarray(self.array[self.index])


@dataclass(frozen=True)
class SettingArrays:
    """The arrays of one setting, by part.

    ``pseudo`` holds the patch-shuffled images of T_sel. ``tiled`` holds a pseudo-anomaly made of each image
    of T_fit, in the same order, where a configuration of the sweep trains on them.

    Attributes:
        features: frozen, L2-normalised encoder features (n, d) of each part.
        inputs: what the backbone's trainable tail reads, (n, ...) of each part; empty without training.
    """

    features: Mapping[Part, Rows]
    inputs: Mapping[Part, Rows]


class Training:
    """One training in progress.

    It depends on its inputs alone, not on what else ran in the process. Interrupted between two epochs,
    started anew and given its ``state`` by ``restore``, it goes on to the same result; on a CPU, to the bit.
    """

    assignment: Assignment | None

    @abstractmethod
    def fit_epoch(self) -> dict[str, float]:
        """Train one epoch; return its mean losses: ``loss``, ``loss_dsvdd``, ``loss_align``.

        A method may add diagnostics of the epoch under other names.
        """

    @abstractmethod
    def embed(self, part: Part) -> np.ndarray:
        """L2-normalised embeddings (n, e) of a part."""

    @property
    @abstractmethod
    def centre(self) -> np.ndarray:
        """Hypersphere centre c: (e,)."""

    @property
    @abstractmethod
    def tail(self) -> Tail:
        """The trained part of the backbone as it stands; it goes on changing with the training."""

    @abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the epochs so far have changed, by name: contiguous copies in the CPU's memory."""

    @abstractmethod
    def restore(self, state: Mapping[str, torch.Tensor], epoch: int) -> None:
        """Go on from ``state``, taken after ``epoch`` whole epochs of a training with equal inputs.

        Raises:
            ValueError: a name or a shape is not of this training, which is then unchanged.
        """


@dataclass(frozen=True)
class TrainingInputs:
    """Everything a training starts from.

    Attributes:
        arrays: the setting's arrays.
        assignment: trusted set of T_fit, or None where the target is not used.
        recluster: finds the trusted set anew from (n, e) embeddings; None keeps it fixed.
        alignment: L_uda of eq. 10.
        negatives: the part whose images are pushed away; of ``tiled``, those made of trusted images.
        negative_weight: how much a negative counts in the alignment loss.
        purpose: names every draw, e.g. setting key and seed.
        seed: seed of weights and batches.
        image_size: pixels, where it is not the backbone's own.
    """

    arrays: SettingArrays
    assignment: Assignment | None
    recluster: Callable[[np.ndarray], Assignment] | None
    alignment: Alignment
    purpose: str
    seed: int
    image_size: int | None
    negatives: Literal["target_fit", "tiled"] = "target_fit"
    negative_weight: float = 1.0


class Method(Component):
    """A trainable detector; its fields are the hyperparameters of training.

    One that ``uses_progress`` makes each epoch depend on how many there are in all, as a learning rate does
    that falls until the last one. Of any other, a training of some epochs is the beginning of every longer
    one, if its alignment does not use progress either.
    """

    uses_progress: ClassVar[bool] = True

    epochs: int
    batch_size: int

    @abstractmethod
    def start(self, inputs: TrainingInputs) -> Training:
        """Build seeded weights and return a training at epoch 0."""


METHODS: Registry[Method] = Registry("method", "trainables.methods")
