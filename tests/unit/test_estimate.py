"""What is known of the units that are left: the sweep's own records, and what its budget reaches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import orchestrator.estimate
from orchestrator.config import SweepConfig
from orchestrator.cost import Fixed, Load, Machine
from orchestrator.estimate import Estimate, Estimator, middle_settings, spend_budget, this_machine
from orchestrator.ledger import Ledger
from orchestrator.plan import Unit, enumerate_grid, plan_units
from orchestrator.plan_table import duration, show_estimate
from orchestrator.storage import Storage
from tests.stubs import stub_record
from trainables.errors import TwofoldError
from trainables.types import Setting, Task

SPACE: list[dict[str, Any]] = [
    {"alignment": "identity", "clusterer": "kmeans", "k": [2, 5], "score": ["knn", "target_centre"]},
    {"alignment": "mmd", "clusterer": "kmeans", "k": 5, "score": ["knn", "target_centre"]},
]


def config(**values: Any) -> SweepConfig:
    default = {"clusterer": "kmeans", "k": 5, "alignment": "mmd", "score": "knn"}
    start: dict[str, Any] = {
        "name": "demo",
        "data": {"dataset": "digits"},
        "default": default,
        "space": SPACE,
    }
    return SweepConfig(**{**start, **values})


def setting(normal_class: str, size: int, target: str = "mnist") -> Setting:
    ids = tuple(str(i) for i in range(size))
    return Setting(Task("digits", "typeset", target, normal_class), 0.1, 0, ids, ids, ids, ids, ids)


SETTINGS = [setting("0", 10), setting("1", 40), setting("2", 20)]


def plan(settings: Sequence[Setting], **values: Any) -> list[Unit]:
    prints = {"typeset": "f1", "mnist": "f2", "optdigits": "f3"}
    return plan_units(config(**values), enumerate_grid(config(**values)).configurations, settings, prints)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Records of the middle setting: 1 ms for an image and epoch, 0.1 ms to cluster, 0.2 ms to score one."""
    ledger = Ledger(Storage(str(tmp_path)))
    ledger.open()
    for one in plan(SETTINGS[2:]):
        trained = 6 * 20 * 1e-3 if one.trains else 0.0
        seconds = {"train": trained, "cluster": 20 * 1e-4, "score": 80 * 2e-4}
        ledger.write(
            stub_record(one.key, setting=one.setting, config=dict(one.configuration), seconds=seconds)
        )
    return ledger


def without_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache has all images, and a pilot is an error."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a pilot was run although records tell everything")

    monkeypatch.setattr(orchestrator.estimate, "to_prepare", lambda *_: [])
    monkeypatch.setattr(orchestrator.estimate, "take_samples", refuse)


def test_records_of_the_sweep_are_enough(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    without_images(monkeypatch)
    left = plan(SETTINGS[:2])
    estimator = Estimator(config(), enumerate_grid(config()), SETTINGS, 1.0)
    found = estimator.estimate([left], plan(SETTINGS[2:]), ledger)
    assert found.piloted == 0 and found.images == 0 and found.fixed.driver == 0
    # In each setting one Ray trial: a training, the two trusted sets, and six units with a score each.
    expected = [6 * size * 1e-3 + 2 * size * 1e-4 + 6 * 4 * size * 2e-4 for size in (10, 40)]
    assert sorted(found.load.rounds[0]) == pytest.approx(sorted(expected), rel=1e-6)
    assert found.load.units == len(left) == 12


def test_of_the_trainings_of_a_bundle_the_longest_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.5 s to start, 1 ms for an image and epoch, 0.1 ms to embed or cluster one, 0.2 ms to score one."""
    without_images(monkeypatch)
    values: dict[str, Any] = {"default": {"alignment": "mmd", "clusterer": "kmeans", "k": 5, "score": "knn"}}
    values["space"] = [{**values["default"], "epochs": [2, 6, 12]}]
    ledger = Ledger(Storage(str(tmp_path)))
    ledger.open()
    for one in plan(SETTINGS[1:], **values):
        size = {s.key: len(s.test) for s in SETTINGS}[one.setting]
        trained = 0.5 + one.configuration["epochs"] * size * 1e-3 + 8 * size * 1e-4
        seconds = {"train": trained, "cluster": size * 1e-4, "score": 4 * size * 2e-4}
        record = stub_record(one.key, setting=one.setting, config=dict(one.configuration), seconds=seconds)
        ledger.write(record)
    estimator = Estimator(config(**values), enumerate_grid(config(**values)), SETTINGS, 1.0)
    found = estimator.estimate([plan(SETTINGS[:1], **values)], plan(SETTINGS[1:], **values), ledger)
    embedded = 8 * 10 + 2 * 6 * 10  # every part again for each other number of epochs
    expected = 0.5 + 12 * 10 * 1e-3 + embedded * 1e-4 + 10 * 1e-4 + 3 * 4 * 10 * 2e-4
    assert found.load.units == 3 and found.load.rounds[0] == [pytest.approx(expected, rel=1e-6)]


def test_nothing_left_needs_no_pilot(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    without_images(monkeypatch)
    found = Estimator(config(), enumerate_grid(config()), SETTINGS, 1.0).estimate(
        [], plan(SETTINGS[2:]), ledger
    )
    assert found.load.units == 0 and found.load.useful_workers == 0


def test_what_no_record_tells_is_piloted(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score that was not recorded yet: its units alone are left to the pilot, and its kind is named."""
    without_images(monkeypatch)
    asked: list[Unit] = []
    monkeypatch.setattr(Estimator, "_pilot", lambda _, unknown: asked.extend(unknown) or [])
    space = [*SPACE, {"alignment": "identity", "clusterer": "kmeans", "k": 5, "score": "mahalanobis"}]
    estimator = Estimator(config(space=space), enumerate_grid(config(space=space)), SETTINGS, 1.0)
    with pytest.raises(TwofoldError, match="score mahalanobis of efficientnet_lite0"):
        estimator.estimate([plan(SETTINGS[:2], space=space)], plan(SETTINGS[2:]), ledger)
    assert [unit.configuration["score"] for unit in asked] == ["mahalanobis"] * 2


def test_a_budget_of_units_ends_in_the_round_that_spends_it() -> None:
    rounds = [plan(SETTINGS[:1]), plan(SETTINGS[1:2]), plan(SETTINGS[2:])]
    assert spend_budget(rounds, None) == rounds
    assert [len(units) for units in spend_budget(rounds, 6)] == [6]
    assert [len(units) for units in spend_budget(rounds, 8)] == [6, 2]
    assert [len(units) for units in spend_budget(rounds, 99)] == [6, 6, 6]


def test_a_pilot_takes_the_setting_of_middle_size() -> None:
    others = [setting("0", 5, "optdigits"), setting("1", 6, "optdigits"), setting("2", 7, "optdigits")]
    found = [(s.task.target, s.task.normal_class) for s in middle_settings([*SETTINGS, *others])]
    assert found == [("mnist", "2"), ("optdigits", "1")]


def test_workers_here_are_those_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    two = {"cpus_per_worker": 2, "gpus_per_worker": 0.5}
    assert this_machine(config(resources=two)) == Machine(8, 4, 2, 0.5)
    assert this_machine(config(resources={**two, "workers": 3})).workers == 3
    assert this_machine(config(resources={**two, "workers": 64})).workers == 4
    assert this_machine(config(resources={"cpus_per_worker": 16})).workers == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert this_machine(config(resources=two)).workers == 2


ESTIMATE = Estimate(
    Load([[60.0] * 16], 160, 0.2), Fixed(preparing=30), Machine(2, 2, 1, 0.5), 500, 9, 20, 0.1
)


def shown(found: Estimate = ESTIMATE, **values: Any) -> str:
    console = Console(width=110, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show_estimate(config(**values), found, console)
    return console.export_text()


def rows(text: str) -> list[list[str]]:
    """Cells of the table's body."""
    return [
        [cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line
    ]


def test_the_table_has_a_row_for_every_useful_number_of_workers() -> None:
    text = shown()
    assert [row[0] for row in rows(text)] == ["1", "2 (this machine)", "4", "8", "16"]
    assert (
        "9 short units, whose results are thrown away" in text
        and "500 images that the cache does not have, 30 s" in text
    )
    assert "Above 2, workers run on more machines" in text and "above 16" in text
    # On two cores: 16 trials of 60.05 s, 160 records of 6 ms, and 30 ms of the driver for each.
    assert "With 2 workers: 8 min 03 s in units" in text
    assert "cost" not in text and "GPU-hours" not in text and "load 0.1" not in text


def test_prices_and_gpus_get_their_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = shown(
        prices={"currency": "CHF", "worker_hour": 1.0, "gpu_hour": 2.0}, resources={"gpus_per_worker": 0.5}
    )
    assert "cost, CHF" in text and "GPU-hours" in text and "This machine has no GPU" in text
    for row in rows(text):
        hours, gpu, cost = map(float, row[3:])
        assert gpu == pytest.approx(hours / 2, abs=0.011)
        assert cost == pytest.approx(hours + 2 * gpu, abs=0.031)


def test_what_the_prediction_does_not_know_is_said() -> None:
    text = shown(
        replace(ESTIMATE, busy=1.9),
        search="optuna",
        samples=4,
        scheduler="asha",
        budget={"hours": 1.5},
    )
    for part in ("load 1.9 on 2 cores", "random draws", "`scheduler: asha`", "after 1.5 h"):
        assert part in text
    assert "no pilot of units was needed" in shown(replace(ESTIMATE, piloted=0))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (41.6, "42 s"),
        (99.7, "1 min 40 s"),
        (161, "2 min 41 s"),
        (1250, "21 min"),
        (7300, "2 h 02 min"),
    ],
)
def test_durations_are_as_fine_as_they_need_be(seconds: float, text: str) -> None:
    assert duration(seconds) == text
