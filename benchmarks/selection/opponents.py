"""What the choice is compared with: AUROC in percent of every system on every setting of one grid, and
how the proxies behind it go with AUROC.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks.selection.measures import (
    Correlation,
    Level,
    Measured,
    Paired,
    correlation,
    measure,
    paired_tests,
    pick,
)
from benchmarks.selection.tasks import Judged, Outcomes
from orchestrator.proxies.base import PROXIES
from trainables.seeding import generator

CONTROLS = ("K", "dominant_share", "minus_loss", "shuffled")
COMBINED = ("consensus", "tail_separation", "pseudo_auc")
COMBINATION = "mean rank of " + " + ".join(COMBINED)
ELSEWHERE = "best fixed elsewhere"
HINDSIGHT = "best fixed in hindsight"
FIXED: dict[str, dict[str, Any]] = {
    "source-only": {"supervision": "source_only", "score": "source_centre"},
    "source-only, kNN": {"supervision": "source_only", "score": "knn"},
    "frozen-encoder kNN": {"clusterer": "density", "keep": 0.6, "alignment": "identity", "score": "knn"},
    "published cell": {"clusterer": "kmeans", "alignment": "contrastive", "score": "source_centre"},
}
"""Fixed opponents by part of their configuration; where several match, their mean."""
UNTOLD = ("default", *FIXED, ELSEWHERE)
"""Opponents that are fixed without a label, or the contamination, of the settings they are judged on."""


@dataclass(frozen=True)
class Compared:
    """Every system over the settings of one dataset and contamination, on one grid.

    Attributes:
        systems: name -> (n,) AUROC.
        measured: of the systems that have an AUROC on all settings.
        opponent: the best by mean AUROC of the fixed opponents that are told nothing.
        correlations: ranking -> mean correlations with AUROC.
        paired: the choice against the best fixed configuration elsewhere, the default and each proxy.
    """

    name: str
    grid: str
    contamination: float
    settings: Sequence[Judged]
    systems: Mapping[str, np.ndarray]
    measured: Mapping[str, Measured]
    opponent: str
    correlations: Mapping[str, Correlation]
    paired: Mapping[str, Paired]

    @property
    def title(self) -> str:
        """Dataset and contamination in words."""
        return f"{self.name}, ρ = {self.contamination:g}"


def compare(name: str, grid: str, here: Sequence[Judged], pool: Sequence[Judged]) -> Compared:
    """Measure every system on the settings ``here``; see ``systems``."""
    level = Level.of(here)
    found = systems(here, pool)
    fixed = {n: level.weights() @ found[n] for n in UNTOLD if not np.isnan(found[n]).any()}
    opponent = max(fixed, key=lambda n: fixed[n], default="random")
    rivals = (ELSEWHERE, "default", *proxy_names("A"), *proxy_names("B"), COMBINATION)
    return Compared(
        name=name,
        grid=grid,
        contamination=here[0].contamination,
        settings=here,
        systems=found,
        measured=measure(found, opponent, level, generator("study", name, grid, here[0].contamination)),
        opponent=opponent,
        correlations=mean_correlations(here),
        paired=paired_tests(found["choice"], {n: found[n] for n in rivals}, level),
    )


def proxy_names(stage: str) -> list[str]:
    """The proxies of a stage, without the controls."""
    return [name for name in PROXIES.names() if PROXIES.get(name).stage == stage and name not in CONTROLS]


def systems(here: Sequence[Judged], pool: Sequence[Judged]) -> dict[str, np.ndarray]:
    """Name -> (n,) AUROC on the settings ``here``, in the order of a table; NaN where a system has none.

    Args:
        here: settings of one dataset and contamination.
        pool: all settings of the study, on the same grid.
    """
    at_rho = [setting for setting in pool if setting.contamination == here[0].contamination]
    proxies = [*proxy_names("A"), *proxy_names("B"), *CONTROLS]
    picks = {name: _each(here, lambda s, n=name: pick(s.proxies.get(n), s.auroc)) for name in proxies}
    controls = {f"control: {name}": picks.pop(name) for name in CONTROLS}
    return {
        "random": _each(here, lambda s: s.auroc.mean()),
        "default": _each(here, lambda s: np.nan if s.default is None else s.auroc[s.default]),
        **{name: _each(here, lambda s, w=wanted: matching(s, w)) for name, wanted in FIXED.items()},
        ELSEWHERE: fixed_elsewhere(here, pool),
        f"{ELSEWHERE}, told ρ": fixed_elsewhere(here, at_rho),
        **picks,
        COMBINATION: _each(here, lambda s: pick(mean_rank(s.proxies, COMBINED), s.auroc)),
        **controls,
        "choice": _each(here, lambda s: s.auroc[s.chosen]),
        "choice, ensemble": _each(here, lambda s: s.ensemble),
        HINDSIGHT: _fixed(here, best_configuration(here, here)),
        "noise ceiling": _each(here, lambda s: s.ceiling),
        "oracle": _each(here, lambda s: s.auroc.max()),
    }


def mean_rank(proxies: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """(u,) mean over proxies of the rank, 0 = worst .. 1 = best; an undefined one is .5."""
    u = len(next(iter(proxies.values())))
    columns = []
    for name in names:
        values = proxies.get(name, np.full(u, np.nan))
        known = ~np.isnan(values)
        column = np.full(u, 0.5)
        if known.sum() > 1:
            column[known] = (rankdata(values[known]) - 1) / (known.sum() - 1)
        columns.append(column)
    return np.asarray(np.mean(columns, axis=0))


def matching(setting: Judged, wanted: Mapping[str, Any]) -> float:
    """Mean AUROC of the configurations that hold ``wanted``; NaN where none does."""
    found = [i for i, text in enumerate(setting.configs) if wanted.items() <= json.loads(text).items()]
    return float(setting.auroc[found].mean()) if found else np.nan


def fixed_elsewhere(here: Sequence[Judged], pool: Sequence[Judged]) -> np.ndarray:
    """(n,) AUROC of the configuration that is best on the other datasets; without any, on the other pairs.

    No label of the dataset, or of the pair, that it is judged on has a say in it.
    """
    values = np.empty(len(here))
    for pair in dict.fromkeys(setting.pair for setting in here):
        ours = [i for i, setting in enumerate(here) if setting.pair == pair]
        members = [here[i] for i in ours]
        values[ours] = _fixed(members, best_configuration(others(members[0], pool), members))
    return values


def others(setting: Judged, pool: Sequence[Judged]) -> list[Judged]:
    """The settings of other datasets; without any, those of the other pairs."""
    foreign = [other for other in pool if other.dataset != setting.dataset]
    return foreign or [other for other in pool if other.pair != setting.pair]


def best_configuration(judges: Sequence[Judged], here: Sequence[Judged]) -> str | None:
    """The configuration with the highest mean AUROC on ``judges``, of those that finished everywhere."""
    if not judges:
        return None
    shared = set.intersection(*(set(setting.configs) for setting in (*judges, *here)))
    means = {config: _fixed(judges, config).mean() for config in sorted(shared)}
    return max(means, key=lambda config: means[config]) if means else None


def _fixed(settings: Sequence[Judged], config: str | None) -> np.ndarray:
    return np.array([np.nan if config is None else s.auroc[s.configs.index(config)] for s in settings])


def _each(settings: Sequence[Judged], value: Callable[[Judged], float]) -> np.ndarray:
    return np.array([value(setting) for setting in settings], dtype=float)


def mean_correlations(settings: Sequence[Judged]) -> dict[str, Correlation]:
    """Ranking -> mean of each correlation over the settings where they are defined."""
    found: dict[str, list[Correlation]] = defaultdict(list)
    for setting in settings:
        combined = {COMBINATION: mean_rank(setting.proxies, COMBINED), "choice": setting.ranking}
        for name, values in {**setting.proxies, **combined}.items():
            found[name].append(correlation(values, setting.auroc))
    means = {}
    for name, each in found.items():
        known = [one for one in each if not np.isnan(one).any()]
        if known:
            means[name] = Correlation(*np.mean(known, axis=0).tolist())
    return means


def kmeans_points(settings: Sequence[Outcomes], proxy: str) -> np.ndarray:
    """(m, 4) rows of setting, K, the proxy and the mean AUROC of the K-means configurations of that K."""
    rows = []
    for i, setting in enumerate(settings):
        configs = [json.loads(config) for config in setting.configs]
        ks = np.array([c.get("k", 0) if c.get("clusterer") == "kmeans" else 0 for c in configs])
        for k in np.unique(ks[ks > 0]):
            values = setting.proxies[proxy][ks == k]
            if not np.isnan(values).any():
                rows.append((i, k, values.mean(), setting.auroc[ks == k].mean()))
    return np.array(rows, dtype=float).reshape(-1, 4)


def by_k(settings: Sequence[Outcomes], proxy: str) -> tuple[float, float, float]:
    """Spearman of a stage-A proxy with AUROC over K-means: pooled, within a K, across K.

    Pooled: over all settings and K together. Within: over settings at one K, mean over K. Across: over K in
    one setting, mean over settings; this alone says whether the proxy can choose K.
    """
    points = kmeans_points(settings, proxy)

    def mean_over(column: int) -> float:
        groups = [points[points[:, column] == value] for value in np.unique(points[:, column])]
        found = [correlation(group[:, 2], group[:, 3]).spearman for group in groups]
        return float(np.nanmean(found)) if not np.isnan(found).all() else np.nan

    return correlation(points[:, 2], points[:, 3]).spearman, mean_over(1), mean_over(0)
