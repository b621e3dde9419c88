"""Write the constants of the choice from finished sweeps of digits and emojis; nothing else is looked at.

python benchmarks/selection/freeze.py DIGITS_SWEEP EMOJI_SWEEP

``orchestrator/contamination.csv``: shape and contamination of target sets, six contaminations for each digit
of each domain. Emojis have no part in it: their classes are so broad that their shape hardly tells the
contamination (contamination.md). ``orchestrator/worth.json``: ridge coefficients of the worth of a
configuration, from digits, and what mixing adds to the worth of the source alone, from both, since the
domains of digits lie apart. Prints how far the first two carry to a target domain, or a pair, that they were
not learned from.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[2]))  # the script is run by its path

from benchmarks.selection.tasks import setting_features
from orchestrator import contamination, worth
from orchestrator.config import SweepConfig
from orchestrator.contamination import estimate_contamination, shape
from orchestrator.ledger import UnitRecord, read_by_setting
from orchestrator.mixing import measure_mixing
from orchestrator.oracle import Request, draw, read_request
from orchestrator.pipeline import load_folder
from orchestrator.prepare import open_dataset
from trainables.cache import ArrayCache
from trainables.data.settings_file import read_settings
from trainables.encoders.base import encode_domain
from trainables.types import Setting

RHOS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
ENCODER = "efficientnet_lite0"
RIDGE = 30.0
WORST = -12.0
"""Points below the best three at which a configuration is just bad: how bad does not matter."""
BEST = 3
"""Configurations whose mean stands for the best of a grid; a single one is lucky."""

MIXING = "mixing, source only"

Features = Callable[[Setting], np.ndarray]
Row = tuple[list[dict[str, float]], np.ndarray]
"""The terms and the AUROC of every configuration of a setting."""


def main() -> None:
    """Write both files and print their errors."""
    parser = argparse.ArgumentParser(description="freeze the constants of the choice")
    for name in ("digits", "emoji"):
        parser.add_argument(
            name, type=Path, help=f"finished sweep of benchmarks/selection/grid.yaml on {name}"
        )
    given = parser.parse_args()
    with threadpool_limits(1):
        freeze_contamination(given.digits, target_features(load_folder(given.digits)))
        freeze_worth(given.digits, given.emoji)


@dataclass(frozen=True)
class TargetSet:
    """The unlabelled target set of a setting.

    Attributes:
        rows: (n, d) frozen features of T_fit, then T_sel.
        contamination: the share of anomalies among them.
    """

    setting: Setting
    rows: np.ndarray
    contamination: float

    @property
    def domain(self) -> str:
        """The target domain."""
        return self.setting.task.target


def target_features(config: SweepConfig) -> Features:
    """Reads the frozen features (n, d) of the unlabelled target set of a setting."""
    dataset, cache = open_dataset(config), ArrayCache(config.cache)
    arrays: dict[str, tuple[np.ndarray, dict[str, int]]] = {}

    def read(setting: Setting) -> np.ndarray:
        name = setting.task.target
        if name not in arrays:
            domain = dataset.domain(name)
            rows = encode_domain(domain, ENCODER, config.data.image_size, cache)
            arrays[name] = (np.asarray(rows), {image: i for i, image in enumerate(domain.ids)})
        rows, index = arrays[name]
        return rows[[index[image] for image in (*setting.target_fit, *setting.target_sel)]]

    return read


def draw_target_sets(request: Request, features: Features) -> list[TargetSet]:
    """Target sets of every contamination in ``RHOS``, one for each class of each target domain."""
    sets: dict[tuple[str, ...], TargetSet] = {}
    for setting, anomalous in draw(request.model_copy(update={"contamination": list(RHOS)})):
        images = (*setting.target_fit, *setting.target_sel)
        # Two sources of one target give the same target set.
        if tuple(sorted(images)) not in sets:
            rho = float(np.mean([anomalous[image] for image in images]))
            sets[tuple(sorted(images))] = TargetSet(setting, features(setting), rho)
    return list(sets.values())


def freeze_contamination(folder: Path, features: Features) -> None:
    """Draw target sets of known contamination, write their shapes, and judge each domain by the others."""
    sets = draw_target_sets(read_request(folder / "request.json"), features)
    domains = np.array([one.domain for one in sets])
    table = np.array([[*shape(one.rows), one.contamination] for one in sets])
    errors = []
    for domain in np.unique(domains):
        write_table(table[domains != domain], contamination.TABLE)
        judged = [one for one in sets if one.domain == domain]
        found = [estimate_contamination(one.rows, domain).estimate - one.contamination for one in judged]
        errors.append(np.abs(found).mean())
        print(f"contamination, learned without {domain}: mean absolute error {errors[-1]:.3f}")
    print(f"contamination: mean absolute error {np.mean(errors):.3f} over domains")
    write_table(table, contamination.TABLE)


def write_table(table: np.ndarray, path: Path) -> None:
    """Write shapes with their contaminations (t, 7) for the estimate to learn from."""
    header = "tenth_80,half_80,half_90,core_90,spread,cosine,contamination"
    np.savetxt(path, table, delimiter=",", fmt="%.5f", header=header, comments="")
    contamination._model.cache_clear()


def freeze_worth(digits: Path, emoji: Path) -> None:
    """Fit the worth of configurations to their AUROC, and judge each pair by a fit to the others."""
    rows = read_rows(digits)
    regrets = []
    for pair, judged in rows.items():
        coefficients = _fit([setting for other, same in rows.items() if other != pair for setting in same])
        picks = [values[np.argmax([_sum(coefficients, t) for t in terms])] for terms, values in judged]
        regret = np.mean([values.max() - pick for pick, (_, values) in zip(picks, judged, strict=True)])
        regrets.append(regret)
        print(f"worth, learned without {pair}: AUROC {np.mean(picks):.2f}, regret {regret:.2f} points")
    print(f"worth: regret {np.mean(regrets):.2f} points over pairs")
    known = [setting for same in rows.values() for setting in same]
    coefficients = _fit(known)
    more = [setting for same in read_rows(emoji).values() for setting in same]
    coefficients[MIXING] = _fit_mixing(coefficients, [*known, *more])
    print(f"worth: {coefficients[MIXING]:.1f} points by mixing for the source alone")
    rounded = {name: round(value, 3) for name, value in sorted(coefficients.items())}
    worth.TABLE.write_text(json.dumps(rounded, indent=1) + "\n")


def read_rows(folder: Path) -> dict[str, list[Row]]:
    """Pair -> the settings of a sweep."""
    settings = {setting.key: setting for setting in read_settings(folder / "settings.parquet")}
    auroc = pq.read_table(folder / "oracle" / "auroc.parquet", columns=["key", "auroc"]).to_pydict()
    truth = dict(zip(auroc["key"], auroc["auroc"], strict=True))
    rows: dict[str, list[Row]] = defaultdict(list)
    for table in read_by_setting(folder / "units.parquet"):
        records = [record for record in UnitRecord.from_table(table) if record.state == "done"]
        setting = settings[records[0].setting]
        target, source = setting_features(folder, setting, ENCODER)
        rho = estimate_contamination(target, setting.key).estimate
        mixing = measure_mixing(source, target, setting.key)
        values = np.array([truth[record.key] for record in records])
        pair = f"{setting.task.source}->{setting.task.target}"
        rows[pair].append(([_terms(record, rho, mixing) for record in records], values))
    return rows


def _terms(record: UnitRecord, rho: float, mixing: float) -> dict[str, float]:
    share = float(record.trusted_fit.mean()) if record.trusted_fit.size else None
    return worth.terms(record.config, share, rho, mixing)


def _sum(coefficients: Mapping[str, float], terms: Mapping[str, float]) -> float:
    return sum(value * coefficients.get(name, 0.0) for name, value in terms.items())


def _fit_mixing(coefficients: Mapping[str, float], settings: Sequence[Row]) -> float:
    """The coefficient of mixing that explains best, in least squares, what the others leave."""
    given, left = [], []
    for terms, values in settings:
        rest = _distances(values) - np.array([_sum(coefficients, row) for row in terms])
        column = np.array([row[MIXING] for row in terms])
        given.append(column - column.mean())
        left.append(rest - rest.mean())
    column, rest = np.concatenate(given), np.concatenate(left)
    return float(column @ rest / (column @ column))


def _distances(values: np.ndarray) -> np.ndarray:
    """(u,) points of AUROC to the best configurations of a setting, at least ``WORST``."""
    return np.maximum(values - np.sort(values)[-BEST:].mean(), WORST)


def _fit(settings: Sequence[Row]) -> dict[str, float]:
    """Ridge coefficients by name, all but that of mixing, of the distance to the best configurations."""
    names = sorted({name for terms, _ in settings for row in terms for name in row} - {"constant", MIXING})
    is_share = np.array([name.startswith(("over", "under")) for name in names])
    # In fifths: a share of 0.2 too much weighs as much as one clusterer instead of another.
    scale = np.where(is_share, -5.0, 1.0)
    scale[[name.endswith("squared") for name in names]] = -25.0
    designs = [
        np.array([[row.get(name, 0.0) for name in names] for row in terms]) * scale for terms, _ in settings
    ]
    targets = [_distances(values) for _, values in settings]
    # Within settings: how hard one is says nothing of which configuration suits it.
    design = np.concatenate([rows - rows.mean(axis=0) for rows in designs])
    target = np.concatenate([values - values.mean() for values in targets])
    # No share can be worth more than the right one: those coefficients have a sign, the others may have any.
    model = Ridge(RIDGE, positive=True, fit_intercept=False)
    model.fit(np.hstack([design, -design[:, ~is_share]]), target)
    coefficients = model.coef_[: len(names)].copy()
    coefficients[~is_share] -= model.coef_[len(names) :]
    constant = np.concatenate(targets).mean() - np.concatenate(designs).mean(axis=0) @ coefficients
    found = dict(zip(names, map(float, coefficients * scale), strict=True))
    return {"constant": float(constant), **found}


if __name__ == "__main__":
    main()
