"""Cut a network before its last stage: a frozen trunk, computed once, and a trainable rest."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from trainables.errors import TwofoldError

# (library, class) -> the modules from the last stage to the pooled features, in the order they run.
# A number indexes a container; a name in angle brackets is a step that the network does in its forward().
_LAST_STAGE: dict[tuple[str, str], tuple[str, ...]] = {
    ("timm", "ResNet"): ("layer4", "global_pool"),
    ("timm", "EfficientNet"): ("blocks.-1", "conv_head", "bn2", "global_pool"),
    ("timm", "MobileNetV3"): ("blocks.-1", "global_pool", "conv_head", "norm_head", "act2", "flatten"),
    ("timm", "ConvNeXt"): ("stages.-1", "norm_pre", "head"),
    ("timm", "RegNet"): ("s4", "final_conv", "head"),
    ("timm", "SwinTransformer"): ("layers.-1", "norm", "head"),
    ("timm", "VisionTransformer"): ("blocks.-1", "norm", "<tokens>", "fc_norm"),
    ("torchvision", "ResNet"): ("layer4", "avgpool", "<flatten>", "fc"),
    ("torchvision", "EfficientNet"): ("features.-2", "features.-1", "avgpool", "<flatten>", "classifier"),
    ("torchvision", "MobileNetV2"): ("features.-2", "features.-1", "<average>", "classifier"),
    ("torchvision", "MobileNetV3"): ("features.-2", "features.-1", "avgpool", "<flatten>", "classifier"),
    ("torchvision", "ConvNeXt"): ("features.-2", "features.-1", "avgpool", "classifier"),
    ("torchvision", "RegNet"): ("trunk_output.-1", "avgpool", "<flatten>", "fc"),
    ("torchvision", "VisionTransformer"): ("encoder.layers.-1", "encoder.ln", "<tokens>", "heads"),
}


def split_last_stage(network: nn.Module, name: str) -> tuple[nn.Module, nn.Module]:
    """Cut ``network``, which is used up, before its last stage.

    Args:
        network: (b, 3, s, s) -> pooled features (b, d).
        name: the network as the user wrote it, for the error.

    Returns:
        trunk: (b, 3, s, s) -> activations (b, ...).
        last: activations -> pooled features (b, d).

    Raises:
        TwofoldError: it is not known where the last stage of this network starts.
    """
    family = (type(network).__module__.partition(".")[0], type(network).__name__)
    if family not in _LAST_STAGE or getattr(network, "attn_pool", None) is not None:
        raise TwofoldError(
            f"the last stage of {name} ({family[1]}) is not known; set `finetune` to full or head."
        )
    first, *others = _LAST_STAGE[family]
    steps = [_take(network, first, _Stop())]
    steps += [_step(network, path) for path in others]
    return _Trunk(network), nn.Sequential(*steps)


def _step(network: nn.Module, path: str) -> nn.Module:
    if path == "<flatten>":
        return nn.Flatten(1)
    if path == "<average>":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    if path == "<tokens>":
        return _TokenPool(network)
    return _take(network, path, nn.Identity())


def _take(network: nn.Module, path: str, replacement: nn.Module) -> nn.Module:
    """Move the module at ``path`` out of the network, so that trunk and last stage share no weights."""
    parent_path, _, key = path.rpartition(".")
    parent = network.get_submodule(parent_path)
    if key.startswith("-"):
        key = [name for name, _ in parent.named_children()][int(key)]
    module = parent.get_submodule(key)
    setattr(parent, key, replacement)
    return module


class _Reached(Exception):
    """Carries the activations out of a forward pass."""

    def __init__(self, activations: torch.Tensor) -> None:
        super().__init__()
        self.activations = activations


class _Stop(nn.Module):
    """Stands where the last stage was and ends the forward pass there."""

    def forward(self, activations: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        raise _Reached(activations)


class _Trunk(nn.Module):
    """The network's own forward pass up to its last stage: nothing of it is written again here."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(b, 3, s, s) -> activations (b, ...)."""
        try:
            result: torch.Tensor = self.network(images)
        except _Reached as reached:
            return reached.activations
        return result


class _TokenPool(nn.Module):
    """A vision transformer's pooling of its tokens, (b, t, d) -> (b, d)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # torchvision's transformers have none of these settings: they take the class token
        self.kind = str(getattr(network, "global_pool", "token"))
        self.prefix = int(getattr(network, "num_prefix_tokens", 1))
        self.with_prefix = bool(getattr(network, "pool_include_prefix", False))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        pool = importlib.import_module("timm.layers").global_pool_nlc
        pooled: torch.Tensor = pool(
            tokens, self.kind, num_prefix_tokens=self.prefix, reduce_include_prefix=self.with_prefix
        )
        return pooled
