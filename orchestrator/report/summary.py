"""The numbers of a report: what the chooser picked, judged against its opponents.

AUROC is in percent, 0 to 100, higher = better; regret and differences are in points. Several seeds of one
configuration are averaged first, so that the chosen and the best configuration are compared like with like;
then split seeds, then classes, then pairs. A mean over settings of which one has no value has no value
itself: a mean over fewer classes would not be comparable with its neighbours.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import spearmanr

from orchestrator.ledger import read_units
from trainables.configuration import DEFAULTS
from trainables.errors import TwofoldError
from trainables.supervision.base import SUPERVISIONS

_COLUMNS = (
    "key",
    "setting",
    "state",
    "error",
    "source",
    "target",
    "normal_class",
    "contamination",
    "split_seed",
    "seed",
    "config",
    "stage_a",
)
_PUBLISHED = {"clusterer": "kmeans", "alignment": "contrastive", "score": "source_centre"}
TRUST_LEVELS = ("high", "medium", "low")

T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True)
class Scores:
    """AUROC of everything that is compared; None without labels or without a finished unit.

    Attributes:
        source_only: detector of source normals alone.
        published: the published cell (K-means, contrastive alignment, source centre), mean over its units.
        default: the default configuration.
        compactness: what raw compactness would have picked.
        random: a random pick, exactly: the mean over all finished candidates.
        chosen: the choice made without labels.
        best: the best candidate, which needs labels to be known.
        true_normals: the best unit trained with the true target normals, an upper bound.
    """

    source_only: float | None = None
    published: float | None = None
    default: float | None = None
    compactness: float | None = None
    random: float | None = None
    chosen: float | None = None
    best: float | None = None
    true_normals: float | None = None

    @property
    def regret(self) -> float | None:
        """AUROC(best) - AUROC(chosen) in points; lower = better."""
        return None if self.best is None or self.chosen is None else self.best - self.chosen

    @property
    def gap_closed(self) -> float | None:
        """(chosen - random) / (best - random), 1 = perfect; None where the candidates are all alike."""
        if self.chosen is None or self.random is None or self.best is None or self.best == self.random:
            return None
        return (self.chosen - self.random) / (self.best - self.random)


SYSTEMS = tuple(field.name for field in fields(Scores))


@dataclass(frozen=True)
class Candidate:
    """One finished unit that the chooser could pick.

    Attributes:
        config: canonical configuration.
        proxies: stage-A and stage-B proxies, larger = better; an undefined one is absent.
        auroc: None without labels.
    """

    key: str
    config: Mapping[str, Any]
    proxies: Mapping[str, float]
    auroc: float | None


@dataclass(frozen=True)
class TrustedSet:
    """One stage-A competitor: the configuration of its clusterer, and its proxies, larger = better."""

    config: Mapping[str, Any]
    proxies: Mapping[str, float]


@dataclass(frozen=True)
class SettingSummary:
    """One setting: what was chosen, why, and how good that was.

    Attributes:
        chosen_by_seed: seed -> AUROC of the chosen configuration.
        failed_gates: gate -> number of candidates it removed.
    """

    key: str
    source: str
    target: str
    normal_class: str
    contamination: float
    split_seed: int
    config: Mapping[str, Any]
    kept_default: bool
    reason: str
    trust: str
    scores: Scores
    chosen_by_seed: Mapping[int, float]
    candidates: tuple[Candidate, ...]
    trusted_sets: tuple[TrustedSet, ...]
    failed_gates: Mapping[str, int]


@dataclass(frozen=True)
class ClassSummary:
    """A normal class of one pair and contamination: the mean over its settings, one per split seed."""

    name: str
    settings: tuple[SettingSummary, ...]
    scores: Scores


@dataclass(frozen=True)
class PairSummary:
    """A pair at one contamination.

    Attributes:
        scores: means over the classes.
        class_std: system -> sample standard deviation over the classes, in points; None for one class.
        seed_std: sample standard deviation of the chosen class mean over seeds and split seeds, in points;
            None for a single run.
    """

    source: str
    target: str
    contamination: float
    classes: tuple[ClassSummary, ...]
    scores: Scores
    class_std: Mapping[str, float | None]
    seed_std: float | None

    @property
    def name(self) -> str:
        """``source → target``."""
        return f"{self.source} → {self.target}"


@dataclass(frozen=True)
class Failure:
    """Failed units that share the last line of their traceback; ``config`` is that of the first one."""

    message: str
    units: int
    settings: int
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """Everything a report shows.

    Attributes:
        labelled: whether an oracle judged the units.
        default: the default configuration.
        pairs: one entry per pair and contamination, in the order of the sweep.
        overall: means over ``pairs``.
        failures: the most frequent first.
        without_choice: settings of which no unit finished, in words.
    """

    name: str
    labelled: bool
    default: Mapping[str, Any]
    pairs: tuple[PairSummary, ...]
    overall: Scores
    units: int
    failures: tuple[Failure, ...]
    without_choice: tuple[str, ...]

    @property
    def failed(self) -> int:
        """Number of failed units."""
        return sum(failure.units for failure in self.failures)

    @cached_property
    def settings(self) -> tuple[SettingSummary, ...]:
        """All settings, in the order of the pairs and classes."""
        return tuple(s for pair in self.pairs for entry in pair.classes for s in entry.settings)

    def metrics(self) -> dict[str, float]:
        """The overall numbers under plain names, for a tracking server; what has no value is absent."""
        values = {f"auroc_{name}": getattr(self.overall, name) for name in SYSTEMS}
        values |= {"regret": self.overall.regret, "gap_closed": self.overall.gap_closed}
        counts = {"units": float(self.units), "units_failed": float(self.failed)}
        return {name: value for name, value in values.items() if value is not None} | counts

    @property
    def contaminations(self) -> tuple[float, ...]:
        """The contaminations of the sweep, ascending."""
        return tuple(sorted({pair.contamination for pair in self.pairs}))


@dataclass(frozen=True)
class Correlation:
    """Mean over settings of the Spearman correlation of a proxy with AUROC; higher = better."""

    proxy: str
    spearman: float
    settings: int


@dataclass(frozen=True)
class TrustLevel:
    """How the choices of one trust level turned out: their number and mean regret in points."""

    level: str
    choices: int
    regret: float | None


@dataclass(frozen=True)
class _Unit:
    """A row of units.parquet with its AUROC, or None where it failed or has no labels."""

    row: Mapping[str, Any]
    config: Mapping[str, Any]
    auroc: float | None

    @property
    def is_candidate(self) -> bool:
        supervision = self.config.get("supervision", DEFAULTS["supervision"])
        return self.row["state"] == "done" and not SUPERVISIONS.get(supervision).needs_labels


def summarise(folder: Path) -> Summary:
    """Read a sweep folder and compute every number of its report.

    Raises:
        TwofoldError: a file is missing, or the files do not belong together.
    """
    selection = _read_selection(folder / "selection.json")
    aurocs = _read_aurocs(folder / "oracle" / "auroc.parquet")
    rows = _read_rows(folder / "units.parquet")
    units = [_Unit(row, json.loads(row["config"]), aurocs.get(row["key"])) for row in rows]
    of_setting = _grouped(units, lambda unit: str(unit.row["setting"]))
    settings = [_setting(choice, of_setting.pop(choice["setting"], [])) for choice in selection["choices"]]
    pairs = tuple(
        _pair(group) for group in _grouped(settings, lambda s: (s.source, s.target, s.contamination)).values()
    )
    return Summary(
        name=str(selection["sweep"]),
        labelled=bool(aurocs),
        default=selection["default"],
        pairs=pairs,
        overall=mean_scores([pair.scores for pair in pairs]),
        units=len(units),
        failures=_failures(units),
        without_choice=tuple(_setting_words(members[0].row) for members in of_setting.values()),
    )


def mean_scores(parts: Sequence[Scores]) -> Scores:
    """System by system, the mean of ``parts``; None where one of them has no value."""
    return Scores(**{name: _mean([getattr(part, name) for part in parts]) for name in SYSTEMS})


def proxy_correlations(summary: Summary) -> tuple[Correlation, ...]:
    """Per proxy, the mean over settings of Spearman's rho with AUROC among the candidates; best first.

    A setting counts where at least three candidates have both numbers and neither number is constant.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for setting in summary.settings:
        for proxy in sorted({name for candidate in setting.candidates for name in candidate.proxies}):
            pairs = [
                (candidate.proxies[proxy], candidate.auroc)
                for candidate in setting.candidates
                if proxy in candidate.proxies and candidate.auroc is not None
            ]
            if len(pairs) >= 3 and np.ptp(pairs, axis=0).min() > 0:
                ours, theirs = (list(column) for column in zip(*pairs, strict=True))
                values[proxy].append(float(spearmanr(ours, theirs).statistic))
    found = [Correlation(proxy, statistics.fmean(each), len(each)) for proxy, each in values.items()]
    return tuple(sorted(found, key=lambda entry: (-entry.spearman, entry.proxy)))


def trust_levels(summary: Summary) -> tuple[TrustLevel, ...]:
    """The trust levels that occur, from high to low."""
    groups = _grouped(summary.settings, lambda setting: setting.trust)
    known = [level for level in TRUST_LEVELS if level in groups]
    return tuple(
        TrustLevel(level, len(groups[level]), _mean([s.scores.regret for s in groups[level]]))
        for level in [*known, *sorted(set(groups) - set(known))]
    )


def _setting(choice: Mapping[str, Any], units: Sequence[_Unit]) -> SettingSummary:
    """Judge one choice among the units of its setting."""
    named = {str(unit.row["key"]): unit for unit in units}
    for role in ("chosen", "default", "compactness_pick"):
        if choice[role] is not None and choice[role] not in named:
            raise TwofoldError(
                f"selection.json: {role} unit {choice[role]} of setting {choice['setting']} is not in "
                "units.parquet; run `twofold select` again"
            )
    ranking = {entry["key"]: entry for entry in choice["ranking"]}
    chosen = named[choice["chosen"]]
    return SettingSummary(
        key=choice["setting"],
        **{name: chosen.row[name] for name in ("source", "target", "normal_class")},
        contamination=chosen.row["contamination"],
        split_seed=chosen.row["split_seed"],
        config=choice["config"],
        kept_default=choice["kept_default"],
        reason=" ".join(choice["explanation"]),
        trust=choice["trust"],
        scores=_scores(choice, named),
        chosen_by_seed={
            int(unit.row["seed"]): unit.auroc
            for unit in units
            if unit.config == chosen.config and unit.auroc is not None
        },
        candidates=tuple(
            _candidate(unit, ranking.get(unit.row["key"], {})) for unit in units if unit.is_candidate
        ),
        trusted_sets=tuple(
            TrustedSet(entry["config"], _known(entry["proxies"])) for entry in choice["stage_a"]
        ),
        failed_gates=Counter(gate for entry in ranking.values() for gate in entry["gates"]),
    )


def _candidate(unit: _Unit, entry: Mapping[str, Any]) -> Candidate:
    proxies = {**json.loads(unit.row["stage_a"]), **entry.get("proxies", {})}
    return Candidate(unit.row["key"], unit.config, _known(proxies), unit.auroc)


def _known(proxies: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in proxies.items() if value is not None}


def _scores(choice: Mapping[str, Any], named: Mapping[str, _Unit]) -> Scores:
    units = list(named.values())
    judged = [unit for unit in units if unit.is_candidate and unit.auroc is not None]
    guided = [unit for unit in units if unit.config.get("supervision") == "oracle"]

    def seed_mean(key: str | None) -> float | None:
        return None if key is None else _seed_mean(units, named[key].config)

    published = [unit for unit in judged if _PUBLISHED.items() <= unit.config.items()]
    return Scores(
        source_only=_source_only(units),
        published=_mean([unit.auroc for unit in published]),
        default=seed_mean(choice["default"]),
        compactness=seed_mean(choice["compactness_pick"]),
        random=_mean([unit.auroc for unit in judged]),
        chosen=seed_mean(choice["chosen"]),
        best=_best(judged),
        true_normals=_best(guided),
    )


def _source_only(units: Sequence[_Unit]) -> float | None:
    """AUROC of the source-only row: DSVDD alone where the sweep trains it, else the frozen encoder.

    Of several such configurations the first in alphabetical order of their JSON stands for them, so that it
    is the same one on every setting.
    """
    for alignment in ("none", "identity"):
        wanted = {"supervision": "source_only", "alignment": alignment, "score": "source_centre"}
        found = [unit for unit in units if wanted.items() <= unit.config.items()]
        if found:
            return _seed_mean(units, min(found, key=_config_text).config)
    return None


def _config_text(unit: _Unit) -> str:
    return str(unit.row["config"])


def _seed_mean(units: Iterable[_Unit], config: Mapping[str, Any]) -> float | None:
    """Mean AUROC over the finished seeds of a configuration."""
    return _mean([unit.auroc for unit in units if unit.config == config and unit.auroc is not None])


def _best(units: Iterable[_Unit]) -> float | None:
    """Highest seed mean among the configurations of ``units``."""
    groups = _grouped(units, _config_text).values()
    means = [_seed_mean(members, members[0].config) for members in groups]
    return max((mean for mean in means if mean is not None), default=None)


def _pair(settings: Sequence[SettingSummary]) -> PairSummary:
    first = settings[0]
    classes = tuple(
        ClassSummary(name, tuple(members), mean_scores([setting.scores for setting in members]))
        for name, members in _grouped(settings, lambda s: s.normal_class).items()
    )
    return PairSummary(
        source=first.source,
        target=first.target,
        contamination=first.contamination,
        classes=classes,
        scores=mean_scores([entry.scores for entry in classes]),
        class_std={name: _std([getattr(entry.scores, name) for entry in classes]) for name in SYSTEMS},
        seed_std=_seed_std(settings),
    )


def _seed_std(settings: Sequence[SettingSummary]) -> float | None:
    """Spread over runs (split seed, seed) of the chosen class mean, over runs that have every class."""
    runs: dict[tuple[int, int], list[float]] = defaultdict(list)
    for setting in settings:
        for seed, auroc in setting.chosen_by_seed.items():
            runs[setting.split_seed, seed].append(auroc)
    classes = len({setting.normal_class for setting in settings})
    return _std([statistics.fmean(run) for run in runs.values() if len(run) == classes])


def _failures(units: Iterable[_Unit]) -> tuple[Failure, ...]:
    failed = [unit for unit in units if unit.row["state"] == "failed"]
    groups = _grouped(failed, lambda unit: _last_line(unit.row["error"]))
    found = [
        Failure(message, len(members), len({unit.row["setting"] for unit in members}), members[0].config)
        for message, members in groups.items()
    ]
    return tuple(sorted(found, key=lambda failure: (-failure.units, failure.message)))


def _last_line(error: str | None) -> str:
    lines = [line.strip() for line in (error or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _setting_words(row: Mapping[str, Any]) -> str:
    return (
        f"{row['source']} → {row['target']}, {row['normal_class']}, contamination {row['contamination']:g}, "
        f"split seed {row['split_seed']}"
    )


def _grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by key, both in order of appearance."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _std(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) == len(values) >= 2 else None


def _read_selection(path: Path) -> dict[str, Any]:
    try:
        selection: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise TwofoldError(f"cannot read {path}: {error.strerror}. Run `twofold select` first.") from error
    except ValueError as error:
        raise TwofoldError(f"{path} is damaged: {error}. Run `twofold select` again.") from error
    return selection


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        return read_units(path, _COLUMNS)
    except OSError as error:
        raise TwofoldError(f"cannot read {path}; run `twofold sweep` first") from error


def _read_aurocs(path: Path) -> dict[str, float]:
    """Key -> AUROC in percent; empty for a target without labels."""
    try:
        table = pq.read_table(path, columns=["key", "auroc"])
    except OSError as error:
        raise TwofoldError(
            f"cannot read {path}; run `twofold report`, which lets the oracle judge the units"
        ) from error
    return dict(zip(table["key"].to_pylist(), table["auroc"].to_pylist(), strict=True))
