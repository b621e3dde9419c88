"""The study of the choice: each measure against an independent one, or where the answer is known."""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from benchmarks.selection import study, tasks
from benchmarks.selection.budget import (
    ORACLE,
    SINGLE,
    Budgets,
    curves,
    draw_orders,
    evaluated_once,
    regrets,
)
from benchmarks.selection.measures import (
    Level,
    aurocs,
    correlation,
    gap_closed,
    holm,
    interval,
    noise_ceiling,
    paired_tests,
    pick,
    weighted_spearman,
)
from benchmarks.selection.opponents import (
    CONTROLS,
    ELSEWHERE,
    FIXED,
    by_k,
    compare,
    fixed_elsewhere,
    mean_rank,
    proxy_names,
    systems,
)
from benchmarks.selection.tasks import GRIDS, Judged, Sweep, judge_setting
from orchestrator.config import load_config
from orchestrator.ledger import SCHEMA, UnitRecord
from orchestrator.plan import enumerate_grid
from orchestrator.select import Chooser, choose
from trainables.configuration import Configuration
from trainables.data.settings_file import write_settings
from trainables.seeding import canonical_json, generator, stable_hash
from trainables.types import Contamination, Setting, Task

GRID = Path(study.__file__).parent / "grid.yaml"
DEFAULT = {"alignment": "identity", "clusterer": "density", "keep": 0.6, "score": "knn"}
START = [
    DEFAULT,
    {"alignment": "identity", "supervision": "source_only", "score": "source_centre"},
    {"alignment": "identity", "supervision": "source_only", "score": "knn"},
    *(
        {"alignment": "contrastive", "clusterer": "kmeans", "k": k, "score": "source_centre"}
        for k in (2, 5, 10)
    ),
]
CONFIGS = tuple(canonical_json(Configuration.parse(config).as_dict()) for config in START)


def judged(
    auroc: Sequence[float],
    dataset: str = "digits",
    source: str = "a",
    name: str = "0",
    rho: float = 0.1,
    **changes: Any,
) -> Judged:
    values = np.array(auroc, dtype=float)
    rng = np.random.default_rng(len(source) + int(sum(auroc)))
    names = (*proxy_names("A"), *proxy_names("B"), *CONTROLS)
    start: dict[str, Any] = {
        "configs": CONFIGS, "default": 0, "auroc": values, "ranking": values, "chosen": 0,
        "kept_default": True,
        "proxies": {proxy: values + rng.normal(size=len(values)) for proxy in names}, "trust": "high",
        "ensemble": 90.0, "ceiling": 80.0, "confidence": None, "estimate": None, "budgets": None,
    }  # fmt: skip
    return Judged(
        dataset=dataset, source=source, target="t", normal_class=name, contamination=rho, split_seed=0,
        **{**start, **changes},
    )  # fmt: skip


LEVEL = Level(tuple("pppqq"), ("0", "0", "1", "0", "1"))
"""Pair p has two seeds of class 0."""


def test_the_mean_is_over_seeds_then_classes_then_pairs() -> None:
    values = np.array([1.0, 5.0, 7.0, 10.0, 30.0])
    p = statistics.fmean([statistics.fmean([1, 5]), 7])
    assert LEVEL.weights() @ values == pytest.approx(statistics.fmean([p, statistics.fmean([10, 30])]))


def test_gap_closed_is_a_ratio_of_means() -> None:
    random, oracle = np.array([50.0, 50, 50, 70, 70]), np.array([90.0, 90, 90, 80, 80])
    weights = LEVEL.weights()
    assert gap_closed(weights, random, random, oracle) == 0
    assert gap_closed(weights, oracle, random, oracle) == 1
    # Pair p gains 10 of 40 points, pair q 10 of 10; a mean of ratios would say 62.5 %.
    assert gap_closed(weights, random + 10, random, oracle) == pytest.approx(20 / 50)


def test_the_bootstrap_is_that_of_all_pairs_of_classes() -> None:
    level = Level(tuple("ppqq"), tuple("0101"))
    values = {"p": (1.0, 2.0), "q": (10.0, 40.0)}
    slots = [
        statistics.fmean(drawn) for pair in values.values() for drawn in itertools.product(pair, repeat=2)
    ]
    # Both slots take any pair and any two of its classes alike: 64 draws of the same probability.
    expected = Counter(round(statistics.fmean(two), 6) for two in itertools.product(slots, repeat=2))
    found = level.resampled(40_000, generator("test")) @ np.array([1.0, 2.0, 10.0, 40.0])
    shares = Counter(np.round(found, 6).tolist())
    assert set(shares) == set(expected)
    for value, number in expected.items():
        assert shares[value] / 40_000 == pytest.approx(number / 64, abs=0.01)


def test_the_bootstrap_resamples_seeds_in_every_copy_of_a_class() -> None:
    values = np.array([1.0, 5.0, 7.0, 10.0, 30.0])
    tree = [[[1.0, 5.0], [7.0]], [[10.0], [30.0]]]
    rng = np.random.default_rng(3)

    def draw() -> float:
        pairs = []
        for pair in rng.integers(2, size=2):
            classes = [tree[pair][c] for c in rng.integers(2, size=2)]
            pairs.append(np.mean([rng.choice(seeds, size=len(seeds)).mean() for seeds in classes]))
        return float(np.mean(pairs))

    listed = np.array([draw() for _ in range(8000)])
    counted = LEVEL.resampled(20_000, generator("test")) @ values
    assert counted.mean() == pytest.approx(listed.mean(), abs=0.15)
    assert counted.std() == pytest.approx(listed.std(), rel=0.03)
    assert interval(counted) == pytest.approx(interval(listed), abs=0.5)
    assert LEVEL.resampled(50, generator("test")).sum(axis=1) == pytest.approx(np.ones(50))


def test_holm_is_the_smallest_level_at_which_the_step_down_rejects() -> None:
    p = [0.011, 0.04, 0.03, 0.011, 0.6]

    def rejected(level: float) -> set[int]:
        found: set[int] = set()
        for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            if p[i] > level / (len(p) - step):
                break
            found.add(i)
        return found

    levels = np.linspace(0.0005, 1, 2000)
    smallest = [next((a for a in levels if i in rejected(a)), 1.0) for i in range(len(p))]
    assert holm(p) == pytest.approx(smallest, abs=0.001)


def test_paired_tests_see_a_constant_lead_and_no_difference() -> None:
    level = Level(tuple("pq" * 10), tuple(str(i // 2) for i in range(20)))
    chosen = np.linspace(70, 90, 20)
    found = paired_tests(chosen, {"same": chosen, "worse": chosen - 2, "unknown": chosen * np.nan}, level)
    assert set(found) == {"same", "worse"}
    assert (found["same"].p, found["same"].won, found["same"].lost) == (1, 0, 0)
    assert found["worse"].difference == pytest.approx(2)
    assert (found["worse"].won, found["worse"].lost) == (20, 0)
    assert found["worse"].holm == pytest.approx(2 * found["worse"].p) and found["worse"].p < 0.001


def test_auroc_is_that_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    scores, anomalous = rng.integers(0, 5, size=(4, 60)), rng.random(60) < 0.3
    expected = [100 * roc_auc_score(anomalous, row) for row in scores]
    assert aurocs(scores, anomalous) == pytest.approx(expected)


def test_the_noise_ceiling_of_pure_noise_is_a_coin_and_its_oracle_is_not() -> None:
    rng = np.random.default_rng(0)
    anomalous = np.arange(120) < 40
    scores = [rng.normal(size=(40, 120)) for _ in range(40)]
    assert np.mean([aurocs(s, anomalous).max() for s in scores]) > 60
    assert np.mean([noise_ceiling(s, anomalous, rng) for s in scores]) == pytest.approx(50, abs=1.5)


def test_the_noise_ceiling_finds_what_is_perfect() -> None:
    anomalous = np.arange(30) % 3 == 0
    scores = np.stack([np.zeros(30), anomalous.astype(float), -anomalous.astype(float)])
    assert noise_ceiling(scores, anomalous, np.random.default_rng(0)) == 100


def test_the_best_fixed_configuration_is_that_of_the_other_dataset() -> None:
    digits = [judged([50, 90, 60, 70, 70, 70]), judged([55, 95, 60, 70, 70, 70], name="1")]
    pacs = [judged([1, 2, 3, 4, 5, 6], "pacs", rho=rho) for rho in (0.1, 0.3)]
    assert fixed_elsewhere(pacs, [*digits, *pacs]).tolist() == [2, 2]  # the second, though the last is better
    assert fixed_elsewhere(digits, [*digits, *pacs]).tolist() == [70, 70]
    # Its own labels have no say.
    garbage = [replace(setting, auroc=-setting.auroc) for setting in pacs]
    assert fixed_elsewhere(garbage, [*digits, *garbage]).tolist() == [-2, -2]


def test_with_one_dataset_the_best_fixed_configuration_is_that_of_the_other_pairs() -> None:
    here = [
        judged([90, 1, 2, 3, 4, 5], source="a"),
        judged([1, 80, 2, 3, 4, 5], source="b"),
        judged([1, 81, 2, 3, 4, 5], source="b", name="1"),
    ]
    assert fixed_elsewhere(here, here).tolist() == [1, 1, 1]
    assert np.isnan(fixed_elsewhere(here[:1], here[:1])).all()


def test_a_configuration_that_failed_somewhere_is_not_the_best_fixed_one() -> None:
    digits = [judged([50, 90, 60, 70, 70, 75])]
    pacs = [judged([1, 3, 4, 5, 6], "pacs", configs=(CONFIGS[0], *CONFIGS[2:]))]
    assert fixed_elsewhere(pacs, [*digits, *pacs]).tolist() == [6]


def test_told_the_contamination_only_its_settings_count() -> None:
    digits = [judged([90, 1, 2, 3, 4, 5]), judged([1, 99, 2, 3, 4, 5], rho=0.3)]
    pacs = [judged([10, 20, 30, 40, 50, 60], "pacs")]
    found = systems(pacs, [*digits, *pacs])
    assert (found[ELSEWHERE].tolist(), found[f"{ELSEWHERE}, told ρ"].tolist()) == ([20], [10])


def test_a_proxy_picks_its_largest_value_and_ties_share() -> None:
    auroc = np.array([10.0, 20, 60])
    assert pick(np.array([1, 3, 2]), auroc) == 20
    assert pick(np.array([3, 3, np.nan]), auroc) == 15
    assert pick(np.full(3, np.nan), auroc) == pick(None, auroc) == 30


def test_mean_rank_leaves_the_undefined_in_the_middle() -> None:
    proxies = {"x": np.array([1.0, 2, 3]), "y": np.array([np.nan, 5, 4])}
    assert mean_rank(proxies, ("x", "y", "missing")) == pytest.approx(
        [(0 + 0.5) / 3 + 0.5 / 3, 2 / 3, 1.5 / 3]
    )


def test_correlations_need_something_that_varies() -> None:
    assert correlation(np.array([1.0, 2, 3, np.nan]), np.array([5.0, 6, 9, 0])) == pytest.approx((1, 1, 1))
    assert np.isnan(correlation(np.ones(4), np.arange(4.0))).all()


def test_weighted_spearman_is_the_weighted_correlation_of_ranks() -> None:
    rng = np.random.default_rng(0)
    for values, auroc in (
        (rng.normal(size=9), rng.normal(size=9)),
        (rng.integers(0, 3, 12).astype(float), rng.integers(0, 4, 12).astype(float)),
    ):

        def ranks(numbers: Sequence[float]) -> list[float]:
            return [sum(b > a for b in numbers) + (sum(b == a for b in numbers) + 1) / 2 for a in numbers]

        x, y = ranks(values.tolist()), ranks(auroc.tolist())
        weights = [1 / rank for rank in y]

        def mean(numbers: Sequence[float], weights: Sequence[float] = weights) -> float:
            return sum(w * number for w, number in zip(weights, numbers, strict=True)) / sum(weights)

        def covariance(a: Sequence[float], b: Sequence[float]) -> float:
            return mean([(i - mean(a)) * (j - mean(b)) for i, j in zip(a, b, strict=True)])

        expected = covariance(x, y) / (covariance(x, x) * covariance(y, y)) ** 0.5
        assert weighted_spearman(values, auroc) == pytest.approx(expected)


def test_weighted_spearman_forgives_the_bottom_and_not_the_top() -> None:
    auroc = np.arange(10.0, 0, -1)
    top, bottom = auroc.copy(), auroc.copy()
    top[:3], bottom[-3:] = auroc[2::-1], auroc[:-4:-1]
    assert correlation(top, auroc).spearman == pytest.approx(correlation(bottom, auroc).spearman)
    assert correlation(top, auroc).weighted < correlation(bottom, auroc).weighted - 0.05
    assert weighted_spearman(-auroc, auroc) == pytest.approx(-1)


def test_k_confounds_a_pooled_correlation() -> None:
    # At one K a larger proxy is better; a larger K has a larger proxy and a lower AUROC.
    settings = []
    for i in range(8):
        auroc = [50, 50, 50, *(90 - 20 * step + i for step in range(3))]
        values = np.array([np.nan, np.nan, np.nan, *(100.0 * step + i for step in range(3))])
        proxies = {"compactness": values}
        settings.append(judged(auroc, name=str(i), proxies=proxies))
    pooled, within, across = by_k(settings, "compactness")
    assert (within, across) == pytest.approx((1, -1)) and pooled < -0.5


def test_fixed_opponents_are_found_by_their_configuration() -> None:
    found = systems([judged([91, 92, 93, 10, 20, 60])], [])
    assert [found[name][0] for name in ("default", *FIXED)] == [91, 92, 93, 91, 30]
    assert (found["random"][0], found["oracle"][0]) == (pytest.approx((91 + 92 + 93 + 90) / 6), 93)


def test_the_smaller_grid_is_the_140_and_the_last_stage() -> None:
    held = {canonical_json(c.as_dict()) for c in enumerate_grid(load_config(GRID)).configurations}
    small = {config for config in held if GRIDS["140 + last stage"](json.loads(config))}
    trusted: list[dict[str, Any]] = [{"clusterer": "all"}, {"clusterer": "density", "keep": 0.6}]
    trusted += [{"clusterer": "trimmed", "keep": keep} for keep in (0.6, 0.8)]
    trusted += [{"clusterer": "kmeans", "k": k} for k in (2, 5, 10)]
    shared = {"encoder": "efficientnet_lite0", "backbone": "efficientnet_lite0", "negatives": "in_batch"}
    expected = {
        canonical_json(
            Configuration.parse({
                **_for(alignment, shared), **cluster, "alignment": alignment, "score": score,
            }).as_dict()
        )
        for cluster in trusted
        for alignment in ("identity", "none", "mmd", "positive", "contrastive")
        for score in ("source_centre", "target_centre", "both_centres", "knn")
    }  # fmt: skip
    # Of the seven trusted sets with a source centre and neither training nor alignment, one is left of each.
    assert expected <= small and len(expected) == 140 - 2 * 6
    rest = [json.loads(config) for config in small - expected]
    assert Counter((c["supervision"], c["score"]) for c in rest if "finetune" not in c) == {
        ("source_only", "knn"): 1
    }
    assert [c["finetune"] for c in rest if "finetune" in c] == ["last_stage"] * 10


def _for(alignment: str, shared: dict[str, Any]) -> dict[str, Any]:
    head = {"finetune": "head", "embedding_dim": 64}
    kept = {"encoder"} if alignment == "identity" else {"encoder", "backbone"}
    kept |= {"negatives"} if alignment == "contrastive" else set()
    return {k: v for k, v in shared.items() if k in kept} | (head if alignment != "identity" else {})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished sweep of one setting and the configurations ``START``."""
    rng = np.random.default_rng(0)
    ids = {
        part: tuple(f"{part}{i}" for i in range(24)) for part in ("source_fit", "source_val", "target_fit")
    }
    ids |= {part: tuple(f"{part}{i}" for i in range(24)) for part in ("target_sel", "test")}
    setting = Setting(Task("digits", "typeset", "mnist", "3"), 0.1, 0, **ids)
    target, source = rng.normal(size=(2, 48, 6))
    monkeypatch.setattr(tasks, "setting_features", lambda *_: (target, source))
    records = []
    for text in CONFIGS:
        scores = {
            part: rng.random(24).astype(np.float32) for part in ("source_val", "target_sel", "pseudo", "test")
        }
        initial = {"effective_rank": 5.0, "effective_rank_initial": 5.0}
        spread = {"score_variation": 1.0, "score_variation_initial": 1.0}
        records.append(
            UnitRecord(
                key=stable_hash(text), setting=setting.key, state="done", **setting.description, seed=0,
                config=json.loads(text), stage_a={"compactness": -float(rng.random())},
                diagnostics={**initial, **spread}, trusted_fit=np.arange(24) < 15,
                trusted_sel=np.arange(24) < 15, **scores,
            )
        )  # fmt: skip
    (tmp_path / "oracle").mkdir()
    write_settings(tmp_path / "settings.parquet", [setting])
    pq.write_table(pa.Table.from_pylist([r.to_row() for r in records], SCHEMA), tmp_path / "units.parquet")
    space = [{**config} for config in START]
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"name": "x", "data": {"dataset": "digits"}, "default": DEFAULT, "space": space})
    )
    (tmp_path / "environment.json").write_text("{}")
    write_labels(tmp_path, setting, records, np.arange(24) < 8)
    return tmp_path


def write_labels(
    folder: Path, setting: Setting, records: Sequence[UnitRecord], anomalous: np.ndarray
) -> None:
    rows = [
        {"setting": setting.key, "id": image, "anomalous": bool(label)}
        for image, label in zip(setting.test, anomalous, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "oracle" / "labels.parquet")
    found = [{"key": r.key, "auroc": 100 * roc_auc_score(anomalous, r.test)} for r in records]
    pq.write_table(pa.Table.from_pylist(found), folder / "oracle" / "auroc.parquet")
    tasks._aurocs.cache_clear()


def test_a_setting_is_judged_by_the_oracle_and_chosen_without_it(folder: Path) -> None:
    (setting,) = tasks.read_settings(folder / "settings.parquet")
    records = UnitRecord.from_table(pq.read_table(folder / "units.parquet"))
    before = judge_setting(folder, setting)["full"]
    anomalous = np.arange(24) < 8
    for record in records:
        expected = 100 * roc_auc_score(anomalous, record.test)
        assert before.auroc[before.configs.index(canonical_json(record.config))] == pytest.approx(expected)
    write_labels(folder, setting, records, ~anomalous)
    after = judge_setting(folder, setting)["full"]
    assert (after.chosen, after.trust, after.ranking.tolist()) == (
        before.chosen, before.trust, before.ranking.tolist(),
    )  # fmt: skip
    assert after.auroc == pytest.approx(100 - before.auroc)
    assert after.ensemble == pytest.approx(100 - before.ensemble)
    assert before.configs[before.default] == CONFIGS[0]


def test_the_choice_of_a_budget_is_the_choice_of_a_grid_that_small(folder: Path) -> None:
    (setting,) = tasks.read_settings(folder / "settings.parquet")
    full = judge_setting(folder, setting)["full"]
    candidates = tasks.read_candidates(folder, setting, Chooser())
    default = json.loads(CONFIGS[0])
    _, _, rho, mixing = tasks.what_is_known(folder, setting, Chooser())
    keys = [candidate.key for candidate in candidates]
    assert full.budgets is not None
    for order, (early,) in zip(full.budgets.orders, full.budgets.chosen, strict=True):
        assert order[0] == full.default and sorted(order) == list(range(6))
        held = [candidates[i] for i in order[:5]]
        assert keys[early] == choose(held, default, Chooser(), rho, mixing)["chosen"]
    assert keys[full.chosen] == choose(candidates, default, Chooser(), rho, mixing)["chosen"]


def test_units_that_are_evaluated_once_give_the_same_choice(folder: Path) -> None:
    (setting,) = tasks.read_settings(folder / "settings.parquet")
    candidates = tasks.read_candidates(folder, setting, Chooser())
    rest = (json.loads(CONFIGS[0]), Chooser(), Contamination(0.2, 0.1, 0.3), 0.1)
    groups = (candidates[:3], candidates, candidates[2:])
    expected = [choose(group, *rest) for group in groups]
    with evaluated_once():
        assert [choose(group, *rest) for group in groups] == expected


BUDGET_AUROC = [70.0, 95, 60, 80, 75, 90, 50]


def budgeted() -> Judged:
    """Seven configurations in two orders, of which the choice finds its last but one, then the best."""
    values = np.array(BUDGET_AUROC)
    budgets = Budgets(np.array([[0, 2, 3, 4, 6, 5, 1], [0, 5, 6, 4, 2, 3, 1]]), np.array([[4], [5]]))
    proxies = {"score_variation": -values, "tail_separation": values}
    return judged(BUDGET_AUROC, chosen=1, proxies=proxies, budgets=budgets)


def test_regret_against_budget_is_relative_to_the_whole_grid() -> None:
    found = {name: values.tolist() for name, values in regrets(budgeted()).items()}
    means = [statistics.fmean([70, 60, 80, 75, 50]), statistics.fmean([70, 90, 50, 75, 60])]
    assert found == {
        "random": pytest.approx([95 - statistics.fmean(means), 95 - statistics.fmean(BUDGET_AUROC)]),
        "default": [25, 25],
        "score_variation": [45, 45],
        "tail_separation": [95 - (80 + 90) / 2, 0],
        "choice": [95 - (75 + 90) / 2, 0],
        ORACLE: [95 - (80 + 90) / 2, 0],
    }


def test_at_the_whole_grid_the_budget_is_that_of_the_other_tables() -> None:
    here = [budgeted(), replace(budgeted(), normal_class="1", chosen=3)]
    whole = {name: values[:, -1] for name, values in curves(here).items()}
    found = systems(here, here)
    for name in ("random", "default", *SINGLE, "choice"):
        assert whole[name] == pytest.approx(found["oracle"] - found[name])
    assert whole[ORACLE].tolist() == [0, 0]


def test_a_longer_budget_holds_the_shorter_one_and_orders_are_repeatable() -> None:
    orders = draw_orders("setting", 30, 7)
    assert (orders[:, 0] == 7).all() and len(np.unique(orders, axis=0)) == len(orders)
    assert all(sorted(order) == list(range(30)) for order in orders.tolist())
    assert (orders == draw_orders("setting", 30, 7)).all()
    assert (orders != draw_orders("other", 30, 7)).any()
    assert sorted(draw_orders("setting", 4, None)[0].tolist()) == [0, 1, 2, 3]


def test_an_unfinished_sweep_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "oracle" / "auroc.parquet").unlink()
    assert study.main(["report", str(folder)]) == 2
    assert "no oracle/auroc.parquet" in capsys.readouterr().err


def test_the_report_has_every_part_and_names_every_opponent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study.plots, "DPI", 30)
    rng = np.random.default_rng(1)
    shared = {
        "estimate": {"estimate": 0.15, "low": 0.05, "high": 0.2},
        "budgets": Budgets(np.array([[0, 5, 4, 3, 2, 1]]), np.array([[4]])),
    }
    environment = {"commit": "c", "python": "3", "cores": 2, "packages": dict.fromkeys(study.VERSIONS, "1")}
    sweeps = []
    for dataset in ("digits", "pacs"):
        settings = [
            judged(rng.uniform(60, 95, 6), dataset, source, name, rho, confidence=rng.random(), **shared)
            for source, name, rho in itertools.product("ab", "0", (0.1, 0.3))
        ]
        sweeps.append(Sweep(dataset, dict.fromkeys(GRIDS, settings), environment, {"done": 72}, [0]))
    compared = [one for grid in GRIDS for sweep in sweeps for one in study.compare_sweep(sweeps, sweep, grid)]
    pictures = study.plots.draw_all({s.name: s.grids["full"] for s in sweeps}, compared[:2], tmp_path)
    text = study.document(sweeps, compared, pictures)
    assert len(compared) == 8 and text.count("paired tests") == 4 and not re.search(r"\bnan\b", text)
    for name in (
        *compared[0].systems,
        *(f"## Grid: {grid}" for grid in GRIDS),
        "low half",
        "weighted Spearman |",
        "| settings | system | 5 | all 6 |",
        "| pacs | 0.3 | t |",
    ):
        assert name.removeprefix("control: ") in text
    assert "| digits | 0.1 | all | 2 | 15.0 | 5.0 | +5.0 | 100% |" in text
    assert "| digits | 0.3 | all | 2 | 15.0 | 15.0 | -15.0 | 0% |" in text
    names = ("proxy_by_k.png", "regret.png", "budget.png", "gap_closed.png")
    assert all((tmp_path / name).stat().st_size for name in names)


def test_settings_with_little_to_choose_are_named() -> None:
    here = [judged([80, 81, 82, 83, 84, 84.5]), judged([60, 81, 82, 83, 84, 84.5], name="1")]
    text = study.tables.narrow([compare("digits", "full", here, here)])
    assert "1 of 2 settings span < 5 points: a → t 0 (4.5)." in text


def test_run_sweeps_all_pairs_and_stops_at_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    codes = iter([0, 0, 3, 1])

    class Done:
        def __init__(self) -> None:
            self.returncode = next(codes)

    monkeypatch.setattr(
        study.subprocess, "run", lambda c, check: (commands.append([*map(str, c)]), Done())[1]
    )
    pacs, emoji = tmp_path / "pacs", tmp_path / "emoji"
    places = ["--pacs-root", str(pacs), "--emoji-root", str(emoji), "--output", str(tmp_path / "runs")]
    assert study.main(["run", *places]) == 3
    assert [command[command.index("--name") + 1] for command in commands] == ["digits", "emoji", "pacs"]
    pairs = [
        json.loads(w.removeprefix("data.pairs=")) for c in commands for w in c if w.startswith("data.pairs=")
    ]
    assert [len({tuple(pair) for pair in each}) for each in pairs] == [6, 6, 6]
    assert f"data.root={emoji}" in commands[1] and "data.dataset=folder" in commands[1]
    assert f"data.root={pacs}" in commands[2] and "data.image_size=null" in commands[2]
    assert all("resources.trainings_per_trial=24" in command for command in commands)
    assert study.main(["run"]) == 1 and len(commands) == 4
