"""Office-Home (Venkateswara et al., CVPR 2017, arXiv 1706.07522): 10 classes."""

from __future__ import annotations

from typing import ClassVar

from trainables.data.base import DATASETS
from trainables.data.folder import Preset


@DATASETS.register("office_home")
class OfficeHome(Preset):
    """Clip art and product pictures; the domains ``art`` and ``real_world`` can be named in ``pairs``."""

    selected_classes: ClassVar[tuple[str, ...]] = (
        "bike",
        "calculator",
        "drill",
        "hammer",
        "kettle",
        "knives",
        "pan",
        "paper_clip",
        "scissors",
        "soda",
    )
    default_pairs: ClassVar[tuple[tuple[str, str], ...]] = (("clipart", "product"), ("product", "clipart"))
