"""Drawing from a space: distinct, equal on every call, the shorter draw first, exhausted without a loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import SweepConfig
from orchestrator.plan import enumerate_grid
from orchestrator.ranges import Range
from orchestrator.space import Space, draw_configurations, outline_configurations, text_of
from trainables.configuration import Configuration, IncompatibleChoices
from trainables.errors import TwofoldError
from trainables.seeding import canonical_json

DEFAULT = {"clusterer": "density", "alignment": "identity", "score": "knn"}
FROZEN: dict[str, Any] = {
    "alignment": "identity",
    "clusterer": ["all", "kmeans", "density"],
    "k": {"low": 2, "high": 12},
    "keep": {"low": 0.4, "high": 0.9},
    "score": ["knn", "target_centre"],
}
TRAINED: dict[str, Any] = {
    "alignment": ["contrastive", "mmd"],
    "clusterer": ["all", "kmeans"],
    "k": [2, 5],
    "band": {"low": 0.1, "high": 0.9},
    "negatives": ["non_dominant", "in_batch", "ignore_band"],
    "tau": {"low": 0.05, "high": 1.0, "log": True},
    "epochs": {"low": 1, "high": 6},
}
FOUR = {"alignment": "identity", "clusterer": ["all", "kmeans"], "k": [2, 3, 5], "score": "knn", "tau": 0.3}
"""Four configurations: ``k`` means nothing to ``all``."""


def config(samples: int = 30, **values: Any) -> SweepConfig:
    start: dict[str, Any] = {
        "name": "demo",
        "data": {"dataset": "digits"},
        "default": DEFAULT,
        "space": [FROZEN, TRAINED],
        "search": "random",
        "samples": samples,
    }
    return SweepConfig(**{**start, **values})


def texts(samples: int, **values: Any) -> list[str]:
    return [text_of(c) for c in draw_configurations(config(samples, **values)).configurations]


def test_draws_are_distinct_survive_json_and_lie_in_the_space() -> None:
    grid = draw_configurations(config(80))
    space = Space.of(config())
    drawn = [text_of(c) for c in grid.configurations]
    assert len(set(drawn)) == len(drawn) == 80
    assert grid.configurations[0] == grid.default == Configuration.parse(DEFAULT)
    for text, configuration in zip(drawn, grid.configurations, strict=True):
        assert Configuration.parse(json.loads(text)) == configuration
        assert space.locate(configuration) is not None
    flats = [json.loads(text) for text in drawn[1:]]
    for name, least in (("clusterer", 3), ("alignment", 3), ("score", 3), ("negatives", 3), ("tau", 10)):
        assert len({flat.get(name) for flat in flats}) >= least, f"{name} hardly varies"
    assert sum(grid.skipped.values()) > 0 and all("in_batch" in reason for reason in grid.skipped)


@given(short=st.integers(1, 40), more=st.integers(0, 40))
@settings(max_examples=15, deadline=None)
def test_a_longer_draw_begins_with_a_shorter_one(short: int, more: int) -> None:
    assert texts(short + more)[:short] == texts(short)


@given(short=st.integers(1, 60), blocks=st.sampled_from([[FOUR], [FOUR, FROZEN], [FROZEN, FOUR, FOUR]]))
@settings(max_examples=15, deadline=None)
def test_a_longer_draw_begins_with_a_shorter_one_also_at_the_end_of_a_space(
    short: int, blocks: list[dict[str, Any]]
) -> None:
    assert texts(60, space=blocks)[:short] == texts(short, space=blocks)


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5, 50])
def test_four_points_give_four(samples: int) -> None:
    values = {"space": [FOUR], "default": {**FOUR, "clusterer": "all", "k": 3}}
    assert len(set(texts(samples, **values))) == len(texts(samples, **values)) == min(samples, 4)


def test_a_space_is_exhausted_although_ranges_that_nothing_uses_cannot_be_counted() -> None:
    block = {**FOUR, "tau": {"low": 0.1, "high": 0.2}, "k": {"low": 2, "high": 300}}
    drawn = texts(5000, space=[block], default={**FOUR, "clusterer": "all", "k": 3})
    assert len(set(drawn)) == len(drawn) == 1 + 299


def test_everything_is_drawn_that_a_grid_enumerates() -> None:
    lists = [
        {**FROZEN, "k": [2, 3], "keep": [0.4, 0.6]},
        {**TRAINED, "band": [0.1, 0.5], "tau": [0.1, 0.5], "epochs": [1, 2]},
    ]
    drawn = draw_configurations(config(5000, space=lists))
    grid = enumerate_grid(config(space=lists, search="grid", samples=None))
    assert {text_of(c) for c in drawn.configurations} == {text_of(c) for c in grid.configurations}
    assert len(drawn.configurations) == len(grid.configurations)


def test_draws_are_the_same_in_every_process() -> None:
    code = """
import json, sys
from orchestrator.config import SweepConfig
from orchestrator.space import draw_configurations, text_of
config = SweepConfig(**json.loads(sys.argv[1]))
print("\\n".join(text_of(c) for c in draw_configurations(config).configurations))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, config(space=[FOUR, TRAINED]).model_dump_json()],
        env={**os.environ, "PYTHONHASHSEED": "4242"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:-1] == texts(30, space=[FOUR, TRAINED])


def test_a_value_is_drawn_only_where_it_is_used() -> None:
    asked: list[str] = []

    def first(name: str, options: Any) -> Any:
        asked.append(name)
        return options.low if isinstance(options, Range) else options[0]

    space = Space.of(config(space=[FROZEN, {**TRAINED, "clusterer": "kmeans", "alignment": "mmd"}]))
    space.draw(first)
    assert asked == ["block", "0.clusterer", "0.score"], "k and keep mean nothing to 'all'"
    asked.clear()
    space.draw(lambda name, options: 1 if name == "block" else first(name, options))
    assert asked == ["1.k", "1.epochs"], "tau, negatives and band mean nothing to mmd"


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_located_choices_draw_the_same_configuration_again(data: st.DataObject) -> None:
    space = Space.of(config())

    def choose(_: str, options: Any) -> Any:
        index = data.draw(st.floats(0, 1, exclude_max=True))
        return options.at(index) if isinstance(options, Range) else options[int(index * len(options))]

    try:
        configuration = space.draw(choose)
    except IncompatibleChoices:
        return
    choices = space.locate(configuration)
    assert choices is not None
    assert space.draw(lambda name, _: choices[name]) == configuration
    assert canonical_json(choices)


def test_what_no_block_holds_is_not_located() -> None:
    space = Space.of(config(fixed={"neighbours": 3}))
    inside = {**DEFAULT, "keep": 0.6, "neighbours": 3}
    assert space.locate(Configuration.parse(inside)) is not None
    for change in ({"keep": 0.95}, {"neighbours": 5}, {"score": "mahalanobis"}, {"clusterer": "trimmed"}):
        assert space.locate(Configuration.parse({**inside, **change})) is None, change


def test_null_is_a_value_like_any_other() -> None:
    block = {**TRAINED, "embedding_dim": [None, 64]}
    found = draw_configurations(config(40, space=[block])).configurations[1:]
    assert {c.as_dict()["embedding_dim"] for c in found} == {None, 64}
    assert all(Space.of(config(space=[block])).locate(c) for c in found)


def test_the_outline_holds_every_name_and_both_ends_of_every_range() -> None:
    flats = [c.as_dict() for c in outline_configurations(config()).configurations]
    pairs = {(name, value) for flat in flats for name, value in flat.items()}
    wanted = [("k", 2), ("k", 12), ("keep", 0.4), ("keep", 0.9), ("tau", 0.05), ("tau", 1.0), ("epochs", 6)]
    wanted += [("band", 0.1), ("band", 0.9), ("negatives", "in_batch"), ("score", "target_centre")]
    assert set(wanted) <= pairs


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({**TRAINED, "tau": {"low": -1, "high": 1}}, "tau: -1 is not valid for alignment 'contrastive'"),
        ({**FROZEN, "k": {"low": 0, "high": 3}}, "k: 0 is not valid for clusterer 'kmeans'"),
        ({**FROZEN, "keep": {"low": 0.5, "high": 1.5}}, r"keep: 1\.5 is not valid"),
        ({**FROZEN, "k": {"low": 1.0, "high": 4.0}}, r"k: 1\.9\d* is not valid for clusterer 'kmeans'"),
        ({**FROZEN, "k": []}, "space: 'k' is an empty list"),
        ({"alignment": "contrastive", "clusterer": "all"}, "no combination of `space` can be run"),
    ],
)
def test_a_space_that_cannot_be_drawn_from_is_refused(block: dict[str, Any], message: str) -> None:
    for search in ("random", "optuna"):
        with pytest.raises(TwofoldError, match=message):
            Space.of(config(space=[block], search=search))
    with pytest.raises(TwofoldError, match=message):
        draw_configurations(config(space=[block]))
