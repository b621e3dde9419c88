"""What every encoder and backbone promises, over the registries, with random weights in local files."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional as F
from torchvision import models

from trainables.backbones.base import BACKBONES, Finetune, build_backbone, trunk_activations
from trainables.cache import ArrayCache
from trainables.encoders.base import ENCODERS, build_encoder, encode_domain
from trainables.errors import TwofoldError
from trainables.networks import Pretrained
from trainables.registry import Registry
from trainables.types import ImageDomain

FLOWER = Image.fromarray(load_sample_image("flower.jpg"))
FINETUNES: list[Finetune] = ["full", "last_stage", "head"]


@dataclass(frozen=True)
class Case:
    """A network small enough for a test; ``create`` makes the weights that go to a file."""

    kind: str
    model: str
    size: int
    create: Callable[[], nn.Module] | None
    suffix: str = ".pt"

    def __str__(self) -> str:
        return f"{self.kind}-{self.model}"


CLIP = Case("open_clip", "ViT-S-32-alt", 64, lambda: open_clip.create_model("ViT-S-32-alt"))
LITE = Case("efficientnet_lite0", "", 32, None)
TIMM = [
    Case("timm", "test_resnet", 32, lambda: timm.create_model("test_resnet"), ".safetensors"),
    Case("timm", "test_vit", 64, lambda: timm.create_model("test_vit")),
    Case("timm", "test_convnext", 64, lambda: timm.create_model("test_convnext", num_classes=7)),
    Case("timm", "test_efficientnet", 32, lambda: timm.create_model("test_efficientnet", num_classes=0)),
    Case("timm", "resnet18", 32, lambda: timm.create_model("resnet18")),
]
TORCHVISION = [
    Case("torchvision", "resnet18", 32, models.resnet18),
    Case("torchvision", "mobilenet_v3_small", 32, models.mobilenet_v3_small, ".safetensors"),
]
ENCODER_CASES = [LITE, CLIP, *TIMM]
BACKBONE_CASES = [LITE, *TIMM, *TORCHVISION]


@pytest.fixture(scope="module")
def name_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], str]:
    """Write a case's weights once and return the name that loads them."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def name(case: Case) -> str:
        if case.create is None:
            return case.kind
        file = folder / f"{case}{case.suffix}"
        if not file.exists():
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                state = case.create().state_dict()
            (save_file if case.suffix == ".safetensors" else torch.save)(state, str(file))
        return f"{case.kind}:{case.model}/{file}"

    return name


def crops(count: int = 4) -> ImageDomain:
    ids = tuple(f"crop-{i}" for i in range(count))
    return ImageDomain("crops", ids, "f", lambda i: FLOWER.crop((i * 40, 0, i * 40 + 100, 90)))


def refuse(self: Pretrained) -> nn.Module:
    raise AssertionError("built although everything is cached")


def test_every_registered_kind_has_a_case() -> None:
    assert {case.kind for case in ENCODER_CASES} == set(ENCODERS.names())
    assert {case.kind for case in BACKBONE_CASES} == set(BACKBONES.names())


@pytest.mark.parametrize("case", ENCODER_CASES, ids=str)
def test_encoder_contract(
    case: Case, name_of: Callable[[Case], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = name_of(case)
    features = encode_domain(crops(), name, case.size, ArrayCache(tmp_path / "a"))
    again = encode_domain(crops(), name, case.size, ArrayCache(tmp_path / "b"))
    assert features.dtype == np.float32 and features.shape[0] == 4
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert np.array_equal(features, again)
    assert build_encoder(name, case.size).transform.size == case.size
    shuffled = encode_domain(crops(), name, case.size, ArrayCache(tmp_path / "a"), shuffled=True)
    assert shuffled.shape == features.shape and not np.array_equal(shuffled, features)
    monkeypatch.setattr(Pretrained, "normalisation", refuse)
    assert np.array_equal(encode_domain(crops(), name, case.size, ArrayCache(tmp_path / "a")), features)


@pytest.mark.parametrize(
    ("registry", "case"),
    [
        *(pytest.param(ENCODERS, case, id=f"encoder-{case}") for case in ENCODER_CASES),
        *(pytest.param(BACKBONES, case, id=f"backbone-{case}") for case in BACKBONE_CASES),
    ],
)
def test_a_skeleton_is_the_network_without_its_file(
    registry: Registry[Any], case: Case, name_of: Callable[[Case], str]
) -> None:
    kind, _, argument = name_of(case).partition(":")
    entry = registry.get(kind)
    network = entry.describe(argument, case.size).build().eval()
    skeleton = entry.skeleton(f"{argument}.gone" if argument else "", case.size).eval()
    images = torch.rand(2, 3, case.size, case.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        skeleton.load_state_dict(network.state_dict())
        assert torch.equal(skeleton(images), network(images))


@pytest.mark.parametrize("finetune", FINETUNES)
@pytest.mark.parametrize("case", BACKBONE_CASES, ids=str)
def test_backbone_contract(
    case: Case, finetune: Finetune, name_of: Callable[[Case], str], tmp_path: Path
) -> None:
    name, cache = name_of(case), ArrayCache(tmp_path)
    activations = torch.tensor(trunk_activations(crops(), name, finetune, case.size, cache))
    whole = build_backbone(name, "full", None, case.size, seed=0)
    images = torch.tensor(trunk_activations(crops(), name, "full", case.size, cache))
    backbone = build_backbone(name, finetune, None, case.size, seed=0)
    with torch.no_grad():
        embeddings, expected = backbone.tail(activations), whole.tail(images)
    assert embeddings.shape == (4, backbone.embedding_dim)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(4), atol=1e-5)
    assert torch.allclose(embeddings, expected, atol=1e-5)
    assert torch.allclose(backbone.trunk(images).float(), activations.float(), atol=1e-4)
    backbone.tail.train()
    statistics = [b.clone() for b in backbone.tail.buffers()]
    direction = torch.randn(backbone.embedding_dim, generator=torch.Generator().manual_seed(0))
    torch.autograd.backward((backbone.tail(activations) @ direction).sum())
    assert all(torch.equal(a, b) for a, b in zip(statistics, backbone.tail.buffers(), strict=True))
    assert any(p.grad is not None and p.grad.any() for p in backbone.tail.parameters())
    assert all(p.grad is None for p in backbone.trunk.parameters())
    small = build_backbone(name, finetune, 5, case.size, seed=1)
    assert small.tail(activations).shape == (4, 5)


def test_open_clip_equals_its_own_pipeline(name_of: Callable[[Case], str], tmp_path: Path) -> None:
    name = name_of(CLIP)
    model, _, preprocess = open_clip.create_model_and_transforms(
        "ViT-S-32-alt", pretrained=name.partition("/")[2]
    )
    model.eval()
    images = torch.stack([preprocess(crops().read(i)) for i in range(4)])
    with torch.no_grad():
        expected = F.normalize(model.encode_image(images), dim=1).numpy()
    assert np.allclose(encode_domain(crops(), name, None, ArrayCache(tmp_path)), expected, atol=1e-5)


@pytest.mark.parametrize("case", [TIMM[0], TIMM[1]], ids=str)
def test_timm_equals_its_own_pipeline(case: Case, name_of: Callable[[Case], str], tmp_path: Path) -> None:
    name = name_of(case)
    model = timm.create_model(case.model, num_classes=0, checkpoint_path="").eval()
    missing = model.load_state_dict(timm.models.load_state_dict(name.partition("/")[2]), strict=False)
    assert not missing.missing_keys
    data = importlib.import_module("timm.data")
    preprocess = data.create_transform(**data.resolve_data_config(model=model))
    with torch.no_grad():
        expected = F.normalize(model(torch.stack([preprocess(crops().read(i)) for i in range(4)])), dim=1)
    assert np.allclose(encode_domain(crops(), name, None, ArrayCache(tmp_path)), expected, atol=1e-5)


@pytest.mark.parametrize("case", [CLIP, TIMM[0], TIMM[1], *TORCHVISION], ids=str)
@pytest.mark.parametrize("damage", ["truncated", "noise", "other network", "tensor missing"])
def test_unfit_checkpoint_is_named(
    case: Case, damage: str, name_of: Callable[[Case], str], tmp_path: Path
) -> None:
    good = Path(name_of(case).partition("/")[2])
    bad = tmp_path / f"bad{case.suffix}"
    write = save_file if case.suffix == ".safetensors" else torch.save
    if damage == "truncated":
        bad.write_bytes(good.read_bytes()[:-1000])
    elif damage == "noise":
        bad.write_bytes(b"\x00\xffnoise" * 100)
    elif damage == "other network":
        write(nn.Linear(2, 2).state_dict(), str(bad))
    else:
        state = timm.models.load_state_dict(str(good))
        state.pop(sorted(key for key in state if key.endswith("weight") and "1" in key)[0])
        write(state, str(bad))
    name = f"{case.kind}:{case.model}/{bad}"
    with pytest.raises(
        TwofoldError, match=rf"the checkpoint .*bad\{case.suffix} cannot be loaded into"
    ) as error:
        if case in ENCODER_CASES:
            build_encoder(name, case.size).pretrained.build()
        else:
            build_backbone(name, "full", None, case.size, seed=0)
    assert "\n" not in str(error.value) and "copy it again" in str(error.value)


def test_size_that_a_clip_resnet_cannot_take_is_explained(tmp_path: Path) -> None:
    model = open_clip.get_model_config("RN50")
    assert model is not None
    file = tmp_path / "rn50.pt"
    torch.save({"visual.conv1.weight": torch.zeros(32, 3, 3, 3)}, file)
    with pytest.raises(TwofoldError, match="open_clip:RN50 at 64 pixels"):
        build_encoder(f"open_clip:RN50/{file}", 64).pretrained.build()
