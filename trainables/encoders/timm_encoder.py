"""Any timm model as encoder, e.g. ``timm:vit_small_patch14_dinov2`` (DINOv2, arXiv 2304.07193)."""

from __future__ import annotations

from trainables.encoders.base import ENCODERS, Encoder
from trainables.networks import Pretrained, timm_network


@ENCODERS.register("timm")
class TimmEncoder(Encoder):
    """Pooled features before the classifier."""

    @staticmethod
    def describe(argument: str, image_size: int | None) -> Pretrained:
        """``timm:<model>[/<checkpoint path>]``."""
        return timm_network(argument, image_size)
