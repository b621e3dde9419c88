"""What every anomaly score shares: the embeddings it measures distances to."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from trainables.registry import Component, Registry


@dataclass(frozen=True)
class Reference:
    """Embeddings of images taken as normal, after training.

    Attributes:
        centre: (e,) hypersphere centre c.
        source: (s, e) embeddings of S_fit.
        trusted: (t, e) embeddings of the trusted set; (0, e) under ``source_only`` supervision.
    """

    centre: np.ndarray
    source: np.ndarray
    trusted: np.ndarray

    @property
    def normals(self) -> np.ndarray:
        """The trusted target embeddings, or those of the source where there is no trusted set."""
        return self.trusted if len(self.trusted) else self.source


class Score(Component):
    """Embeddings -> anomaly scores."""

    uses_trusted: ClassVar[bool] = True
    works_on_source_alone: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, embeddings: np.ndarray, reference: Reference) -> np.ndarray:
        """Score (n, e) embeddings: (n,) non-negative, higher = more anomalous."""


def arrays_read(score: Score, reference: Reference) -> dict[str, np.ndarray]:
    """The arrays of ``reference`` that ``score`` reads, by name.

    It scores one embedding to find out, so that no score has to declare what it already says in its code.
    """
    read: set[str] = set()

    class Watched(Reference):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    arrays = {field.name: getattr(reference, field.name) for field in fields(Reference)}
    e = len(reference.centre)
    score(np.full((1, e), e**-0.5, dtype=np.float32), Watched(**arrays))
    return {name: array for name, array in arrays.items() if name in read}


SCORES: Registry[Score] = Registry("score", "trainables.scores")


def squared_distance(embeddings: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """||z - c||^2 of (n, e) embeddings to one centre (e,): (n,)."""
    return np.asarray(np.square(embeddings - centre).sum(axis=1))
