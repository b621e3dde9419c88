from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data.base import Dataset, build_dataset
from trainables.errors import TwofoldError


def paint(path: Path, value: int = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (9, 6), value if mode == "L" else (value, 0, 0)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for domain in ("photo", "sketch"):
        for label in ("cat", "dog"):
            for index in range(4):
                paint(tmp_path / domain / label / f"{index}.png", 10 * index)
    return tmp_path


def folder(root: Path) -> Dataset:
    return build_dataset("folder", root=str(root))


def test_layout(root: Path) -> None:
    dataset = folder(root)
    assert dataset.domains() == ["photo", "sketch"]
    assert dataset.classes() == ["cat", "dog"]
    assert dataset.pairs() == [("photo", "sketch"), ("sketch", "photo")]
    assert sorted(dataset.class_of("photo").values()) == ["cat"] * 4 + ["dog"] * 4
    assert set(dataset.class_of("photo")) == set(dataset.domain("photo").ids)


def test_only_shared_classes_can_be_normal(root: Path) -> None:
    paint(root / "sketch" / "horse" / "a.png")
    dataset = folder(root)
    assert dataset.classes() == ["cat", "dog"]
    assert "horse" in dataset.class_of("sketch").values()


def test_order_is_that_of_the_ids_whatever_the_file_system_lists(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = folder(root).domain("photo")
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listing(self), reverse=True)))
    reversed_listing = folder(root).domain("photo")
    assert list(expected.ids) == sorted(expected.ids) == list(reversed_listing.ids)
    assert reversed_listing.fingerprint == expected.fingerprint


def test_ids_belong_to_files_and_do_not_move_with_the_root(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = folder(root).class_of("photo")
    moved = tmp_path_factory.mktemp("moved") / "copy"
    root.rename(moved)
    paint(moved / "photo" / "cat" / "new.png")
    after = folder(moved).class_of("photo")
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1


def test_ids_are_opaque(root: Path) -> None:
    for index in range(200):
        for label in ("cat", "dog"):
            (root / "photo" / label / f"x{index}.png").write_bytes(b"")
    dataset = folder(root)
    labels, ids = dataset.class_of("photo"), dataset.domain("photo").ids
    assert not any("cat" in image or "dog" in image for image in ids)
    share_in_first_half = np.mean([labels[image] == "cat" for image in ids[: len(ids) // 2]])
    assert 0.35 < share_in_first_half < 0.65


def test_read_matches_id(root: Path) -> None:
    paint(root / "photo" / "cat" / "only.png", 77)
    before = folder(root).class_of("photo")
    (root / "photo" / "cat" / "only.png").rename(root / "photo" / "cat" / "renamed.png")
    domain = folder(root).domain("photo")
    renamed = next(index for index, image in enumerate(domain.ids) if image not in before)
    assert domain.read(renamed).getpixel((0, 0)) == (77, 0, 0)


def test_domain_survives_pickling(root: Path) -> None:
    domain = folder(root).domain("photo")
    assert pickle.loads(pickle.dumps(domain)).read(0).tobytes() == domain.read(0).tobytes()


def test_fingerprint_changes_with_a_file(root: Path) -> None:
    before = folder(root).domain("photo").fingerprint
    assert folder(root).domain("photo").fingerprint == before
    path = root / "photo" / "cat" / "0.png"
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert folder(root).domain("photo").fingerprint != before


def test_everything_that_is_no_image_is_skipped(root: Path) -> None:
    cats = root / "photo" / "cat"
    for name in (".DS_Store", ".hidden.png", "notes.txt", "scan.pdf", "Thumbs.db"):
        (cats / name).write_bytes(b"no image")
    paint(cats / "below" / "deep.png")
    paint(root / ".cache" / "cat" / "a.png")
    (root / "README.md").write_text("about")
    dataset = folder(root)
    assert dataset.domains() == ["photo", "sketch"]
    assert len(dataset.domain("photo").ids) == 8


@pytest.mark.parametrize("suffix", ["png", "JPG", "jpeg", "bmp", "tif", "webp", "gif", "ppm"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    paint(tmp_path / "a" / "cat" / f"one.{suffix}", 255)
    image = folder(tmp_path).domain("a").read(0)
    assert image.mode == "RGB"
    assert image.size == (9, 6)
    assert np.abs(np.asarray(image, int)[0, 0] - [255, 0, 0]).max() < 10


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "cat" / "one.bmp", 200)
    (tmp_path / "a" / "cat" / "one.bmp").rename(tmp_path / "a" / "cat" / "one.jpg")
    assert folder(tmp_path).domain("a").read(0).getpixel((0, 0)) == (200, 0, 0)


def test_transparent_images_lie_on_white(tmp_path: Path) -> None:
    (tmp_path / "a" / "cat").mkdir(parents=True)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a" / "cat" / "one.png")
    assert folder(tmp_path).domain("a").read(0).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_images_keep_their_contrast(tmp_path: Path) -> None:
    (tmp_path / "a" / "cat").mkdir(parents=True)
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a" / "cat" / "one.png")
    pixels = np.asarray(folder(tmp_path).domain("a").read(0), int)[..., 0]
    assert np.abs(pixels - ramp / 257).max() <= 1


def test_rotated_photographs_stand_upright(tmp_path: Path) -> None:
    (tmp_path / "a" / "cat").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (9, 6)).save(tmp_path / "a" / "cat" / "one.jpg", exif=exif)
    assert folder(tmp_path).domain("a").read(0).size == (6, 9)


def damaged(path: Path) -> None:
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("name", ["half.jpg", "half.png", "half.gif", "half.tif", "half.webp"])
def test_truncated_image_is_named(tmp_path: Path, name: str) -> None:
    damaged(tmp_path / "a" / "cat" / name)
    with pytest.raises(TwofoldError, match=rf"cannot read the image .*cat/{name}: .*Replace or remove"):
        folder(tmp_path).domain("a").read(0)


@pytest.mark.parametrize("content", [b"", b"just text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0junk"])
def test_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a" / "cat" / "fake.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(TwofoldError, match=r"cat/fake\.png"):
        folder(tmp_path).domain("a").read(0)


def test_image_removed_after_listing_is_named(root: Path) -> None:
    domain = folder(root).domain("photo")
    for path in (root / "photo").rglob("*.png"):
        path.unlink()
    with pytest.raises(TwofoldError, match=r"cannot read the image .*\.png"):
        domain.read(0)


def test_decompression_bomb_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(TwofoldError, match=r"cannot read the image .*\.png: .*decompression bomb"):
        folder(root).domain("photo").read(0)


def test_floating_point_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a" / "cat").mkdir(parents=True)
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a" / "cat" / "one.tif")
    with pytest.raises(TwofoldError, match=r"one\.tif: its 32-bit pixels"):
        folder(tmp_path).domain("a").read(0)


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match=r"`root`: there is no folder .*absent"):
        folder(tmp_path / "absent").domains()


def test_empty_root(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match=r"is empty; expected root/<domain>/<class>"):
        folder(tmp_path).domains()


def test_unknown_domain_names_the_nearest(root: Path) -> None:
    with pytest.raises(TwofoldError, match=r"unknown domain 'skech'.*Did you mean 'sketch'"):
        folder(root).domain("skech")


def test_empty_domain(root: Path) -> None:
    (root / "clipart").mkdir()
    with pytest.raises(TwofoldError, match=r"domain 'clipart' is empty: .*clipart has no class folders"):
        folder(root).domain("clipart")


def test_empty_class(root: Path) -> None:
    (root / "photo" / "horse").mkdir()
    (root / "photo" / "horse" / "notes.txt").write_text("soon")
    with pytest.raises(
        TwofoldError, match=r"class 'horse' of domain 'photo' is empty: .*photo/horse; add images"
    ):
        folder(root).domain("photo")


def test_one_domain_makes_no_pair(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "cat" / "one.png")
    with pytest.raises(TwofoldError, match="holds one domain"):
        folder(tmp_path).pairs()


def test_no_common_class(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "cat" / "one.png")
    paint(tmp_path / "b" / "dog" / "one.png")
    with pytest.raises(TwofoldError, match="no class is present in every domain"):
        folder(tmp_path).classes()
