"""The label-free choice: records of a sweep -> selection.json. Nothing here can see a label.

Stage A compares trusted sets (clusterer and K) by their frozen features; stage B compares configurations by
their anomaly scores on T_sel. Both rank, and average the ranks. The default configuration is left only when
the advantage of another one holds in most bootstrap resamples of T_sel.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from orchestrator.ledger import UnitRecord, read_units
from orchestrator.proxies.base import PROXIES, ScoreEvidence, evaluate
from orchestrator.proxies.consensus import consensus_matrix
from orchestrator.report.words import describe
from trainables.cache import write_atomically
from trainables.configuration import Configuration
from trainables.errors import TwofoldError, UndefinedScore
from trainables.seeding import canonical_json, generator

SCHEMA = 1
CONSENSUS = "consensus"


@dataclass(frozen=True)
class Chooser:
    """Constants of the choice, frozen on the digits benchmark.

    Attributes:
        stage_a: proxies whose mean rank compares trusted sets.
        stage_b: proxies whose mean rank compares configurations.
        keep_trusted: trusted sets that stage A lets through, besides that of the default.
        bootstraps: resamples of T_sel.
        margin: lead in mean rank (0 = best, 1 = worst of the grid) that counts as beating the default.
        convinced: share of resamples in which another configuration must beat the default to replace it.
        min_rank: gate, least effective rank of the embeddings relative to that before training.
        min_variation: gate, least score variation relative to that before training.
        min_share: gate, least share of T_fit that is trusted.
        ensemble: how many of the best configurations the ensemble holds.
    """

    stage_a: tuple[str, ...] = ("dominant_stability", "dominant_silhouette", "source_affinity")
    stage_b: tuple[str, ...] = ("consensus", "tail_separation", "pseudo_auc")
    keep_trusted: int = 3
    bootstraps: int = 20
    margin: float = 0.2
    convinced: float = 0.8
    min_rank: float = 0.5
    min_variation: float = 0.01
    min_share: float = 0.1
    ensemble: int = 5


@dataclass(frozen=True)
class Candidate:
    """One configuration of a setting with all its seeds.

    Attributes:
        records: its finished units by seed; the first names the candidate.
        trusted: canonical JSON of what finds its trusted set; empty where the target is not used.
        gates: names of the gates it fails.
    """

    records: tuple[UnitRecord, ...]
    trusted: str
    gates: tuple[str, ...]

    @property
    def key(self) -> str:
        """Key of the unit with the lowest seed."""
        return self.records[0].key

    @property
    def config(self) -> dict[str, Any]:
        """Canonical configuration."""
        return self.records[0].config


@dataclass(frozen=True)
class Ranking:
    """Stage B over the candidates of a setting.

    Attributes:
        proxies: per candidate, proxy -> value; an undefined one is absent.
        ranks: (u,) mean rank, smaller = better.
        wins: (u,) share of bootstrap resamples in which the candidate clearly beats the default.
    """

    proxies: list[dict[str, float]]
    ranks: np.ndarray
    wins: np.ndarray = field(default_factory=lambda: np.empty(0))


def select_folder(folder: Path, sweep: str, default: Mapping[str, Any]) -> Path:
    """Choose for every setting of a sweep and write ``selection.json``; return its path.

    Raises:
        TwofoldError: no unit finished.
    """
    chooser = Chooser()
    settings: dict[str, list[UnitRecord]] = defaultdict(list)
    for row in read_units(folder / "units.parquet"):
        settings[row["setting"]].append(UnitRecord.from_row(row))
    choices = [
        choose(records, default, chooser)
        for records in settings.values()
        if any(record.state == "done" for record in records)
    ]
    if not choices:
        raise TwofoldError(f"no unit of {folder} finished, so there is nothing to choose from")
    content = {
        "schema": SCHEMA,
        "sweep": sweep,
        "default": dict(default),
        "chooser": asdict(chooser),
        "choices": choices,
    }
    path = folder / "selection.json"
    write_atomically(path, lambda temporary: _write_json(temporary, content))
    return path


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def choose(records: Sequence[UnitRecord], default: Mapping[str, Any], chooser: Chooser) -> dict[str, Any]:
    """The choice for one setting, with everything that led to it, as in ``selection.json``.

    Args:
        records: the setting's units, at least one of them finished.
        default: canonical configuration that is kept unless another one convinces.
        chooser: constants.
    """
    candidates = gather_candidates(records, chooser)
    position = _position(candidates, default)
    table, kept = _stage_a(candidates, position, chooser)
    ranking = _stage_b(candidates, position, chooser)
    order = sorted(range(len(candidates)), key=lambda i: (ranking.ranks[i], candidates[i].key))
    open_ = [i for i in order if not candidates[i].gates and candidates[i].trusted in kept]
    chosen, share = _decide(open_, order, position, ranking, chooser)
    return {
        "setting": records[0].setting,
        "task": records[0].task,
        "chosen": candidates[chosen].key,
        "config": candidates[chosen].config,
        "default": None if position is None else candidates[position].key,
        "kept_default": chosen == position,
        "win_share": round(share, 4),
        "trust": _trust(share, chosen == position),
        "reason": _reason(candidates, open_, chosen, position, share, chooser),
        "compactness_pick": _compactness_pick(candidates),
        "stage_a": table,
        "ranking": [_entry(candidates[i], ranking, i) for i in order],
        "ensemble": [candidates[i].key for i in open_[: chooser.ensemble]],
    }


def gather_candidates(records: Sequence[UnitRecord], chooser: Chooser) -> list[Candidate]:
    """Finished configurations that used no label, in the order of their keys' first appearance."""
    by_config: dict[str, list[UnitRecord]] = defaultdict(list)
    for record in records:
        if record.state == "done":
            by_config[canonical_json(record.config)].append(record)
    candidates = []
    for same in by_config.values():
        configuration = Configuration.parse(same[0].config)
        if not configuration.supervision.needs_labels:
            ordered = tuple(sorted(same, key=lambda record: record.seed))
            candidates.append(Candidate(ordered, _trusted(configuration), _gates(ordered, chooser)))
    return candidates


def _trusted(configuration: Configuration) -> str:
    """Canonical JSON of encoder, clusterer and its parameters, or empty without a target."""
    if configuration.clusterer is None:
        return ""
    flat = configuration.as_dict()
    names = ("encoder", "clusterer", *type(configuration.clusterer).model_fields)
    return canonical_json({name: flat[name] for name in names})


def _gates(records: Sequence[UnitRecord], chooser: Chooser) -> tuple[str, ...]:
    """Names of the gates that some seed fails."""
    failed = set()
    for record in records:
        d = record.diagnostics
        if d["effective_rank"] < chooser.min_rank * d["effective_rank_initial"]:
            failed.add("effective_rank")
        if d["score_variation"] < chooser.min_variation * d["score_variation_initial"]:
            failed.add("score_variation")
        if record.trusted_fit.size and record.trusted_fit.mean() < chooser.min_share:
            failed.add("trusted_share")
    return tuple(sorted(failed))


def _position(candidates: Sequence[Candidate], default: Mapping[str, Any]) -> int | None:
    wanted = canonical_json(dict(default))
    found = [i for i, candidate in enumerate(candidates) if canonical_json(candidate.config) == wanted]
    return found[0] if found else None


def _stage_a(
    candidates: Sequence[Candidate], default: int | None, chooser: Chooser
) -> tuple[list[dict[str, Any]], set[str]]:
    """Rank the trusted sets; return the table, best first, and those that stay in the race."""
    trusted = {c.trusted: _mean_proxies(c) for c in candidates if c.trusted}
    names = list(trusted)
    ranks = mean_ranks([trusted[name] for name in names], chooser.stage_a)
    order = sorted(range(len(names)), key=lambda i: (ranks[i], names[i]))
    table = [
        {"config": json.loads(names[i]), "proxies": trusted[names[i]], "rank": round(float(ranks[i]), 4)}
        for i in order
    ]
    kept = {names[i] for i in order[: chooser.keep_trusted]} | {""}
    if default is not None:
        kept.add(candidates[default].trusted)
    return table, kept


def _mean_proxies(candidate: Candidate) -> dict[str, float]:
    """Stage-A proxies of a candidate's trusted set, averaged over its seeds."""
    names = set.intersection(*(set(record.stage_a) for record in candidate.records))
    return {
        name: float(np.mean([record.stage_a[name] for record in candidate.records])) for name in sorted(names)
    }


def mean_ranks(values: Sequence[Mapping[str, float]], names: Sequence[str]) -> np.ndarray:
    """(u,) mean over ``names`` of the rank of each value, 0 = best .. 1 = worst; an undefined one is .5."""
    columns = []
    for name in names:
        defined = [i for i, value in enumerate(values) if name in value]
        column = np.full(len(values), 0.5)
        if len(defined) > 1:
            ranks = rankdata([-values[i][name] for i in defined])
            column[defined] = (ranks - 1) / (len(defined) - 1)
        columns.append(column)
    return np.asarray(np.mean(columns, axis=0))


def _stage_b(candidates: Sequence[Candidate], default: int | None, chooser: Chooser) -> Ranking:
    """Rank on all of T_sel, and count how often each candidate beats the default on resamples of it."""
    every = np.arange(len(candidates[0].records[0].target_sel))
    names = [name for name in PROXIES.names() if PROXIES.get(name).stage == "B"]
    proxies = _score_proxies(candidates, every, names)
    ranks = mean_ranks(proxies, chooser.stage_b)
    if default is None:
        return Ranking(proxies, ranks, np.ones(len(candidates)))
    draws = generator("bootstrap", candidates[0].records[0].setting)
    wins = np.zeros(len(candidates))
    for _ in range(chooser.bootstraps):
        sample = np.sort(draws.choice(every, size=len(every), replace=True))
        resampled = mean_ranks(_score_proxies(candidates, sample, chooser.stage_b), chooser.stage_b)
        wins += resampled[default] - resampled > chooser.margin
    return Ranking(proxies, ranks, wins / chooser.bootstraps)


def _score_proxies(
    candidates: Sequence[Candidate], sample: np.ndarray, names: Sequence[str]
) -> list[dict[str, float]]:
    """Stage-B proxies of every candidate on the T_sel images ``sample``, averaged over seeds."""
    seeds = min(len(candidate.records) for candidate in candidates)
    collected: list[dict[str, list[float]]] = [defaultdict(list) for _ in candidates]
    for seed in range(seeds):
        records = [candidate.records[seed] for candidate in candidates]
        scores = np.stack([record.target_sel[sample] for record in records])
        agreement = consensus_matrix(scores)
        for i, record in enumerate(records):
            evidence = _evidence(record, sample)
            for name in names:
                try:
                    value = (
                        float((agreement[i].sum() - 1) / max(len(records) - 1, 1))
                        if name == CONSENSUS
                        else evaluate(PROXIES.get(name)(), evidence)
                    )
                except UndefinedScore:
                    continue
                collected[i][name].append(value)
    return [{k: float(np.mean(v)) for k, v in values.items() if len(v) == seeds} for values in collected]


def _evidence(record: UnitRecord, sample: np.ndarray) -> ScoreEvidence:
    trusted = record.trusted_sel if record.trusted_sel.size else np.ones(len(record.target_sel), dtype=bool)
    return ScoreEvidence(
        source_val=record.source_val,
        target_sel=record.target_sel[sample],
        trusted_sel=trusted[sample],
        pseudo=record.pseudo[sample],
        peers=np.empty((0, len(sample))),
        purpose=record.key,
    )


def _decide(
    open_: Sequence[int], order: Sequence[int], default: int | None, ranking: Ranking, chooser: Chooser
) -> tuple[int, float]:
    """The chosen candidate, and the share of resamples in which the leader of the race beats the default."""
    if not open_:
        return (order[0] if default is None else default), 0.0
    leader = open_[0]
    if default is None or leader == default:
        return leader, 1.0
    share = float(ranking.wins[leader])
    return (leader if share >= chooser.convinced else default), share


def _trust(share: float, kept: bool) -> str:
    """How clearly the resamples speak for the choice: for the leader, or against leaving the default."""
    support = share if not kept or share == 1.0 else 1 - share
    return "high" if support >= 0.9 else "medium" if support >= 0.6 else "low"


def _reason(
    candidates: Sequence[Candidate],
    open_: Sequence[int],
    chosen: int,
    default: int | None,
    share: float,
    chooser: Chooser,
) -> str:
    """The choice in one sentence."""
    if not open_:
        return "no configuration passes the gates, so this one is kept without support"
    leader = open_[0]
    if chosen != default:
        wins = f"clearly beats the default in {share:.0%} of the resamples of T_sel"
        return f"first by mean rank of {', '.join(chooser.stage_b)}, and {wins}"
    if leader == default:
        return "the default is also first by mean rank"
    return (
        f"the default is kept: {describe(candidates[leader].config)} ranks first, but clearly beats it in "
        f"{share:.0%} of the resamples of T_sel, and {chooser.convinced:.0%} are asked for"
    )


def _compactness_pick(candidates: Sequence[Candidate]) -> str | None:
    """What raw compactness of the dominant cluster would choose; ties go to the first key."""
    defined = [c for c in candidates if "compactness" in _mean_proxies(c)]
    if not defined:
        return None
    return max(defined, key=lambda c: (_mean_proxies(c)["compactness"], c.key)).key


def _entry(candidate: Candidate, ranking: Ranking, i: int) -> dict[str, Any]:
    return {
        "key": candidate.key,
        "rank": round(float(ranking.ranks[i]), 4),
        "proxies": ranking.proxies[i],
        "gates": list(candidate.gates),
    }
