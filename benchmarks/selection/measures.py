"""How choices are measured: means over pair, class and seed, their bootstrap, paired tests and correlations.

AUROC is in percent, regret and differences are in points. Every mean is one over seeds, then over the classes
of a pair, then over pairs, so that no pair or class counts more for having more settings.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import ConstantInputWarning, kendalltau, rankdata, spearmanr, wilcoxon

if TYPE_CHECKING:
    from benchmarks.selection.tasks import Outcomes

DRAWS = 2000
CEILING_DRAWS = 4


@dataclass(frozen=True)
class Level:
    """Which pair and class each of n settings belongs to; settings of one class are its seeds."""

    pairs: tuple[str, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, settings: Sequence[Outcomes]) -> Level:
        """The levels of judged settings."""
        return cls(tuple(s.pair for s in settings), tuple(s.normal_class for s in settings))

    def tree(self) -> list[list[list[int]]]:
        """Pair -> class -> positions of its settings."""
        found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for i, (pair, name) in enumerate(zip(self.pairs, self.classes, strict=True)):
            found[pair][name].append(i)
        return [list(classes.values()) for classes in found.values()]

    def weights(self) -> np.ndarray:
        """(n,) weight of each setting in the mean over seeds, then classes, then pairs; the sum is 1."""
        weights = np.zeros(len(self.pairs))
        tree = self.tree()
        for classes in tree:
            for seeds in classes:
                weights[seeds] = 1 / (len(tree) * len(classes) * len(seeds))
        return weights

    def resampled(self, draws: int, rng: np.random.Generator) -> np.ndarray:
        """(draws, n) weights of means over pairs drawn with replacement, in each copy of a pair its classes
        drawn anew, and in each copy of a class its seeds.

        Copies are counted, not listed: k independent draws of C out of C are one multinomial draw of k C.
        """
        weights = np.zeros((draws, len(self.pairs)))
        tree = self.tree()
        copies = rng.multinomial(len(tree), np.full(len(tree), 1 / len(tree)), size=draws)
        for classes, of_pair in zip(tree, copies.T, strict=True):
            c = len(classes)
            for seeds, of_class in zip(
                classes, rng.multinomial(of_pair * c, np.full(c, 1 / c)).T, strict=True
            ):
                s = len(seeds)
                drawn = rng.multinomial(of_class * s, np.full(s, 1 / s))
                weights[:, seeds] = drawn / (len(tree) * c * s)
        return weights


def gap_closed(
    weights: np.ndarray, chosen: np.ndarray, random: np.ndarray, oracle: np.ndarray
) -> np.ndarray | float:
    """(mean chosen - mean random) / (mean oracle - mean random); 1 = the oracle, 0 = a random pick.

    Args:
        weights: (n,) or (draws, n), of the settings.
        chosen, random, oracle: (n,) AUROC.
    """
    gap = weights @ (oracle - random)
    with np.errstate(divide="ignore", invalid="ignore"):
        return weights @ (chosen - random) / gap


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrap values (draws,)."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Measured:
    """A system over the settings of one dataset, contamination and grid.

    Attributes:
        auroc: mean, percent.
        gap, low, high: gap closed with its 95 % interval, as fractions.
        regret, median, p90, worst: points; over the settings without weights but for the mean.
        below: share of settings more than one point below the best fixed opponent.
    """

    auroc: float
    gap: float
    low: float
    high: float
    regret: float
    median: float
    p90: float
    worst: float
    below: float


def measure(
    systems: Mapping[str, np.ndarray], opponent: str, level: Level, rng: np.random.Generator
) -> dict[str, Measured]:
    """Measure every system (n,) that has an AUROC on all settings, among them ``random`` and ``oracle``."""
    plain, drawn = level.weights(), level.resampled(DRAWS, rng)
    random, oracle = systems["random"], systems["oracle"]
    found = {}
    for name, values in systems.items():
        if np.isnan(values).any():
            continue
        regret = oracle - values
        found[name] = Measured(
            float(plain @ values),
            float(gap_closed(plain, values, random, oracle)),
            *interval(np.asarray(gap_closed(drawn, values, random, oracle))),
            float(plain @ regret),
            float(np.median(regret)),
            float(np.percentile(regret, 90)),
            float(regret.max()),
            float(np.mean(values < systems[opponent] - 1)),
        )
    return found


@dataclass(frozen=True)
class Paired:
    """Choice minus an opponent: mean difference in points, settings won and lost, p and p after Holm."""

    difference: float
    won: int
    lost: int
    p: float
    holm: float


def paired_tests(chosen: np.ndarray, opponents: Mapping[str, np.ndarray], level: Level) -> dict[str, Paired]:
    """Two-sided Wilcoxon signed-rank tests over settings (n,), equal ones counted (Pratt); Holm over all."""
    known = {name: values for name, values in opponents.items() if not np.isnan(values).any()}
    differences = {name: chosen - values for name, values in known.items()}
    p = [
        float(wilcoxon(d, zero_method="pratt").pvalue) if np.any(d != 0) else 1.0
        for d in differences.values()
    ]
    return {
        name: Paired(float(level.weights() @ d), int((d > 0).sum()), int((d < 0).sum()), one, corrected)
        for (name, d), one, corrected in zip(differences.items(), p, holm(p), strict=True)
    }


def holm(p: Sequence[float]) -> list[float]:
    """Step-down: the i-th smallest of m p-values (from 0) times m - i, never below the one before."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.asarray(p)[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1)
    return corrected.tolist()


class Correlation(NamedTuple):
    """How a ranking goes with AUROC: Spearman, Kendall and weighted Spearman, each in [-1, 1]."""

    spearman: float
    kendall: float
    weighted: float


def correlation(values: np.ndarray, auroc: np.ndarray) -> Correlation:
    """Correlations of (u,) proxy values with AUROC where defined; NaN where either is constant."""
    known = ~np.isnan(values)
    if known.sum() < 3:
        return Correlation(np.nan, np.nan, np.nan)
    values, auroc = values[known], auroc[known]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        spearman = float(spearmanr(values, auroc).statistic)
    return Correlation(spearman, float(kendalltau(values, auroc).statistic), weighted_spearman(values, auroc))


def weighted_spearman(values: np.ndarray, auroc: np.ndarray) -> float:
    """Pearson's correlation of the ranks of (u,) values and AUROC, weighted by 1 / rank of the AUROC.

    Ranks count from the largest, which is 1; equal ones have their mean rank. So the best configurations
    decide, and the order of the bad ones hardly matters. NaN where either is constant.
    """
    if np.ptp(values) == 0 or np.ptp(auroc) == 0:
        return np.nan
    ranks = np.stack([rankdata(-values), rankdata(-auroc)])
    covariance = np.cov(ranks, aweights=1 / ranks[1])
    return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))


def pick(values: np.ndarray | None, auroc: np.ndarray) -> float:
    """AUROC of the largest of (u,) values, in expectation where several are largest.

    Where none is defined nothing is chosen, which is a random pick.
    """
    if values is None or np.isnan(values).all():
        return float(auroc.mean())
    return float(auroc[values == np.nanmax(values)].mean())


def aurocs(scores: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """(u,) AUROC in percent of scores (u, n), higher = more anomalous, against labels (n,) bool."""
    above = rankdata(scores, axis=1)[:, anomalous].sum(axis=1)
    bad, good = np.count_nonzero(anomalous), np.count_nonzero(~anomalous)
    return np.asarray(100 * (above - bad * (bad + 1) / 2) / (bad * good))


def noise_ceiling(scores: np.ndarray, anomalous: np.ndarray, rng: np.random.Generator) -> float:
    """AUROC of the best of scores (u, n) on a stratified half of the images, on the other half.

    The mean of some draws. The oracle picks and is judged on the same images, so part of its lead is the
    noise of the test.
    """
    found = []
    for _ in range(CEILING_DRAWS):
        half = np.zeros(len(anomalous), dtype=bool)
        for kind in (True, False):
            images = np.flatnonzero(anomalous == kind)
            half[rng.choice(images, len(images) // 2, replace=False)] = True
        best = aurocs(scores[:, half], anomalous[half]).argmax()
        found.append(aurocs(scores[best : best + 1, ~half], anomalous[~half])[0])
    return float(np.mean(found))
