"""The few types that everything passes around. None of them has a field for a label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from trainables.seeding import stable_hash


@dataclass(frozen=True)
class ImageDomain:
    """The images of one domain, without labels.

    Attributes:
        name: domain name, e.g. ``mnist``.
        ids: n opaque, stable image ids; no id tells its class.
        fingerprint: changes when an image of the domain changes.
        read: index in 0..n-1 -> RGB image; raises TwofoldError naming an unreadable file.
    """

    name: str
    ids: tuple[str, ...]
    fingerprint: str
    read: Callable[[int], Image.Image]


@dataclass(frozen=True)
class Task:
    """Detect everything that is not ``normal_class`` in ``target``, given its normals in ``source``."""

    dataset: str
    source: str
    target: str
    normal_class: str

    def __str__(self) -> str:
        return f"{self.source}->{self.target}/{self.normal_class}"


@dataclass(frozen=True)
class Setting:
    """A task with its contamination and split: image ids only, no labels.

    Attributes:
        source_fit, source_val: source normals to train on and to hold out.
        target_fit, target_sel: the unlabelled target set (T_fit to train on, T_sel held out for choosing).
        test: target images whose anomaly scores the oracle judges.
    """

    task: Task
    contamination: float
    split_seed: int
    source_fit: tuple[str, ...]
    source_val: tuple[str, ...]
    target_fit: tuple[str, ...]
    target_sel: tuple[str, ...]
    test: tuple[str, ...]

    @cached_property
    def key(self) -> str:
        """Stable hash of the task, the contamination, the split seed and every image id."""
        return stable_hash([*asdict(self.task).values(), *(getattr(self, f.name) for f in fields(self)[1:])])

    @property
    def description(self) -> dict[str, Any]:
        """The setting without its ids: dataset, source, target, normal_class, contamination, split_seed."""
        return {
            **asdict(self.task),
            "contamination": self.contamination,
            "split_seed": self.split_seed,
        }


@dataclass(frozen=True)
class Assignment:
    """What a clusterer returns.

    Attributes:
        labels: (n,) cluster index per image, 0..K-1; with a trusted-set estimator that does not cluster,
            0 = trusted and 1 = left out.
        trusted: (n,) bool, the images taken as normal (the dominant cluster, or the estimator's choice).
        centre: (d,) mean of the trusted features.
    """

    labels: np.ndarray
    trusted: np.ndarray
    centre: np.ndarray


@dataclass(frozen=True)
class Contamination:
    """Estimated share rho of anomalies among the unlabelled target images, in [0, 0.5].

    Attributes:
        estimate: the estimate.
        low, high: ends of the interval that holds rho in 80 % of target sets like those it was learned from.
    """

    estimate: float
    low: float
    high: float
