"""Optuna search: distinct configurations, every outcome told, nothing lost or repeated by a death."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from orchestrator.config import SweepConfig
from orchestrator.ledger import UnitRecord
from orchestrator.objective import record_objective
from orchestrator.search import OptunaSearch
from orchestrator.space import text_of
from trainables.configuration import Configuration
from trainables.errors import TwofoldError
from trainables.seeding import generator

DEFAULT = {"clusterer": "density", "alignment": "identity", "score": "knn", "keep": 0.6}
SPACE: list[dict[str, Any]] = [
    {"alignment": "identity", "clusterer": "density", "keep": {"low": 0.2, "high": 0.9}, "score": "knn"},
    {
        "alignment": ["contrastive", "mmd"],
        "clusterer": ["all", "kmeans"],
        "k": {"low": 2, "high": 9},
        "tau": {"low": 0.05, "high": 1.0, "log": True},
        "score": ["source_centre", "knn"],
    },
]
FOUR: dict[str, Any] = {
    "space": [{"alignment": "identity", "clusterer": ["all", "kmeans"], "k": [2, 3, 5], "score": "knn"}],
    "default": {"alignment": "identity", "clusterer": "all", "score": "knn"},
}


def config(samples: int = 12, **values: Any) -> SweepConfig:
    start: dict[str, Any] = {
        "name": "demo",
        "data": {"dataset": "digits"},
        "default": DEFAULT,
        "space": SPACE,
        "search": "optuna",
        "samples": samples,
    }
    return SweepConfig(**{**start, **values})


def record(
    configuration: Configuration, quality: float = 1.0, state: Any = "done", seed: int = 0, setting: str = "s"
) -> UnitRecord:
    """A unit whose tail of 15 images lies ``quality`` above the other 85, on a logarithmic scale."""
    flat = configuration.as_dict()
    noise = 0.2 * generator("record", setting, flat, seed).normal(size=100)
    scores = np.exp(noise + np.repeat([0.0, quality], [85, 15])).astype(np.float32)
    if state != "done":
        scores = scores[:0]
    return UnitRecord(
        key=f"{setting}/{text_of(configuration)}/{seed}",
        setting=setting,
        state=state,
        dataset="digits",
        source="a",
        target="b",
        normal_class="0",
        contamination=0.1,
        split_seed=0,
        seed=seed,
        config=flat,
        target_sel=scores,
        pseudo=scores.copy(),
    )


def undefined(configuration: Configuration, **values: Any) -> UnitRecord:
    unit = record(configuration, **values)
    unit.target_sel[:] = 1
    assert record_objective("tail_separation", unit) is None
    return unit


def quality(configuration: Configuration) -> float:
    """Best at keep 0.8 among the frozen and at k 4 among the trained, which are better."""
    flat = configuration.as_dict()
    if flat["alignment"] == "identity":
        return 1 - abs(float(flat["keep"]) - 0.8)
    return 2 - abs(int(flat.get("k", 9)) - 4) / 5


def run(
    search: OptunaSearch, count: int = 4, setting: str = "s", each: Callable[..., UnitRecord] | None = None
) -> list[UnitRecord]:
    """Rounds of ``count`` until the search has nothing more; the records in order."""
    records: list[UnitRecord] = []
    while round_ := search.ask(setting, count):
        new = [
            each(one, setting=setting) if each else record(one, quality(one), setting=setting)
            for one in round_
        ]
        search.tell(new)
        records += new
    return records


def stored(path: Path) -> list[FrozenTrial]:
    """All trials of all studies of a file, as any Optuna tool sees them."""
    url = f"sqlite:///{path}"
    names = optuna.study.get_all_study_names(url)
    return [trial for name in names for trial in optuna.load_study(study_name=name, storage=url).trials]


def keys(configurations: Iterable[Configuration]) -> list[str]:
    return [text_of(configuration) for configuration in configurations]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "optuna.db"


def test_the_default_comes_first_and_what_is_open_is_given_again(path: Path) -> None:
    search = OptunaSearch(config(), path)
    first = search.ask("s", 3)
    assert first[0] == Configuration.parse(DEFAULT) and len(set(keys(first))) == 3
    assert search.ask("s", 3) == first == search.asked("s")
    search.tell([record(first[1])])
    second = search.ask("s", 3)
    assert second[:2] == [first[0], first[2]] and len(second) == 3
    assert keys(search.asked("s")) == keys([*first, second[2]])


def test_samples_distinct_configurations_and_then_nothing(path: Path) -> None:
    search = OptunaSearch(config(25), path)
    records = run(search)
    texts = [json.dumps(r.config, sort_keys=True, allow_nan=False) for r in records]
    assert len(set(texts)) == len(texts) == 25 and search.ask("s", 4) == []
    assert keys(search.asked("s")) == keys(Configuration.parse(json.loads(text)) for text in texts)
    more = OptunaSearch(config(27), path)
    assert len(more.ask("s", 4)) == 2, "with more samples it goes on"


def test_each_block_has_choices_of_its_own(path: Path) -> None:
    run(OptunaSearch(config(30), path))
    for trial in stored(path):
        block = trial.params["block"]
        assert all(name == "block" or name.startswith(f"{block}.") for name in trial.params)
        flat = json.loads(trial.user_attrs["configuration"])
        chosen = {name.partition(".")[2]: value for name, value in trial.params.items() if name != "block"}
        assert {key: flat[key] for key in chosen} == chosen, "nothing is chosen in vain"


@pytest.mark.parametrize("count", [1, 3, 50])
def test_four_points_give_four(path: Path, count: int) -> None:
    search = OptunaSearch(config(50, **FOUR), path)
    records = run(search, count, each=record)
    assert len({text_of(Configuration.parse(r.config)) for r in records}) == len(records) == 4


def test_a_finite_block_that_is_best_does_not_end_the_search(path: Path) -> None:
    """The sampler then repeats the few points of that block again and again."""
    space = [*FOUR["space"], SPACE[0]]

    def favour(one: Configuration, setting: str) -> UnitRecord:
        return record(one, 5.0 if one.as_dict()["clusterer"] != "density" else 0.5, setting=setting)

    assert len(run(OptunaSearch(config(30, space=space), path), each=favour)) == 30


def test_it_learns(path: Path) -> None:
    records = run(OptunaSearch(config(30, space=SPACE[:1]), path), count=2)
    distances = [abs(r.config["keep"] - 0.8) for r in records]
    assert np.mean(distances[-10:]) < np.mean(distances[:10]) / 2


def test_tells_the_mean_of_the_seeds_once_all_are_there(path: Path) -> None:
    search = OptunaSearch(config(3, seeds=[0, 7]), path)
    (one,) = search.ask("s", 1)
    parts = [record(one, 1.0, seed=0), record(one, 2.0, seed=7)]
    search.tell([parts[0], record(one, 9.0, seed=3)])
    assert search.ask("s", 1) == [one], "a seed is missing; a seed that is not asked for does not count"
    search.tell([parts[1]])
    (trial,) = stored(path)
    assert trial.value == np.mean([record_objective("tail_separation", part) for part in parts])


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (lambda one: record(one, state="failed"), TrialState.FAIL),
        (undefined, TrialState.FAIL),
        (lambda one: record(one, state="stopped"), TrialState.PRUNED),
    ],
)
def test_what_has_no_objective_is_told_as_such(
    path: Path, make: Callable[..., Any], state: TrialState
) -> None:
    search = OptunaSearch(config(3, seeds=[0, 1]), path)
    (one,) = search.ask("s", 1)
    search.tell([make(one), record(one, seed=1)])
    (trial,) = stored(path)
    assert trial.state == state and trial.value is None
    assert text_of(one) not in keys(search.ask("s", 1))


OUTCOMES = st.lists(st.sampled_from(["good", "undefined", "failed", "stopped"]), min_size=6, max_size=6)


@given(outcomes=OUTCOMES, count=st.integers(1, 5), restart=st.integers(1, 4))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_all_are_told_and_none_is_nan(
    path: Path, outcomes: list[str], count: int, restart: int
) -> None:
    path.unlink(missing_ok=True)
    left, seen = iter(outcomes), []
    search = OptunaSearch(config(6), path)
    for number in itertools.count():
        if not (round_ := search.ask("s", count)):
            break
        seen += keys(round_)
        for one, outcome in zip(round_, left, strict=False):
            make = undefined if outcome == "undefined" else record
            state = outcome if outcome in ("failed", "stopped") else "done"
            search.tell([make(one, quality=quality(one), state="done" if make is undefined else state)])
        if number % restart == 0:
            search = OptunaSearch(config(6), path)
    assert len(set(seen)) == len(seen) == 6
    trials = stored(path)
    assert len(trials) == 6 and all(trial.state.is_finished() for trial in trials)
    assert all(np.isfinite(trial.value) for trial in trials if trial.state == TrialState.COMPLETE)
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == outcomes.count("good")


def test_a_process_killed_between_ask_and_tell_loses_and_repeats_nothing(path: Path, tmp_path: Path) -> None:
    undisturbed = run(OptunaSearch(config(12), tmp_path / "other.db"), 3)
    code = """
import json, os, signal, sys
from pathlib import Path
from orchestrator.config import SweepConfig
from orchestrator.search import OptunaSearch
search = OptunaSearch(SweepConfig(**json.loads(sys.argv[1])), Path(sys.argv[2]))
print(json.dumps([one.as_dict() for one in search.ask("s", 3)]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, config(12).model_dump_json(), str(path)],
        env={**os.environ, "PYTHONHASHSEED": "4242"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL
    asked = [Configuration.parse(flat) for flat in json.loads(done.stdout)]
    search = OptunaSearch(config(12), path)
    # One of the three was recorded before the driver died, and is told from its record.
    recorded = record(asked[0], quality(asked[0]))
    search.tell([recorded])
    assert search.ask("s", 2) == asked[1:]
    search.tell([record(one, quality(one)) for one in asked[1:]])
    resumed = [recorded, *(record(one, quality(one)) for one in asked[1:]), *run(search, 3)]
    assert [r.key for r in resumed] == [r.key for r in undisturbed]


def test_a_lost_file_is_filled_from_the_records(path: Path) -> None:
    records = run(OptunaSearch(config(12), path))
    path.unlink()
    search = OptunaSearch(config(16), path)
    search.tell(records)
    assert {text_of(one) for one in search.asked("s")} == {
        text_of(Configuration.parse(r.config)) for r in records
    }
    more = run(search)
    assert len(more) == 4 and not {r.key for r in more} & {r.key for r in records}
    assert all(trial.state == TrialState.COMPLETE for trial in stored(path))


def test_another_objective_is_another_study_filled_from_the_same_records(path: Path) -> None:
    records = run(OptunaSearch(config(8), path))
    search = OptunaSearch(config(8, objective="log_skewness"), path)
    search.tell(records)
    assert search.ask("s", 4) == []
    values = {trial.value for trial in stored(path)}
    for name in ("tail_separation", "log_skewness"):
        assert {record_objective(name, r) for r in records} <= values


def test_a_default_outside_the_space_is_drawn_first_and_does_no_harm(path: Path) -> None:
    default = {"clusterer": "trimmed", "alignment": "positive", "score": "mahalanobis"}
    search = OptunaSearch(config(20, default=default), path)
    assert search.ask("s", 1) == [Configuration.parse(default)]
    assert len(run(search)) == 20
    assert stored(path)[0].params == {}


def test_records_from_outside_the_space_are_left_alone(path: Path) -> None:
    search = OptunaSearch(config(), path)
    search.tell([record(Configuration.parse({"clusterer": "trimmed", "alignment": "mmd"}))])
    assert search.asked("s") == []


def test_the_default_is_drawn_also_where_earlier_records_fill_the_samples(path: Path) -> None:
    records = run(OptunaSearch(config(4), path))
    other = config(4, default={**DEFAULT, "keep": 0.5})
    search = OptunaSearch(other, path)
    search.tell(records)
    assert search.ask("s", 4) == [Configuration.parse({**DEFAULT, "keep": 0.5})]


def test_a_success_after_a_retry_replaces_the_failure(path: Path) -> None:
    search = OptunaSearch(config(2), path)
    one, other = search.ask("s", 2)
    search.tell([record(one, state="failed"), record(other, state="failed")])
    again = OptunaSearch(config(2), path)
    again.tell([record(one), record(one), record(other, state="failed")])
    assert keys(again.asked("s")) == keys([one, other]) and again.ask("s", 2) == []
    last = {trial.user_attrs["configuration"]: trial.state for trial in stored(path)}
    assert last == {text_of(one): TrialState.COMPLETE, text_of(other): TrialState.FAIL}


def test_settings_are_searched_apart(path: Path) -> None:
    search = OptunaSearch(config(6), path)
    first = search.ask("s", 6)
    search.tell([record(one) for one in first])
    other = search.ask("t", 6)
    assert search.ask("s", 6) == [] and len(other) == 6
    assert other[0] == first[0] and set(keys(first)) != set(keys(other)), "draws are named after the setting"
    assert search.ask("t", 6) == other


def test_two_searches_on_one_file_see_what_the_other_asked_and_told(path: Path) -> None:
    one, other = OptunaSearch(config(6), path), OptunaSearch(config(6), path)
    asked = one.ask("s", 2)
    assert other.ask("s", 2) == asked
    other.tell([record(asked[0])])
    assert len(one.ask("s", 2)) == 2 and keys(one.asked("s")) == keys([*asked, one.ask("s", 2)[1]])
    one.tell([record(asked[0]), record(asked[1])])
    assert sum(trial.state == TrialState.COMPLETE for trial in stored(path)) == 2


@pytest.mark.parametrize("content", [b"no database " * 200, None])
def test_a_file_that_cannot_be_used_is_named_with_the_remedy(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "optuna.db" if content else tmp_path / "absent" / "optuna.db"
    if content:
        path.write_bytes(content)
    with pytest.raises(TwofoldError, match=rf"{path}.*remove it: what was run is read from the records"):
        OptunaSearch(config(), path)


def test_a_truncated_file_is_noticed(path: Path) -> None:
    run(OptunaSearch(config(12), path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TwofoldError, match="remove it"):
        OptunaSearch(config(12), path)
