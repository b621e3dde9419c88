"""torchvision networks as backbones, e.g. ``torchvision:resnet50`` (arXiv 1512.03385)."""

from __future__ import annotations

import functools
from importlib.metadata import version
from typing import Any

from torch import nn

from trainables import weights
from trainables.backbones.base import BACKBONES, Architecture
from trainables.errors import TwofoldError, UnknownName, nearest_name
from trainables.images import ImageTransform
from trainables.networks import Pretrained
from trainables.seeding import stable_hash


@BACKBONES.register("torchvision")
class TorchvisionArchitecture(Architecture):
    """Any torchvision classifier, up to the input of its last linear layer."""

    @staticmethod
    def describe(argument: str, image_size: int | None) -> Pretrained:
        """``torchvision:<model>[/<checkpoint path>]``; without a path, torchvision's DEFAULT weights.

        Raises:
            UnknownName: torchvision has no such classifier.
            TwofoldError: the checkpoint file is missing.
        """
        model, path = weights.split_name(argument)
        default = _default_weights(model)
        preset = default.transforms()
        size, known = preset.crop_size[0], weights.checkpoint_identity(path) if path else str(default)
        content = weights.identity(f"torchvision:{model}", known, version("torchvision"))
        return Pretrained(
            name=f"torchvision:{argument}",
            transform=ImageTransform(
                image_size or size, preset.interpolation.value, size / preset.resize_size[0]
            ),
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            fingerprint=stable_hash(content),
            build=functools.partial(_build, model, path, default),
        )

    @staticmethod
    def skeleton(argument: str, image_size: int | None) -> nn.Module:
        """The architecture alone; it takes images of any size."""
        from torchvision import models

        network: nn.Module = models.get_model(weights.split_name(argument)[0], weights=None)
        _remove_classifier(network)
        return network


def _default_weights(model: str) -> Any:
    from torchvision import models

    names = models.list_models(module=models)
    if model not in names:
        raise UnknownName(f"unknown torchvision model '{model}'.{nearest_name(model, names)}")
    return models.get_model_weights(model).DEFAULT


def _build(model: str, path: str | None, default: Any) -> nn.Module:
    from torchvision import models

    if path is None:
        remedy = f"download {default.url} and name the file as `torchvision:{model}/<path>`"
        network: nn.Module = weights.fetch(
            f"torchvision:{model}", default.url, remedy, lambda: models.get_model(model, weights=default)
        )
        _remove_classifier(network)
        return network
    with weights.checkpoint_errors(path, f"torchvision:{model}"):
        network = models.get_model(model, weights=None)
        classifier = _remove_classifier(network)
        weights.load_all(network, weights.read_checkpoint(path), (classifier,))
    return network


def _remove_classifier(network: nn.Module) -> str:
    """Replace the last linear layer by the identity and return its path."""
    linear: list[str] = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise TwofoldError(f"{type(network).__name__} ends in no linear layer; choose another backbone.")
    network.set_submodule(linear[-1], nn.Identity())
    return linear[-1]
