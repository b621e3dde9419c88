"""The plan: distinct configurations, stable keys, and groups that keep shared trainings together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import SweepConfig
from orchestrator.plan import (
    Grid,
    Unit,
    enumerate_grid,
    group_units,
    plan_units,
    unit_key,
    within_budget,
)
from trainables.configuration import Configuration
from trainables.errors import TwofoldError
from trainables.types import Setting, Task

DEFAULT = {"clusterer": "density", "alignment": "identity", "score": "knn"}
SPACE: list[dict[str, Any]] = [
    {"supervision": "source_only", "alignment": ["identity", "none"], "score": "source_centre"},
    {"alignment": "identity", "clusterer": ["all", "kmeans"], "k": [2, 5], "score": ["knn", "target_centre"]},
    {"alignment": ["mmd", "positive"], "clusterer": "kmeans", "k": [2, 5], "score": ["knn", "mahalanobis"]},
]
PRINTS = {"typeset": "f1", "mnist": "f2"}
SETTING = Setting(Task("digits", "typeset", "mnist", "3"), 0.1, 0, ("a",), ("b",), ("c",), ("d",), ("e",))


def config(**values: Any) -> SweepConfig:
    start: dict[str, Any] = {
        "name": "demo",
        "data": {"dataset": "digits"},
        "default": DEFAULT,
        "space": SPACE,
    }
    return SweepConfig(**{**start, **values})


def grid(**values: Any) -> Grid:
    return enumerate_grid(config(**values))


def flats(found: Grid) -> list[dict[str, Any]]:
    return [configuration.as_dict() for configuration in found.configurations]


def test_default_comes_first_and_nothing_twice() -> None:
    found = grid()
    assert found.configurations[0] == found.default == Configuration.parse(DEFAULT)
    assert len(set(found.configurations)) == len(found.configurations)
    # default, 2 source-only, all x 2 scores (k means nothing to it), kmeans x 2 x 2, 2 x 2 x 2 trained
    assert len(found.configurations) == 1 + 2 + 2 + 4 + 8


def test_the_same_meaning_is_planned_once() -> None:
    twice = [{"alignment": "identity", "clusterer": "all", "score": "knn"} for _ in range(2)]
    twice += [{**twice[0], "k": [2, 3], "tau": 0.5, "epochs": [1, 2]}, {**DEFAULT, "keep": 0.6}]
    assert len(grid(space=twice).configurations) == 2


def test_a_scalar_is_a_list_of_one_and_fixed_values_hold_everywhere() -> None:
    found = grid(
        space=[{"alignment": "mmd", "clusterer": "kmeans", "k": 3}], fixed={"epochs": 2, "keep": 0.4}
    )
    assert [flat.get("epochs") for flat in flats(found)] == [None, 2]
    assert found.default.as_dict()["keep"] == 0.4
    space = [{"alignment": "identity", "clusterer": "kmeans", "k": 3, "score": "knn"}]
    assert flats(grid(fixed={"k": 7}, space=space))[1]["k"] == 3, "a block overrides a fixed value"


def test_excluded_combinations_are_counted_with_their_reason() -> None:
    found = grid(space=[{"alignment": ["contrastive", "mmd"], "clusterer": ["all", "kmeans"], "k": [1, 2]}])
    assert sum(found.skipped.values()) == 3, "all with k 1 and 2, and kmeans with k 1"
    assert all("in_batch" in reason for reason in found.skipped)
    assert len(found.configurations) == 1 + 1 + 1 + 2


def test_an_empty_list_is_named() -> None:
    with pytest.raises(TwofoldError, match="space: 'k' is an empty list"):
        grid(space=[{"clusterer": "kmeans", "k": []}])


def test_a_space_in_which_nothing_can_run_is_an_error() -> None:
    with pytest.raises(TwofoldError, match=r"no combination of `space` can be run.*in_batch"):
        grid(space=[{"alignment": "contrastive", "clusterer": "all"}])


def test_a_space_that_holds_the_default_alone_can_run() -> None:
    space = [{"alignment": ["identity", "contrastive"], "clusterer": "all", "score": "knn"}]
    found = grid(default={"alignment": "identity", "clusterer": "all", "score": "knn"}, space=space)
    assert len(found.configurations) == 1 and sum(found.skipped.values()) == 1


@pytest.mark.parametrize(
    "changes",
    [{"default": {"k": 0}}, {"space": [{"tau": [0.2, -1]}]}, {"fixed": {"k": 2.5}, "default": {}}],
)
def test_a_value_out_of_range_stops_the_plan(changes: dict[str, Any]) -> None:
    with pytest.raises(TwofoldError, match="is not valid for"):
        grid(**changes)


def test_keys_depend_on_every_ingredient_and_on_nothing_else() -> None:
    flat = Configuration.parse(DEFAULT).as_dict()
    base = unit_key(config(), SETTING, PRINTS, flat, 0)
    other_task = replace(SETTING, task=replace(SETTING.task, normal_class="4"))
    keys = [
        base,
        unit_key(config(), SETTING, PRINTS, flat, 1),
        unit_key(config(), SETTING, PRINTS, {**flat, "keep": 0.61}, 0),
        unit_key(config(), SETTING, {**PRINTS, "mnist": "changed"}, flat, 0),
        unit_key(config(), SETTING, {**PRINTS, "typeset": "changed"}, flat, 0),
        unit_key(config(data={"dataset": "digits", "image_size": 64}), SETTING, PRINTS, flat, 0),
        unit_key(config(), other_task, PRINTS, flat, 0),
        *(
            unit_key(config(), replace(SETTING, **{part: ("x",)}), PRINTS, flat, 0)
            for part in ("source_fit", "source_val", "target_fit", "target_sel", "test")
        ),
        unit_key(config(), replace(SETTING, contamination=0.2), PRINTS, flat, 0),
        unit_key(config(), replace(SETTING, split_seed=1), PRINTS, flat, 0),
    ]
    assert len(set(keys)) == len(keys)
    elsewhere = config(name="other", output="elsewhere", resources={"workers": 3}, seeds=[0, 1, 2])
    assert unit_key(elsewhere, SETTING, {**PRINTS, "unused": "f3"}, dict(reversed(flat.items())), 0) == base


def test_keys_are_the_same_in_every_process() -> None:
    code = """
import json, sys
from orchestrator.plan import plan_units, enumerate_grid
from orchestrator.config import SweepConfig
from trainables.types import Setting, Task
config = SweepConfig(**json.loads(sys.argv[1]))
setting = Setting(Task("digits", "typeset", "mnist", "3"), 0.1, 0, ("a",), ("b",), ("c",), ("d",), ("e",))
prints = {"typeset": "f1", "mnist": "f2"}
planned = plan_units(config, enumerate_grid(config).configurations, [setting], prints)
print(" ".join(unit.key for unit in planned))
"""
    expected = " ".join(unit.key for unit in plan_units(config(), grid().configurations, [SETTING], PRINTS))
    done = subprocess.run(
        [sys.executable, "-c", code, config().model_dump_json()],
        env={**os.environ, "PYTHONHASHSEED": "4242"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


def units(seeds: tuple[int, ...] = (0,), settings: int = 1) -> list[Unit]:
    given_settings = [replace(SETTING, split_seed=i) for i in range(settings)]
    return plan_units(config(seeds=list(seeds)), grid().configurations, given_settings, PRINTS)


def test_plan_is_settings_times_seeds_times_configurations() -> None:
    planned = units((0, 1), 3)
    assert len(planned) == 3 * 2 * 17 == len({unit.key for unit in planned})
    assert {unit.seed for unit in planned} == {0, 1} and len({unit.setting for unit in planned}) == 3
    assert units((0, 0), 1) == units((0,), 1), "a seed given twice is run once"


def embedding(unit: Unit) -> tuple[str, int, str]:
    return unit.setting, unit.seed, Configuration.parse(unit.configuration).embedding_key


@given(
    size=st.integers(1, 9),
    keep=st.lists(st.booleans(), min_size=68, max_size=68),
    order=st.randoms(use_true_random=False),
)
def test_groups_cover_every_unit_once_and_never_split_a_training(
    size: int, keep: list[bool], order: Any
) -> None:
    planned = [unit for unit, kept in zip(units((0, 1), 2), keep, strict=True) if kept]
    order.shuffle(planned)
    groups = group_units(planned, size)
    assert Counter(unit.key for group in groups for unit in group) == Counter(unit.key for unit in planned)
    homes: dict[tuple[str, int, str], int] = {}
    trainings = []
    for number, group in enumerate(groups):
        assert group and len({(unit.setting, unit.seed) for unit in group}) == 1
        for unit in group:
            assert homes.setdefault(embedding(unit), number) == number
        trained = {embedding(u) for u in group if Configuration.parse(u.configuration).method is not None}
        assert len(trained) <= size
        trainings.append(len(trained))
    assert trainings == sorted(trainings, reverse=True), "the longest groups start first"


def test_trainings_that_differ_in_their_epochs_are_one_bundle() -> None:
    block = {"clusterer": "kmeans", "k": 2, "score": ["knn", "mahalanobis"], "epochs": [2, 4, 12]}
    space = [
        {**block, "alignment": ["mmd", "positive"]},
        {**block, "alignment": "grl"},
        {**block, "alignment": "mmd", "encoder": "backbone"},
    ]
    planned = plan_units(config(space=space), grid(space=space).configurations, [SETTING], PRINTS)
    trained = [unit for unit in planned if unit.trains]
    # Of grl, and of a trusted set in the backbone's own space, every epoch depends on how many there are.
    assert sorted(bundled(trained).values()) == [2] * 6 + [6] * 2
    shared = [group_units(trained, 1)[i] for i in range(8)]
    assert {len({unit.bundle for unit in group}) for group in shared} == {1}


def test_nothing_to_group() -> None:
    assert group_units([], 8) == []


def bundled(units: list[Unit]) -> Counter[str]:
    return Counter(unit.bundle for unit in units)


@given(
    most=st.integers(1, 80),
    keep=st.lists(st.booleans(), min_size=68, max_size=68).filter(any),
)
def test_a_budget_of_units_takes_whole_bundles_and_never_more(most: int, keep: list[bool]) -> None:
    left = [unit for unit, kept in zip(units((0, 1), 2), keep, strict=True) if kept]
    chosen = within_budget(left, most)
    assert 0 < len(chosen) <= most and len({unit.key for unit in chosen}) == len(chosen)
    assert {unit.key for unit in chosen} <= {unit.key for unit in left}
    whole, taken = bundled(left), bundled(chosen)
    parts = [bundle for bundle in taken if taken[bundle] < whole[bundle]]
    # Only where no bundle fits is one begun.
    assert not parts or (len(taken) == 1 and min(whole.values()) > most and len(chosen) == most)
    # Nothing that would fit is left out.
    assert parts or all(len(chosen) + whole[b] > most for b in whole if b not in taken)
    if most >= len(left):
        assert {unit.key for unit in chosen} == {unit.key for unit in left}


def test_a_budget_takes_from_all_settings_in_turn() -> None:
    planned = units(settings=3)
    size = Counter(unit.setting for unit in planned)
    for most in (6, 20, 30):
        taken = Counter(unit.setting for unit in within_budget(planned, most))
        assert len(taken) == len(size) == 3 and max(taken.values()) - min(taken.values()) <= 17
    assert within_budget(planned, None) == planned


def test_launches_of_any_budget_come_to_the_end_of_the_plan() -> None:
    left = units((0, 1), 2)
    launches = 0
    while left:
        done = {unit.key for unit in within_budget(left, 3)}
        left = [unit for unit in left if unit.key not in done]
        launches += 1
    assert launches <= 68


def test_no_budget_is_needed_for_nothing() -> None:
    assert within_budget([], 3) == within_budget([], None) == []
