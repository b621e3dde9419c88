from __future__ import annotations

import json
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ledger import UnitRecord
from orchestrator.report.summary import (
    SYSTEMS,
    Scores,
    mean_scores,
    proxy_correlations,
    summarise,
    trust_levels,
)
from trainables.errors import TwofoldError

DEFAULT = {"supervision": "unsupervised", "clusterer": "all", "alignment": "identity", "score": "knn"}
GOOD = {**DEFAULT, "clusterer": "density", "keep": 0.6}
PUBLISHED_2 = {
    "supervision": "unsupervised",
    "clusterer": "kmeans",
    "k": 2,
    "alignment": "contrastive",
    "score": "source_centre",
}
PUBLISHED_5 = {**PUBLISHED_2, "k": 5}
SOURCE = {"supervision": "source_only", "alignment": "identity", "score": "source_centre"}
SOURCE_DSVDD = {**SOURCE, "alignment": "none"}
TRUE_NORMALS = {"supervision": "oracle", "alignment": "identity", "score": "knn"}


def add(sweep, name, units, chosen, default=DEFAULT, compact=PUBLISHED_5, rho=0.1, split=0, trust="high"):
    """One setting; ``units`` is a list of (config, seed, AUROC, or None for a failed unit)."""
    setting = f"{name}-{rho}-{split}"
    task = {"dataset": "d", "source": "a", "target": "b", "normal_class": name}
    task |= {"contamination": rho, "split_seed": split}
    key = {}
    for number, (config, seed, auroc) in enumerate(units):
        unit = f"{setting}-{number}"
        key.setdefault(json.dumps(config), unit)
        state = "failed" if auroc is None else "done"
        error = f"Traceback\n  x\nValueError: {name}\n" if auroc is None else None
        sweep.records.append(UnitRecord(unit, setting, state, seed=seed, config=config, error=error, **task))
        if auroc is not None:
            sweep.aurocs[unit] = auroc
    sweep.choices.append(
        {
            "setting": setting,
            "task": task,
            "chosen": key[json.dumps(chosen)],
            "config": chosen,
            "default": key.get(json.dumps(default)),
            "kept_default": chosen == default,
            "reason": "because",
            "explanation": ["because"],
            "trust": trust,
            "win_share": 1.0,
            "compactness_pick": key.get(json.dumps(compact)),
            "stage_a": [],
            "ranking": [],
            "ensemble": [],
        }
    )


def one_class(offset=0.0):
    values = [(DEFAULT, 80.0), (GOOD, 90.0), (PUBLISHED_2, 50.0), (PUBLISHED_5, 60.0), (SOURCE, 70.0)]
    return [*((config, 0, auroc + offset) for config, auroc in values), (TRUE_NORMALS, 0, 99.0)]


def test_every_number_by_hand(empty_sweep, tmp_path):
    add(empty_sweep, "x", one_class(), GOOD)
    add(empty_sweep, "y", one_class(-10), DEFAULT, trust="low")
    summary = summarise(empty_sweep.write(tmp_path))
    (pair,) = summary.pairs
    assert pair.classes[0].scores == Scores(70, 55, 80, 60, 70, 90, 90, 99)
    assert pair.classes[1].scores == Scores(60, 45, 70, 50, 60, 70, 80, 99)
    assert pair.scores == summary.overall == Scores(65, 50, 75, 55, 65, 80, 85, 99)
    assert pair.scores.regret == 5
    assert pair.scores.gap_closed == pytest.approx(15 / 20)
    assert pair.class_std["chosen"] == pytest.approx(np.std([90, 70], ddof=1))
    assert pair.seed_std is None
    assert [(t.level, t.choices, t.regret) for t in trust_levels(summary)] == [("high", 1, 0), ("low", 1, 10)]
    assert summary.metrics()["regret"] == 5
    assert summary.metrics()["units"] == 12


def test_seeds_of_a_configuration_are_averaged_before_the_best_is_taken(empty_sweep, tmp_path):
    # The luckiest single unit (95) belongs to a configuration that is worse on average.
    lucky, steady = GOOD, DEFAULT
    units = [(lucky, 0, 95.0), (lucky, 1, 55.0), (steady, 0, 80.0), (steady, 1, 84.0)]
    add(empty_sweep, "x", units, steady)
    (pair,) = summarise(empty_sweep.write(tmp_path)).pairs
    assert (pair.scores.best, pair.scores.chosen, pair.scores.regret) == (82, 82, 0)
    assert pair.scores.random == pytest.approx((95 + 55 + 80 + 84) / 4)
    assert pair.seed_std == pytest.approx(statistics.stdev([80, 84]))


def test_units_that_were_told_labels_are_no_candidates(empty_sweep, tmp_path):
    shots = {**TRUE_NORMALS, "supervision": "few_shot"}
    add(empty_sweep, "x", [(DEFAULT, 0, 70.0), (shots, 0, 99.0), (TRUE_NORMALS, 0, 98.0)], DEFAULT)
    (pair,) = summarise(empty_sweep.write(tmp_path)).pairs
    assert (pair.scores.best, pair.scores.random, pair.scores.true_normals) == (70, 70, 98)


def test_split_seeds_are_averaged_within_a_class_before_the_classes(empty_sweep, tmp_path):
    add(empty_sweep, "x", [(DEFAULT, 0, 60.0)], DEFAULT, split=0)
    add(empty_sweep, "x", [(DEFAULT, 0, 80.0)], DEFAULT, split=1)
    add(empty_sweep, "y", [(DEFAULT, 0, 90.0)], DEFAULT, split=0)
    (pair,) = summarise(empty_sweep.write(tmp_path)).pairs
    assert pair.scores.chosen == (70 + 90) / 2
    assert [len(entry.settings) for entry in pair.classes] == [2, 1]
    # Only split 0 has every class: a run with fewer is not comparable.
    assert pair.seed_std is None


def test_contaminations_are_rows_of_their_own(empty_sweep, tmp_path):
    add(empty_sweep, "x", [(DEFAULT, 0, 90.0)], DEFAULT, rho=0.3)
    add(empty_sweep, "x", [(DEFAULT, 0, 70.0)], DEFAULT, rho=0.1)
    summary = summarise(empty_sweep.write(tmp_path))
    assert [(pair.contamination, pair.scores.chosen) for pair in summary.pairs] == [(0.3, 90), (0.1, 70)]
    assert summary.overall.chosen == 80
    assert summary.contaminations == (0.1, 0.3)


def test_source_only_prefers_dsvdd_and_is_absent_when_that_failed(empty_sweep, tmp_path):
    add(empty_sweep, "x", [*one_class(), (SOURCE_DSVDD, 0, 66.0)], GOOD)
    add(empty_sweep, "y", [*one_class(), (SOURCE_DSVDD, 0, None)], GOOD)
    (pair,) = summarise(empty_sweep.write(tmp_path)).pairs
    assert [entry.scores.source_only for entry in pair.classes] == [66.0, None]
    assert pair.scores.source_only is None


def test_true_normals_are_no_candidate(empty_sweep, tmp_path):
    add(empty_sweep, "x", [(DEFAULT, 0, 60.0), (TRUE_NORMALS, 0, 99.0)], DEFAULT)
    (setting,) = summarise(empty_sweep.write(tmp_path)).settings
    assert (setting.scores.best, setting.scores.random, setting.scores.true_normals) == (60, 60, 99)
    assert len(setting.candidates) == 1
    assert setting.scores.gap_closed is None


def test_failures_are_grouped_by_the_last_line(empty_sweep, tmp_path):
    add(empty_sweep, "x", [(DEFAULT, 0, 60.0), (GOOD, 0, None)], DEFAULT)
    add(empty_sweep, "y", [(DEFAULT, 0, 60.0), (GOOD, 0, None), (GOOD, 1, None)], DEFAULT)
    add(empty_sweep, "z", [(GOOD, 0, None)], GOOD)
    empty_sweep.choices.pop()
    summary = summarise(empty_sweep.write(tmp_path))
    found = [(failure.message, failure.units, failure.settings) for failure in summary.failures]
    assert found == [("ValueError: y", 2, 1), ("ValueError: x", 1, 1), ("ValueError: z", 1, 1)]
    assert summary.failed == 4
    assert summary.without_choice == ("a → b, z, contamination 0.1, split seed 0",)


def test_a_failed_default_leaves_a_gap_and_no_wrong_mean(empty_sweep, tmp_path):
    add(empty_sweep, "x", one_class(), GOOD)
    add(empty_sweep, "y", [(GOOD, 0, 50.0)], GOOD)
    (pair,) = summarise(empty_sweep.write(tmp_path)).pairs
    assert pair.scores.default is None
    assert pair.scores.chosen == 70
    assert pair.class_std["default"] is None


def test_without_labels_there_is_no_auroc(sweep, tmp_path):
    sweep.aurocs.clear()
    summary = summarise(sweep.write(tmp_path))
    assert not summary.labelled
    assert summary.overall == Scores()
    assert summary.overall.regret is None
    assert proxy_correlations(summary) == ()
    assert summary.metrics() == {"units": 156, "units_failed": 4}


def test_correlations_against_ranks_by_hand(folder):
    summary = summarise(folder)
    found = {entry.proxy: entry for entry in proxy_correlations(summary)}
    each = []
    for setting in summary.settings:
        having = [c for c in setting.candidates if "consensus" in c.proxies]
        first = np.argsort(np.argsort([c.proxies["consensus"] for c in having]))
        second = np.argsort(np.argsort([c.auroc for c in having]))
        each.append(np.corrcoef(first, second)[0, 1])
    assert found["consensus"].spearman == pytest.approx(np.mean(each))
    assert found["consensus"].settings == 6
    assert [e.spearman for e in proxy_correlations(summary)] == sorted(
        (e.spearman for e in found.values()), reverse=True
    )


def test_a_constant_proxy_has_no_correlation(sweep, tmp_path):
    for choice in sweep.choices:
        for entry in choice["ranking"]:
            entry["proxies"] = {"constant": 1.0, "absent": None}
    names = {entry.proxy for entry in proxy_correlations(summarise(sweep.write(tmp_path)))}
    assert "constant" not in names
    assert "absent" not in names


@pytest.mark.parametrize("name", ["units.parquet", "selection.json", "oracle/auroc.parquet"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(TwofoldError, match=name):
        summarise(folder)


def test_files_of_two_sweeps_are_refused(sweep, tmp_path):
    sweep.choices[0]["chosen"] = "elsewhere"
    with pytest.raises(TwofoldError, match="elsewhere"):
        summarise(sweep.write(tmp_path))


def test_a_damaged_selection_is_named(folder):
    (folder / "selection.json").write_text("{")
    with pytest.raises(TwofoldError, match=r"selection\.json is damaged"):
        summarise(folder)


def test_no_random_pick_beats_the_best_and_regret_is_never_negative(folder):
    for setting in summarise(folder).settings:
        assert setting.scores.best >= setting.scores.random
        assert setting.scores.regret >= 0


@given(st.lists(st.lists(st.floats(0, 100), min_size=8, max_size=8), min_size=1, max_size=5))
def test_means_are_system_by_system(values):
    mean = mean_scores([Scores(*each) for each in values])
    for index, name in enumerate(SYSTEMS):
        assert getattr(mean, name) == pytest.approx(np.mean([each[index] for each in values]))
