"""A finished sweep, setting by setting: the choice made again without labels, then the oracle's AUROC.

AUROC is in percent, higher = better. A setting is judged on each of ``GRIDS``: the choice is made anew from
the configurations of that grid alone, so that consensus, random pick and oracle are those of the grid.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from benchmarks.selection.budget import Budgets, choose_early, evaluated_once
from benchmarks.selection.measures import aurocs, noise_ceiling
from orchestrator.contamination import estimate_contamination
from orchestrator.ledger import UnitRecord
from orchestrator.mixing import measure_mixing
from orchestrator.pipeline import load_folder
from orchestrator.plan import default_configuration
from orchestrator.prepare import open_dataset
from orchestrator.select import Candidate, Chooser, choose, gather_candidates
from trainables.cache import ArrayCache
from trainables.data.settings_file import read_settings
from trainables.encoders.base import encode_domain
from trainables.errors import TwofoldError
from trainables.seeding import canonical_json, generator
from trainables.types import Contamination, Setting

Config = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Outcomes:
    """u configurations of one setting and what they reached.

    Attributes:
        contamination: the true one, which the choice is not told.
        configs: canonical JSON of each configuration.
        auroc: (u,) AUROC of each, mean over its seeds.
        proxies: name -> (u,) values, larger = better, NaN = undefined; the controls are among them.
    """

    dataset: str
    source: str
    target: str
    normal_class: str
    contamination: float
    split_seed: int
    configs: tuple[str, ...]
    auroc: np.ndarray
    proxies: Mapping[str, np.ndarray]

    @property
    def pair(self) -> str:
        """Dataset, source and target: the highest level of the bootstrap."""
        return f"{self.dataset}: {self.source} → {self.target}"

    @property
    def span(self) -> float:
        """Points between the best and the worst configuration."""
        return float(np.ptp(self.auroc))


@dataclass(frozen=True)
class Judged(Outcomes):
    """One setting on one grid, and its choice.

    Attributes:
        default: position of the default configuration; None where it did not finish.
        ranking: (u,) what the choice ranks by, larger = better.
        chosen: position of the choice.
        ensemble: AUROC of the mean of the test ranks of the choice's first few.
        ceiling: AUROC of what half of the test labels would pick, judged on the other half.
        confidence: of the choice, larger = more.
        estimate: of the contamination, with ``low`` and ``high``.
        budgets: the choices when only a part of the grid was run; None where they were not made.
    """

    default: int | None
    ranking: np.ndarray
    chosen: int
    kept_default: bool
    trust: str
    ensemble: float
    ceiling: float
    confidence: float
    estimate: Mapping[str, float]
    budgets: Budgets | None


@dataclass(frozen=True)
class Sweep:
    """A sweep folder, judged.

    Attributes:
        grids: name of the grid -> its settings.
        environment: commit, versions and cores it ran with.
        states: state of a unit -> number of units.
        seeds: training seeds of every configuration.
    """

    name: str
    grids: Mapping[str, list[Judged]]
    environment: Mapping[str, Any]
    states: Mapping[str, int]
    seeds: Sequence[int]


def _is_small(config: Config) -> bool:
    """The 140 of the first measurements, and the fine-tuned last stage."""
    if config.get("finetune") == "last_stage":
        return True
    # What needs no target counts once, as source-only.
    trusted = (config.get("clusterer"), config.get("keep"), config.get("k"))
    held = trusted in _SMALL_TRUSTED or config["supervision"] == "source_only"
    return held and config["score"] != "mahalanobis"


_SMALL_TRUSTED = {
    *(("all", None, None), ("density", 0.6, None), ("trimmed", 0.6, None), ("trimmed", 0.8, None)),
    *(("kmeans", None, k) for k in (2, 5, 10)),
}
FULL = "full"
GRIDS: dict[str, Callable[[Config], bool]] = {FULL: lambda config: True, "140 + last stage": _is_small}


def read_sweep(folder: Path) -> Sweep:
    """Judge every setting of a finished sweep, a process per core.

    Raises:
        TwofoldError: the folder holds no finished sweep that the oracle has judged.
    """
    for file in ("settings.parquet", "units.parquet", "oracle/auroc.parquet", "oracle/labels.parquet"):
        if not (folder / file).is_file():
            raise TwofoldError(f"{folder} has no {file}; let `twofold sweep` finish first.")
    states = pq.read_table(folder / "units.parquet", columns=["state"])["state"].value_counts().to_pylist()
    judged = over_settings(folder, judge_setting)
    return Sweep(
        name=folder.name,
        grids={name: [grids[name] for grids in judged] for name in GRIDS},
        environment=json.loads((folder / "environment.json").read_text()),
        states={row["values"]: row["counts"] for row in states},
        seeds=load_folder(folder).seeds,
    )


def over_settings(folder: Path, judge: Callable[[Path, Setting], T]) -> list[T]:
    """``judge`` of every setting of a sweep, in their order, a process per core."""
    # A new interpreter: a forked one may hang in locks that threads of NumPy or Arrow held.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        return list(pool.map(judge, repeat(folder), read_settings(folder / "settings.parquet")))


def judge_setting(folder: Path, setting: Setting) -> dict[str, Judged]:
    """Choose on every grid, and only then open the labels."""
    chooser = Chooser()
    candidates, default, rho, mixing = what_is_known(folder, setting, chooser)
    grids = {name: [c for c in candidates if holds(c.config)] for name, holds in GRIDS.items()}
    # Products of small matrices: many threads would wait for each other for longer than they compute.
    with threadpool_limits(1), evaluated_once():
        choices = {n: choose(held, default, chooser, rho, mixing) for n, held in grids.items()}
        budgets = choose_early(grids[FULL], default, chooser, rho, mixing)
    anomalous = _anomalous(folder, setting)
    judged = {n: _judged(folder, setting, held, default, choices[n], anomalous) for n, held in grids.items()}
    return {**judged, FULL: replace(judged[FULL], budgets=budgets)}


def what_is_known(
    folder: Path, setting: Setting, chooser: Chooser
) -> tuple[list[Candidate], dict[str, Any], Contamination, float]:
    """What there is to choose from for a setting, the default, the estimated contamination, the mixing."""
    candidates = read_candidates(folder, setting, chooser)
    default = default_configuration(load_folder(folder)).as_dict()
    # The records have what this encoder measured; these also do for sweeps from before it was.
    target, source = setting_features(folder, setting, default["encoder"])
    with threadpool_limits(1):
        rho = estimate_contamination(target, setting.key)
        return candidates, default, rho, measure_mixing(source, target, setting.key)


def read_candidates(folder: Path, setting: Setting, chooser: Chooser) -> list[Candidate]:
    """What there is to choose from for a setting."""
    table = pq.read_table(folder / "units.parquet", filters=[("setting", "==", setting.key)])
    return gather_candidates(UnitRecord.from_table(table), chooser)


def mean_aurocs(folder: Path, candidates: Sequence[Candidate]) -> np.ndarray:
    """(u,) AUROC of each candidate, mean over its seeds."""
    return np.array([np.mean([_aurocs(folder)[r.key] for r in c.records]) for c in candidates])


def setting_features(folder: Path, setting: Setting, encoder: str) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) L2-normalised frozen features of the unlabelled target images, and of the source normals."""
    task, found = setting.task, []
    for name, images in (
        (task.target, (*setting.target_fit, *setting.target_sel)),
        (task.source, (*setting.source_fit, *setting.source_val)),
    ):
        rows, features = _domain(folder, name, encoder)
        found.append(np.asarray(features[[rows[image] for image in images]]))
    return found[0], found[1]


@cache
def _domain(folder: Path, domain: str, encoder: str) -> tuple[dict[str, int], np.ndarray]:
    config = load_folder(folder)
    images = open_dataset(config).domain(domain)
    features = encode_domain(images, encoder, config.data.image_size, ArrayCache(config.cache))
    return {image: row for row, image in enumerate(images.ids)}, features


@cache
def _aurocs(folder: Path) -> dict[str, float]:
    table = pq.read_table(folder / "oracle" / "auroc.parquet", columns=["key", "auroc"])
    return dict(zip(table["key"].to_pylist(), table["auroc"].to_pylist(), strict=True))


def _anomalous(folder: Path, setting: Setting) -> np.ndarray:
    """(n_test,) bool, in the order of the test images."""
    labels = pq.read_table(folder / "oracle" / "labels.parquet", filters=[("setting", "==", setting.key)])
    known = dict(zip(labels["id"].to_pylist(), labels["anomalous"].to_pylist(), strict=True))
    return np.array([known[image] for image in setting.test])


def _judged(
    folder: Path,
    setting: Setting,
    candidates: Sequence[Candidate],
    default: Config,
    choice: Mapping[str, Any],
    anomalous: np.ndarray,
) -> Judged:
    position = {candidate.key: i for i, candidate in enumerate(candidates)}
    stage_b = {entry["key"]: entry["proxies"] for entry in choice["ranking"]}
    place = {entry["key"]: i for i, entry in enumerate(choice["ranking"])}  # best first
    configs = tuple(canonical_json(candidate.config) for candidate in candidates)
    wanted = canonical_json(dict(default))
    # The first seed stands for a configuration where scores, not AUROC, are combined.
    test = np.stack([candidate.records[0].test for candidate in candidates])
    team = rankdata(test[[position[key] for key in choice["ensemble"]]], axis=1)
    return Judged(
        **setting.description,
        configs=configs,
        default=configs.index(wanted) if wanted in configs else None,
        auroc=mean_aurocs(folder, candidates),
        proxies=stack_proxies([candidate_values(c, stage_b[c.key]) for c in candidates]),
        ranking=-np.array([place[c.key] for c in candidates], dtype=float),
        chosen=position[choice["chosen"]],
        kept_default=choice["kept_default"],
        trust=choice["trust"],
        ensemble=float(aurocs(team.mean(axis=0, keepdims=True), anomalous)[0]),
        ceiling=noise_ceiling(test, anomalous, generator("noise ceiling", setting.key)),
        confidence=choice["confidence"],
        estimate=choice["contamination"],
        budgets=None,
    )


def candidate_values(candidate: Candidate, stage_b: Mapping[str, float]) -> dict[str, float]:
    """Proxies of both stages and the controls that are no proxies: K, and the loss of the last epoch."""
    records = candidate.records
    names = set.intersection(*(set(record.stage_a) for record in records))
    values = {name: float(np.mean([record.stage_a[name] for record in records])) for name in names}
    if "k" in candidate.config:
        values["K"] = float(candidate.config["k"])
    if all(record.epochs for record in records):
        values["minus_loss"] = -float(np.mean([record.epochs[-1]["loss"] for record in records]))
    return {**values, **stage_b}


def stack_proxies(values: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Name -> (u,) value of each configuration, NaN where it has none."""
    names = sorted({name for one in values for name in one})
    return {name: np.array([one.get(name, np.nan) for one in values], dtype=float) for name in names}
