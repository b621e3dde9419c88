"""Office-31 (Saenko et al., "Adapting visual category models to new domains", ECCV 2010): 10 classes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from trainables.data.base import DATASETS
from trainables.data.folder import Preset


@DATASETS.register("office31")
class Office31(Preset):
    """Webcam and Amazon photographs, as ``root/<domain>/<class>`` or ``root/<domain>/images/<class>``."""

    selected_classes: ClassVar[tuple[str, ...]] = (
        "back_pack",
        "bookcase",
        "bottle",
        "desk_chair",
        "desk_lamp",
        "headphones",
        "keyboard",
        "laptop_computer",
        "mouse",
        "pen",
    )
    default_pairs: ClassVar[tuple[tuple[str, str], ...]] = (("webcam", "amazon"), ("amazon", "webcam"))

    def _domain_folder(self, domain: str) -> Path:
        folder = super()._domain_folder(domain)
        images = folder / "images"
        return images if images.is_dir() else folder
