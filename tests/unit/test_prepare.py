"""Preparation: every part of a setting finds its own images in the shared arrays, and no label is read."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from orchestrator.config import SweepConfig
from orchestrator.plan import enumerate_grid
from orchestrator.prepare import (
    ArrayName,
    Prepared,
    activation_model,
    check_feasible,
    domain_fingerprints,
    draw_settings,
    feature_model,
    open_dataset,
    prepare,
    subset,
)
from trainables.backbones.base import trunk_activations
from trainables.cache import ArrayCache
from trainables.configuration import Configuration
from trainables.data.tiled import tiled_domain
from trainables.encoders.base import encode_domain
from trainables.errors import TwofoldError
from trainables.methods.base import PARTS
from trainables.networks import Pretrained
from trainables.types import ImageDomain, Setting, Task

SIZE = 32
ENCODER = "efficientnet_lite0"
IDENTITY = {"alignment": "identity", "clusterer": "kmeans", "k": 2, "score": "knn"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for domain in ("photo", "sketch"):
        for shade, label in enumerate(("cat", "dog", "horse")):
            (folder / domain / label).mkdir(parents=True)
            for i in range(16):
                draws = np.random.default_rng([i, shade, len(domain)])
                pixels = draws.integers(60 * shade, 60 * shade + 80, size=(SIZE, SIZE, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / domain / label / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("checkpoints") / "test_resnet.pt"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        torch.save(timm.create_model("test_resnet").state_dict(), file)
    return f"timm:test_resnet/{file}"


def sweep(root: Path, folder: Path, space: list[dict[str, Any]] | None = None, **data: Any) -> SweepConfig:
    start = {"dataset": "folder", "root": root, "pairs": [["photo", "sketch"]], "classes": ["cat", "dog"]}
    return SweepConfig.model_validate({
        "name": "demo", "data": {**start, "image_size": SIZE, "contamination": [0.2], **data},
        "default": IDENTITY, "space": space or [IDENTITY], "output": folder, "cache": folder / "cache",
    })  # fmt: skip


@pytest.fixture(scope="module")
def drawn(
    root: Path, backbone: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SweepConfig, list[Setting], Prepared]:
    trained = {"alignment": "mmd", "clusterer": "kmeans", "k": 2, "backbone": backbone, "finetune": "head"}
    space = [IDENTITY, trained, {**trained, "encoder": "backbone"}]
    config = sweep(root, tmp_path_factory.mktemp("runs"), space)
    config.folder.mkdir(parents=True)
    settings = draw_settings(config, domain_fingerprints(config))
    return config, settings, prepare(config, enumerate_grid(config), settings)


def test_settings_are_those_asked_for(drawn: tuple[SweepConfig, list[Setting], Prepared]) -> None:
    _, settings, prepared = drawn
    assert [str(setting.task) for setting in settings] == ["photo->sketch/cat", "photo->sketch/dog"]
    assert set(prepared.settings) == {setting.key for setting in settings}


def test_every_part_finds_its_own_images(
    drawn: tuple[SweepConfig, list[Setting], Prepared], backbone: str
) -> None:
    """By id, with the encoder run on each part alone."""
    config, settings, prepared = drawn
    dataset, cache = open_dataset(config), ArrayCache(config.cache / "again")
    flat = {"alignment": "mmd", "clusterer": "kmeans", "backbone": backbone, "finetune": "head"}
    configuration = Configuration.parse(flat)
    for setting in settings:
        arrays = prepared.setting_arrays(setting.key, configuration)
        assert set(arrays.features) == set(arrays.inputs) == set(PARTS)
        for part in PARTS:
            ids = setting.target_sel if part == "pseudo" else getattr(setting, part)
            domain = dataset.domain("photo" if part.startswith("source") else "sketch")
            own = subset(domain, ids)
            order = [own.ids.index(image) for image in ids]
            shuffled = part == "pseudo"
            expected = encode_domain(own, ENCODER, SIZE, cache, shuffled=shuffled)[order]
            assert np.allclose(arrays.features[part].all(), expected, atol=1e-4), part
            inputs = trunk_activations(own, backbone, "head", SIZE, cache, shuffled=shuffled)[order]
            assert np.allclose(arrays.inputs[part].all(), inputs, rtol=1e-3, atol=1e-4), part
        assert not np.allclose(arrays.features["pseudo"].all(), arrays.features["target_sel"].all())


def test_tiled_images_stand_in_the_order_of_those_they_are_made_of(
    root: Path, backbone: str, tmp_path: Path
) -> None:
    few = {"supervision": "few_shot", "shots": 2, "alignment": "bce", "score": "knn"}
    config = sweep(root, tmp_path, [{**few, "backbone": backbone, "finetune": "head"}])
    config.folder.mkdir(parents=True)
    settings = draw_settings(config, domain_fingerprints(config))
    grid = enumerate_grid(config)
    prepared, sketch = prepare(config, grid, settings), open_dataset(config).domain("sketch")
    for setting in settings:
        arrays = prepared.setting_arrays(setting.key, grid.configurations[1])
        made = tiled_domain(subset(sketch, setting.target_fit))
        again = encode_domain(made, ENCODER, SIZE, ArrayCache(tmp_path / "again"))
        order = [made.ids.index(image) for image in setting.target_fit]
        assert np.allclose(arrays.features["tiled"].all(), again[order], atol=1e-4)
        assert not np.allclose(arrays.features["tiled"].all(), arrays.features["target_fit"].all(), atol=1e-2)


def test_features_of_the_backbone_have_unit_length(
    drawn: tuple[SweepConfig, list[Setting], Prepared], backbone: str
) -> None:
    _, settings, prepared = drawn
    flat = {"alignment": "mmd", "encoder": "backbone", "backbone": backbone, "finetune": "head"}
    configuration = Configuration.parse({**flat, "clusterer": "kmeans"})
    assert feature_model(configuration) == f"backbone|{backbone}"
    rows = prepared.setting_arrays(settings[0].key, configuration).features["target_fit"].all()
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_only_what_the_grid_reads_is_computed(drawn: tuple[SweepConfig, list[Setting], Prepared]) -> None:
    _, settings, prepared = drawn
    assert len(prepared.arrays) == 3 * 3, "three models, over source, target and shuffled target"
    assert all(not name.pseudo or name.domain == "sketch" for name in prepared.arrays)
    held_out = {image for setting in settings for image in setting.target_sel}
    shuffled = [array for name, array in prepared.arrays.items() if name.pseudo]
    assert all(len(array) == len(held_out) for array in shuffled)


def test_no_label_without_oracle_supervision(drawn: tuple[SweepConfig, list[Setting], Prepared]) -> None:
    config, _, prepared = drawn
    assert all(index.true_normals is None for index in prepared.settings.values())
    labelled = prepare(
        config, enumerate_grid(config.model_copy(update={"space": [{**IDENTITY, "supervision": "oracle"}]})),
        draw_settings(config, domain_fingerprints(config)),
    )  # fmt: skip
    for index in labelled.settings.values():
        assert index.true_normals is not None
        share = 1 - index.true_normals.mean()
        assert index.true_normals.shape == index.rows["target_fit"].shape and 0 < share < 0.5


def test_a_second_draw_reads_what_was_drawn(
    drawn: tuple[SweepConfig, list[Setting], Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, settings, _ = drawn

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert draw_settings(config, domain_fingerprints(config)) == settings
    for changed in (
        {"contamination": [0.1]},
        {"split_seeds": [1]},
        {"classes": ["cat"]},
        {"transductive": True},
    ):
        other = config.model_copy(update={"data": config.data.model_copy(update=changed)})
        with pytest.raises(AssertionError, match="drawn again"):
            draw_settings(other, domain_fingerprints(other))


def test_a_warm_cache_builds_no_network(
    drawn: tuple[SweepConfig, list[Setting], Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, settings, prepared = drawn

    def refuse(self: Pretrained) -> None:
        raise AssertionError("built although everything is cached")

    monkeypatch.setattr(Pretrained, "normalisation", refuse)
    again = prepare(config, enumerate_grid(config), settings)
    assert all(np.array_equal(again.arrays[name], array) for name, array in prepared.arrays.items())


def test_what_the_oracle_refuses_is_one_message(root: Path, tmp_path: Path) -> None:
    config = sweep(root, tmp_path, contamination=[0.9])
    config.folder.mkdir(parents=True)
    with pytest.raises(TwofoldError, match=r"0.9 is not reachable") as error:
        draw_settings(config, domain_fingerprints(config))
    assert "Traceback" not in str(error.value)
    assert not (config.folder / "settings.json").exists()


def test_unknown_names_in_the_data_section(root: Path, tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match="Did you mean 'photo'"):
        domain_fingerprints(sweep(root, tmp_path, pairs=[["foto", "sketch"]]))
    with pytest.raises(TwofoldError, match=r"unknown dataset 'foldr'. Did you mean 'folder'"):
        open_dataset(sweep(root, tmp_path, dataset="foldr"))


def test_fingerprints_follow_the_images(root: Path, tmp_path: Path) -> None:
    config = sweep(root, tmp_path)
    first = domain_fingerprints(config)
    assert set(first) == {"photo", "sketch"} and domain_fingerprints(config) == first
    extra = root / "sketch" / "cat" / "extra.png"
    try:
        Image.new("L", (8, 8)).save(extra)
        second = domain_fingerprints(config)
    finally:
        extra.unlink()
    assert second["photo"] == first["photo"] and second["sketch"] != first["sketch"]


def setting(target_fit: int, normal_class: str = "cat") -> Setting:
    ids = tuple(f"i{i}" for i in range(target_fit))
    return Setting(
        Task("folder", "photo", "sketch", normal_class), 0.1, 0, ("a",), ("b",), ids, ("c",), ("d",)
    )


def test_a_k_that_no_setting_can_have_is_refused_before_the_run(root: Path, tmp_path: Path) -> None:
    grid = enumerate_grid(sweep(root, tmp_path, [{**IDENTITY, "k": [2, 9]}]))
    check_feasible(grid, [setting(9), setting(20)])
    with pytest.raises(TwofoldError, match=r"k = 9 .*photo->sketch/dog \(8 images\); lower `k`"):
        check_feasible(grid, [setting(20), setting(8, "dog")])


def test_models_of_a_configuration() -> None:
    assert feature_model(Configuration.parse(IDENTITY)) == ENCODER
    assert activation_model(Configuration.parse(IDENTITY)) is None
    alone = Configuration.parse({"alignment": "none", "score": "source_centre"})
    assert feature_model(alone) is None
    assert activation_model(alone) == "efficientnet_lite0|last_stage"


def test_subset_keeps_the_domains_order_and_reads_the_right_images() -> None:
    domain = ImageDomain("d", ("a", "b", "c", "d"), "f", lambda i: Image.new("RGB", (1, 1), (i, 0, 0)))
    part = subset(domain, ["d", "b", "absent"])
    assert part.ids == ("b", "d") and part.name == "d"
    assert [part.read(i).getpixel((0, 0)) for i in range(2)] == [(1, 0, 0), (3, 0, 0)]
    prints = {subset(domain, ids).fingerprint for ids in (["a"], ["b"], ["a", "b"], ["b", "a"])}
    assert len(prints) == 3 and domain.fingerprint not in prints
    assert replace(domain, fingerprint="g").fingerprint not in prints
    assert ArrayName("features", "m", "d") != ArrayName("features", "m", "d", pseudo=True)
