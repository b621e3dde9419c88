"""Pseudo-anomalies that tile patches of an image: what they keep of it, and what not."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trainables.data.tiled import tiled, tiled_domain
from trainables.seeding import generator
from trainables.types import ImageDomain


def numbered(height: int, width: int) -> Image.Image:
    """An image whose pixels all differ: the red and green channels hold the row and the column."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([rows, columns, rows * 0], axis=2).astype(np.uint8))


@given(height=st.integers(1, 250), width=st.integers(1, 250), name=st.text(max_size=5))
@settings(max_examples=40, deadline=None)
def test_every_patch_is_a_patch_of_the_image(height: int, width: int, name: str) -> None:
    image = numbered(height, width)
    made = np.asarray(tiled(image, name)).astype(int)
    assert made.shape == (height, width, 3)
    assert made[..., 0].max() < height and made[..., 1].max() < width
    side = max(1, round(generator("tiled", name).uniform(16 / 224, 72 / 224) * min(height, width)))
    for top in range(0, height, side):
        for left in range(0, width, side):
            patch = made[top : top + side, left : left + side]
            first = patch[0, 0]
            steps = np.mgrid[: patch.shape[0], : patch.shape[1]]
            assert np.array_equal(patch[..., 0] - first[0], steps[0])
            assert np.array_equal(patch[..., 1] - first[1], steps[1])


def test_the_arrangement_is_lost_and_depends_on_the_name_alone() -> None:
    image = numbered(224, 224)
    first = np.asarray(tiled(image, "a"))
    assert np.array_equal(first, np.asarray(tiled(image, "a")))
    assert not np.array_equal(first, np.asarray(tiled(image, "b")))
    assert not np.array_equal(first, np.asarray(image))


def test_a_domain_keeps_its_ids_and_no_cache_can_confuse_it() -> None:
    domain = ImageDomain("sketch", ("a", "b"), "f", lambda i: numbered(40 + i, 30))
    made = tiled_domain(domain)
    assert made.ids == domain.ids and made.name != domain.name and made.fingerprint != domain.fingerprint
    assert made.read(1).size == (30, 41)
    assert np.array_equal(np.asarray(made.read(1)), np.asarray(tiled(domain.read(1), "b")))


def test_grey_and_transparent_images_become_rgb() -> None:
    for mode in ("L", "RGBA", "P"):
        assert tiled(numbered(20, 20).convert(mode), "a").mode == "RGB"
