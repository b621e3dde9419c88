"""One pass over a domain: what several passes give, each image decoded once and each network run once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.nn import functional as F

from trainables.backbones.base import describe_backbone
from trainables.cache import ArrayCache
from trainables.errors import TwofoldError
from trainables.extract import PIXELS_PER_BATCH, InProcess, Output, Tap, TappedNetwork, extract
from trainables.images import ImageTransform, decoded_batches
from trainables.networks import Pretrained, efficientnet_lite0
from trainables.types import ImageDomain

FLOWER = Image.fromarray(load_sample_image("flower.jpg"))
SIZE = 32
NETWORK = efficientnet_lite0(SIZE)
TAPS: tuple[Tap, ...] = ("trunk", "pooled", "features")


class Domain:
    """Crops of a photograph that count how often each of them is read."""

    def __init__(self, count: int = 10) -> None:
        self.reads: list[int] = []
        ids = tuple(f"crop-{i}" for i in range(count))
        self.images = ImageDomain("crops", ids, "f", self._read)

    def _read(self, index: int) -> Image.Image:
        self.reads.append(index)
        return FLOWER.crop((index * 40, 0, index * 40 + 100, 100))


class Counting(InProcess):
    """Counts the images that it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded = 0

    def __call__(
        self, pretrained: Pretrained, taps: tuple[Tap, ...], batches: Iterator[np.ndarray]
    ) -> Iterator[dict[Tap, np.ndarray]]:
        for batch in batches:
            self.encoded += len(batch)
            yield from super().__call__(pretrained, taps, iter([batch]))


@pytest.fixture(autouse=True)
def several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIXELS_PER_BATCH, "cpu", 4 * SIZE**2)


def wanted() -> list[Output]:
    """Two names of one network, as an encoder and a backbone have them."""
    backbone = describe_backbone("efficientnet_lite0", "last_stage", SIZE)
    return [Output(NETWORK, "features"), Output(backbone, "trunk"), Output(backbone, "pooled")]


def test_an_encoder_and_a_backbone_that_are_one_network_share_one_pass(tmp_path: Path) -> None:
    domain, encode = Domain(), Counting()
    extract(domain.images, wanted(), ArrayCache(tmp_path), encode=encode)
    assert sorted(domain.reads) == list(range(10)) and encode.encoded == 10
    extract(domain.images, wanted(), ArrayCache(tmp_path), encode=encode)
    assert len(domain.reads) == 10 and encode.encoded == 10, "the second time, nothing is left to do"


def test_only_what_the_cache_lacks_is_computed(tmp_path: Path) -> None:
    domain, cache = Domain(), ArrayCache(tmp_path)
    (features,) = extract(domain.images, wanted()[:1], cache)
    encode = Counting()
    again, trunk, pooled = extract(domain.images, wanted(), cache, encode=encode)
    assert encode.encoded == 10 and again.tobytes() == features.tobytes()
    assert trunk.shape == (10, 192, 1, 1) and pooled.shape == (10, 1280)


@pytest.mark.parametrize("shuffled", [False, True])
def test_one_pass_gives_what_the_whole_network_gives(tmp_path: Path, shuffled: bool) -> None:
    domain = Domain().images
    found = extract(domain, wanted(), ArrayCache(tmp_path), shuffled)
    arrays = {output.tap: array for output, array in zip(wanted(), found, strict=True)}
    images = np.concatenate(list(decoded_batches(domain, NETWORK.transform, 3, shuffled)))
    with torch.inference_mode():
        expected = NETWORK.build().eval()(NETWORK.normalisation()(torch.tensor(images)))
    assert np.allclose(arrays["pooled"], expected, atol=1e-4)
    assert np.allclose(arrays["features"], F.normalize(expected, dim=1), atol=1e-5)
    with torch.inference_mode():
        network = TappedNetwork(NETWORK, TAPS)
        rest = network.last(torch.tensor(arrays["trunk"]))
    assert np.allclose(arrays["pooled"], rest, atol=1e-4)


def test_the_network_is_kept_for_the_next_domain_and_not_for_another_network() -> None:
    encode = InProcess()
    first = encode.load(NETWORK, ("features",))
    assert encode.load(efficientnet_lite0(SIZE), ("features",)) is first
    assert encode.load(NETWORK, TAPS) is not first
    assert encode.load(efficientnet_lite0(64), TAPS).normalise is not first.normalise


@pytest.mark.parametrize("size", [1, 3, 10, 64])
def test_batches_come_in_order_and_lose_no_image(size: int) -> None:
    domain, transform = Domain().images, ImageTransform(8)
    batches = list(decoded_batches(domain, transform, size))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert np.array_equal(np.concatenate(batches), [transform(domain.read(i)) for i in range(10)])


def test_an_unreadable_image_ends_the_pass_with_its_own_error(tmp_path: Path) -> None:
    def read(index: int) -> Image.Image:
        if index == 7:
            raise TwofoldError("cannot read 7.png")
        return FLOWER

    domain = ImageDomain("broken", tuple("abcdefghij"), "f", read)
    with pytest.raises(TwofoldError, match=r"cannot read 7\.png"):
        extract(domain, wanted(), ArrayCache(tmp_path))
    assert not list(tmp_path.rglob("*.arrow"))
