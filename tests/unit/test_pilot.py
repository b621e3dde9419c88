"""Which units a pilot runs: short ones, on small settings, of every kind that the sweep needs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from orchestrator.config import SweepConfig
from orchestrator.pilot import EPOCHS, MOST_TRAINED, WARM_UP_SEED, _choose, _Stage
from orchestrator.plan import Unit, enumerate_grid, plan_units
from orchestrator.prepare import ArrayName
from orchestrator.sampling import Samples
from orchestrator.work import Sizes, Workload
from trainables.methods.base import PARTS
from trainables.types import Setting, Task

OTHER = "timm:resnet18"
SPACE: list[dict[str, Any]] = [
    {"supervision": "source_only", "alignment": ["identity", "none"], "score": "source_centre"},
    {"alignment": "identity", "clusterer": ["all", "kmeans"], "k": [2, 5], "score": ["knn", "mahalanobis"]},
    {"alignment": ["mmd", "positive"], "clusterer": "density", "score": ["knn", "both_centres"]},
]
COUNTS = {("typeset", False): 30, ("mnist", False): 40, ("mnist", True): 10}


def setting(size: int) -> Setting:
    ids = tuple(str(i) for i in range(size))
    return Setting(Task("digits", "typeset", "mnist", str(size)), 0.1, 0, ids, ids, ids, ids, ids)


def sweep(**fixed: Any) -> list[Unit]:
    default = {"clusterer": "density", "alignment": "mmd", "score": "knn"}
    config = SweepConfig(name="demo", data={"dataset": "digits"}, default=default, space=SPACE, fixed=fixed)
    configurations = enumerate_grid(config).configurations
    return plan_units(config, configurations, [setting(1000), setting(50)], {"typeset": "a", "mnist": "b"})


def stage() -> _Stage:
    arrays = {ArrayName("features", "e", *domain): np.zeros((n, 3)) for domain, n in COUNTS.items()}
    return _Stage(Samples(arrays, COUNTS, []))


def kinds(units: list[Unit], sizes: dict[str, Sizes]) -> set[str]:
    return {work.kind for unit in units for work in Workload(sizes).of(unit)}


def test_every_kind_is_run_and_no_unit_is_one_of_the_sweep() -> None:
    """Also the scores of a backbone that is not the encoder, and clusterers that only trainings use."""
    for fixed in ({}, {"backbone": OTHER}):
        units, small = sweep(**fixed), stage()
        chosen = _choose(small, [setting(1000)], units, workers=2)
        real = {s.key: Sizes.of(s) for s in (setting(1000), setting(50))}
        assert kinds(chosen, small.sizes) == kinds(units, real)
        assert not {unit.key for unit in chosen} & {unit.key for unit in units}
        assert not {unit.bundle for unit in chosen} & {unit.bundle for unit in units}
        assert len({unit.key for unit in chosen}) == len(chosen) < len(units)


def test_each_worker_is_warmed_up_first() -> None:
    chosen = _choose(stage(), [setting(1000)], sweep(), workers=3)
    warm = [unit.seed >= WARM_UP_SEED for unit in chosen]
    assert warm == [True] * 3 + [False] * (len(chosen) - 3)


def test_trainings_are_short_and_differ_where_it_tells_something() -> None:
    small = stage()
    chosen = _choose(small, [setting(1000)], sweep(), workers=1)[1:]
    amounts: Counter[tuple[str, float, bool]] = Counter()
    for unit in chosen:
        if unit.trains:
            epochs, network, *_ = Workload(small.sizes).of(unit)
            amounts[epochs.kind, epochs.trained // MOST_TRAINED, network.rows > 3000] += 1
    for kind in {key[0] for key in amounts}:
        for epochs, many in ((1, True), (1, False), (EPOCHS, False)):
            assert amounts[kind, epochs, many], kind


def test_small_settings_have_the_sizes_they_say_and_rows_of_the_samples() -> None:
    small = stage()
    chosen = _choose(small, [setting(1000)], sweep(), workers=1)
    prepared = small.prepared(96)
    assert {unit.setting for unit in chosen} == set(prepared.settings)
    for key, index in prepared.settings.items():
        sizes = small.sizes[key]
        for part in PARTS:
            expected = sizes.target_sel if part == "pseudo" else getattr(sizes, part)
            domain = ("typeset" if part.startswith("source") else "mnist", part == "pseudo")
            assert len(index.rows[part]) == expected
            assert index.rows[part].max() < COUNTS[domain]
