"""PACS (Li et al., ICCV 2017, arXiv 1710.03077): photographs, paintings, cartoons and sketches, 7 classes."""

from __future__ import annotations

from typing import ClassVar

from trainables.data.base import DATASETS
from trainables.data.folder import Preset


@DATASETS.register("pacs")
class PACS(Preset):
    """From photographs to each of the drawn domains."""

    selected_classes: ClassVar[tuple[str, ...]] = (
        "dog",
        "elephant",
        "giraffe",
        "guitar",
        "horse",
        "house",
        "person",
    )
    default_pairs: ClassVar[tuple[tuple[str, str], ...]] = (
        ("photo", "art_painting"),
        ("photo", "cartoon"),
        ("photo", "sketch"),
    )
