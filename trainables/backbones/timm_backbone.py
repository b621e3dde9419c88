"""timm networks as backbones, and EfficientNet-Lite0 (arXiv 1905.11946) from its installed wheel."""

from __future__ import annotations

from torch import nn

from trainables.backbones.base import BACKBONES, Architecture
from trainables.networks import (
    Pretrained,
    efficientnet_lite0,
    efficientnet_lite0_skeleton,
    no_argument,
    timm_network,
    timm_skeleton,
)


@BACKBONES.register("timm")
class TimmArchitecture(Architecture):
    """Any timm model; ``last_stage`` needs a family of known stages."""

    @staticmethod
    def describe(argument: str, image_size: int | None) -> Pretrained:
        """``timm:<model>[/<checkpoint path>]``."""
        return timm_network(argument, image_size)

    @staticmethod
    def skeleton(argument: str, image_size: int | None) -> nn.Module:
        """The architecture alone."""
        return timm_skeleton(argument, image_size)


@BACKBONES.register("efficientnet_lite0")
class EfficientNetLite0Architecture(Architecture):
    """ImageNet weights without a download; its last stage is ``blocks[-1]``, ``conv_head`` and ``bn2``."""

    @staticmethod
    def describe(argument: str, image_size: int | None) -> Pretrained:
        """``efficientnet_lite0`` takes no argument."""
        no_argument("efficientnet_lite0", argument)
        return efficientnet_lite0(image_size)

    @staticmethod
    def skeleton(argument: str, image_size: int | None) -> nn.Module:
        """The architecture alone."""
        return efficientnet_lite0_skeleton()
