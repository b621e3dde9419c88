"""Which rule makes the best threshold of the scores on S_val and T_sel and an estimate of the contamination.

python benchmarks/thresholds.py SWEEP_FOLDER [SWEEP_FOLDER ...]

Reads the records of finished sweeps, takes the default configuration of every setting, and judges the
decisions on the test images by the oracle's labels. Prints a table in Markdown over the contamination of the
sweep and the one that the rule is told.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.metrics import balanced_accuracy_score, f1_score

from orchestrator.ledger import UnitRecord
from orchestrator.pipeline import load_folder
from orchestrator.plan import default_configuration
from orchestrator.threshold import source_top

Rule = Callable[[np.ndarray, np.ndarray, float], float]
"""Scores of S_val (n,) and T_sel (m,), contamination -> threshold."""


def quantile(source_val: np.ndarray, target_sel: np.ndarray, rho: float) -> float:
    """What flags a share rho of T_sel."""
    return float(np.quantile(target_sel, 1 - rho))


def spread(source_val: np.ndarray, target_sel: np.ndarray, rho: float) -> float:
    """The quantile, but at least three deviations above the median, as the lower half of T_sel has them."""
    middle = np.median(target_sel)
    below = middle - target_sel[target_sel <= middle]
    return max(quantile(source_val, target_sel, rho), float(middle + 3 * 1.4826 * np.median(below)))


def above_source(share: float) -> Rule:
    """The quantile, but at least the top of S_val, scaled so that both medians are equal."""

    def rule(source_val: np.ndarray, target_sel: np.ndarray, rho: float) -> float:
        top = source_top(source_val, target_sel, rho, share)
        return max(quantile(source_val, target_sel, rho), top)

    return rule


def source_alone(source_val: np.ndarray, target_sel: np.ndarray, rho: float) -> float:
    """The top of S_val, scaled, without the quantile."""
    return source_top(source_val, target_sel, rho, 0.99)


RULES: dict[str, Rule] = {
    "quantile": quantile,
    "quantile, at least 3 deviations": spread,
    "quantile, at least S_val's 95 %": above_source(0.95),
    "quantile, at least S_val's 99 %": above_source(0.99),
    "S_val's 99 % alone": source_alone,
}


def main(folders: list[Path]) -> None:
    """Print the tables of all sweeps."""
    rows: dict[tuple[float, float, str], list[tuple[float, ...]]] = defaultdict(list)
    for folder in folders:
        for record, anomalous in _defaults(folder):
            for error in (-0.05, 0.0, 0.05):
                told = min(max(record.contamination + error, 0.0), 0.5)
                for name, rule in RULES.items():
                    flagged = record.test > rule(record.source_val, record.target_sel, told)
                    rows[record.contamination, told, name].append(
                        (
                            100 * balanced_accuracy_score(anomalous, flagged),
                            100 * f1_score(anomalous, flagged),
                            100 * flagged[~anomalous].mean(),
                            100 * flagged[anomalous].mean(),
                        )
                    )
    print("| contamination | told | rule | balanced accuracy | F1 | normals flagged | anomalies flagged |")
    print("|--:|--:|---|--:|--:|--:|--:|")
    for (rho, told, name), found in sorted(rows.items()):
        means = " | ".join(f"{value:.1f}" for value in np.mean(found, axis=0))
        print(f"| {rho:g} | {told:g} | {name} | {means} |")


def _defaults(folder: Path) -> Iterator[tuple[UnitRecord, np.ndarray]]:
    """The default's record of every setting, and which of its test images are anomalous."""
    labels: dict[str, dict[str, bool]] = defaultdict(dict)
    stored = pq.read_table(folder / "oracle" / "labels.parquet").to_pydict()
    for setting, image, anomalous in zip(stored["setting"], stored["id"], stored["anomalous"], strict=True):
        labels[setting][image] = anomalous
    settings = pq.read_table(folder / "settings.parquet").to_pylist()
    default = default_configuration(load_folder(folder)).as_dict()
    records = UnitRecord.from_table(pq.read_table(folder / "units.parquet"))
    kept = {record.setting: record for record in records if record.config == default}
    for setting in settings:
        record = kept[setting["key"]]
        yield record, np.array([labels[record.setting][image] for image in setting["test"]])


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
