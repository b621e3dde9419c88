"""A synthetic sweep folder: 2 pairs x 3 classes x 24 configurations, with every kind of row."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.ledger import SCHEMA, UnitRecord
from trainables.seeding import canonical_json, generator, stable_hash

PAIRS = (("typeset", "mnist"), ("photo", "sketch"))
CLASSES = ("dog", "giraffe", '<b>R&D</b> "7" ${x}|y')
CLUSTERERS: tuple[dict[str, Any], ...] = (
    {"clusterer": "all"},
    {"clusterer": "density", "keep": 0.6},
    {"clusterer": "trimmed", "keep": 0.6},
    {"clusterer": "kmeans", "k": 2},
    {"clusterer": "kmeans", "k": 5},
    {"clusterer": "kmeans", "k": 10},
)
ALIGNMENTS: tuple[dict[str, Any], ...] = (
    {"alignment": "identity"},
    {"alignment": "contrastive", "tau": 0.2, "negatives": "in_batch", "epochs": 6},
)
SCORES = ("source_centre", "knn")
DEFAULT = {
    "supervision": "unsupervised",
    "encoder": "efficientnet_lite0",
    "clusterer": "density",
    "keep": 0.6,
    "alignment": "identity",
    "score": "knn",
}
SOURCE_ONLY = {"supervision": "source_only", "alignment": "none", "score": "source_centre", "epochs": 6}
TRUE_NORMALS = {"supervision": "oracle", "alignment": "identity", "score": "knn"}
_QUALITY = {"all": 0, "density": 7, "trimmed": 6, "kmeans": 2}
_FAILURE = (
    'Traceback (most recent call last):\n  File "x.py", line 3, in fit\nNonFinite: the loss is not finite'
)


def grid() -> Iterator[dict[str, Any]]:
    for clusterer, alignment, score in itertools.product(CLUSTERERS, ALIGNMENTS, SCORES):
        base = {"supervision": "unsupervised", "encoder": "efficientnet_lite0", "score": score}
        yield {**base, **clusterer, **alignment}
    yield from (SOURCE_ONLY, TRUE_NORMALS)


_COMPACT = next(config for config in grid() if config.get("k") == 5 and config["score"] == "source_centre")


@dataclass
class Sweep:
    """Rows that a test may change before they are written."""

    records: list[UnitRecord] = field(default_factory=list)
    aurocs: dict[str, float] = field(default_factory=dict)
    choices: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        (folder / "oracle").mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist([record.to_row() for record in self.records], schema=SCHEMA)
        pq.write_table(table, folder / "units.parquet")
        schema = pa.schema({"key": pa.string(), "auroc": pa.float64()})
        judged = [{"key": key, "auroc": value} for key, value in self.aurocs.items()]
        pq.write_table(pa.Table.from_pylist(judged, schema), folder / "oracle" / "auroc.parquet")
        selection = {"schema": 1, "sweep": "synthetic", "default": DEFAULT, "choices": self.choices}
        (folder / "selection.json").write_text(json.dumps(selection))
        return folder


def _auroc(config: dict[str, Any], rng: np.random.Generator) -> float:
    value = 74.0 + _QUALITY.get(config.get("clusterer", ""), -6)
    value += 4 * (config["score"] == "knn") - 5 * (config["alignment"] == "contrastive")
    value -= 0.5 * config.get("k", 0)
    value += 12 * (config["supervision"] == "oracle")
    return float(np.clip(value + rng.normal(0, 2.5), 0, 100))


def _stage_a(config: dict[str, Any], rng: np.random.Generator) -> dict[str, float]:
    """Compactness grows with K; the gap likes what is good; stability is noise."""
    if "clusterer" not in config:
        return {}
    k = config.get("k", {"all": 1, "density": 1.7, "trimmed": 1.6}.get(config["clusterer"], 1))
    return {
        "compactness": -1 / (1 + float(np.log(k))) + 0.01 * rng.normal(),
        "dominant_gap": _QUALITY[config["clusterer"]] / 10 + 0.05 * rng.normal(),
        "dominant_silhouette": float(0.3 - 0.01 * k + 0.03 * rng.normal()),
        "dominant_stability": float(rng.uniform()),
        "relative_compactness": float(-0.9 + 0.02 * k + 0.01 * rng.normal()),
        "source_affinity": float(0.1 * rng.normal()),
    }


def _stage_b(auroc: float, rng: np.random.Generator) -> dict[str, float]:
    noise = {"consensus": 3, "tail_separation": 6, "pseudo_auc": 9, "bridge": 40, "shuffled": 1e6}
    return {name: float(auroc + rng.normal(0, level)) for name, level in noise.items()}


def _add_setting(
    sweep: Sweep, number: int, source: str, target: str, name: str, rho: float, split: int
) -> None:
    setting = stable_hash([source, target, name, rho, split])
    rng = generator("synthetic", setting)
    task = {"source": source, "target": target, "normal_class": name, "contamination": rho}
    task |= {"dataset": "made_up", "split_seed": split}
    shared = {
        clusterer: _stage_a(json.loads(clusterer), rng) for clusterer in map(canonical_json, CLUSTERERS)
    }
    ranking, keys = [], {}
    for config in grid():
        key = stable_hash([setting, config])
        part = canonical_json({name: config[name] for name in ("clusterer", "k", "keep") if name in config})
        record = UnitRecord(key, setting, "done", seed=0, config=config, stage_a=shared.get(part, {}), **task)
        if config.get("k") == 10 and config["alignment"] == "contrastive" and name == "dog":
            record = UnitRecord(key, setting, "failed", seed=0, config=config, error=_FAILURE, **task)
            sweep.records.append(record)
            continue
        sweep.records.append(record)
        sweep.aurocs[key] = _auroc(config, rng)
        keys[canonical_json(config)] = key
        if config["supervision"] != "oracle":
            gates = ["effective_rank"] if config.get("k") == 10 else []
            ranking.append(
                {"key": key, "rank": 1.0, "proxies": _stage_b(sweep.aurocs[key], rng), "gates": gates}
            )
    best = max(ranking, key=lambda entry: entry["proxies"]["consensus"])["key"]
    chosen = keys[canonical_json(DEFAULT)] if number % 3 == 0 else best
    configs = {record.key: record.config for record in sweep.records}
    sweep.choices.append(
        {
            "setting": setting,
            "task": task,
            "chosen": chosen,
            "config": configs[chosen],
            "default": keys[canonical_json(DEFAULT)],
            "compactness_pick": keys[canonical_json(_COMPACT)],
            "stage_a": [
                {"config": json.loads(part), "proxies": proxies, "rank": float(index + 1)}
                for index, (part, proxies) in enumerate(shared.items())
            ],
            "ranking": ranking,
            "ensemble": [entry["key"] for entry in ranking[:5]],
            **_verdict(number),
        }
    )


def _verdict(number: int) -> dict[str, Any]:
    """What a choice says of itself; every third keeps the default."""
    return {
        "kept_default": number % 3 == 0,
        "reason": "in short",
        "trust": ("low", "high", "medium")[number % 3],
        "win_share": 0.93,
        "explanation": [
            "consensus and tail separation agree on it in 93 % of the resamples"
            if number % 3
            else "nothing beat the default in at least 80 % of the resamples, so it is kept"
        ],
    }


def make_sweep(
    pairs: tuple[tuple[str, str], ...] = PAIRS,
    classes: tuple[str, ...] = CLASSES,
    contaminations: tuple[float, ...] = (0.1,),
    split_seeds: tuple[int, ...] = (0,),
) -> Sweep:
    sweep = Sweep()
    product = itertools.product(pairs, classes, contaminations, split_seeds)
    for number, ((source, target), name, rho, split) in enumerate(product):
        _add_setting(sweep, number, source, target, name, rho, split)
    return sweep


@pytest.fixture
def build() -> Callable[..., Sweep]:
    return make_sweep


@pytest.fixture
def empty_sweep() -> Sweep:
    return Sweep()


@pytest.fixture
def sweep() -> Sweep:
    return make_sweep()


@pytest.fixture
def folder(sweep: Sweep, tmp_path: Path) -> Path:
    return sweep.write(tmp_path / "synthetic")
