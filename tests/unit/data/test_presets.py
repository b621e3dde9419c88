from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from trainables.data.base import Dataset, build_dataset
from trainables.errors import TwofoldError

OFFICE31 = [
    "back_pack",
    "bookcase",
    "bottle",
    "desk_chair",
    "desk_lamp",
    "headphones",
    "keyboard",
    "laptop_computer",
    "mouse",
    "pen",
]
OFFICE_HOME = [
    "bike",
    "calculator",
    "drill",
    "hammer",
    "kettle",
    "knives",
    "pan",
    "paper_clip",
    "scissors",
    "soda",
]
VISDA = [
    "aeroplane",
    "bicycle",
    "bus",
    "car",
    "horse",
    "knife",
    "motorcycle",
    "person",
    "plant",
    "skateboard",
    "train",
    "truck",
]
PACS = ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]


def fill(domain: Path, classes: Iterable[str]) -> None:
    for label in classes:
        (domain / label).mkdir(parents=True)
        Image.new("RGB", (3, 3)).save(domain / label / "frame_0001.png")


def preset(name: str, root: Path) -> Dataset:
    return build_dataset(name, root=root)


def test_office31_with_and_without_images_folder(tmp_path: Path) -> None:
    fill(tmp_path / "amazon" / "images", [*OFFICE31, "bike", "trash_can"])
    fill(tmp_path / "webcam", [*OFFICE31, "bike"])
    dataset = preset("office31", tmp_path)
    assert dataset.classes() == OFFICE31
    assert dataset.pairs() == [("webcam", "amazon"), ("amazon", "webcam")]
    assert sorted(dataset.class_of("amazon").values()) == OFFICE31
    assert sorted(dataset.class_of("webcam").values()) == OFFICE31


@pytest.mark.parametrize("separator", ["_", " ", "-"])
def test_office_home_spellings(tmp_path: Path, separator: str) -> None:
    spelt = [name.replace("_", separator).title() for name in OFFICE_HOME]
    for domain in ("Art", "Clipart", "Product", f"Real{separator}World"):
        fill(tmp_path / domain, [*spelt, "Alarm_Clock"])
    dataset = preset("office_home", tmp_path)
    assert dataset.domains() == ["art", "clipart", "product", "real_world"]
    assert dataset.pairs() == [("clipart", "product"), ("product", "clipart")]
    assert sorted(dataset.class_of("real_world").values()) == OFFICE_HOME == dataset.classes()


def test_spelling_does_not_change_ids(tmp_path: Path) -> None:
    fill(tmp_path / "one" / "Clipart", [name.title() for name in OFFICE_HOME])
    fill(tmp_path / "two" / "clip art".replace(" ", ""), OFFICE_HOME)
    first, second = (preset("office_home", tmp_path / copy).domain("clipart") for copy in ("one", "two"))
    assert first.ids == second.ids


def test_visda_layout(tmp_path: Path) -> None:
    fill(tmp_path / "train", VISDA)
    fill(tmp_path / "validation", VISDA)
    (tmp_path / "train" / "image_list.txt").write_text("aeroplane/x.png 0")
    (tmp_path / "test" / "trunk0").mkdir(parents=True)
    dataset = preset("visda", tmp_path)
    assert dataset.pairs() == [("train", "validation")]
    assert dataset.classes() == VISDA
    assert len(dataset.domain("train").ids) == 12


def test_pacs_without_cartoon(tmp_path: Path) -> None:
    for domain in ("photo", "art_painting", "sketch"):
        fill(tmp_path / domain, PACS)
    dataset = preset("pacs", tmp_path)
    assert dataset.pairs() == [("photo", "art_painting"), ("photo", "sketch")]
    assert dataset.classes() == PACS


def test_no_pair_left(tmp_path: Path) -> None:
    fill(tmp_path / "photo", PACS)
    with pytest.raises(
        TwofoldError, match=r"has the folders photo, but none of the pairs photo->art_painting"
    ):
        preset("pacs", tmp_path).pairs()


def test_missing_class_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "photo", PACS[:-1])
    with pytest.raises(TwofoldError, match=r"domain 'photo' in .* lacks the classes person"):
        preset("pacs", tmp_path).domain("photo")


def test_two_spellings_of_one_class(tmp_path: Path) -> None:
    fill(tmp_path / "clipart", [*OFFICE_HOME, "Paper-Clip"])
    with pytest.raises(TwofoldError, match=r"Paper-Clip and .*paper_clip are both 'paper_clip'"):
        preset("office_home", tmp_path).domain("clipart")
