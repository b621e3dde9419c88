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
from threadpoolctl import threadpool_limits

from orchestrator.ledger import UnitRecord, read_by_setting
from orchestrator.objective import objective_value, score_evidence
from orchestrator.proxies.base import PROXIES
from orchestrator.proxies.consensus import consensus_sums
from orchestrator.report.words import describe
from trainables.cache import write_atomically
from trainables.configuration import Configuration
from trainables.errors import TwofoldError
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


@dataclass(frozen=True)
class Verdict:
    """What is chosen and how far to trust it.

    Attributes:
        chosen: position of the candidate.
        share: share of resamples in which the leader of the race clearly beats the default.
        trust: high, medium or low.
        reason: one sentence.
    """

    chosen: int
    share: float
    trust: str
    reason: str


def select_folder(folder: Path, sweep: str, default: Mapping[str, Any]) -> Path:
    """Choose for every setting of a sweep and write ``selection.json``; return its path.

    Raises:
        TwofoldError: no unit finished.
    """
    chooser = Chooser()
    choices = []
    # Products of small matrices: many threads would wait for each other for longer than they compute.
    with threadpool_limits(1):
        for table in read_by_setting(folder / "units.parquet"):
            if candidates := gather_candidates(UnitRecord.from_table(table), chooser):
                choices.append(choose(candidates, default, chooser))
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
    # Piece by piece: the text of ten thousand units is larger than what it describes.
    with path.open("w") as file:
        json.dump(content, file, indent=1, sort_keys=True, allow_nan=False)
        file.write("\n")


def choose(candidates: Sequence[Candidate], default: Mapping[str, Any], chooser: Chooser) -> dict[str, Any]:
    """The choice for one setting, with everything that led to it, as in ``selection.json``.

    Args:
        candidates: what there is to choose from, at least one.
        default: canonical configuration that is kept unless another one convinces.
        chooser: constants.
    """
    position = _position(candidates, default)
    table, kept = _stage_a(candidates, position, chooser)
    ranking = _stage_b(candidates, position, chooser)
    order = sorted(range(len(candidates)), key=lambda i: (ranking.ranks[i], candidates[i].key))
    open_ = [i for i in order if not candidates[i].gates and candidates[i].trusted in kept]
    verdict = _decide(candidates, open_, order, position, ranking, chooser)
    record = candidates[0].records[0]
    return {
        "setting": record.setting,
        "task": record.task,
        "chosen": candidates[verdict.chosen].key,
        "config": candidates[verdict.chosen].config,
        "default": None if position is None else candidates[position].key,
        "kept_default": verdict.chosen == position,
        "win_share": round(verdict.share, 4),
        "trust": verdict.trust,
        "reason": verdict.reason,
        "compactness_pick": _compactness_pick(candidates),
        "stage_a": table,
        "ranking": [_entry(candidates[i], ranking, i) for i in order],
        "ensemble": [candidates[i].key for i in open_[: chooser.ensemble]],
    }


def gather_candidates(records: Sequence[UnitRecord], chooser: Chooser) -> list[Candidate]:
    """Finished configurations that used no label, sorted, so that the order of the records has no say."""
    by_config: dict[str, list[UnitRecord]] = defaultdict(list)
    for record in records:
        if record.state == "done":
            by_config[canonical_json(record.config)].append(record)
    candidates = []
    for _, same in sorted(by_config.items()):
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
    records: dict[str, list[UnitRecord]] = defaultdict(list)
    for candidate in candidates:
        if candidate.trusted:
            records[candidate.trusted].extend(candidate.records)
    trusted = {name: _mean_proxies(same) for name, same in records.items()}
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


def _mean_proxies(records: Sequence[UnitRecord]) -> dict[str, float]:
    """Stage-A proxies that all records of one trusted set have, averaged."""
    names = set.intersection(*(set(record.stage_a) for record in records))
    return {name: float(np.mean([record.stage_a[name] for record in records])) for name in sorted(names)}


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
    draws = generator("bootstrap", candidates[0].records[0].setting)
    resamples = [
        np.sort(draws.choice(every, size=len(every), replace=True))
        for _ in range(0 if default is None else chooser.bootstraps)
    ]
    whole, *agreements = _agreements(candidates, [every, *resamples])
    names = [name for name in PROXIES.names() if PROXIES.get(name).stage == "B"]
    proxies = _score_proxies(candidates, every, names, whole)
    ranks = mean_ranks(proxies, chooser.stage_b)
    if default is None:
        return Ranking(proxies, ranks, np.ones(len(candidates)))
    wins = np.zeros(len(candidates))
    for sample, agreement in zip(resamples, agreements, strict=True):
        resampled = mean_ranks(
            _score_proxies(candidates, sample, chooser.stage_b, agreement), chooser.stage_b
        )
        wins += resampled[default] - resampled > chooser.margin
    return Ranking(proxies, ranks, wins / chooser.bootstraps)


def _agreements(candidates: Sequence[Candidate], samples: Sequence[np.ndarray]) -> list[dict[str, float]]:
    """For each of the samples (m,) of T_sel images, key -> consensus of a unit with its peers of one seed."""
    counts = np.stack([np.bincount(sample, minlength=len(samples[0])) for sample in samples])
    by_seed: dict[int, list[UnitRecord]] = defaultdict(list)
    for candidate in candidates:
        for record in candidate.records:
            by_seed[record.seed].append(record)
    found: list[dict[str, float]] = [{} for _ in samples]
    for same in by_seed.values():
        sums = consensus_sums(np.stack([record.target_sel for record in same]), counts)
        for values, row in zip(found, (sums - 1) / max(len(same) - 1, 1), strict=True):
            values.update(zip((record.key for record in same), map(float, row), strict=True))
    return found


def _score_proxies(
    candidates: Sequence[Candidate],
    sample: np.ndarray,
    names: Sequence[str],
    agreement: Mapping[str, float],
) -> list[dict[str, float]]:
    """Stage-B proxies of every candidate on the T_sel images ``sample``, averaged over its seeds.

    A proxy that is undefined for one of the seeds is undefined.
    """
    values = [
        [_unit_proxies(record, sample, names, agreement[record.key]) for record in candidate.records]
        for candidate in candidates
    ]
    return [
        {
            name: float(np.mean([seed[name] for seed in seeds]))
            for name in names
            if all(name in s for s in seeds)
        }
        for seeds in values
    ]


def _unit_proxies(
    record: UnitRecord, sample: np.ndarray, names: Sequence[str], consensus: float
) -> dict[str, float]:
    """Stage-B proxies of one unit that are defined; the consensus with its peers is given."""
    evidence = score_evidence(record, sample)
    values = {CONSENSUS: consensus} if CONSENSUS in names else {}
    for name in names:
        if name != CONSENSUS and (value := objective_value(name, evidence)) is not None:
            values[name] = value
    return values


def _decide(
    candidates: Sequence[Candidate],
    open_: Sequence[int],
    order: Sequence[int],
    default: int | None,
    ranking: Ranking,
    chooser: Chooser,
) -> Verdict:
    """Leave the default for the leader of the race only where the resamples speak clearly for it."""
    if not open_:
        chosen = order[0] if default is None else default
        return Verdict(chosen, 0.0, "low", "every configuration fails a gate, so nothing supports this one")
    leader, ranked = open_[0], f"first by mean rank of {', '.join(chooser.stage_b)}"
    if default is None:
        return Verdict(leader, 0.0, "low", f"{ranked}; the default did not finish, so it is not compared")
    if candidates[default].gates:
        gates = ", ".join(candidates[default].gates)
        return Verdict(leader, 0.0, "low", f"{ranked}; the default fails the gate {gates}")
    if leader == default:
        return Verdict(leader, 1.0, "high", f"the default is also {ranked}")
    share = float(ranking.wins[leader])
    if share >= chooser.convinced:
        reason = f"{ranked}, and clearly beats the default in {share:.0%} of the resamples of T_sel"
        return Verdict(leader, share, _trust(share), reason)
    reason = (
        f"the default is kept: {describe(candidates[leader].config)} ranks first, but clearly beats it in "
        f"{share:.0%} of the resamples of T_sel, and {chooser.convinced:.0%} are asked for"
    )
    return Verdict(default, share, _trust(1 - share), reason)


def _trust(support: float) -> str:
    """How clearly the resamples speak for a choice, from the share of them that does."""
    return "high" if support >= 0.9 else "medium" if support >= 0.6 else "low"


def _compactness_pick(candidates: Sequence[Candidate]) -> str | None:
    """What raw compactness of the trusted set would choose; of the units that share it, the first key."""
    values = {c.key: _mean_proxies(c.records).get("compactness") for c in candidates}
    defined = {key: value for key, value in values.items() if value is not None}
    return min(defined, key=lambda key: (-defined[key], key)) if defined else None


def _entry(candidate: Candidate, ranking: Ranking, i: int) -> dict[str, Any]:
    return {
        "key": candidate.key,
        "rank": round(float(ranking.ranks[i]), 4),
        "proxies": ranking.proxies[i],
        "gates": list(candidate.gates),
    }
