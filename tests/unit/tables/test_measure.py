"""Means, spreads, intervals and verdicts against plain loops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from units import unit

from orchestrator.tables.measure import (
    JudgedUnit,
    measure_cell,
    measure_claim,
    units_chosen,
    units_of_rows,
)
from orchestrator.tables.result import Claim, Row
from orchestrator.tables.rows import PlannedClaim, PlannedRow
from trainables.configuration import Configuration


def tree(units: Sequence[JudgedUnit]) -> dict[str, dict[str, list[float]]]:
    """Pair -> class -> AUROC of its seeds."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in units:
        found[one.pair][one.normal_class].append(one.auroc)
    return found


def reference_mean(units: Sequence[JudgedUnit]) -> float:
    pairs = tree(units).values()
    return float(np.mean([np.mean([np.mean(seeds) for seeds in pair.values()]) for pair in pairs]))


def reference_interval(units: Sequence[JudgedUnit], rng: np.random.Generator) -> tuple[float, float]:
    means = []
    for _ in range(8000):
        of_pairs = []
        for pair in tree(units).values():
            names = list(pair)
            drawn = [pair[names[i]] for i in rng.integers(len(names), size=len(names))]
            of_pairs.append(np.mean([np.mean(rng.choice(seeds, len(seeds))) for seeds in drawn]))
        means.append(np.mean(of_pairs))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def some_units(seed: int) -> list[JudgedUnit]:
    """Two pairs; classes have one to three seeds, so that plain means over units are wrong."""
    rng = np.random.default_rng(seed)
    return [
        unit(float(rng.uniform(60, 80)), target, str(name), split_seed)
        for target, classes in (("mnist", 5), ("optdigits", 3))
        for name in range(classes)
        for split_seed in range(1 + (name + seed) % 3)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_mean_and_interval_are_those_of_plain_loops(seed: int) -> None:
    units = some_units(seed)
    cell = measure_cell(units, len(units), "row", "column")
    assert cell.mean == pytest.approx(reference_mean(units), abs=1e-9)
    assert (cell.low, cell.high) == pytest.approx(
        reference_interval(units, np.random.default_rng(1)), abs=0.7
    )


def test_spreads_are_those_of_means() -> None:
    table = {("0", 0): 90.0, ("0", 1): 80.0, ("1", 0): 70.0, ("1", 1): 40.0, ("2", 0): 60.0, ("2", 1): 50.0}
    cell = measure_cell([unit(a, normal_class=c, split_seed=s) for (c, s), a in table.items()], 6)
    assert cell.class_std == pytest.approx(np.std([85, 55, 55], ddof=1))
    assert cell.seed_std == pytest.approx(np.std([220 / 3, 170 / 3], ddof=1))
    assert cell.mean == pytest.approx(65) and (cell.units, cell.planned) == (6, 6)


def test_spreads_of_several_pairs_are_over_classes_and_seeds_of_the_mean_over_pairs() -> None:
    table = {("mnist", "0"): 90.0, ("optdigits", "0"): 50.0, ("mnist", "1"): 60.0, ("optdigits", "1"): 40.0}
    cell = measure_cell([unit(a, t, c) for (t, c), a in table.items()], 4)
    assert cell.class_std == pytest.approx(np.std([70, 50], ddof=1)) and cell.seed_std is None


def test_one_unit_has_no_spread() -> None:
    cell = measure_cell([unit(77.7)], 3)
    assert cell.mean == cell.low == cell.high == 77.7
    assert cell.class_std is None and cell.seed_std is None and (cell.units, cell.planned) == (1, 3)


@given(st.dictionaries(st.tuples(*[st.integers(0, 3)] * 3), st.floats(0, 100), min_size=1))
@settings(deadline=None, max_examples=40)
def test_intervals_are_ordered_inside_the_values_and_the_same_for_every_order(
    values: dict[tuple[int, int, int], float],
) -> None:
    units = [unit(value, str(p), str(c), s) for (p, c, s), value in values.items()]
    cell = measure_cell(units, len(units), "a", "b")
    lowest, highest = min(values.values()), max(values.values())
    assert lowest - 1e-9 <= cell.low <= cell.high <= highest + 1e-9
    assert cell == measure_cell(units, len(units), "a", "b")
    assert measure_cell(units[::-1], len(units)).mean == pytest.approx(cell.mean)


@given(st.floats(0, 100), st.integers(1, 6), st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_equal_values_have_no_spread(value: float, classes: int, seeds: int) -> None:
    units = [unit(value, normal_class=str(c), split_seed=s) for c in range(classes) for s in range(seeds)]
    cell = measure_cell(units, len(units))
    assert (cell.low, cell.high) == pytest.approx((value, value))


# ---- claims -------------------------------------------------------------------------------------

CLAIM = PlannedClaim("a beats b", "a", "b")


def claimed(differences: Sequence[float], base: Sequence[float] | None = None) -> Claim:
    """The claim on one class each, with wildly different levels that pairing must remove."""
    levels = base or [50 + 7 * i for i in range(len(differences))]
    a = [
        ("a", unit(b + d, normal_class=str(i)))
        for i, (b, d) in enumerate(zip(levels, differences, strict=True))
    ]
    b = [("b", unit(b, normal_class=str(i))) for i, b in enumerate(levels)]
    return measure_claim(CLAIM, [*a, *b])


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([1.0, 2.0, 1.5, 0.5], "holds"),
        ([-1.0, -2.0, -1.5, -0.5], "does not hold"),
        ([5.0, -5.0, 4.0, -4.0], "not clear"),
        ([0.0, 0.0, 0.0, 0.0], "not clear"),
    ],
)
def test_verdicts(differences: list[float], verdict: str) -> None:
    claim = claimed(differences)
    assert claim.verdict == verdict
    assert claim.difference == pytest.approx(np.mean(differences))
    assert claim.low is not None and claim.high is not None and claim.low <= claim.high


def test_only_settings_that_both_rows_have_are_compared() -> None:
    units = [("a", unit(90, normal_class="0")), ("a", unit(10, normal_class="1")),
             ("b", unit(80, normal_class="0")), ("b", unit(99, normal_class="2"))]  # fmt: skip
    assert measure_claim(CLAIM, units).difference == pytest.approx(10)


def test_a_claim_over_contaminations_takes_a_class_as_one() -> None:
    """Drawn as if they were classes of their own, the contaminations would make the interval too narrow."""
    shares = (0.0, 0.1, 0.2, 0.3)
    gains = {"0": 3.0, "1": -1.0, "2": 2.0}
    units = [
        (row, unit(60 + (gain if row == "a" else 0), normal_class=name, rho=rho))
        for row in "ab"
        for name, gain in gains.items()
        for rho in shares
    ]
    several, single = measure_claim(CLAIM, units), claimed(list(gains.values()))
    assert several.low is not None and single.low is not None
    assert several.difference == pytest.approx(single.difference)
    assert several.low == pytest.approx(single.low)
    assert several.verdict == "not clear"


def test_a_row_without_units_is_not_measured() -> None:
    for present in "ab":
        claim = measure_claim(CLAIM, [(present, unit(90))])
        assert (claim.difference, claim.low, claim.high) == (None, None, None)
        assert claim.verdict == "not measured"


# ---- whose units ---------------------------------------------------------------------------------


def planned_row(name: str, kind: str = "configuration", **flat: Any) -> PlannedRow:
    configuration = Configuration.parse({"alignment": "identity", "score": "knn", **flat})
    return PlannedRow(Row(name, name), name, kind, None if kind == "choice" else configuration)


def test_rows_with_one_configuration_share_their_units() -> None:
    rows = [planned_row("a", k=2), planned_row("twin", k=2, tau=0.3), planned_row("b", k=3)]
    flats = [row.configuration.as_dict() for row in rows if row.configuration is not None]
    units = [unit(90, **flats[0]), unit(80, **flats[2])]
    found = [(row, one.auroc) for row, one in units_of_rows(rows, units)]
    assert found == [("a", 90), ("twin", 90), ("b", 80)]


def test_choice_takes_what_was_chosen_in_each_setting() -> None:
    units = [unit(50 + 10 * k + s, split_seed=s, k=k) for s in (0, 1) for k in (2, 3)]
    choices = [
        {"setting": units[0].setting, "config": dict(units[0].configuration)},
        {"setting": units[3].setting, "config": dict(units[3].configuration)},
    ]
    found = units_chosen([planned_row("c", "choice"), planned_row("b")], units, {"choices": choices})
    assert [(row, one.auroc) for row, one in found] == [("c", 70), ("c", 81)]
