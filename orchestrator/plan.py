"""The plan: settings x configurations x seeds, deduplicated by key and grouped into Ray trials."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config import SweepConfig
from trainables.configuration import Configuration, IncompatibleChoices
from trainables.errors import TwofoldError
from trainables.seeding import canonical_json, stable_hash
from trainables.types import Setting

SCHEMA = 1


@dataclass(frozen=True)
class Unit:
    """One configuration on one setting with one seed.

    Attributes:
        key: hash of everything the result depends on; names the record and the MLflow run.
        setting: key of the setting.
        configuration: canonical flat mapping.
        seed: seed of weights, batches and clusterings.
    """

    key: str
    setting: str
    configuration: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Grid:
    """The distinct configurations of a search space.

    Attributes:
        configurations: canonical, in the order of the file; the default first.
        default: the default configuration.
        skipped: reason -> number of combinations left out because their choices exclude each other.
    """

    configurations: tuple[Configuration, ...]
    default: Configuration
    skipped: Mapping[str, int]


def enumerate_grid(config: SweepConfig) -> Grid:
    """Every distinct configuration of the union of grids.

    Raises:
        TwofoldError: a value out of range, or nothing left to run.
    """
    default = Configuration.parse({**config.fixed, **config.default})
    found = {canonical_json(default.as_dict()): default}
    skipped: Counter[str] = Counter()
    runnable = False
    for block in config.space:
        for combination in _combinations({**config.fixed, **block}):
            try:
                configuration = Configuration.parse(combination)
            except IncompatibleChoices as error:
                skipped[str(error)] += 1
                continue
            runnable = True
            found.setdefault(canonical_json(configuration.as_dict()), configuration)
    if not runnable:
        raise TwofoldError(f"no combination of `space` can be run: {next(iter(skipped))}")
    return Grid(tuple(found.values()), default, dict(skipped))


def _combinations(block: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The product of a block's lists; a scalar counts as a list of one.

    Raises:
        TwofoldError: a list is empty.
    """
    values = {key: value if isinstance(value, list) else [value] for key, value in block.items()}
    empty = [key for key, value in values.items() if not value]
    if empty:
        raise TwofoldError(f"space: '{empty[0]}' is an empty list; give at least one value")
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def unit_key(
    config: SweepConfig, setting: Setting, fingerprints: Mapping[str, str], flat: Mapping[str, Any], seed: int
) -> str:
    """Hash of the data, the setting, the configuration, the seed and the schema version."""
    data = [fingerprints[setting.task.source], fingerprints[setting.task.target], config.data.image_size]
    return stable_hash([SCHEMA, data, setting.key, dict(flat), seed])


def plan_units(
    config: SweepConfig, grid: Grid, settings: Sequence[Setting], fingerprints: Mapping[str, str]
) -> list[Unit]:
    """All units of the sweep, each key once."""
    flats = [configuration.as_dict() for configuration in grid.configurations]
    units = {
        (key := unit_key(config, setting, fingerprints, flat, seed)): Unit(key, setting.key, flat, seed)
        for setting in settings
        for seed in config.seeds
        for flat in flats
    }
    return list(units.values())


def group_units(units: Sequence[Unit], trainings_per_trial: int) -> list[list[Unit]]:
    """Group units that share a setting and seed, at most ``trainings_per_trial`` trainings in a group.

    Units that differ in the score alone share one training and therefore always stay together. Groups with
    the most trainings come first, so that no worker is left with a long one at the end.
    """
    together: dict[tuple[str, int], dict[str, list[Unit]]] = defaultdict(lambda: defaultdict(list))
    trains: dict[str, bool] = {}
    for unit in units:
        configuration = Configuration.parse(unit.configuration)
        key = configuration.embedding_key
        together[unit.setting, unit.seed][key].append(unit)
        trains[key] = configuration.method is not None
    sized: list[tuple[int, list[Unit]]] = []
    for shared in together.values():
        free = [unit for key, members in shared.items() if not trains[key] for unit in members]
        trained = [members for key, members in shared.items() if trains[key]]
        chunks = [
            (len(chunk), [unit for members in chunk for unit in members])
            for chunk in _chunks(trained, trainings_per_trial)
        ]
        if free:
            chunks.append((0, free))
        sized.extend(chunks)
    return [members for _, members in sorted(sized, key=lambda item: -item[0])]


def _chunks(items: list[list[Unit]], size: int) -> list[list[list[Unit]]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
