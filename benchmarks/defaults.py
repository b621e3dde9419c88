"""Training defaults against their alternatives, one at a time, on the digits; writes benchmarks/defaults.md.

python benchmarks/defaults.py [--output FOLDER]

Two systems are varied: twofold's default, and the published method (K-means, contrastive alignment, distance
to the source centre). The digits alone are looked at. About fifteen minutes on 2 cores; a second call reads
the records. Batch statistics in BatchNorm are no option of the library, so they are switched on from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from sklearn.metrics import roc_auc_score
from torch import nn

from orchestrator.config import SweepConfig, load_config
from orchestrator.environment import describe_environment
from orchestrator.group import GroupRun
from orchestrator.ledger import UnitRecord
from orchestrator.pipeline import make_plan, run_sweep
from orchestrator.prepare import prepare
from trainables.backbones.base import Tail
from trainables.configuration import Configuration
from trainables.seeding import canonical_json, generator

SPACE = Path("search_spaces/digits.yaml")
REPORT = Path(__file__).with_suffix(".md")
DRAWS = 2000
SYSTEMS: dict[str, dict[str, Any]] = {
    "twofold's default": {"clusterer": "density", "keep": 0.6, "alignment": "positive", "score": "knn"},
    "published": {"clusterer": "kmeans", "k": 5, "alignment": "contrastive", "score": "source_centre"},
}
FACTORS: dict[str, list[Any]] = {
    "epochs": [3, 6, 12],
    "centre": ["fixed", "ema", "refresh"],
    "negatives": ["non_dominant", "ignore_band", "in_batch", "both"],
}
STARTS = {"epochs": 6, "centre": "fixed", "negatives": "non_dominant"}
BATCH_STATISTICS = "batch statistics"


@dataclass(frozen=True)
class Variation:
    """One system with one factor changed.

    Attributes:
        auroc: (n,) percent, of every setting.
        rank: effective rank on T_sel after the training over before it, mean over settings.
        spread: the same of the coefficient of variation of ||h - c||^2.
        inside: share of the negatives inside the ignore band in the last epoch; None without negatives.
    """

    system: str
    factor: str
    value: str
    is_default: bool
    auroc: np.ndarray
    rank: float
    spread: float
    inside: float | None


def main() -> None:
    """Run what has no record, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs"))
    config = sweep(parser.parse_args().output)
    run_sweep(config, Console(), None, accept_changes=True)
    records = UnitRecord.from_table(pq.read_table(config.folder / "units.parquet"))
    truth = labels(config.folder)
    variations = list(read_variations(records, truth))
    with batch_statistics():
        again = run_here(config, [Configuration.parse({**config.fixed, **one}) for one in SYSTEMS.values()])
    for system, values in SYSTEMS.items():
        variations.append(vary(system, "BatchNorm", BATCH_STATISTICS, values, again, truth))
        variations.append(vary(system, "BatchNorm", "frozen", values, records, truth, is_default=True))
    REPORT.write_text(write(variations))
    print(f"wrote {REPORT}")


def sweep(output: Path) -> SweepConfig:
    """All variations of all systems as one sweep of the digits."""
    config = load_config(SPACE, [f"output={output}"], "defaults")
    blocks = [
        {**system, factor: values}
        for system in SYSTEMS.values()
        for factor, values in FACTORS.items()
        if factor in Configuration.parse({**config.fixed, **system}).as_dict()
    ]
    return config.model_copy(update={"space": blocks})


def labels(folder: Path) -> dict[str, np.ndarray]:
    """Setting -> which of its test images are anomalous."""
    stored = pq.read_table(folder / "oracle" / "labels.parquet").to_pylist()
    anomalous = {(row["setting"], row["id"]): row["anomalous"] for row in stored}
    settings = pq.read_table(folder / "settings.parquet", columns=["key", "test"]).to_pylist()
    return {one["key"]: np.array([anomalous[one["key"], i] for i in one["test"]]) for one in settings}


def read_variations(records: Sequence[UnitRecord], truth: Mapping[str, np.ndarray]) -> Iterator[Variation]:
    """Every factor of every system that has it."""
    for system, values in SYSTEMS.items():
        for factor, options in FACTORS.items():
            used = Configuration.parse(values).as_dict()
            for option in options if factor in used else []:
                changed = {**values, factor: option}
                yield vary(system, factor, str(option), changed, records, truth, option == STARTS[factor])


def vary(
    system: str,
    factor: str,
    value: str,
    configuration: Mapping[str, Any],
    records: Sequence[UnitRecord],
    truth: Mapping[str, np.ndarray],
    is_default: bool = False,
) -> Variation:
    """What the records say of one configuration, settings in the order of their keys."""
    wanted = canonical_json(Configuration.parse(configuration).as_dict())
    own = sorted(
        (one for one in records if one.state == "done" and canonical_json(one.config) == wanted),
        key=lambda one: one.setting,
    )
    assert len(own) == len(truth), f"{factor} = {value}: {len(own)} records of {len(truth)} settings"
    inside = [one.epochs[-1].get("negatives_inside") for one in own]
    return Variation(
        system,
        factor,
        value,
        is_default,
        np.array([100 * roc_auc_score(truth[one.setting], one.test) for one in own]),
        _ratio(own, "effective_rank"),
        _ratio(own, "score_variation"),
        None if None in inside else float(np.mean(inside)),
    )


def _ratio(records: Sequence[UnitRecord], name: str) -> float:
    return float(np.mean([one.diagnostics[name] / one.diagnostics[f"{name}_initial"] for one in records]))


@contextmanager
def batch_statistics() -> Iterator[None]:
    """Trainings inside let BatchNorm normalise by the mixed batch, and update its running statistics."""
    frozen = Tail.train
    Tail.train = nn.Module.train  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Tail.train = frozen  # type: ignore[method-assign]


def run_here(config: SweepConfig, configurations: Sequence[Configuration]) -> list[UnitRecord]:
    """The records of some configurations on every setting, trained in this process and kept nowhere."""
    plan = make_plan(config)
    prepared = prepare(config, plan.grid, plan.settings)
    wanted = {canonical_json(one.as_dict()) for one in configurations}
    units = [unit for unit in plan.units if canonical_json(dict(unit.configuration)) in wanted]
    return [
        record
        for unit in units
        for progress in GroupRun(prepared, [unit]).run([unit])
        for record in progress.finished
    ]


def write(variations: Sequence[Variation]) -> str:
    """The tables in Markdown, a section for each system."""
    environment = describe_environment()
    lines = [
        "# Training defaults, measured on the digits",
        "",
        "`python benchmarks/defaults.py` writes this file. One factor is changed at a time; bold values are",
        "the defaults. AUROC is the mean over 20 tasks (2 pairs x 10 digits, rho 0.1, one seed), in",
        "percent; the difference from the default is in points, with the 95 % interval of a bootstrap over",
        "tasks. Rank and spread are those of the embeddings of T_sel after the training over before it: a",
        "rank that falls far below 1 is hypersphere collapse, one far above it repulsion. Inside: share of",
        "the negatives inside the ignore band in the last epoch.",
        "",
        f"Commit {environment['commit']}, EfficientNet-Lite0 as encoder and backbone, 96 pixels.",
    ]
    for system in SYSTEMS:
        own = [one for one in variations if one.system == system]
        lines += [
            "",
            f"## {system.capitalize()}",
            "",
            "| factor | value | AUROC | difference | rank | spread | inside |",
        ]
        lines.append("|---|---|--:|--:|--:|--:|--:|")
        defaults = {one.factor: one for one in own if one.is_default}
        lines += [_line(one, defaults[one.factor]) for one in own]
    return "\n".join(lines) + "\n"


def _line(one: Variation, default: Variation) -> str:
    value = f"**{one.value}**" if one.is_default else one.value
    inside = "–" if one.inside is None else f"{one.inside:.2f}"
    difference = "" if one.is_default else _difference(one.auroc - default.auroc)
    cells = [one.factor, value, f"{one.auroc.mean():.1f}", difference, f"{one.rank:.2f}", f"{one.spread:.2f}"]
    return "| " + " | ".join([*cells, inside]) + " |"


def _difference(points: np.ndarray) -> str:
    """Mean with the 95 % interval of a bootstrap over tasks."""
    drawn = generator("defaults").choice(points, (DRAWS, len(points))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{points.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main()
