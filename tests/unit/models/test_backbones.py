"""Backbones: the cut, the embedding, frozen statistics, and where gradients go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from torchvision import models

from trainables import networks
from trainables.backbones.base import Backbone, Finetune, Tail, build_backbone, trunk_activations
from trainables.backbones.stages import split_last_stage
from trainables.cache import ArrayCache
from trainables.encoders.base import encode_domain
from trainables.errors import NonFinite, TwofoldError, UnknownName
from trainables.images import decode
from trainables.types import ImageDomain

FLOWER = Image.fromarray(load_sample_image("flower.jpg"))
FINETUNES: list[Finetune] = ["full", "last_stage", "head"]
NAME, SIZE = "efficientnet_lite0", 64


def crops(count: int = 6) -> ImageDomain:
    ids = tuple(f"crop-{i}" for i in range(count))
    return ImageDomain("crops", ids, "f", lambda i: FLOWER.crop((i * 40, 0, i * 40 + 100, 100)))


def embed(backbone: Backbone, finetune: Finetune, cache: ArrayCache) -> torch.Tensor:
    activations = trunk_activations(crops(), NAME, finetune, SIZE, cache)
    embeddings: torch.Tensor = backbone.tail(torch.tensor(activations))
    return embeddings


@pytest.mark.parametrize("finetune", FINETUNES)
def test_initial_embedding_equals_the_encoder(tmp_path: Path, finetune: Finetune) -> None:
    cache = ArrayCache(tmp_path)
    embeddings = embed(build_backbone(NAME, finetune, None, SIZE, seed=0), finetune, cache)
    features = encode_domain(crops(), NAME, SIZE, cache)
    assert np.allclose(embeddings.detach().numpy(), features, atol=1e-5)


@pytest.mark.parametrize("finetune", FINETUNES)
def test_cached_activations_equal_the_trunk(tmp_path: Path, finetune: Finetune) -> None:
    cache = ArrayCache(tmp_path)
    backbone = build_backbone(NAME, finetune, 8, SIZE, seed=0)
    images = torch.tensor(decode(crops(), backbone.transform, cache))
    cached = trunk_activations(crops(), NAME, finetune, SIZE, cache)
    assert np.allclose(backbone.trunk(images).numpy(), cached, atol=1e-5)


def seeded(build: type[nn.Module] | object, *args: object, **kwargs: object) -> nn.Module:
    """A network whose random weights and BatchNorm statistics are not trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network: nn.Module = build(*args, **kwargs)  # type: ignore[operator]
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def small_vision_transformer() -> nn.Module:
    network: nn.Module = models.VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=8)
    return network


def small_convnext() -> nn.Module:
    setting = [models.convnext.CNBlockConfig(8 * 2**i, 16 * 2**i if i < 2 else None, 1) for i in range(3)]
    network: nn.Module = models.ConvNeXt(setting, num_classes=8)
    return network


TORCHVISION = {
    "resnet": models.resnet18,
    "mobilenet_v2": lambda: models.mobilenet_v2(width_mult=0.25),
    "mobilenet_v3": models.mobilenet_v3_small,
    "efficientnet": models.efficientnet_b0,
    "regnet": models.regnet_y_400mf,
    "convnext": small_convnext,
    "vision_transformer": small_vision_transformer,
}


@pytest.mark.parametrize("family", sorted(TORCHVISION))
def test_torchvision_families_are_cut_without_a_change(family: str) -> None:
    network, whole = seeded(TORCHVISION[family]), seeded(TORCHVISION[family])
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    trunk, last = split_last_stage(network, family)
    with torch.no_grad():
        assert torch.allclose(last(trunk(images)), whole(images), atol=1e-5)
    assert_shares_nothing(trunk, last, whole)


@pytest.mark.parametrize(
    "model",
    [
        "test_resnet",
        "test_efficientnet",
        "test_convnext",
        "test_vit",
        "vit_tiny_r_s16_p8_224",
        "mobilenetv3_small_050",
        "regnetx_002",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_timm_families_are_cut_without_a_change(model: str) -> None:
    config = timm.get_pretrained_cfg(model)
    assert config is not None
    size = config.input_size[-1]
    small = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)} if "swin" in model else {}
    network, whole = (seeded(timm.create_model, model, num_classes=0, **small) for _ in range(2))
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    trunk, last = split_last_stage(network, model)
    with torch.no_grad():
        assert torch.allclose(last(trunk(images)), whole(images), atol=1e-5)
    assert_shares_nothing(trunk, last, whole)


@pytest.mark.parametrize("pool", ["avg", "token", "max"])
def test_token_pooling_of_the_network_is_kept(pool: str) -> None:
    network, whole = (seeded(timm.create_model, "test_vit", num_classes=0, global_pool=pool) for _ in "ab")
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    trunk, last = split_last_stage(network, "vit")
    with torch.no_grad():
        assert torch.allclose(last(trunk(images)), whole(images), atol=1e-5)


def assert_shares_nothing(trunk: nn.Module, last: nn.Module, whole: nn.Module) -> None:
    frozen, trained = {id(p) for p in trunk.parameters()}, {id(p) for p in last.parameters()}
    assert frozen and trained and not frozen & trained
    count = sum(p.numel() for p in trunk.parameters()) + sum(p.numel() for p in last.parameters())
    assert count == sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("network", [models.squeezenet1_0(), timm.create_model("test_mambaout")])
def test_unknown_family_says_what_to_set(network: nn.Module) -> None:
    with pytest.raises(TwofoldError, match=r"last stage of strange .*`finetune` to full or head"):
        split_last_stage(network, "strange")


@pytest.mark.parametrize(
    ("finetune", "dim"), [(f, d) for f in FINETUNES for d in (None, 16)] + [("head", 2000)]
)
def test_same_seed_same_weights(finetune: Finetune, dim: int | None) -> None:
    one, two, other = (build_backbone(NAME, finetune, dim, SIZE, seed=seed) for seed in (3, 3, 4))
    states = [backbone.tail.state_dict() for backbone in (one, two, other)]
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    equal = all(torch.equal(a, b) for a, b in zip(states[0].values(), states[2].values(), strict=True))
    assert equal == (dim is None)
    assert one.embedding_dim == (dim or 1280)


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_backbone(NAME, "head", 16, SIZE, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dim", [16, 1280])
def test_embedding_map_is_orthogonal(dim: int) -> None:
    (weight,) = build_backbone(NAME, "head", dim, SIZE, seed=0).tail.parameters()
    assert weight.shape == (dim, 1280)
    assert torch.allclose(weight @ weight.T, torch.eye(dim), atol=1e-5)


def test_square_head_starts_as_the_identity() -> None:
    (weight,) = build_backbone(NAME, "head", None, SIZE, seed=0).tail.parameters()
    assert torch.equal(weight, torch.eye(1280))


@pytest.mark.parametrize("finetune", FINETUNES)
def test_a_step_moves_the_tail_alone(tmp_path: Path, finetune: Finetune) -> None:
    backbone = build_backbone(NAME, finetune, 8, SIZE, seed=0)
    trunk = {k: v.clone() for k, v in backbone.trunk.state_dict().items()}
    statistics = {k: v.clone() for k, v in backbone.tail.named_buffers()}
    before = {k: v.detach().clone() for k, v in backbone.tail.named_parameters()}
    backbone.tail.train()
    optimiser = torch.optim.SGD(backbone.tail.parameters(), lr=0.1)
    torch.autograd.backward(embed(backbone, finetune, ArrayCache(tmp_path))[:, 0].sum())
    optimiser.step()
    assert all(torch.equal(v, trunk[k]) for k, v in backbone.trunk.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in backbone.trunk.parameters())
    assert all(torch.equal(v, statistics[k]) for k, v in backbone.tail.named_buffers())
    moved = [not torch.equal(p, before[k]) for k, p in backbone.tail.named_parameters()]
    assert sum(moved) >= 0.9 * len(moved)


def test_train_mode_switches_nothing_on() -> None:
    tail = Tail(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    assert not any(module.training for module in tail.modules())
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tail(inputs), tail(inputs))


def test_collapsed_embedding_is_an_error() -> None:
    linear = nn.Linear(4, 4, bias=False)
    nn.init.zeros_(linear.weight)
    with pytest.raises(NonFinite, match="no direction"):
        Tail(linear)(torch.ones(2, 4))


@pytest.mark.parametrize("finetune", FINETUNES)
def test_warm_cache_builds_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finetune: Finetune
) -> None:
    cache = ArrayCache(tmp_path)
    first = trunk_activations(crops(), NAME, finetune, SIZE, cache)
    shuffled = trunk_activations(crops(), NAME, finetune, SIZE, cache, shuffled=True)

    def refuse() -> nn.Module:
        raise AssertionError("built although the activations are cached")

    monkeypatch.setattr(networks, "_build_efficientnet_lite0", refuse)
    assert np.array_equal(trunk_activations(crops(), NAME, finetune, SIZE, cache), first)
    assert np.array_equal(trunk_activations(crops(), NAME, finetune, SIZE, cache, shuffled=True), shuffled)
    assert not np.array_equal(first, shuffled)


@pytest.mark.parametrize("finetune", ["last_stage", "head"])
def test_truncated_activations_are_computed_again(tmp_path: Path, finetune: Finetune) -> None:
    cache = ArrayCache(tmp_path)
    first = trunk_activations(crops(), NAME, finetune, SIZE, cache).copy()
    (entry,) = tmp_path.rglob("*.arrow")
    entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    assert np.array_equal(trunk_activations(crops(), NAME, finetune, SIZE, cache), first)


def test_every_cut_has_its_own_fingerprint() -> None:
    prints = {build_backbone(NAME, finetune, None, SIZE, seed=0).fingerprint for finetune in FINETUNES}
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_lite_0", "Did you mean 'efficientnet_lite0'"),
        ("torchvision:resnet_18", "Did you mean 'resnet18'"),
        ("timm:resnt18", "Did you mean 'resnet18'"),
        ("resnet50", "unknown backbone 'resnet50'.*torchvision"),
    ],
)
def test_unknown_name_suggests_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        build_backbone(name, "head", None, SIZE, seed=0)


def test_unknown_finetune_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'last_stage'"):
        build_backbone(NAME, "laststage", None, SIZE, seed=0)  # type: ignore[arg-type]


def test_embedding_without_dimensions_is_refused() -> None:
    with pytest.raises(TwofoldError, match="embedding_dim"):
        build_backbone(NAME, "head", 0, SIZE, seed=0)
