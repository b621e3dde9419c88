"""What every anomaly score shares: the embeddings it measures distances to."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

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


SCORES: Registry[Score] = Registry("score", "trainables.scores")


def squared_distance(embeddings: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """||z - c||^2 of (n, e) embeddings to one centre (e,): (n,)."""
    return np.asarray(np.square(embeddings - centre).sum(axis=1))
