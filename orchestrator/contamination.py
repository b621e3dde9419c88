"""How many of the unlabelled target images are anomalous? Six numbers of their shape, compared with digits.

Where a gap sets some images apart, they are counted (the threshold of Otsu, 1979). Elsewhere the anomalies
only show in the shape: they lie far from half of all images and pull the mean away from where most of them
are. How far depends on how alike the normals are among themselves, so no threshold is right everywhere. A
Gaussian process (Rasmussen & Williams, 2006, ch. 2), learned from target sets of digits of known
contamination, gives the estimate and how sure it is of it; on a shape unlike all of them it falls back to
their mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from trainables.clusterers.trimmed import Trimmed
from trainables.errors import UndefinedScore
from trainables.seeding import generator
from trainables.types import Contamination

TABLE = Path(__file__).with_name("contamination.csv")
"""Shape and contamination of target sets of digits, from ``benchmarks/selection/freeze.py``."""

MOST_IMAGES = 1000
"""Images that the shape is taken from; more are drawn from, since it needs all their distances."""

LARGEST = 0.5
"""Beyond half, the anomalies would be what is taken as normal."""

LENGTH, NOISE = 4.0, 0.25
"""Length scale in standard deviations of the shape, noise as a share of the variance; frozen on digits."""

CLEAR_GAP, GAP_REACH = 0.75, 0.07
"""Share of the variance that a gap must explain to be counted by, and how far off the count is in 80 % of the
target sets; frozen on digits."""

SMALLEST_MAJORITY = 0.55
"""Least share of the images below the gap."""

QUANTILE = 1.28
"""Standard deviations either side that hold 80 % of a normal distribution."""


_NAMES = ("contamination", "contamination_low", "contamination_high")


def estimate_contamination(features: np.ndarray, purpose: str) -> Contamination:
    """Estimate the contamination of a target set from its frozen features alone.

    Args:
        features: (n, d) L2-normalised features of all its images.
        purpose: what the estimate is for; it seeds the draw from more than ``MOST_IMAGES``.

    Raises:
        UndefinedScore: what ``shape`` says of them.
    """
    if len(features) > MOST_IMAGES:
        draws = generator("contamination", purpose)
        features = features[np.sort(draws.choice(len(features), MOST_IMAGES, replace=False))]
    near = _to_nearest(features)
    centre, reach = _count(near[0]) or _compare(_shape(features, *near))
    estimate, low, high = (
        round(float(np.clip(value, 0, LARGEST)), 4) for value in (centre, centre - reach, centre + reach)
    )
    return Contamination(estimate, low, high)


def _count(tenth: np.ndarray) -> tuple[float, float] | None:
    """Share of the images beyond the gap and how far it is off; None where there is no clear gap.

    Args:
        tenth: (n,) distance of each image to its nearest tenth.
    """
    logs = np.sort(np.log(np.maximum(tenth, 1e-12)))
    below = np.arange(1, len(logs))
    lower = np.cumsum(logs)[:-1]
    difference = (logs.sum() - lower) / (len(logs) - below) - lower / below
    between = below * (len(logs) - below) / len(logs) ** 2 * np.square(difference)
    between[below < SMALLEST_MAJORITY * len(logs)] = 0
    best = int(between.argmax())
    if between[best] <= CLEAR_GAP * logs.var():
        return None
    return 1 - below[best] / len(logs), GAP_REACH


def _compare(numbers: np.ndarray) -> tuple[float, float]:
    """Contamination of the sets of the table with a shape (6,) like this, and how far it is off."""
    mean, deviation = _model().predict(numbers[None], return_std=True)
    return float(mean[0]), QUANTILE * float(deviation[0])


def _to_nearest(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) mean distance of each of the (n, d) unit rows to its nearest tenth, and to its nearest half.

    Raises:
        UndefinedScore: there are fewer than ten images.
    """
    rows = np.asarray(features, dtype=float)
    if len(rows) < 10:
        raise UndefinedScore(f"{len(rows)} images are too few to estimate their contamination")
    distance = np.sqrt(np.maximum(2 - 2 * rows @ rows.T, 0))
    np.fill_diagonal(distance, 0)
    distance.sort(axis=1)
    # The first is the distance of an image to itself.
    tenth, half = (distance[:, 1 : max(2, round(part * len(rows))) + 1].mean(axis=1) for part in (0.1, 0.5))
    return tenth, half


def shape(features: np.ndarray) -> np.ndarray:
    """(6,) how far the outer images of (n, d) unit rows lie beyond the others, on logarithmic scales.

    The 80 % quantile of the distance to the nearest tenth of the images; the 80 and 90 % quantiles of that to
    the nearest half; the 90 % quantile of that to the centre of the densest half; each relative to the median
    image. Then the variance of all images relative to that half, and the mean cosine between images relative
    to that half's centre.

    Raises:
        UndefinedScore: there are fewer than ten images, or too many of them are equal.
    """
    return _shape(features, *_to_nearest(features))


def _shape(features: np.ndarray, tenth: np.ndarray, half: np.ndarray) -> np.ndarray:
    """``shape`` of features whose distances to their nearest tenth and half are known."""
    rows = np.asarray(features, dtype=float)
    core = Trimmed(keep=0.5)(rows, generator("shape")).centre
    to_core = np.linalg.norm(rows - core, axis=1)
    nearest = np.sort(to_core)[: max(2, round(0.5 * len(rows)))]
    if min(np.median(tenth), nearest[-1]) <= 1e-7:
        raise UndefinedScore("too many of the images are equal to estimate their contamination")
    spread = np.square(rows - rows.mean(axis=0)).sum(axis=1).mean() / np.square(nearest).mean()
    mean_cosine = (np.square(rows.sum(axis=0)).sum() - np.square(rows).sum()) / (len(rows) * (len(rows) - 1))
    return np.array(
        [
            _beyond(tenth, 0.8),
            _beyond(half, 0.8),
            _beyond(half, 0.9),
            _beyond(to_core, 0.9),
            np.log(spread),
            mean_cosine / max(float(core @ core), 1e-12),
        ]
    )


def _beyond(distances: np.ndarray, quantile: float) -> float:
    """Logarithm of a quantile of distances (n,) relative to their median."""
    return float(np.log(np.quantile(distances, quantile) / np.median(distances)))


def _rows() -> np.ndarray:
    """(t, 7) the shape and the contamination of each target set of the table."""
    return np.loadtxt(TABLE, delimiter=",", skiprows=1)


def unknown_contamination() -> Contamination:
    """What is to be reckoned with where there is nothing to estimate from: what the table holds."""
    low, middle, high = np.quantile(_rows()[:, -1], [0.1, 0.5, 0.9])
    return Contamination(float(middle), float(low), float(high))


def as_diagnostics(contamination: Contamination) -> dict[str, float]:
    """The estimate and its interval under the names by which a record has them."""
    return dict(zip(_NAMES, (contamination.estimate, contamination.low, contamination.high), strict=True))


def mean_contamination(diagnostics: Iterable[Mapping[str, float]]) -> Contamination:
    """The mean of the estimates in the diagnostics of some units; without any, the unknown one."""
    found = [[values[name] for name in _NAMES] for values in diagnostics if _NAMES[0] in values]
    if not found:
        return unknown_contamination()
    # Sorted: a sum depends on the order of what is added, and the choice must not.
    return Contamination(*(round(float(value), 4) for value in np.sort(found, axis=0).mean(axis=0)))


@cache
def _model() -> Pipeline:
    table = _rows()
    process = GaussianProcessRegressor(
        RBF(LENGTH) + WhiteKernel(NOISE),
        # The length is frozen, and beyond the table the mean of its contaminations is what is known.
        optimizer=None,
        normalize_y=True,
    )
    return make_pipeline(StandardScaler(), process).fit(table[:, :-1], table[:, -1])
