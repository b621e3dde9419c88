"""How far do the target images mix with the source normals? The nearest-neighbour test of two samples.

Schilling, "Multivariate two-sample tests based on nearest neighbors", JASA 1986; Henze, Ann. Stat. 1988: of
two samples of one distribution, half of the nearest neighbours of an image come from the other sample. Where
a new camera changes little, the source normals are as near to a target normal as its fellows are, and say
more about what is normal than a target set that holds anomalies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from trainables.errors import UndefinedScore
from trainables.seeding import generator

NEIGHBOURS = 5
MOST_IMAGES = 300
"""Images that are drawn from each domain: the more there are, the nearer are their own fellows."""

_NAME = "mixing"


def measure_mixing(source: np.ndarray, target: np.ndarray, purpose: str) -> float:
    """Share of the nearest neighbours of target images that are source normals.

    About 0.5 = one domain, 0 = domains apart. The few anomalies of the target hardly change it: they are one
    another's neighbours, or those of a few.

    Args:
        source: (n, d) L2-normalised features of source normals.
        target: (m, d) L2-normalised features of the unlabelled target images; of both, as many are used.
        purpose: what it is for; it seeds the draws.

    Raises:
        UndefinedScore: there are too few images.
    """
    n = min(len(source), len(target), MOST_IMAGES)
    if n <= NEIGHBOURS:
        raise UndefinedScore(f"{n} images of a domain are too few to compare it with the other")
    draws = generator("mixing", purpose)
    drawn = [rows[np.sort(draws.choice(len(rows), n, replace=False))] for rows in (source, target)]
    rows = np.asarray(np.concatenate(drawn), dtype=float)
    cosines = rows[n:] @ rows.T
    cosines[np.arange(n), np.arange(n, 2 * n)] = -np.inf  # not its own neighbour
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]
    return float((nearest < n).mean())


def as_diagnostics(mixing: float) -> dict[str, float]:
    """The value under the name by which a record has it."""
    return {_NAME: round(mixing, 4)}


def mean_mixing(diagnostics: Iterable[Mapping[str, float]]) -> float:
    """The mean over some units; 0, domains apart, where none has it: the target is what is to be learned."""
    found = [values[_NAME] for values in diagnostics if _NAME in values]
    # Sorted: a sum depends on the order of what is added, and the choice must not.
    return round(float(np.mean(np.sort(found))), 4) if found else 0.0
