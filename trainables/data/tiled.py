"""Pseudo-anomalies to train on: tiled random patches of an image (Ge et al., NeurIPS 2021, arXiv 2110.02900).

They keep the colours and textures of an image and lose its object. The side of the patches is drawn per
image, from 16 to 72 of 224 pixels as in the paper, so that no single frequency of edges tells them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from trainables.seeding import generator, stable_hash
from trainables.types import ImageDomain

SMALLEST, LARGEST = 16 / 224, 72 / 224


def tiled_domain(domain: ImageDomain) -> ImageDomain:
    """The same ids, each with the pseudo-anomaly made of its image; ``<name> tiled``."""
    return replace(
        domain,
        name=tiled_name(domain.name),
        fingerprint=stable_hash([domain.fingerprint, "tiled", SMALLEST, LARGEST]),
        read=lambda i: tiled(domain.read(i), domain.ids[i]),
    )


def tiled_name(domain: str) -> str:
    """Name of the tiled domain of a domain."""
    return f"{domain} tiled"


def tiled(image: Image.Image, name: str) -> Image.Image:
    """An RGB image of the same size, tiled with patches from random places of ``image``.

    Args:
        image: what patches are cut from, with replacement.
        name: seeds the draws, e.g. the image's id.
    """
    draws = generator("tiled", name)
    pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    side = max(1, round(draws.uniform(SMALLEST, LARGEST) * min(height, width)))
    rows, columns = -(-height // side), -(-width // side)
    tops = draws.integers(height - side + 1, size=(rows, columns))
    lefts = draws.integers(width - side + 1, size=(rows, columns))
    canvas = np.empty((rows * side, columns * side, 3), dtype=np.uint8)
    for row, column in np.ndindex(rows, columns):
        top, left = tops[row, column], lefts[row, column]
        patch = pixels[top : top + side, left : left + side]
        canvas[row * side : (row + 1) * side, column * side : (column + 1) * side] = patch
    return Image.fromarray(canvas[:height, :width])
