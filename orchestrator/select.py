"""The label-free choice: records of a sweep -> selection.json. Nothing here can see a label.

The value of a configuration is its worth, learned on other data, at the estimated contamination and shift,
plus what the evidence on these images adds: the rank of its trusted set by stage A, from frozen features,
and of its scores on T_sel by stage B. Where hardly an image looks anomalous there is
nothing to rank by, and the evidence has no say. The default configuration is left only when another one
clearly leads it in most bootstrap resamples of T_sel.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from orchestrator.contamination import mean_contamination
from orchestrator.explain import explain
from orchestrator.ledger import UnitRecord, read_by_setting
from orchestrator.mixing import mean_mixing
from orchestrator.objective import objective_value, score_evidence
from orchestrator.proxies.base import PROXIES, log_scores
from orchestrator.proxies.consensus import consensus_sums
from orchestrator.report.words import describe
from orchestrator.worth import worth
from trainables.cache import write_atomically
from trainables.configuration import Configuration
from trainables.errors import TwofoldError, UndefinedScore
from trainables.seeding import canonical_json, generator
from trainables.types import Contamination

SCHEMA = 1
CONSENSUS = "consensus"


@dataclass(frozen=True)
class Chooser:
    """Constants of the choice, frozen on the digits (benchmarks/selection/RESULTS.md).

    Attributes:
        evidence: proxy -> points of AUROC between the first and the last of its ranking.
        silent, heard: estimated contamination up to which the evidence has no say, and from which it has all
            of its points.
        stage_a: proxies whose mean rank orders the trusted sets in the explanation; nothing is chosen by it.
        bootstraps: resamples of T_sel.
        margin: lead over the default, in points, that counts. The worth is that of kinds of configurations
            and does not tell near ones apart.
        convinced: share of resamples in which another configuration must lead so to replace the default.
        doubtful, clear: tail of the chosen scores below which trust is low, and from which it is high.
        min_rank: gate, least effective rank of the embeddings relative to that before training.
        min_variation: gate, least score variation relative to that before training.
        min_share: gate, least share of T_fit that is trusted.
        ensemble: how many of the best configurations the ensemble holds.
    """

    evidence: tuple[tuple[str, float], ...] = (
        ("dominant_stability", 2.0),
        ("dominant_gap", 2.0),
        ("contamination_split", 2.0),
        ("bridge", 1.0),
    )
    silent: float = 0.1
    heard: float = 0.2
    stage_a: tuple[str, ...] = ("dominant_stability", "dominant_gap")
    bootstraps: int = 20
    margin: float = 0.5
    convinced: float = 0.8
    doubtful: float = 2.3
    clear: float = 3.3
    min_rank: float = 0.5
    min_variation: float = 0.01
    min_share: float = 0.1
    ensemble: int = 5

    def say(self, contamination: float) -> float:
        """Share of its points, 0..1, that the evidence has at an estimated contamination."""
        return float(np.clip((contamination - self.silent) / (self.heard - self.silent), 0, 1))


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
    """The candidates of a setting, compared.

    Attributes:
        proxies: per candidate, stage-B proxy -> value; an undefined one is absent.
        worth: (u,) expected points relative to the best of a grid, before the evidence.
        values: (u,) worth and evidence together, in points; larger = better.
        wins: (u,) share of bootstrap resamples in which the candidate clearly leads the default.
    """

    proxies: list[dict[str, float]]
    worth: np.ndarray
    values: np.ndarray
    wins: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """What is chosen.

    Attributes:
        chosen: position of the candidate.
        share: share of resamples in which the leader of the race clearly leads the default.
        reason: one sentence.
    """

    chosen: int
    share: float
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
            records = UnitRecord.from_table(table)
            if candidates := gather_candidates(records, chooser):
                measured = [record.diagnostics for record in records]
                rho, mixing = mean_contamination(measured), mean_mixing(measured)
                choices.append(choose(candidates, default, chooser, rho, mixing))
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


def choose(
    candidates: Sequence[Candidate],
    default: Mapping[str, Any],
    chooser: Chooser,
    contamination: Contamination,
    mixing: float,
) -> dict[str, Any]:
    """The choice for one setting, with everything that led to it, as in ``selection.json``.

    Args:
        candidates: what there is to choose from, at least one.
        default: canonical configuration that is kept unless another one convinces.
        chooser: constants.
        contamination: estimate for the setting.
        mixing: of its target and source.
    """
    position = _position(candidates, default)
    table = _stage_a(candidates, chooser)
    ranking = _rank(candidates, position, chooser, contamination.estimate, mixing)
    order = sorted(range(len(candidates)), key=lambda i: (-ranking.values[i], candidates[i].key))
    open_ = [i for i in order if not candidates[i].gates]
    verdict = _decide(candidates, open_, order, position, ranking, chooser)
    chosen = candidates[verdict.chosen]
    confidence = score_tail(chosen.records)
    record = candidates[0].records[0]
    choice: dict[str, Any] = {
        "setting": record.setting,
        "task": record.task,
        "chosen": chosen.key,
        "config": chosen.config,
        "default": None if position is None else candidates[position].key,
        "kept_default": verdict.chosen == position,
        "win_share": round(verdict.share, 4),
        "contamination": asdict(contamination),
        "mixing": mixing,
        "confidence": round(confidence, 4),
        "trust": _trust(confidence, verdict, open_, chooser),
        "reason": verdict.reason,
        "compactness_pick": _compactness_pick(candidates),
        "stage_a": table,
        "ranking": [_entry(candidates[i], ranking, i) for i in order],
        "ensemble": [candidates[i].key for i in open_[: chooser.ensemble]],
    }
    most = chooser.say(contamination.estimate) * sum(points for _, points in chooser.evidence)
    return {**choice, "explanation": explain(choice, most, (chooser.doubtful, chooser.clear))}


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


def _stage_a(candidates: Sequence[Candidate], chooser: Chooser) -> list[dict[str, Any]]:
    """The trusted sets and their proxies, best first by mean rank."""
    records: dict[str, list[UnitRecord]] = defaultdict(list)
    for candidate in candidates:
        if candidate.trusted:
            records[candidate.trusted].extend(candidate.records)
    trusted = {name: _mean_proxies(same) for name, same in records.items()}
    names = list(trusted)
    ranks = mean_ranks([trusted[name] for name in names], chooser.stage_a)
    order = sorted(range(len(names)), key=lambda i: (ranks[i], names[i]))
    return [
        {"config": json.loads(names[i]), "proxies": trusted[names[i]], "rank": round(float(ranks[i]), 4)}
        for i in order
    ]


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


def _rank(
    candidates: Sequence[Candidate],
    default: int | None,
    chooser: Chooser,
    contamination: float,
    mixing: float,
) -> Ranking:
    """Value all candidates on T_sel, and count how often each is above the default on resamples of it."""
    every = np.arange(len(candidates[0].records[0].target_sel))
    draws = generator("bootstrap", candidates[0].records[0].setting)
    names = [name for name in PROXIES.names() if PROXIES.get(name).stage == "B"]
    proxies = _score_proxies(candidates, every, names, contamination, agreements(candidates))
    before = np.array([_worth(candidate, contamination, mixing) for candidate in candidates])
    frozen = [_mean_proxies(candidate.records) for candidate in candidates]

    say = chooser.say(contamination)

    def value(scores: Sequence[Mapping[str, float]]) -> np.ndarray:
        found = [{**own, **new} for own, new in zip(frozen, scores, strict=True)]
        return before + say * sum(
            points * (1 - mean_ranks(found, (name,))) for name, points in chooser.evidence
        )

    wins = np.zeros(len(candidates))
    used = [name for name, _ in chooser.evidence if name in names and name != CONSENSUS]
    for _ in range(0 if default is None else chooser.bootstraps):
        sample = np.sort(draws.choice(every, size=len(every), replace=True))
        resampled = value(_score_proxies(candidates, sample, used, contamination, {}))
        wins += resampled - resampled[default] > chooser.margin
    return Ranking(proxies, before, value(proxies), wins / chooser.bootstraps)


def _worth(candidate: Candidate, contamination: float, mixing: float) -> float:
    shares = [record.trusted_fit.mean() for record in candidate.records if record.trusted_fit.size]
    return worth(candidate.config, float(np.mean(shares)) if shares else None, contamination, mixing)


def score_tail(records: Sequence[UnitRecord]) -> float:
    """How far the highest scores of T_sel stand out: (q95 - q50) / (q50 - q05) of their logarithms, >= 0.

    Larger = more confidence in what scores so. A symmetric bulk without anomalies gives about 1; 0 where the
    scores do not vary, or are no distances. Seeds are averaged.
    """
    found = []
    for record in records:
        try:
            low, middle, high = np.quantile(log_scores(record.target_sel), [0.05, 0.5, 0.95])
        except UndefinedScore:
            return 0.0
        found.append(0.0 if middle == low else float((high - middle) / (middle - low)))
    return float(np.mean(found))


def agreements(candidates: Sequence[Candidate]) -> dict[str, float]:
    """Key -> consensus of a unit with its peers of the same seed, on all of T_sel; absent where undefined."""
    by_seed: dict[int, list[UnitRecord]] = defaultdict(list)
    for candidate in candidates:
        for record in candidate.records:
            by_seed[record.seed].append(record)
    found: dict[str, float] = {}
    for same in by_seed.values():
        if len(same) > 1:
            scores = np.stack([record.target_sel for record in same])
            means = (consensus_sums(scores, np.ones((1, scores.shape[1])))[0] - 1) / (len(same) - 1)
            varies = np.ptp(scores, axis=1) > 0
            found |= {r.key: float(mean) for r, mean, v in zip(same, means, varies, strict=True) if v}
    return found


def _score_proxies(
    candidates: Sequence[Candidate],
    sample: np.ndarray,
    names: Sequence[str],
    contamination: float,
    agreement: Mapping[str, float],
) -> list[dict[str, float]]:
    """Stage-B proxies of every candidate on the T_sel images ``sample``, averaged over its seeds.

    A proxy that is undefined for one of the seeds is undefined.
    """
    values = [
        [
            _unit_proxies(record, sample, names, contamination, agreement.get(record.key))
            for record in candidate.records
        ]
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
    record: UnitRecord,
    sample: np.ndarray,
    names: Sequence[str],
    contamination: float,
    consensus: float | None,
) -> dict[str, float]:
    """Stage-B proxies of one unit that are defined; the consensus with its peers is given."""
    evidence = score_evidence(record, sample, contamination)
    values = {CONSENSUS: consensus} if CONSENSUS in names and consensus is not None else {}
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
    """Leave the default for the leader of the race only where the resamples speak for it."""
    if not open_:
        chosen = order[0] if default is None else default
        return Verdict(chosen, 0.0, "every configuration fails a gate, so nothing supports this one")
    leader = open_[0]
    if default is None:
        return Verdict(leader, 0.0, "first by value; the default did not finish, so it is not compared")
    if candidates[default].gates:
        gates = ", ".join(candidates[default].gates)
        return Verdict(leader, 0.0, f"first by value; the default fails the gate {gates}")
    if leader == default:
        return Verdict(leader, 1.0, "the default is also first by value")
    share = float(ranking.wins[leader])
    if share >= chooser.convinced:
        lead = ranking.values[leader] - ranking.values[default]
        reason = (
            f"first by value, {lead:.1f} points above the default, and more than {chooser.margin:g} in "
            f"{share:.0%} of the resamples of T_sel"
        )
        return Verdict(leader, share, reason)
    reason = (
        f"the default is kept: {describe(candidates[leader].config)} ranks first, but leads it by "
        f"{chooser.margin:g} points in only {share:.0%} of the resamples of T_sel, and "
        f"{chooser.convinced:.0%} are asked for"
    )
    return Verdict(default, share, reason)


def _trust(confidence: float, verdict: Verdict, open_: Sequence[int], chooser: Chooser) -> str:
    """High, medium or low, by how far the highest scores stand out; low where nothing passes the gates."""
    if confidence < chooser.doubtful or verdict.chosen not in open_:
        return "low"
    return "high" if confidence >= chooser.clear else "medium"


def _compactness_pick(candidates: Sequence[Candidate]) -> str | None:
    """What raw compactness of the trusted set would choose; of the units that share it, the first key."""
    values = {c.key: _mean_proxies(c.records).get("compactness") for c in candidates}
    defined = {key: value for key, value in values.items() if value is not None}
    return min(defined, key=lambda key: (-defined[key], key)) if defined else None


def _entry(candidate: Candidate, ranking: Ranking, i: int) -> dict[str, Any]:
    return {
        "key": candidate.key,
        "config": candidate.config,
        "value": round(float(ranking.values[i]), 4),
        "worth": round(float(ranking.worth[i]), 4),
        "proxies": ranking.proxies[i],
        "gates": list(candidate.gates),
    }
