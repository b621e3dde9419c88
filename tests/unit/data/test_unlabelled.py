from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from trainables.data.base import build_dataset
from trainables.errors import TwofoldError


def fill(folder: Path, count: int) -> None:
    (folder / "batch" / "deep").mkdir(parents=True)
    for index in range(count):
        below = folder if index % 2 else folder / "batch" / "deep"
        Image.new("RGB", (3, 3)).save(below / f"{index}.png")


def test_one_task_over_two_folders(tmp_path: Path) -> None:
    fill(tmp_path / "a", 6)
    fill(tmp_path / "b", 9)
    (tmp_path / "b" / ".thumbs").mkdir()
    Image.new("RGB", (3, 3)).save(tmp_path / "b" / ".thumbs" / "x.png")
    dataset = build_dataset("unlabelled", source=tmp_path / "a", target=tmp_path / "b")
    assert not dataset.labelled
    assert (dataset.domains(), dataset.pairs()) == (["source", "target"], [("source", "target")])
    assert dataset.classes() == ["normal"]
    source, target = dataset.domain("source"), dataset.domain("target")
    assert (len(source.ids), len(target.ids)) == (6, 9)
    assert list(target.ids) == sorted(target.ids)
    assert dataset.class_of("source") == dict.fromkeys(source.ids, "normal")
    assert dataset.class_of("target") == {}
    assert target.read(0).size == (3, 3)


def test_same_name_in_two_folders_is_two_images(tmp_path: Path) -> None:
    fill(tmp_path / "a", 4)
    fill(tmp_path / "b", 4)
    dataset = build_dataset("unlabelled", source=tmp_path / "a", target=tmp_path / "b")
    assert not set(dataset.domain("source").ids) & set(dataset.domain("target").ids)


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "a", 2)
    (tmp_path / "empty").mkdir()
    missing = build_dataset("unlabelled", source=tmp_path / "a", target=tmp_path / "absent")
    with pytest.raises(TwofoldError, match=r"`target`: there is no folder .*absent"):
        missing.domain("target")
    empty = build_dataset("unlabelled", source=tmp_path / "empty", target=tmp_path / "a")
    with pytest.raises(TwofoldError, match=r"`source`: no image .*empty or below"):
        empty.domain("source")


@pytest.mark.parametrize(("source", "target"), [("a", "a"), ("a", "a/batch"), ("a/batch", "a")])
def test_overlapping_folders_are_refused(tmp_path: Path, source: str, target: str) -> None:
    fill(tmp_path / "a", 2)
    dataset = build_dataset("unlabelled", source=tmp_path / source, target=tmp_path / target)
    with pytest.raises(TwofoldError, match="overlap"):
        dataset.domain("source")


def test_unknown_domain(tmp_path: Path) -> None:
    dataset = build_dataset("unlabelled", source=tmp_path / "a", target=tmp_path / "b")
    with pytest.raises(TwofoldError, match="Did you mean 'source'"):
        dataset.domain("sourse")
