"""What every clusterer shares: eq. 6, features -> assignment, and its extension to new images."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from scipy.spatial.distance import cdist

from trainables.errors import NonFinite, TwofoldError
from trainables.registry import Component, Registry
from trainables.types import Assignment


class Clusterer(Component):
    """Finds the trusted set among unlabelled target features."""

    @property
    def trusts_all(self) -> bool:
        """Whether no target image can lie outside the trusted set."""
        return False

    @abstractmethod
    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> Assignment:
        """Cluster ``features`` (n, d); every draw comes from ``rng``.

        Raises:
            TwofoldError: n is too small for the parameters.
        """


CLUSTERERS: Registry[Clusterer] = Registry("clusterer", "trainables.clusterers")


def dominant_assignment(features: np.ndarray, labels: np.ndarray) -> Assignment:
    """The largest cluster of ``labels`` (n,) is trusted; among equals the lowest index."""
    return trusted_assignment(features, labels == int(np.bincount(labels).argmax()), labels)


def trusted_assignment(
    features: np.ndarray, trusted: np.ndarray, labels: np.ndarray | None = None
) -> Assignment:
    """An assignment from the trusted mask (n,); without ``labels``, 0 = trusted and 1 = left out."""
    if labels is None:
        labels = np.where(trusted, 0, 1)
    return Assignment(labels=labels, trusted=trusted, centre=features[trusted].mean(axis=0))


def keep_lowest(values: np.ndarray, keep: float) -> np.ndarray:
    """Mask (n,) of the ``round(keep * n)`` lowest values, at least two; among equals the first."""
    count = max(2, round(keep * len(values)))
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argsort(values, kind="stable")[:count]] = True
    return mask


def trusted_among(assignment: Assignment, features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mask (m,) of the ``others`` (m, d) whose nearest cluster mean of ``features`` (n, d) is trusted."""
    groups = np.unique(assignment.labels)
    means = np.stack([features[assignment.labels == group].mean(axis=0) for group in groups])
    is_trusted = np.array([assignment.trusted[assignment.labels == group].all() for group in groups])
    return np.asarray(is_trusted[cdist(others, means).argmin(axis=1)])


def check_features(features: np.ndarray, at_least: int, why: str) -> None:
    """Refuse features that are not finite, or fewer than ``at_least`` images.

    Raises:
        NonFinite: a feature is NaN or infinite.
        TwofoldError: there are too few images; ``why`` names the parameter.
    """
    if not np.isfinite(features).all():
        raise NonFinite("the features to cluster are not all finite; check the encoder's weights")
    if len(features) < at_least:
        raise TwofoldError(f"{why} needs at least {at_least} target images, and there are {len(features)}")


def check_distinct(rows: np.ndarray, k: int, what: str) -> None:
    """Refuse fewer than k different rows (n, d), of which no k clusters can be made.

    Raises:
        TwofoldError: names k and how many of ``what`` differ.
    """
    distinct = len(np.unique(rows, axis=0))
    if distinct < k:
        raise TwofoldError(f"k = {k}, but the target set has only {distinct} distinct {what}")
