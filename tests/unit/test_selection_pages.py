"""The pages beside the study, where the answer is known."""

from __future__ import annotations

import statistics
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.selection import agreement, confidence, evidence, rho
from benchmarks.selection.confidence import ORACLE, STATED, Case, Chosen
from benchmarks.selection.rho import Estimated, estimate_from, learned_from, unlike, without_own_domain
from benchmarks.selection.tasks import Outcomes
from orchestrator import contamination
from orchestrator.contamination import estimate_contamination, shape
from orchestrator.proxies.base import unit_rows
from orchestrator.select import Chooser
from trainables.seeding import canonical_json
from trainables.types import Contamination


def images(anomalies: int, apart: float) -> np.ndarray:
    """80 images, of which the last are scattered ``apart`` from the others."""
    rng = np.random.default_rng(anomalies)
    rows = rng.normal(size=(80, 12)) + 3
    rows[80 - anomalies :] += apart * rng.normal(size=(anomalies, 12))
    return unit_rows(rows)


@pytest.mark.parametrize(("anomalies", "apart", "is_counted"), [(8, 1.0, False), (24, 60.0, True)])
def test_what_was_measured_before_gives_the_estimate_of_the_sweep(
    anomalies: int, apart: float, is_counted: bool
) -> None:
    rows = images(anomalies, apart)
    counted = contamination._count(contamination._to_nearest(rows)[0])
    assert (counted is not None) == is_counted
    found, expected = estimate_from(counted, shape(rows)), estimate_contamination(rows, "test")
    for name in ("estimate", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-4)


def estimated(
    domain: str, share: float, numbers: np.ndarray, dataset: str = "digits", normal_class: str = "0"
) -> Estimated:
    found = estimate_from(None, numbers)
    return Estimated(dataset, domain, normal_class, share, share, None, numbers, found)


SHAPES = [shape(images(n, 4.0)) for n in (0, 8, 16, 24)]
SETS = [
    estimated(domain, share, numbers + shift, normal_class=normal_class)
    for domain, normal_class, shift in (
        ("a", "0", 0.0),
        ("a", "1", 0.005),
        ("b", "0", 0.01),
        ("b", "1", 0.015),
        ("c", "0", 0.02),
    )
    for share, numbers in zip((0.0, 0.1, 0.2, 0.3), SHAPES, strict=True)
]


def test_a_domain_is_judged_by_the_others_and_the_table_comes_back() -> None:
    before = estimate_from(None, SHAPES[0])
    found = without_own_domain(SETS)
    assert [one.domain for one in found] == [one.domain for one in SETS]
    with learned_from([one for one in SETS if one.domain != "a"]):
        assert found[0].estimate == estimate_from(None, SETS[0].shape)
    # Its own contaminations have no say.
    wrong = [replace(one, share=0.5) if one.domain == "a" else one for one in SETS]
    assert [o.estimate for o in without_own_domain(wrong)[:8]] == [o.estimate for o in found[:8]]
    assert estimate_from(None, SHAPES[0]) == before


@pytest.mark.parametrize(
    ("teachers", "taught"),
    [
        ("other domains", {("b", "0"), ("b", "1"), ("c", "0")}),
        ("other classes", {("a", "1"), ("b", "1")}),
        ("other classes of its domain", {("a", "1")}),
    ],
)
def test_a_set_is_taught_by_its_teachers_alone(teachers: str, taught: set[tuple[str, str]]) -> None:
    # "c" has one class, of which no other of its domain could teach it.
    sets = SETS if teachers != "other classes of its domain" else [o for o in SETS if o.domain != "c"]
    first = rho.taught_by(sets, rho.TEACHERS[teachers])[0]
    with learned_from([one for one in sets if (one.domain, one.normal_class) in taught]):
        assert first.estimate == estimate_from(None, SETS[0].shape)


def test_errors_are_in_points_by_dataset_contamination_and_target() -> None:
    sets = [
        replace(SETS[0], domain=domain, rho=0.1, estimate=Contamination(value, 0.05, high))
        for domain, value, high in (("a", 0.14, 0.2), ("b", 0.08, 0.09))
    ]
    text = rho.errors(sets)
    assert "| digits | 0.1 | all | 2 | 11.0 | 3.0 | +1.0 | 50% |" in text
    assert "| digits | 0.1 | b | 1 | 8.0 | 2.0 | -2.0 | 0% |" in text
    assert "| digits | all | all | 2 | 11.0 | 3.0 | +1.0 | 50% |" in text


def test_the_number_that_differs_is_found() -> None:
    strange = SHAPES[1].copy()
    strange[5] -= 0.5
    distances, effects = unlike(SETS, [estimated("photo", 0.1, strange, "pacs")])
    alike = [one.shape[5] for one in SETS if one.rho == 0.1]
    expected = (strange[5] - statistics.fmean(alike)) / statistics.pstdev(alike)
    assert distances[5] == pytest.approx(expected) and abs(distances).argmax() == 5
    mended = np.array([*strange[:5], statistics.fmean(alike)])
    change = estimate_from(None, mended).estimate - estimate_from(None, strange).estimate
    assert effects[5] == pytest.approx(change) and abs(effects).argmax() == 5


def test_a_page_without_pacs_and_with_gaps_alone_has_no_empty_number() -> None:
    sets = [replace(one, counted=(one.share, 0.07)) for one in SETS if one.domain != "c"]
    text = rho.page(sets, without_own_domain(sets), [])
    assert "nan" not in text and "| a | 0–0.1 | 100% |" in text


def test_agreement_is_the_jaccard_index_above_chance() -> None:
    first, second = np.arange(10) < 6, (np.arange(10) >= 2) & (np.arange(10) < 7)
    chance = 0.6 * 0.5 / (0.6 + 0.5 - 0.6 * 0.5)
    assert agreement.agreement(first, second) == pytest.approx((4 / 7 - chance) / (1 - chance))
    assert agreement.agreement(first, first) == 1
    assert np.isnan(agreement.agreement(np.ones(4, dtype=bool), np.ones(4, dtype=bool)))
    rng = np.random.default_rng(0)
    drawn = [agreement.agreement(rng.random(5000) < 0.7, rng.random(5000) < 0.3) for _ in range(50)]
    assert np.mean(drawn) == pytest.approx(0, abs=0.01)


def test_a_proxy_that_knows_the_best_k_closes_the_gap_and_its_opposite_opens_it() -> None:
    auroc = np.array([90.0, 70, 60, 62, 80, 82])
    configs = tuple(
        canonical_json({"clusterer": "kmeans", "k": k, "score": score})
        for k in (2, 5, 10)
        for score in ("knn", "target_centre")
    )
    worth = np.repeat([80.0, 61, 81], 2)
    here = Outcomes("d", "s", "t", "0", 0.1, 0, configs, auroc, {"good": worth, "bad": -worth})
    assert agreement.among_k(here, "good") == (81, 74, 81)
    assert agreement.gap([here], [agreement.among_k(here, "good")]) == "100 % [100, 100]"
    assert agreement.gap([here], [agreement.among_k(here, "bad")]).startswith("-186 %")
    # Both configurations with that K share the pick.
    assert agreement.among_all(here, "good") == (81, 74, 90)


def scored(*scores: np.ndarray) -> Chosen:
    """Candidates of one seed with these scores on T_sel, of which the first is chosen."""
    candidates = [SimpleNamespace(records=[SimpleNamespace(target_sel=row)]) for row in scores]
    return Chosen(candidates, 0, {}, Contamination(0.2, 0.1, 0.3))  # type: ignore[arg-type]


def test_the_tops_of_equal_scores_overlap_and_those_of_opposite_ones_do_not() -> None:
    rising = np.arange(10.0)
    # With itself, with the same order on another scale, and with the opposite order: 2 of 10 are the top.
    assert confidence.overlap(scored(rising, np.exp(rising), -rising)) == pytest.approx(2 / 3)
    one_shared = np.array([0.0, 1, 2, 3, 4, 5, 6, 8, 7, 9])
    assert confidence.overlap(scored(rising, one_shared)) == pytest.approx((1 + 1 / 3) / 2)


def test_agreement_is_spearmans_and_undefined_for_scores_that_do_not_vary() -> None:
    rising = np.arange(10.0)
    assert confidence.agreement(scored(rising, np.exp(rising)).candidates) == pytest.approx(1)
    assert confidence.agreement(scored(rising, -rising).candidates) == pytest.approx(-1)
    assert np.isnan(confidence.agreement(scored(rising, np.ones(10)).candidates))


def test_a_signal_that_knows_the_regret_leaves_it_in_the_half_that_is_trusted_less() -> None:
    regret = [float(i) for i in range(1, 9)]
    cases = [
        Case("runs/digits", "digits", f"p{i % 2}", str(i), 0.1, {STATED: -r, "wrong": r, "none": np.nan}, r)
        for i, r in enumerate(regret)
    ]
    found = confidence.measure(cases, STATED)
    assert found.value == pytest.approx((5 + 6 + 7 + 8) / (1 + 2 + 3 + 4))
    assert found.low <= found.value <= found.high and found.rank == pytest.approx(1)
    assert confidence.measure(cases, "wrong").value == pytest.approx(10 / 26)
    assert str(confidence.measure(cases, "none")) == "–"
    text = confidence.page(cases)
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert (
        rows[2:] == [f"| **{STATED}**", "| wrong", "| none"]
        and ORACLE in text
        and "digits: 8 settings" in text
    )


def evidence_case(sweep: str, dataset: str, rho: float, best: int) -> evidence.Case:
    """Four configurations of equal worth, of which ``best`` is best and the consensus knows it."""
    auroc = np.array([60.0, 70, 80, 90])[np.roll(np.arange(4), best - 3)]
    ranks = {name: np.full(4, 0.5) for name in evidence.NAMES}
    ranks["consensus"] = (90 - auroc) / 30
    return evidence.Case(sweep, dataset, rho, np.zeros(4), ranks, 1.0, np.ones(4, dtype=bool), auroc)


def test_evidence_that_knows_the_best_leaves_no_regret_where_it_has_a_say() -> None:
    case = evidence_case("runs/digits", "digits", 0.1, best=2)
    assert case.auroc.argmax() == 2 and case.regret({"consensus": 1.0}) == 0
    assert case.regret({}) == case.auroc.max() - case.auroc[0]
    assert replace(case, say=0.0).regret({"consensus": 1.0}) == case.regret({})
    closed = replace(case, is_open=case.auroc < 90)
    assert closed.regret({"consensus": 1.0}) == 10


def test_changes_of_the_evidence_are_ordered_by_the_digits_alone() -> None:
    cases = [evidence_case("runs/digits", "digits", 0.1, 2), evidence_case("runs/pacs", "pacs", 0.3, 1)]
    cases[1].ranks["bridge"][:] = (90 - cases[1].auroc) / 30
    text = evidence.page(cases)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == "| evidence | runs/digits, ρ = 0.1 | runs/pacs, ρ = 0.3 |"
    assert rows[2].split(" | ")[0] in {f"| {points} more for `consensus`" for points in (1, 2)}
    assert len(rows) == 2 + len(evidence.changes())
    used = dict(Chooser().evidence)
    assert evidence.changes()["1 more for `bridge`"]["bridge"] == used["bridge"] + 1
    assert "bridge" not in evidence.changes()["without `bridge`"]
