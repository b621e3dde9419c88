"""What a proxy is, the evidence it may see, and the rule that it is a finite number or has no value.

Two stages: stage A judges a trusted set before any training, from frozen features alone; stage B judges
one unit from its anomaly scores. Neither kind of evidence has a field for a label.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from trainables.errors import TwofoldError, UndefinedScore, UnknownName, nearest_name
from trainables.principal import principal_coordinates
from trainables.registry import Component, Registry
from trainables.types import Assignment

PI_MAX = 0.45
"""Largest contamination any proxy reckons with: at least 55 % of the target set is normal."""

LOG_FLOOR = 1e-3
"""Scores below this fraction of their median are raised to it before the logarithm."""

MAX_DIMENSIONS = 64
"""Principal directions kept where a proxy clusters again."""


@dataclass(frozen=True, eq=False)
class FeatureEvidence:
    """Stage A: frozen features and one assignment of them, known before training.

    Attributes:
        target_fit: (n, d) L2-normalised features of T_fit.
        target_sel: (m, d) L2-normalised features of T_sel, which the assignment has never seen.
        source_fit: (s, d) L2-normalised features of the source images to train on.
        assignment: what the clusterer said of ``target_fit``.
        cluster: runs the same clusterer on other rows, ``cluster(rows (k, e), rng)``.
        purpose: what the evidence is for; it seeds every draw.
    """

    target_fit: np.ndarray
    target_sel: np.ndarray
    source_fit: np.ndarray
    assignment: Assignment
    cluster: Callable[[np.ndarray, np.random.Generator], Assignment]
    purpose: str

    @cached_property
    def groups(self) -> np.ndarray:
        """(n,) group of each T_fit image: 0 = the trusted set D, 1.. = the clusters of the images left out.

        With a clusterer whose trusted set is its dominant cluster these are its clusters; with a trusted-set
        estimator, the images it trusts and the others.

        Raises:
            UndefinedScore: fewer than two images are trusted.
        """
        trusted = self.assignment.trusted
        if trusted.sum() < 2:
            raise UndefinedScore("fewer than two target images are trusted")
        labels = np.where(trusted, self.assignment.labels.min() - 1, self.assignment.labels)
        groups: np.ndarray = np.unique(labels, return_inverse=True)[1]
        return groups

    @cached_property
    def sizes(self) -> np.ndarray:
        """(K,) number of T_fit images in each group; the first is n_1 = |D|."""
        return np.asarray(np.bincount(self.groups))

    @property
    def share(self) -> float:
        """Share r = n_1 / n of T_fit that is trusted, in (0, 1]."""
        return float(self.sizes[0] / len(self.groups))

    @cached_property
    def centroids(self) -> np.ndarray:
        """(K, d) mean features of each group of T_fit; the first is the centroid m of D."""
        return np.stack(
            [self.target_fit[self.groups == k].mean(axis=0, dtype=float) for k in range(len(self.sizes))]
        )

    @cached_property
    def groups_sel(self) -> np.ndarray:
        """(m,) group whose centroid is nearest to each T_sel image; 0 marks D_sel."""
        squared = np.square(self.centroids).sum(axis=1) - 2 * self.target_sel @ self.centroids.T
        return np.asarray(squared.argmin(axis=1))

    def judging(
        self, assignment: Assignment, cluster: Callable[[np.ndarray, np.random.Generator], Assignment]
    ) -> FeatureEvidence:
        """Evidence of another trusted set in the same features, whose principal directions are kept."""
        other = replace(self, assignment=assignment, cluster=cluster)
        # Where a cached property keeps its value: one decomposition serves all trusted sets.
        vars(other)["_coordinates"] = self._coordinates
        return other

    def trusted_features(self) -> np.ndarray:
        """(n_1, d) features of D."""
        return np.asarray(self.target_fit[self.groups == 0])

    def reduced(self, dimensions: int) -> np.ndarray:
        """(n, min(n, d, dimensions)) rows of T_fit in their leading principal directions, at unit length.

        The directions are those of the features as they are, not centred, so that the inner products and
        distances between rows are the ones best approximated in that many dimensions.

        Args:
            dimensions: at most ``MAX_DIMENSIONS``.
        """
        return unit_rows(self._coordinates[:, :dimensions])

    @cached_property
    def _coordinates(self) -> np.ndarray:
        return principal_coordinates(self.target_fit, MAX_DIMENSIONS)

    def recluster(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(k,) bool, the rows (k, e) that the same clusterer trusts among ``rows``.

        Raises:
            UndefinedScore: the clusterer refuses these rows, e.g. because they are fewer than K.
        """
        try:
            return self.cluster(rows, rng).trusted
        except TwofoldError as error:
            raise UndefinedScore(f"the clusterer cannot run on a resample: {error}") from error


@dataclass(frozen=True, eq=False)
class ScoreEvidence:
    """Stage B: the anomaly scores of one unit; higher = more anomalous, all of them distances >= 0.

    Attributes:
        source_val: (v,) scores of the held-out source normals.
        target_sel: (m,) scores of T_sel.
        trusted_sel: (m,) bool, the T_sel images taken as normal (D_sel).
        pseudo: (p,) scores of pseudo-anomalies; p may be 0.
        peers: (u, m) T_sel scores of units of the same setting with other configurations; u may be 0.
        purpose: what the evidence is for, e.g. the unit's key; it seeds every draw.
        contamination: estimated rho of the setting, in [0, 0.5]; None = not estimated.
    """

    source_val: np.ndarray
    target_sel: np.ndarray
    trusted_sel: np.ndarray
    pseudo: np.ndarray
    peers: np.ndarray
    purpose: str
    contamination: float | None = None


class Proxy(Component):
    """A number computed without any target label, larger = better.

    Class attributes:
        name: its registered name.
        stage: ``A`` takes FeatureEvidence, ``B`` takes ScoreEvidence.
        needs_peers: undefined for a unit without ``peers``.
        is_control: made to lose, so that nothing may be chosen by it.
    """

    name: ClassVar[str]
    stage: ClassVar[Literal["A", "B"]]
    needs_peers: ClassVar[bool] = False
    is_control: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, evidence: Any) -> float:
        """Return the proxy's value for the evidence of its stage.

        Raises:
            UndefinedScore: it has no value here; the message says why.
        """


PROXIES: Registry[Proxy] = Registry("proxy", "orchestrator.proxies")


def check_objective(name: str) -> None:
    """Refuse a proxy that cannot tell from one unit alone how good its configuration is.

    Raises:
        UnknownName: nobody knows it; the message names the nearest.
        TwofoldError: it judges trusted sets, needs other units, or is a control.
    """
    suitable = [known for known in PROXIES.names() if not _unsuitable(PROXIES.get(known))]
    choices = f"Known: {', '.join(suitable)}."
    if name not in PROXIES.names():
        raise UnknownName(f"unknown objective '{name}'.{nearest_name(name, suitable)} {choices}")
    if reason := _unsuitable(PROXIES.get(name)):
        raise TwofoldError(f"'{name}' cannot be an objective: {reason}. {choices}")


def _unsuitable(proxy: type[Proxy]) -> str:
    """Why a proxy cannot be an objective, or an empty string."""
    if proxy.is_control:
        return "it is a control that must lose"
    if proxy.stage == "A":
        return "it judges a trusted set and says nothing of the training and the score"
    return "it compares a unit with other units, which are not all there yet" if proxy.needs_peers else ""


def evaluate(proxy: Proxy, evidence: FeatureEvidence | ScoreEvidence) -> float:
    """Return ``proxy(evidence)`` as a finite Python float: the one way to call a proxy.

    Raises:
        UndefinedScore: the proxy has no value here, or would have been NaN or infinite.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        try:
            value = float(proxy(evidence))
        except UndefinedScore as error:
            raise UndefinedScore(f"{proxy.name} is undefined: {error}") from error
    if not math.isfinite(value):
        raise UndefinedScore(f"{proxy.name} is undefined: its value is not finite")
    return value


def spread(rows: np.ndarray) -> float:
    """Mean squared distance W of rows (k, e) to their mean, in squared feature units."""
    return float(np.square(rows - rows.mean(axis=0, dtype=float)).sum(axis=1).mean())


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """(k, e) rows scaled to unit length; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0))


def distances(scores: np.ndarray) -> np.ndarray:
    """The scores as float64, of the same shape, once they are known to be distances.

    Raises:
        UndefinedScore: there are none, or one is negative or not finite.
    """
    values = np.asarray(scores, dtype=float)
    if values.size == 0:
        raise UndefinedScore("there are no scores")
    if not np.isfinite(values).all() or values.min() < 0:
        raise UndefinedScore("a score is negative or not finite, so it is no distance")
    return values


def log_scores(scores: np.ndarray) -> np.ndarray:
    """(k,) logarithm of scores (k,), each raised to at least ``LOG_FLOOR`` times their median.

    On this axis a change of unit is a shift and the choice between a distance and its square is a factor of
    two. An exact 0 (an image that is its own neighbour) then lies low, but does not rule every moment.

    Raises:
        UndefinedScore: the scores are no distances, or at least half of them are 0.
    """
    values = distances(scores)
    median = np.median(values)
    if median == 0:
        raise UndefinedScore("at least half of the scores are 0")
    return np.asarray(np.log(np.maximum(values, LOG_FLOOR * median)))
