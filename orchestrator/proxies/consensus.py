"""``consensus``: does this unit rank the target images as units with other configurations do?

mean over peers of Kendall's tau-b (Kendall 1945) between the scores on T_sel: ModelCentrality of Lin et al.
2020 (arXiv 1906.06034) with the rank correlation that Ma et al. 2023 (SIGKDD Explorations 25) use for
detectors.

With s_x in {-1, 0, 1} the order of each of the m (m - 1) / 2 pairs of images under x, tau_b(x, y) = <s_x,
s_y> / (|s_x| |s_y|): exact, and a product of matrices over blocks of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from scipy.stats import rankdata

from orchestrator.proxies.base import PROXIES, Proxy, ScoreEvidence, distances
from trainables.errors import UndefinedScore

PAIRS = 4096
"""Pairs of images per block: (u, PAIRS) float32 at a time; 0 or +-1 sums stay exact there."""


@PROXIES.register("consensus")
class Consensus(Proxy):
    """Mean Kendall tau-b with the peers, in [-1, 1]; larger = nearer to the majority.

    Inputs: ``target_sel``, ``peers``. Only the order of the scores counts. A peer with constant scores
    agrees with nothing and counts 0. Undefined without peers or where this unit's scores are constant. For
    all units of a setting at once, ``(consensus_sums(scores, ones) - 1) / (u - 1)`` is the same number.
    Known failure: a majority that is wrong together.
    """

    name: ClassVar[str] = "consensus"
    stage: ClassVar[Literal["A", "B"]] = "B"
    needs_peers: ClassVar[bool] = True

    def __call__(self, evidence: ScoreEvidence) -> float:
        """Return the mean tau-b."""
        if len(evidence.peers) == 0:
            raise UndefinedScore("there is no unit with another configuration")
        scores = distances(np.vstack([evidence.target_sel, evidence.peers]))
        products, untied = np.zeros(len(scores)), np.zeros(len(scores))
        for signs in _pair_orders(scores):
            products += signs @ signs[0]
            untied += np.abs(signs).sum(axis=1)
        if untied[0] == 0:
            raise UndefinedScore("all scores of T_sel are equal")
        tau = products[1:] / np.sqrt(untied[0] * np.maximum(untied[1:], 1))
        return float(tau.mean())


def consensus_sums(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(b, u) sum of Kendall's tau-b of each of u units with all of them, itself included, on b resamples.

    A unit with constant scores agrees with nothing, itself included. A resample weighs each pair of images by
    the product of their counts; copies of one image are tied. The sum over units is taken before the one over
    pairs, which needs no (u, u) matrix for each resample.

    Args:
        scores: (u, m), of u units of one setting on its m T_sel images.
        counts: (b, m), how often each image occurs in each resample.

    Raises:
        UndefinedScore: a score is negative or not finite, or there are none.
    """
    values = distances(scores)
    counts = np.asarray(counts, dtype=float)
    scale = 1 / np.sqrt(np.maximum([_untied(row, counts) for row in values], 1))
    sums = np.zeros((len(counts), len(values)))
    pairs = np.triu_indices(values.shape[1], k=1)
    for start, signs in enumerate(_pair_orders(values)):
        first, second = (index[start * PAIRS : (start + 1) * PAIRS] for index in pairs)
        order = signs.astype(float)
        sums += (counts[:, first] * counts[:, second] * (scale.T @ order)) @ order.T
    # Units that order the images alike tie, however the products of matrices were rounded.
    return np.asarray(np.round(sums * scale.T, 12))


def _untied(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(b,) pairs of images with different scores (m,), where image i occurs counts[b, i] times."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-1.0))
    tied = np.add.reduceat(counts[:, order], starts, axis=1)
    return np.asarray((np.square(counts.sum(axis=1)) - np.square(tied).sum(axis=1)) / 2)


def _pair_orders(scores: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks (u, <= PAIRS) float32 of the order -1, 0, 1 of every pair of the m columns of scores (u, m)."""
    ranks = rankdata(scores, method="dense", axis=1).astype(np.float32)
    first, second = np.triu_indices(scores.shape[1], k=1)
    for start in range(0, len(first), PAIRS):
        block = slice(start, start + PAIRS)
        yield np.sign(ranks[:, first[block]] - ranks[:, second[block]])
