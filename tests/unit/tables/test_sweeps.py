"""The sweeps behind a table: protocol, overrides, and what a copy of a dataset lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator.config import SweepConfig, load_config
from orchestrator.plan import enumerate_grid
from orchestrator.prepare import domain_fingerprints, image_hashes, open_dataset
from orchestrator.tables.definition import TableDefinition
from orchestrator.tables.sweeps import pairs_left_out, preset_of_table, resolved_data, sweep_of
from trainables.configuration import Configuration
from trainables.data.pacs import PACS
from trainables.errors import TwofoldError, UnknownName

DEFINITION = TableDefinition.model_validate(
    {
        "title": "t",
        "question": "q",
        "rows": [{"name": "a", "label": "a"}],
        "contamination": [0.0, 0.2],
    }
)


def preset(data: str = "digits", root: Path | None = None, fast: bool = False, *sets: str) -> SweepConfig:
    return preset_of_table(DEFINITION, data, root, fast, sets)


def test_the_protocol_of_the_table_replaces_that_of_the_preset() -> None:
    config = preset()
    assert config.data.contamination == [0.0, 0.2]
    assert config.data.split_seeds == [0, 1, 2] and config.seeds == [0]
    assert preset(fast=True).data.split_seeds == [0]
    assert config.data.pairs == [("typeset", "mnist"), ("typeset", "optdigits")]


def test_overrides_win_over_the_protocol() -> None:
    config = preset(
        "pacs", Path("x"), True, "data.split_seeds=[4, 5]", "fixed.encoder=timm:vit", "data.root=y"
    )
    assert config.data.split_seeds == [4, 5]
    assert config.fixed["encoder"] == "timm:vit" and config.fixed["backbone"] == "efficientnet_lite0"
    assert config.data.root == Path("y")


def test_pacs_is_measured_with_what_comes_installed_and_the_others_with_the_papers() -> None:
    assert preset("pacs", Path("x")).fixed["backbone"] == "efficientnet_lite0"
    assert preset("visda", Path("x")).fixed["backbone"] == "timm:resnet50"


def test_all_tables_of_a_dataset_share_a_ledger() -> None:
    assert preset().ledger == str(Path("runs/tables/digits/ledger").absolute())
    assert preset("digits", None, False, "output=/o").ledger == "/o/tables/digits/ledger"
    assert preset("digits", None, False, "ledger=s3://b/l").ledger == "s3://b/l"


def test_mistakes_are_named() -> None:
    with pytest.raises(UnknownName, match=r"no preset 'pacs2'\. Did you mean 'pacs'"):
        preset("pacs2")
    with pytest.raises(TwofoldError, match="--data pacs: name the folder of its images, --data-root DIR"):
        preset("pacs")
    with pytest.raises(TwofoldError, match="image_size"):
        preset("digits", None, False, "data.image_sise=3")
    with pytest.raises(TwofoldError, match=r"arguments of dataset 'digits'.*root"):
        open_dataset(preset("digits", Path("x")))


def test_a_sweep_of_rows_runs_these_and_no_others() -> None:
    flats: list[dict[str, Any]] = [
        {"alignment": "identity", "score": "knn", "k": 2},
        {"alignment": "identity", "score": "knn", "k": 2, "tau": 0.3},
        {"alignment": "mmd", "supervision": "oracle"},
    ]
    configurations = [Configuration.parse(flat) for flat in flats]
    config = sweep_of(preset("digits", None, False, "search=random", "samples=3"), "table-x", configurations)
    assert list(enumerate_grid(config).configurations) == [configurations[0], configurations[2]]
    assert config.name == "table-x" and config.ledger == preset().ledger


def test_a_sweep_of_rows_can_be_written_down(tmp_path: Path) -> None:
    """`twofold status` and its like read it back from its folder."""
    config = sweep_of(preset(), "table-x", [Configuration.parse({"alignment": "mmd"})])
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    assert load_config(path) == config


# ---- datasets in folders --------------------------------------------------------------------------


def draw_pacs(root: Path, *domains: str) -> Path:
    for domain in domains:
        for index, name in enumerate(PACS.selected_classes):
            path = root / domain / name / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (4, 4), (index, 0, 0)).save(path)
    return root


def test_pairs_without_images_are_left_out_and_told(tmp_path: Path) -> None:
    config = preset("pacs", draw_pacs(tmp_path, "photo", "sketch"))
    assert pairs_left_out(config) == {
        ("photo", "art_painting"): ["art_painting"],
        ("photo", "cartoon"): ["cartoon"],
    }
    data = resolved_data(config)
    assert data["pairs"] == [["photo", "sketch"]] and data["classes"] == sorted(PACS.selected_classes)
    assert "root" not in data and str(tmp_path) not in json.dumps(data)


def test_no_pair_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match="none of the pairs"):
        pairs_left_out(preset("pacs", draw_pacs(tmp_path, "sketch")))


def test_pairs_that_were_asked_for_are_not_left_out(tmp_path: Path) -> None:
    config = preset("pacs", draw_pacs(tmp_path, "photo"), False, "data.pairs=[[photo, sketch]]")
    assert pairs_left_out(config) == pairs_left_out(preset()) == {}


def test_a_copy_of_the_images_has_their_hash_and_another_image_has_not(tmp_path: Path) -> None:
    there, copy = (
        preset("pacs", draw_pacs(tmp_path / name, "photo", "sketch")) for name in ("there", "copy")
    )
    assert domain_fingerprints(there) != domain_fingerprints(copy), "files written at another time"
    assert image_hashes(there) == image_hashes(copy)
    before = image_hashes(copy)
    Image.new("RGB", (4, 4), (0, 99, 0)).save(tmp_path / "copy" / "sketch" / "dog" / "1.png")
    assert {name for name, found in image_hashes(copy).items() if found != before[name]} == {"sketch"}
    (tmp_path / "there" / "photo" / "dog" / "1.png").rename(tmp_path / "there" / "photo" / "dog" / "2.png")
    assert {name for name, found in image_hashes(there).items() if found != before[name]} == {"photo"}


def test_digits_have_a_hash_of_their_own() -> None:
    hashes = image_hashes(preset())
    assert set(hashes) == {"typeset", "mnist", "optdigits"} and len(set(hashes.values())) == 3
    assert hashes == image_hashes(preset())
