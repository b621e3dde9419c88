"""The kNN score, which leaves one byte per call, so that a test can count what was really run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from trainables.scores.base import SCORES, Reference
from trainables.scores.knn import KNearest


@SCORES.register("counted")
class Counted(KNearest):
    def __call__(self, embeddings: np.ndarray, reference: Reference) -> np.ndarray:
        path = Path(os.environ["TWOFOLD_TEST_FAULTS"]) / f"counted.{os.getpid()}"
        with path.open("ab") as file:
            file.write(b".")
        return super().__call__(embeddings, reference)
