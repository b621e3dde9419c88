"""Does any signal tell, without labels, on which settings the choice is bad? Judged on finished sweeps.

python benchmarks/selection/confidence.py SWEEP_FOLDER [SWEEP_FOLDER ...] [--output DIR]

Every signal splits the settings of a sweep at its median; a good one leaves the regret in the half that it
trusts less. Digits decide which signal the choice states as its confidence, the other sweeps only test it.
Prints confidence.md and writes it; the sweep folders are only read.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import combinations, repeat
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[2]))  # the script is run by its path

from benchmarks.selection.measures import DRAWS, Level, interval
from benchmarks.selection.tables import table
from benchmarks.selection.tasks import mean_aurocs, read_candidates
from orchestrator.environment import describe_environment
from orchestrator.pipeline import load_folder
from orchestrator.plan import default_configuration
from orchestrator.select import Candidate, Chooser, choose, score_tail
from orchestrator.contamination import mean_contamination
from trainables.data.settings_file import read_settings
from trainables.seeding import generator
from trainables.types import Setting

HERE = Path(__file__).parent
STATED = "tail of the scores (stated)"
FIRST = 20
"""Configurations at the head of the ranking whose scores are compared."""


@dataclass(frozen=True)
class Case:
    """The choice of one setting, before and after the labels are opened.

    Attributes:
        dataset, pair, normal_class: levels of the bootstrap.
        contamination: the true one.
        signals: name -> value, larger = more confidence.
        regret: points of AUROC to the best configuration of the grid.
        spread: points between the best and the mean configuration; needs the labels.
    """

    dataset: str
    pair: str
    normal_class: str
    contamination: float
    signals: Mapping[str, float]
    regret: float
    spread: float


def chosen(choice: Mapping[str, Any], held: Mapping[str, Candidate]) -> Candidate:
    return held[choice["chosen"]]


def head(choice: Mapping[str, Any], held: Mapping[str, Candidate]) -> list[Candidate]:
    return [held[entry["key"]] for entry in choice["ranking"][:FIRST]]


def scores(candidates: Sequence[Candidate]) -> np.ndarray:
    """(u, n) ranks of T_sel from 0 to 1, mean over the seeds of each candidate."""
    return np.stack(
        [np.mean([rankdata(r.target_sel) / len(r.target_sel) for r in c.records], axis=0) for c in candidates]
    )


def agreement(candidates: Sequence[Candidate]) -> float:
    """Mean Spearman correlation of the scores of T_sel between candidates."""
    matrix = np.corrcoef(scores(candidates))
    return float(np.mean(matrix[np.triu_indices(len(matrix), 1)]))


def top_overlap(choice: Mapping[str, Any], held: Mapping[str, Candidate]) -> float:
    """How many of the images that the chosen one scores highest the others of the head do, too."""
    ranks = scores([chosen(choice, held), *head(choice, held)])
    share = max(choice["contamination"]["estimate"], 0.05)
    top = ranks >= np.quantile(ranks, 1 - share, axis=1, keepdims=True)
    return float(np.mean([(top[0] & other).sum() / max(1, (top[0] | other).sum()) for other in top[1:]]))


def proxy(name: str) -> Callable[[Mapping[str, Any], Mapping[str, Candidate]], float]:
    def read(choice: Mapping[str, Any], held: Mapping[str, Candidate]) -> float:
        entry = next(e for e in choice["ranking"] if e["key"] == choice["chosen"])
        return float(entry["proxies"].get(name, np.nan))

    return read


def stage_a(name: str) -> Callable[[Mapping[str, Any], Mapping[str, Candidate]], float]:
    def read(choice: Mapping[str, Any], held: Mapping[str, Candidate]) -> float:
        values = [r.stage_a.get(name, np.nan) for r in chosen(choice, held).records]
        return float(np.mean(values))

    return read


SIGNALS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Candidate]], float]] = {
    STATED: lambda choice, held: score_tail(chosen(choice, held).records),
    "tail, first 20": lambda c, h: float(np.mean([score_tail(one.records) for one in head(c, h)])),
    "agreement of the first 20": lambda c, h: agreement(head(c, h)),
    "agreement of the first 5": lambda c, h: agreement(head(c, h)[:5]),
    "agreement of all": lambda c, h: agreement(list(h.values())),
    "overlap of the top": top_overlap,
    "consensus": proxy("consensus"),
    "tail_separation": proxy("tail_separation"),
    "pseudo_auc": proxy("pseudo_auc"),
    "contamination_split": proxy("contamination_split"),
    "bridge": proxy("bridge"),
    "score_variation": proxy("score_variation"),
    "dominant_stability": stage_a("dominant_stability"),
    "dominant_gap": stage_a("dominant_gap"),
    "source_affinity": stage_a("source_affinity"),
    "relative_compactness": stage_a("relative_compactness"),
    "win share": lambda c, h: c["win_share"],
    "low estimate": lambda c, h: -c["contamination"]["estimate"],
    "narrow estimate": lambda c, h: c["contamination"]["low"] - c["contamination"]["high"],
    "value": lambda c, h: next(e["value"] for e in c["ranking"] if e["key"] == c["chosen"]),
}


def judge(folder: Path, setting: Setting) -> Case:
    chooser = Chooser()
    candidates = read_candidates(folder, setting, chooser)
    default = default_configuration(load_folder(folder)).as_dict()
    with threadpool_limits(1):
        rho = mean_contamination(r.diagnostics for c in candidates for r in c.records)
        choice = choose(candidates, default, chooser, rho)
        held = {c.key: c for c in candidates}
        signals = {name: float(f(choice, held)) for name, f in SIGNALS.items()}
    auroc = mean_aurocs(folder, candidates)
    at = [c.key for c in candidates].index(choice["chosen"])
    task = setting.task
    return Case(
        folder.name,
        f"{task.source} → {task.target}",
        task.normal_class,
        setting.contamination,
        signals,
        float(auroc.max() - auroc[at]),
        float(auroc.max() - auroc.mean()),
    )


def read(folder: Path) -> list[Case]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        return list(pool.map(judge, repeat(folder), read_settings(folder / "settings.parquet")))


if __name__ == "__main__":
    import pickle

    for folder in map(Path, sys.argv[1:]):
        pickle.dump(read(folder), open(f"/tmp/conf_{folder.name}.pkl", "wb"))
