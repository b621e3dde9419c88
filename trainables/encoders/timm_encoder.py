"""Any timm model as encoder, e.g. ``timm:vit_small_patch14_dinov2`` (DINOv2, arXiv 2304.07193)."""

from __future__ import annotations

from torch import nn

from trainables.encoders.base import ENCODERS, Encoder
from trainables.networks import Pretrained, timm_network, timm_skeleton


@ENCODERS.register("timm")
class TimmEncoder(Encoder):
    """Pooled features before the classifier."""

    @staticmethod
    def describe(argument: str, image_size: int | None) -> Pretrained:
        """``timm:<model>[/<checkpoint path>]``."""
        return timm_network(argument, image_size)

    @staticmethod
    def skeleton(argument: str, image_size: int | None) -> nn.Module:
        """The architecture alone."""
        return timm_skeleton(argument, image_size)
