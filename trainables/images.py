"""Images as uint8 arrays: decoded once per transform, and their patch-shuffled pseudo-anomalies.

Mean and standard deviation belong to the model, so images travel as (n, size, size, 3) uint8.
Pseudo-anomalies keep every pixel of an image and lose its arrangement (Noroozi & Favaro 2016, arXiv
1603.09246), so they need no other class and no label.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from trainables.cache import ArrayCache
from trainables.errors import TwofoldError
from trainables.seeding import generator, stable_hash
from trainables.types import ImageDomain

_GRID = 4
_DECODED_TOGETHER = 64


@dataclass(frozen=True)
class ImageTransform:
    """Resize, then centre crop to ``size`` pixels.

    Attributes:
        size: side of the square result, in pixels.
        interpolation: name of the resampling filter, e.g. ``bicubic``.
        crop_pct: share of the resized side that the crop keeps, in (0, 1].
        resize: ``shortest`` keeps the aspect ratio, ``squash`` scales both sides to the same length.
    """

    size: int
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    resize: Literal["shortest", "squash"] = "shortest"

    def __post_init__(self) -> None:
        """Refuse a size without pixels."""
        if self.size < 1:
            raise TwofoldError(f"image_size must be at least 1 pixel, not {self.size}.")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return ``image`` as a (size, size, 3) uint8 array."""
        from torchvision.transforms import functional as F  # slow to import, not needed on a warm cache

        # rounded down as torchvision and timm do; the term undoes 224 / (224 / 232) = 231.999...
        side = int(self.size / self.crop_pct + 1e-6)
        target = [side] if self.resize == "shortest" else [side, side]
        resized = F.resize(image.convert("RGB"), target, F.InterpolationMode(self.interpolation))
        return np.asarray(F.center_crop(resized, [self.size]))


def decode(
    domain: ImageDomain, transform: ImageTransform, cache: ArrayCache, shuffled: bool = False
) -> np.ndarray:
    """Decode all images of a domain, or read them from the cache.

    Args:
        domain: the images, in the order of ``domain.ids``.
        transform: geometry of the result.
        cache: where the array is kept.
        shuffled: return the patch-shuffled pseudo-anomalies instead.

    Returns:
        (n, size, size, 3) uint8, memory-mapped.

    Raises:
        TwofoldError: the domain is empty or one of its images cannot be read.
    """
    def compute() -> np.ndarray:
        size = transform.size
        images = scratch_array(cache.root, (len(domain.ids), size, size, 3), np.uint8)
        start = 0
        for batch in decoded_batches(domain, transform, _DECODED_TOGETHER, shuffled):
            images[start : start + len(batch)] = batch
            start += len(batch)
        return images

    return cache.get("images", domain_content(domain, transform, shuffled), compute)


def decoded_batches(
    domain: ImageDomain, transform: ImageTransform, size: int, shuffled: bool = False
) -> Generator[np.ndarray, None, None]:
    """Decode a domain in batches of ``size`` images, (b, s, s, 3) uint8; threads decode the next ones meanwhile.

    Raises:
        TwofoldError: the domain is empty or one of its images cannot be read.
    """
    if not domain.ids:
        raise TwofoldError(f"domain '{domain.name}' has no images; check its folder.")

    def read(start: int) -> np.ndarray:
        rows = range(start, min(start + size, len(domain.ids)))
        images = np.stack([transform(domain.read(row)) for row in rows])
        return patch_shuffled(images, domain.ids[rows.start : rows.stop]) if shuffled else images

    threads = min(8, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    try:
        ahead: deque[Future[np.ndarray]] = deque()
        for start in range(0, len(domain.ids), size):
            ahead.append(pool.submit(read, start))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def domain_content(domain: ImageDomain, transform: ImageTransform, shuffled: bool) -> dict[str, Any]:
    """Everything that decoded images depend on, as a cache description."""
    return {
        "domain": domain.fingerprint,
        "ids": stable_hash(list(domain.ids)),
        "transform": asdict(transform),
        "shuffled": _GRID if shuffled else False,
    }


def scratch_array(folder: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros of this shape in an unnamed file below ``folder``: a whole domain may not fit in memory.

    Raises:
        TwofoldError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # A disk that is full is an error here; found by a write to mapped memory, it ends the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(1, math.prod(shape) * np.dtype(dtype).itemsize))
            return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
    except OSError as error:
        raise TwofoldError(
            f"cannot write the cache folder {folder}: {error.strerror}. "
            "Set `cache:` to a folder you can write, with free space."
        ) from error


def patch_shuffled(images: np.ndarray, ids: Sequence[str], grid: int = _GRID) -> np.ndarray:
    """Permute the patches of each image, never by the identity.

    Args:
        images: (n, s, s, 3) uint8.
        ids: n image ids; each seeds the permutation of its image.
        grid: patches per side, at least 2. Where ``grid`` does not divide s, the last rows and columns
            stay in place.

    Returns:
        (n, s, s, 3) uint8.

    Raises:
        TwofoldError: the images are smaller than the grid.
    """
    side = images.shape[1] // grid
    if side == 0:
        raise TwofoldError(f"image_size {images.shape[1]} is smaller than the {grid} x {grid} patches.")
    inner = side * grid
    result = images.copy()
    for row, name in enumerate(ids):
        patches = images[row, :inner, :inner].reshape(grid, side, grid, side, 3).swapaxes(1, 2)
        moved = patches.reshape(grid * grid, side, side, 3)[_permutation(name, grid * grid)]
        tiles = moved.reshape(grid, grid, side, side, 3).swapaxes(1, 2)
        result[row, :inner, :inner] = tiles.reshape(inner, inner, 3)
    return result


def _permutation(name: str, count: int) -> np.ndarray:
    """(count,) permutation of 0..count-1 seeded by an image id; drawn again while it is the identity."""
    rng = generator("patch_shuffled", name)
    order = rng.permutation(count)
    while np.array_equal(order, np.arange(count)):
        order = rng.permutation(count)
    return order
