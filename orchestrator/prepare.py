"""Preparation: draw the settings, decode, encode and cache every image once, for all trials of a sweep."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow.parquet as pq

from orchestrator.config import SweepConfig
from orchestrator.plan import Grid
from trainables.backbones.base import TAPS, Finetune, describe_backbone
from trainables.cache import ArrayCache, write_atomically
from trainables.configuration import Configuration
from trainables.data.base import Dataset, build_dataset
from trainables.data.settings_file import read_settings
from trainables.data.tiled import tiled_domain, tiled_name
from trainables.encoders.base import build_encoder
from trainables.errors import TwofoldError
from trainables.extract import Encode, InProcess, Output, extract
from trainables.images import ImageTransform, decode, domain_content
from trainables.memory import keep_freed_memory
from trainables.methods.base import Part, Rows, SettingArrays
from trainables.seeding import canonical_json, stable_hash
from trainables.types import ImageDomain, Setting

Source = Literal["features", "activations"]
Model = tuple[Source, str]
"""What is computed and by which model: see ``ArrayName``."""
LARGE = 2000
"""Images from which on a domain is shared among the workers of a cluster, which first have to start."""


@dataclass(frozen=True)
class ArrayName:
    """Address of one domain array.

    Attributes:
        kind: frozen encoder ``features``, or the ``activations`` a trainable tail reads.
        model: encoder name, or ``backbone|finetune``.
        domain: domain name.
        pseudo: the patch-shuffled T_sel images of the domain instead of the domain itself.
    """

    kind: Source
    model: str
    domain: str
    pseudo: bool = False


@dataclass(frozen=True)
class SettingIndex:
    """Where the images of a setting stand in the domain arrays.

    Attributes:
        description: dataset, source, target, normal_class, contamination, split_seed.
        source, target: domain names.
        rows: part -> (n,) row positions in its domain's array.
        true_normals: (n,) bool over T_fit, present only where a unit asks for ``oracle`` supervision.
    """

    key: str
    description: Mapping[str, Any]
    source: str
    target: str
    rows: Mapping[Part, np.ndarray]
    true_normals: np.ndarray | None


@dataclass(frozen=True)
class Prepared:
    """All arrays of a sweep and the index of its settings; read-only and shared by every trial."""

    arrays: Mapping[ArrayName, np.ndarray]
    settings: Mapping[str, SettingIndex]
    image_size: int | None

    def setting_arrays(self, setting: str, configuration: Configuration) -> SettingArrays:
        """The rows of one setting that a configuration needs."""
        index = self.settings[setting]
        frozen, trained = feature_model(configuration), activation_model(configuration)
        return SettingArrays(
            features=self._parts(index, "features", frozen) if frozen else {},
            inputs=self._parts(index, "activations", trained) if trained else {},
        )

    def _parts(self, index: SettingIndex, kind: Source, model: str) -> dict[Part, Rows]:
        parts: dict[Part, Rows] = {}
        for part, rows in index.rows.items():
            domain = _domain_of(index, part)
            parts[part] = Rows(self.arrays[ArrayName(kind, model, domain, part == "pseudo")], rows)
        return parts


def _domain_of(index: SettingIndex, part: Part) -> str:
    """Name of the domain whose array holds a part."""
    if part == "tiled":
        return tiled_name(index.target)
    return index.source if part.startswith("source") else index.target


def feature_model(configuration: Configuration) -> str | None:
    """Name of the frozen model whose features a configuration clusters; None where it clusters nothing."""
    if configuration.encoder == "backbone":
        return f"backbone|{configuration.as_dict()['backbone']}"
    return configuration.encoder


def activation_model(configuration: Configuration) -> str | None:
    """``backbone|finetune`` of a configuration that trains, else None."""
    if configuration.method is None:
        return None
    values = configuration.as_dict()
    return f"{values['backbone']}|{values['finetune']}"


def open_dataset(config: SweepConfig) -> Dataset:
    """Build the dataset of a sweep from the data section."""
    return build_dataset(config.data.dataset, **_dataset_arguments(config))


def draw_settings(config: SweepConfig, fingerprints: Mapping[str, str]) -> list[Setting]:
    """Draw the settings in the oracle's own process, the only one that sees labels.

    A second call with the same data section reads what was drawn before.

    Args:
        config: the sweep.
        fingerprints: what ``domain_fingerprints`` says of its images.

    Raises:
        TwofoldError: what the oracle says of the data.
    """
    request = {
        "dataset": config.data.dataset,
        "arguments": _dataset_arguments(config),
        "pairs": config.data.pairs,
        "classes": config.data.classes,
        "anomaly_classes": config.data.anomaly_classes,
        "contamination": config.data.contamination,
        "split_seeds": config.data.split_seeds,
        "transductive": config.data.transductive,
    }
    drawn = config.folder / "settings.parquet"
    stamp = config.folder / "settings.json"
    content = canonical_json({"request": request, "data": dict(fingerprints)})
    if not (drawn.exists() and stamp.exists() and stamp.read_text() == content):
        _run_oracle(config.folder, request)
        write_atomically(stamp, lambda path: _write_text(path, content))
    return list(read_settings(drawn))


def domain_fingerprints(config: SweepConfig) -> dict[str, str]:
    """Fingerprint of every domain the sweep uses."""
    dataset = open_dataset(config)
    return {name: dataset.domain(name).fingerprint for name in _domains_used(config, dataset)}


def image_hashes(config: SweepConfig) -> dict[str, str]:
    """Hash of the images of every domain the sweep uses, the same for every copy; every image is read."""
    dataset = open_dataset(config)
    return {name: dataset.image_hash(name) for name in _domains_used(config, dataset)}


def _domains_used(config: SweepConfig, dataset: Dataset) -> list[str]:
    return sorted({name for pair in config.data.pairs or dataset.pairs() for name in pair})


def _run_oracle(folder: Path, request: Mapping[str, Any]) -> None:
    path = folder / "request.json"
    path.write_text(json.dumps(request, indent=1))
    command = [sys.executable, "-m", "orchestrator.oracle", "settings", str(path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise TwofoldError(done.stderr.strip())
    if done.returncode != 0:
        raise RuntimeError(f"drawing the settings failed:\n{done.stderr}")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)


def _dataset_arguments(config: SweepConfig) -> dict[str, str]:
    given = {"root": config.data.root, "source": config.data.source, "target": config.data.target}
    return {name: str(value) for name, value in given.items() if value is not None}


def check_feasible(grid: Grid, settings: Sequence[Setting]) -> None:
    """Refuse a K larger than the smallest unlabelled target training set.

    Raises:
        TwofoldError: names k and the setting.
    """
    smallest = min(settings, key=lambda setting: len(setting.target_fit))
    for configuration in grid.configurations:
        k = configuration.as_dict().get("k", 1)
        if k > len(smallest.target_fit):
            raise TwofoldError(
                f"k = {k} is larger than the unlabelled target training set of {smallest.task} "
                f"({len(smallest.target_fit)} images); lower `k` in the search space"
            )


def prepare(
    config: SweepConfig, grid: Grid, settings: Sequence[Setting], encode: Encode | None = None
) -> Prepared:
    """Decode and encode what the grid needs, or read it from the cache.

    Args:
        config: the sweep.
        grid: its configurations.
        settings: its settings.
        encode: runs a network over the batches of large domains; others are encoded in this process.

    Raises:
        TwofoldError: an image or a checkpoint cannot be read, or the cache cannot be written.
    """
    keep_freed_memory()
    domains = domains_of(open_dataset(config), settings, grid)
    models = models_of(grid.configurations)
    cache = ArrayCache(config.cache, 1e9 * config.cache_gb)
    here = InProcess()
    arrays: dict[ArrayName, np.ndarray] = {}
    for (name, pseudo), domain in domains.items():
        shared = encode if encode is not None and len(domain.ids) >= LARGE else here
        computed = domain_arrays(models, domain, pseudo, config.data.image_size, cache, shared)
        arrays.update({ArrayName(*model, name, pseudo): array for model, array in computed.items()})
    normals = _true_normals(config) if any(c.supervision.needs_labels for c in grid.configurations) else {}
    index = {setting.key: _index(setting, domains, normals.get(setting.key)) for setting in settings}
    return Prepared(arrays, index, config.data.image_size)


def domains_of(
    dataset: Dataset, settings: Sequence[Setting], grid: Grid
) -> dict[tuple[str, bool], ImageDomain]:
    """(domain name, pseudo) -> images.

    The pseudo domains hold the T_sel images that get shuffled. Where a configuration pushes them away, there
    are tiled domains of the T_fit images.
    """
    tiles = any(configuration.pushes_tiled for configuration in grid.configurations)
    used = {name for setting in settings for name in (setting.task.source, setting.task.target)}
    domains = {(name, False): dataset.domain(name) for name in sorted(used)}
    for target in sorted({setting.task.target for setting in settings}):
        held_out = {i for s in settings if s.task.target == target for i in s.target_sel}
        domains[target, True] = subset(domains[target, False], held_out)
        if tiles:
            trained_on = {i for s in settings if s.task.target == target for i in s.target_fit}
            domains[tiled_name(target), False] = tiled_domain(subset(domains[target, False], trained_on))
    return domains


def subset(domain: ImageDomain, ids: Iterable[str]) -> ImageDomain:
    """The images of a domain whose id is in ``ids``, in the domain's order."""
    wanted = set(ids)
    positions = [i for i, image in enumerate(domain.ids) if image in wanted]
    return replace(
        domain,
        ids=tuple(domain.ids[i] for i in positions),
        fingerprint=stable_hash([domain.fingerprint, sorted(wanted)]),
        read=lambda i: domain.read(positions[i]),
    )


def models_of(configurations: Sequence[Configuration]) -> list[Model]:
    """Every (kind, model) that some configuration reads, in a fixed order."""
    wanted: set[Model] = set()
    for configuration in configurations:
        frozen, trained = feature_model(configuration), activation_model(configuration)
        if frozen:
            wanted.add(("features", frozen))
        if trained:
            wanted.add(("activations", trained))
    return sorted(wanted)


def domain_arrays(
    models: Sequence[Model],
    domain: ImageDomain,
    pseudo: bool,
    image_size: int | None,
    cache: ArrayCache,
    encode: Encode,
) -> dict[Model, np.ndarray]:
    """Every array of one domain: images where a whole network is trained, the rest in few passes."""
    arrays: dict[Model, np.ndarray] = {}
    outputs: dict[Model, Output] = {}
    for kind, name in models:
        output = _output(kind, name, image_size)
        if isinstance(output, Output):
            outputs[kind, name] = output
        else:
            arrays[kind, name] = decode(domain, output, cache, pseudo)
    return arrays | dict(
        zip(outputs, extract(domain, list(outputs.values()), cache, pseudo, encode), strict=True)
    )


def are_cached(
    models: Sequence[Model], domain: ImageDomain, pseudo: bool, image_size: int | None, cache: ArrayCache
) -> bool:
    """Whether the cache has every array of one domain."""
    for kind, name in models:
        output = _output(kind, name, image_size)
        if isinstance(output, Output):
            found = cache.read(output.tap, output.content(domain, pseudo))
        else:
            found = cache.read("images", domain_content(domain, output, pseudo))
        if found is None:
            return False
    return True


def _output(kind: Source, name: str, image_size: int | None) -> Output | ImageTransform:
    """Where a network gives what a model stands for, or the geometry of images that are read as they are."""
    if kind == "features" and not name.startswith("backbone|"):
        return Output(build_encoder(name, image_size).pretrained, "features")
    backbone, finetune = name.removeprefix("backbone|"), "head"
    if kind == "activations":
        backbone, finetune = name.rsplit("|", 1)
    pretrained = describe_backbone(backbone, finetune, image_size)
    if kind == "features":
        return Output(pretrained, "features")
    tap = TAPS.get(cast(Finetune, finetune))
    return pretrained.transform if tap is None else Output(pretrained, tap)


def _true_normals(config: SweepConfig) -> dict[str, set[str]]:
    """Setting key -> true normals of T_fit, for the oracle upper bound that the user asked to train."""
    table = pq.read_table(config.folder / "oracle" / "true_normals.parquet").to_pydict()
    normals: dict[str, set[str]] = {}
    for setting, image in zip(table["setting"], table["id"], strict=True):
        normals.setdefault(setting, set()).add(image)
    return normals


def _index(
    setting: Setting, domains: Mapping[tuple[str, bool], ImageDomain], normals: set[str] | None
) -> SettingIndex:
    source = _positions(domains[setting.task.source, False])
    target = _positions(domains[setting.task.target, False])
    shuffled = _positions(domains[setting.task.target, True])
    rows: dict[Part, np.ndarray] = {
        "source_fit": np.array([source[i] for i in setting.source_fit]),
        "source_val": np.array([source[i] for i in setting.source_val]),
        "target_fit": np.array([target[i] for i in setting.target_fit]),
        "target_sel": np.array([target[i] for i in setting.target_sel]),
        "pseudo": np.array([shuffled[i] for i in setting.target_sel]),
        "test": np.array([target[i] for i in setting.test]),
    }
    if tiles := domains.get((tiled_name(setting.task.target), False)):
        tiled = _positions(tiles)
        rows["tiled"] = np.array([tiled[i] for i in setting.target_fit])
    mask = None if normals is None else np.array([image in normals for image in setting.target_fit])
    return SettingIndex(
        setting.key, setting.description, setting.task.source, setting.task.target, rows, mask
    )


def _positions(domain: ImageDomain) -> dict[str, int]:
    return {image: row for row, image in enumerate(domain.ids)}
