"""The threshold of a detector, without a label: from the scores of S_val and T_sel and the contamination."""

from __future__ import annotations

import numpy as np

from trainables.detector import Threshold
from trainables.types import Contamination

SOURCE_SHARE = 0.95
"""Share of S_val that is normal by its scaled scores, whatever the contamination is estimated to be."""


def make_threshold(source_val: np.ndarray, target_sel: np.ndarray, contamination: Contamination) -> Threshold:
    """The score that a share rho of T_sel is above, but at least the top of the source normals.

    Where rho is near 0, that is about the largest score of T_sel. The source keeps an estimate that is too
    high from flagging that share of a clean target: what is not farther out than source normals are is
    normal. ``benchmarks/thresholds.py`` compares rules.

    Args:
        source_val: (n,) scores of held-out source normals, non-negative, higher = more anomalous.
        target_sel: (m,) scores of held-out target images.
        contamination: estimated share rho of anomalies among them.
    """
    rho = contamination.estimate
    value = float(np.quantile(target_sel, 1 - rho))
    rule = f"{1 - rho:.4g} quantile of the scores of T_sel"
    if (top := source_top(source_val, target_sel, rho, SOURCE_SHARE)) > value:
        value, rule = top, f"{SOURCE_SHARE:g} quantile of the scores of S_val, scaled; it is above the {rule}"
    return Threshold(value=value, rule=rule, contamination=contamination)


def source_top(source_val: np.ndarray, target_sel: np.ndarray, rho: float, share: float) -> float:
    """The ``share`` quantile of the scores of S_val, scaled to the median of the target's normals.

    Where more than half of S_val has no distance at all there is no scale, and this is 0.
    """
    middle = float(np.median(source_val))
    if middle <= 0:
        return 0.0
    # The lowest 1 - rho of T_sel are taken for its normals, so half of them lie below this.
    scale = float(np.quantile(target_sel, (1 - rho) / 2)) / middle
    return scale * float(np.quantile(source_val, share))
