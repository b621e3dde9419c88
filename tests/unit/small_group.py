"""One small setting for tests of what happens in a group: units of it, and checkpoints in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.plan import Unit
from trainables.configuration import Configuration
from trainables.methods.base import Part
from trainables.seeding import stable_hash

ENCODER, OTHER = "efficientnet_lite0", "other_encoder"
ROWS: dict[Part, np.ndarray] = {
    "source_fit": np.arange(3, 23),
    "source_val": np.arange(23, 29),
    "target_fit": np.arange(30, 0, -1),
    "target_sel": np.arange(31, 41),
    "pseudo": np.arange(10),
    "test": np.arange(41, 60),
}
NORMAL = np.arange(60) % 5 != 0


def unit(seed: int = 0, **flat: Any) -> Unit:
    canonical = Configuration.parse(flat).as_dict()
    key = stable_hash([canonical, seed])
    bundle = stable_hash([Configuration.parse(flat).training_key, seed])
    return Unit(key, "s1", canonical, seed, bundle, Configuration.parse(flat).method is not None)


def trained(backbone: str, **flat: Any) -> Unit:
    start = {"backbone": backbone, "finetune": "head", "epochs": 2, "batch_size": 8, "learning_rate": 1e-3}
    return unit(**{**start, "alignment": "mmd", "clusterer": "kmeans", "k": 2, "score": "knn", **flat})


@dataclass
class Kept:
    """Checkpoints in memory, due whenever ``when`` says so."""

    when: Callable[[], bool] = lambda: True
    files: dict[str, bytes] = field(default_factory=dict)
    loads: int = 0

    def load(self, bundle: str) -> bytes | None:
        self.loads += 1
        return self.files.get(bundle)

    def save(self, bundle: str, content: bytes) -> None:
        self.files[bundle] = content

    def due(self) -> bool:
        return self.when()
