"""The kNN score, which kills the process that computes it."""

from __future__ import annotations

import os
import signal

import numpy as np

from trainables.scores.base import SCORES, Reference
from trainables.scores.knn import KNearest


@SCORES.register("deadly")
class Deadly(KNearest):
    def __call__(self, embeddings: np.ndarray, reference: Reference) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")
