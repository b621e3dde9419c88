"""A sample of each domain, prepared as the sweep does it: arrays for a pilot, and the seconds they took."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.config import SweepConfig
from orchestrator.plan import Grid
from orchestrator.prepare import (
    ArrayName,
    Model,
    are_cached,
    domain_arrays,
    domains_of,
    models_of,
    open_dataset,
    subset,
)
from orchestrator.work import Sample, Work
from trainables.cache import ArrayCache
from trainables.extract import InProcess
from trainables.types import ImageDomain, Setting

SAMPLE = 112
"""Images of a domain that a pilot encodes, or more where a K-means needs them."""
FIRST = 16
"""The first of them, apart: what a domain takes whatever its size is seen from the two."""

PREPARING = "decoding and encoding images"


@dataclass(frozen=True)
class Samples:
    """Arrays of a few images of each domain.

    Attributes:
        arrays: as ``prepare`` names them.
        counts: (domain, patch-shuffled) -> images of it.
        measured: what was prepared and the wall seconds that took.
    """

    arrays: Mapping[ArrayName, np.ndarray]
    counts: Mapping[tuple[str, bool], int]
    measured: Sequence[Sample]


def take_samples(config: SweepConfig, grid: Grid, settings: Sequence[Setting], scratch: Path) -> Samples:
    """Decode and encode images from all over each domain, with an empty cache.

    Args:
        config: the sweep.
        grid: its configurations.
        settings: those whose domains are meant.
        scratch: an empty folder for the cache.

    Raises:
        TwofoldError: an image or a checkpoint cannot be read.
    """
    domains, models = domains_of(open_dataset(config), settings, grid), models_of(grid.configurations)
    cache, encode = ArrayCache(scratch), InProcess()

    def prepare(domain: ImageDomain, pseudo: bool, ids: Sequence[str]) -> dict[Model, np.ndarray]:
        some = subset(domain, ids)
        return domain_arrays(models, some, pseudo, config.data.image_size, cache, encode)

    # K-means finds no more clusters than there are different images.
    clusters = max(configuration.as_dict().get("k", 1) for configuration in grid.configurations)
    arrays: dict[ArrayName, np.ndarray] = {}
    counts: dict[tuple[str, bool], int] = {}
    measured: list[Sample] = []
    for (name, pseudo), domain in domains.items():
        ids = _spread(domain.ids, max(SAMPLE, clusters))
        if not measured:  # libraries are imported and the network is built
            prepare(domain, pseudo, ids[-2:])
        blocks = []
        for some in (ids[:FIRST], ids[FIRST:]):
            if some:
                started = time.perf_counter()
                blocks.append(prepare(domain, pseudo, some))
                took = time.perf_counter() - started
                measured.append(Sample([Work(PREPARING, starts=1, rows=len(some))], took))
        counts[name, pseudo] = len(ids)
        for model in models:
            arrays[ArrayName(*model, name, pseudo)] = np.concatenate([block[model] for block in blocks])
    return Samples(arrays, counts, measured)


def to_prepare(config: SweepConfig, grid: Grid, settings: Sequence[Setting]) -> list[Work]:
    """The domains that the cache does not have."""
    models, cache = models_of(grid.configurations), ArrayCache(config.cache, 1e9 * config.cache_gb)
    return [
        Work(PREPARING, starts=1, rows=len(domain.ids))
        for (_, pseudo), domain in domains_of(open_dataset(config), settings, grid).items()
        if not are_cached(models, domain, pseudo, config.data.image_size, cache)
    ]


def _spread(ids: Sequence[str], count: int) -> list[str]:
    """At most ``count`` ids from all over a domain."""
    positions = np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int)
    return [ids[position] for position in positions]
