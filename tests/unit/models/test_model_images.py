"""Decoding, transforms and patch-shuffled pseudo-anomalies."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainables.cache import ArrayCache
from trainables.errors import TwofoldError
from trainables.images import ImageTransform, decode, patch_shuffled
from trainables.types import ImageDomain


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def domain(count: int, fingerprint: str = "f", order: int = 1) -> ImageDomain:
    ids = tuple(f"image-{i}" for i in range(count))[::order]
    return ImageDomain("noise", ids, fingerprint, lambda i: noise(20, 31, int(ids[i].split("-")[1])))


@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("shape", [(50, 80), (91, 40), (64, 64)])
def test_transform_equals_timm_eval_transform(crop_pct: float, shape: tuple[int, int]) -> None:
    theirs = importlib.import_module("timm.data").create_transform(
        (3, 32, 32), interpolation="bicubic", crop_pct=crop_pct, normalize=False
    )
    image = noise(*shape)
    expected = np.asarray(theirs(image)).transpose(1, 2, 0)
    assert np.array_equal(ImageTransform(32, "bicubic", crop_pct)(image), expected)


def test_squash_keeps_the_whole_image() -> None:
    image = noise(20, 60)
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
    assert np.array_equal(ImageTransform(16, "bilinear", resize="squash")(image), expected)


def test_torchvision_ratio_survives_the_division() -> None:
    assert ImageTransform(224, crop_pct=224 / 232)(noise(232, 232)).shape == (224, 224, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    assert ImageTransform(8)(noise(10, 10).convert(mode)).shape == (8, 8, 3)


def test_decode_keeps_the_order_of_ids(tmp_path: Path) -> None:
    images = decode(domain(30), ImageTransform(8), ArrayCache(tmp_path))
    assert images.shape == (30, 8, 8, 3) and images.dtype == np.uint8
    for index in (0, 7, 29):
        assert np.array_equal(images[index], ImageTransform(8)(noise(20, 31, index)))


def test_decode_reads_each_image_once(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    first = decode(domain(5), ImageTransform(8), cache)

    def unreadable(index: int) -> Image.Image:
        raise AssertionError("read again")

    again = ImageDomain("noise", domain(5).ids, "f", unreadable)
    assert np.array_equal(decode(again, ImageTransform(8), cache), first)


@pytest.mark.parametrize(
    ("other", "transform"),
    [
        (domain(5, "g"), ImageTransform(8)),
        (domain(5, order=-1), ImageTransform(8)),
        (domain(5), ImageTransform(8, crop_pct=0.9)),
        (domain(5), ImageTransform(8, "bilinear")),
    ],
)
def test_what_decode_depends_on_is_in_its_address(
    tmp_path: Path, other: ImageDomain, transform: ImageTransform
) -> None:
    cache = ArrayCache(tmp_path)
    decode(domain(5), ImageTransform(8), cache)
    decode(other, transform, cache)
    assert len(list(tmp_path.rglob("*.arrow"))) == 2


def test_error_of_an_unreadable_image_arrives(tmp_path: Path) -> None:
    def read(index: int) -> Image.Image:
        if index == 3:
            raise TwofoldError("broken.jpg is truncated")
        return noise(9, 9)

    with pytest.raises(TwofoldError, match=r"broken\.jpg"):
        decode(ImageDomain("d", tuple("abcdef"), "f", read), ImageTransform(8), ArrayCache(tmp_path))
    assert not list(tmp_path.rglob("*.arrow"))


def test_empty_domain_is_named(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match="domain 'noise' has no images"):
        decode(domain(0), ImageTransform(8), ArrayCache(tmp_path))


def test_unwritable_cache_is_named_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TwofoldError, match="cannot write the cache folder"):
        decode(domain(2), ImageTransform(8), ArrayCache(tmp_path / "file" / "cache"))


@pytest.mark.parametrize("size", [0, -3])
def test_size_without_pixels_is_refused(size: int) -> None:
    with pytest.raises(TwofoldError, match="image_size"):
        ImageTransform(size)


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 40), st.integers(2, 4), st.text(max_size=12), st.integers(0, 2**31))
def test_patch_shuffling_permutes_whole_patches(size: int, grid: int, name: str, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    before = image.copy()
    shuffled = patch_shuffled(image, [name], grid)
    side = size // grid

    def patches(array: np.ndarray) -> list[bytes]:
        cells = [(r * side, c * side) for r in range(grid) for c in range(grid)]
        return [array[0, r : r + side, c : c + side].tobytes() for r, c in cells]

    assert sorted(patches(image)) == sorted(patches(shuffled))
    assert np.array_equal(image, before)
    assert shuffled.shape == image.shape and shuffled.dtype == np.uint8
    edge = side * grid
    assert np.array_equal(image[0, edge:], shuffled[0, edge:])
    assert np.array_equal(image[0, :, edge:], shuffled[0, :, edge:])
    if len(set(patches(image))) == grid * grid:
        assert patches(image) != patches(shuffled)
    assert np.array_equal(shuffled, patch_shuffled(image, [name], grid))


def test_permutation_belongs_to_the_id_and_is_never_the_identity() -> None:
    images = np.arange(4, dtype=np.uint8).reshape(2, 2)[None, :, :, None].repeat(200, 0).repeat(3, 3)
    ids = [f"id-{i}" for i in range(200)]
    shuffled = patch_shuffled(images, ids, grid=2)
    assert not (shuffled == images).all(axis=(1, 2, 3)).any()
    assert len({row.tobytes() for row in shuffled}) == 23  # every permutation of four patches but one
    assert np.array_equal(patch_shuffled(images[:1], ids[7:8], grid=2)[0], shuffled[7])


def test_image_smaller_than_the_grid_is_refused() -> None:
    with pytest.raises(TwofoldError, match="smaller than"):
        patch_shuffled(np.zeros((1, 3, 3, 3), np.uint8), ["a"])


def test_shuffled_images_are_an_entry_of_their_own(tmp_path: Path) -> None:
    cache, transform = ArrayCache(tmp_path), ImageTransform(8)
    plain, shuffled = decode(domain(5), transform, cache), decode(domain(5), transform, cache, shuffled=True)
    assert np.array_equal(shuffled, patch_shuffled(plain, domain(5).ids))
