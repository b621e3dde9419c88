"""Which fixed configuration is best, and how far a leader must be ahead before it replaces the default.

python benchmarks/defaults.py SWEEP_FOLDER [SWEEP_FOLDER ...]

Reads the records and the oracle's AUROC of finished sweeps and prints two tables in Markdown.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from orchestrator.ledger import UnitRecord
from orchestrator.pipeline import load_folder
from orchestrator.plan import enumerate_grid
from orchestrator.report.words import describe
from orchestrator.select import Chooser, choose, gather_candidates
from trainables.seeding import canonical_json

MARGINS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
SHOWN = 8


def main(folders: list[Path]) -> None:
    """Print both tables for each sweep folder."""
    for folder in folders:
        records = UnitRecord.from_table(pq.read_table(folder / "units.parquet"))
        auroc = dict(_columns(folder / "oracle" / "auroc.parquet", "key", "auroc"))
        default = enumerate_grid(load_folder(folder)).default.as_dict()
        print(f"\n## {folder.name}: mean AUROC over {len({r.setting for r in records})} settings\n")
        _fixed_configurations(records, auroc, default)
        _margins(records, auroc, default)


def _columns(path: Path, *names: str) -> list[tuple[str, float]]:
    table = pq.read_table(path, columns=list(names)).to_pydict()
    return list(zip(*(table[name] for name in names), strict=True))


def _fixed_configurations(
    records: list[UnitRecord], auroc: Mapping[str, float], default: Mapping[str, object]
) -> None:
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if record.key in auroc:
            values[canonical_json(record.config)].append(auroc[record.key])
    ranked = sorted(values, key=lambda config: -float(np.mean(values[config])))
    print("| rank | configuration | AUROC |\n|--:|---|--:|")
    for rank, config in enumerate(ranked, 1):
        is_default = config == canonical_json(dict(default))
        if rank <= SHOWN or is_default or rank == len(ranked):
            mark = " (default)" if is_default else ""
            print(f"| {rank} | {describe(json.loads(config))}{mark} | {np.mean(values[config]):.2f} |")


def _margins(records: list[UnitRecord], auroc: Mapping[str, float], default: Mapping[str, object]) -> None:
    settings: dict[str, list[UnitRecord]] = defaultdict(list)
    for record in records:
        settings[record.setting].append(record)
    print("\n| margin | chosen | default | left the default |\n|--:|--:|--:|--:|")
    for margin in MARGINS:
        chooser = Chooser(margin=margin)
        choices = [choose(gather_candidates(same, chooser), default, chooser) for same in settings.values()]
        chosen = np.mean([auroc[choice["chosen"]] for choice in choices])
        kept = np.mean([auroc[choice["default"]] for choice in choices])
        left = sum(not choice["kept_default"] for choice in choices)
        print(f"| {margin:.2f} | {chosen:.2f} | {kept:.2f} | {left} of {len(choices)} |")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
