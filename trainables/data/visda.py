"""VisDA-2017 (Peng et al., arXiv 1710.06924): renderings of 3D models against photographs, 12 classes."""

from __future__ import annotations

from typing import ClassVar

from trainables.data.base import DATASETS
from trainables.data.folder import Preset


@DATASETS.register("visda")
class VisDA(Preset):
    """The challenge's own layout: renderings in ``root/train``, photographs in ``root/validation``."""

    selected_classes: ClassVar[tuple[str, ...]] = (
        "aeroplane",
        "bicycle",
        "bus",
        "car",
        "horse",
        "knife",
        "motorcycle",
        "person",
        "plant",
        "skateboard",
        "train",
        "truck",
    )
    default_pairs: ClassVar[tuple[tuple[str, str], ...]] = (("train", "validation"),)
