"""The plan: settings x configurations x seeds, deduplicated by key and grouped into Ray trials."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.config import SweepConfig
from trainables.configuration import Configuration, IncompatibleChoices
from trainables.errors import TwofoldError
from trainables.seeding import canonical_json, stable_hash
from trainables.types import Setting

SCHEMA = 2
FREE_UNITS_PER_BUNDLE = 32


@dataclass(frozen=True)
class Unit:
    """One configuration on one setting with one seed.

    Attributes:
        key: hash of everything the result depends on; names the record and the MLflow run.
        setting: key of the setting.
        configuration: canonical flat mapping.
        seed: seed of weights, batches and clusterings.
        bundle: names the units that are leased, attempted and checkpointed together: those that share one
            training, or at most ``FREE_UNITS_PER_BUNDLE`` that share frozen features.
        trains: whether the bundle holds a training.
    """

    key: str
    setting: str
    configuration: Mapping[str, Any]
    seed: int
    bundle: str
    trains: bool


Member = tuple[str, Mapping[str, Any], bool]
"""Key, configuration and whether it trains: a unit before its bundle is known."""

T = TypeVar("T")


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


def default_configuration(config: SweepConfig) -> Configuration:
    """The configuration that is kept unless another one convinces."""
    return Configuration.parse({**config.fixed, **config.default})


def enumerate_grid(config: SweepConfig) -> Grid:
    """Every distinct configuration of the union of grids.

    Raises:
        TwofoldError: a value out of range, or nothing left to run.
    """
    default = default_configuration(config)
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
    config: SweepConfig,
    configurations: Sequence[Configuration],
    settings: Sequence[Setting],
    fingerprints: Mapping[str, str],
) -> list[Unit]:
    """All units of some configurations, each key once, in bundles that depend on nothing else."""
    flats = [(one.as_dict(), one.training_key, one.method is not None) for one in configurations]
    units: dict[str, Unit] = {}
    for setting in settings:
        for seed in config.seeds:
            shared: dict[str, list[Member]] = defaultdict(list)
            for flat, training, trains in flats:
                key = unit_key(config, setting, fingerprints, flat, seed)
                shared[training].append((key, flat, trains))
            for members in _bundles(shared.values()):
                name = stable_hash(sorted(key for key, _, _ in members))
                units.update({k: Unit(k, setting.key, flat, seed, name, t) for k, flat, t in members})
    return list(units.values())


def _bundles(shared: Iterable[list[Member]]) -> Iterable[list[Member]]:
    """One bundle per training; of the units that need none, some that share frozen features."""
    for members in shared:
        if members[0][2]:
            yield members
        else:
            yield from _chunks(sorted(members, key=lambda member: member[0]), FREE_UNITS_PER_BUNDLE)


def within_budget(units: Sequence[Unit], most: int | None) -> list[Unit]:
    """At most ``most`` units, in whole bundles where possible, taken from all settings in turn."""
    if most is None or len(units) <= most:
        return list(units)
    bundles: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        bundles[unit.bundle].append(unit)
    queues: dict[str, list[list[Unit]]] = defaultdict(list)
    for members in bundles.values():
        queues[members[0].setting].append(members)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*queues.values()))
    chosen: list[Unit] = []
    for members in (turn for turn in turns if turn is not None):
        if len(chosen) + len(members) <= most:
            chosen.extend(members)
    return chosen or list(bundles[units[0].bundle][:most])


def group_units(units: Sequence[Unit], bundles_per_trial: int) -> list[list[Unit]]:
    """Group units that share a setting and seed, at most ``bundles_per_trial`` trainings in a group.

    Bundles that train nothing go with those that train on the same setting: they share trusted sets, which a
    group finds once. Groups with the most trainings come first, so that no worker is left with a long one at
    the end.
    """
    together: dict[tuple[str, int], dict[str, list[Unit]]] = defaultdict(lambda: defaultdict(list))
    for unit in units:
        together[unit.setting, unit.seed][unit.bundle].append(unit)
    sized: list[tuple[int, list[Unit]]] = []
    for bundles in together.values():
        trainings = [bundle for bundle in bundles.values() if bundle[0].trains]
        others = [bundle for bundle in bundles.values() if not bundle[0].trains]
        count = -(-max(len(trainings), len(others)) // bundles_per_trial)
        for i in range(count):
            chunk = trainings[i * bundles_per_trial : (i + 1) * bundles_per_trial]
            members = [unit for bundle in [*chunk, *others[i::count]] for unit in bundle]
            sized.append((len(chunk), members))
    return [members for _, members in sorted(sized, key=lambda item: -item[0])]


def _chunks(items: list[T], size: int) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
