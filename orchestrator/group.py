"""One group of units on one setting: cluster once per trusted set, train once per embedding, score many.

Knows neither Ray nor MLflow: the trial wraps it, and tests run it as it is.
"""

from __future__ import annotations

import time
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.attempts import Failure
from orchestrator.ledger import UnitRecord
from orchestrator.plan import Unit
from orchestrator.prepare import Prepared
from orchestrator.proxies.base import PROXIES, FeatureEvidence, evaluate
from trainables.clusterers.base import trusted_among
from trainables.configuration import Configuration
from trainables.errors import NonFinite, UndefinedScore
from trainables.methods.base import PARTS, Part, SettingArrays, Training, TrainingInputs
from trainables.scores.base import Reference
from trainables.seeding import generator
from trainables.types import Assignment


@dataclass(frozen=True)
class Progress:
    """What a group says after each epoch and each record.

    Attributes:
        finished: records of the units that ended with this step.
        epoch: epoch just trained, 0 where nothing is trained.
        losses: mean losses of that epoch.
    """

    finished: list[UnitRecord] = field(default_factory=list)
    epoch: int = 0
    losses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Trusted:
    """A trusted set, its stage-A proxies and the seconds both took."""

    assignment: Assignment | None
    trusted_sel: np.ndarray
    proxies: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class _Embedded:
    """Embeddings of every part after training, and how they came about."""

    parts: dict[Part, np.ndarray]
    centre: np.ndarray
    epochs: list[dict[str, float]]
    diagnostics: dict[str, float]
    assignment: Assignment | None
    seconds: float


class GroupRun:
    """Runs units that share a setting and a seed.

    Args:
        prepared: arrays and settings of the sweep.
        units: units of one setting and one seed.
    """

    def __init__(self, prepared: Prepared, units: Sequence[Unit]) -> None:
        self._prepared = prepared
        self._setting = prepared.settings[units[0].setting]
        self._units = list(units)
        self._trusted: dict[str, _Trusted] = {}

    def bundles(self) -> list[list[Unit]]:
        """The units, those of one bundle together."""
        shared: dict[str, list[Unit]] = defaultdict(list)
        for unit in self._units:
            shared[unit.bundle].append(unit)
        return list(shared.values())

    def run(self, units: Sequence[Unit]) -> Iterator[Progress]:
        """Run the units of one bundle, yielding after every epoch and then with every record.

        An exception becomes a failed record of each of them; it never leaves this method.
        """
        recorded: set[str] = set()
        try:
            for progress in self._run([(unit, Configuration.parse(unit.configuration)) for unit in units]):
                recorded.update(record.key for record in progress.finished)
                yield progress
        except Exception as error:
            left = [unit for unit in units if unit.key not in recorded]
            yield Progress(self.fail(left, _failure(error), traceback.format_exc()))

    def fail(self, units: Sequence[Unit], failure: Failure, error: str) -> list[UnitRecord]:
        """Failed records for ``units``."""
        return [self._record(unit, "failed", failure=failure, error=error) for unit in units]

    def _run(self, members: list[tuple[Unit, Configuration]]) -> Iterator[Progress]:
        unit, configuration = members[0]
        arrays = self._prepared.setting_arrays(unit.setting, configuration)
        if configuration.method is None:
            embedded = _frozen(arrays)
        else:
            started = time.perf_counter()
            training = configuration.method.start(self._training_inputs(unit, configuration, arrays))
            before = _diagnose(training.embed("target_sel"), training.centre, "_initial")
            epochs = []
            for epoch in range(1, configuration.method.epochs + 1):
                losses = training.fit_epoch()
                epochs.append({"epoch": float(epoch), **losses})
                yield Progress(epoch=epoch, losses=losses)
            embedded = _embed(training, epochs, before, started)
        for unit, config in members:
            yield Progress([self._score(unit, config, embedded)])

    def _training_inputs(
        self, unit: Unit, configuration: Configuration, arrays: SettingArrays
    ) -> TrainingInputs:
        uses_trusted = configuration.alignment.uses_trusted
        trusted = self._find_trusted(unit, configuration, arrays) if uses_trusted else None
        return TrainingInputs(
            arrays=arrays,
            assignment=trusted.assignment if trusted else None,
            recluster=_clusterer(unit, configuration) if configuration.reclusters else None,
            alignment=configuration.alignment,
            purpose=unit.setting,
            seed=unit.seed,
            image_size=self._prepared.image_size,
        )

    def _find_trusted(self, unit: Unit, configuration: Configuration, arrays: SettingArrays) -> _Trusted:
        """The trusted set of a configuration, found once per group, with its stage-A proxies."""
        if not configuration.supervision.uses_target:
            return _Trusted(None, np.empty(0, dtype=bool), {}, 0.0)
        key = configuration.trusted_key
        if key not in self._trusted:
            started = time.perf_counter()
            features = {part: arrays.features[part].all() for part in PARTS[:4]}
            cluster = _clusterer(unit, configuration) if configuration.clusterer else None
            assignment = configuration.supervision.trusted_set(
                features["target_fit"], cluster, self._setting.true_normals
            )
            inside = np.empty(0, dtype=bool)
            proxies: dict[str, float] = {}
            if assignment is not None:
                inside = trusted_among(assignment, features["target_fit"], features["target_sel"])
            if assignment is not None and configuration.clusterer is not None:
                evidence = FeatureEvidence(
                    target_fit=features["target_fit"],
                    target_sel=features["target_sel"],
                    source_fit=features["source_fit"],
                    assignment=assignment,
                    cluster=configuration.clusterer,
                    purpose=f"{unit.setting}/{unit.seed}",
                )
                proxies = stage_a_proxies(evidence)
            self._trusted[key] = _Trusted(assignment, inside, proxies, time.perf_counter() - started)
        return self._trusted[key]

    def _score(self, unit: Unit, configuration: Configuration, embedded: _Embedded) -> UnitRecord:
        try:
            # One training without a target may serve trusted sets of several encoders.
            arrays = self._prepared.setting_arrays(unit.setting, configuration)
            trusted = self._find_trusted(unit, configuration, arrays)
            started = time.perf_counter()
            assignment = embedded.assignment if configuration.reclusters else trusted.assignment
            scores = _anomaly_scores(configuration, embedded, assignment)
            seconds = {
                "cluster": trusted.seconds,
                "train": embedded.seconds,
                "score": time.perf_counter() - started,
            }
            return self._record(
                unit,
                "done",
                epochs=embedded.epochs,
                stage_a=trusted.proxies,
                seconds={name: round(value, 4) for name, value in seconds.items()},
                diagnostics=embedded.diagnostics,
                cluster_sizes=_sizes(assignment),
                trusted_fit=np.empty(0, dtype=bool) if assignment is None else assignment.trusted,
                trusted_sel=trusted.trusted_sel,
                **scores,
            )
        except Exception as error:
            return self._record(unit, "failed", failure=_failure(error), error=traceback.format_exc())

    def _record(self, unit: Unit, state: Any, **values: Any) -> UnitRecord:
        return UnitRecord(
            key=unit.key,
            setting=unit.setting,
            state=state,
            seed=unit.seed,
            config=dict(unit.configuration),
            **self._setting.description,
            **values,
        )


def _failure(error: Exception) -> Failure:
    """What a caught exception is called in a record."""
    if isinstance(error, NonFinite):
        return "non_finite"
    return "out_of_memory" if isinstance(error, MemoryError) else "error"


def stage_a_proxies(evidence: FeatureEvidence) -> dict[str, float]:
    """Every stage-A proxy that is defined for a trusted set."""
    values: dict[str, float] = {}
    for name in PROXIES.names():
        proxy = PROXIES.get(name)()
        if proxy.stage == "A":
            try:
                values[name] = evaluate(proxy, evidence)
            except UndefinedScore:
                continue
    return values


def _clusterer(unit: Unit, configuration: Configuration) -> Any:
    """The configuration's clusterer with a generator of its own, the same in every group."""

    def cluster(features: np.ndarray) -> Assignment:
        assert configuration.clusterer is not None
        purpose = ("cluster", unit.setting, unit.seed, configuration.trusted_key)
        return configuration.clusterer(features, generator(*purpose))

    return cluster


def _frozen(arrays: SettingArrays) -> _Embedded:
    """The encoder's features as embeddings; the centre is the source mean."""
    parts = {part: rows.all() for part, rows in arrays.features.items()}
    centre = parts["source_fit"].mean(axis=0)
    same = _diagnose(parts["target_sel"], centre, "")
    diagnostics = {**same, **{f"{name}_initial": value for name, value in same.items()}}
    return _Embedded(parts, centre, [], diagnostics, None, 0.0)


def _embed(
    training: Training, epochs: list[dict[str, float]], before: dict[str, float], started: float
) -> _Embedded:
    parts = {part: training.embed(part) for part in PARTS}
    diagnostics = {**before, **_diagnose(parts["target_sel"], training.centre, "")}
    seconds = time.perf_counter() - started
    return _Embedded(parts, training.centre, epochs, diagnostics, training.assignment, seconds)


def _diagnose(embeddings: np.ndarray, centre: np.ndarray, suffix: str) -> dict[str, float]:
    """Effective rank (Roy & Vetterli, 2007) and coefficient of variation of ||h - c||^2, on T_sel."""
    values = np.linalg.svd(embeddings - embeddings.mean(axis=0), compute_uv=False)
    share = values[values > 0] / max(values.sum(), 1e-12)
    distance = np.square(embeddings - centre).sum(axis=1)
    return {
        f"effective_rank{suffix}": float(np.exp(-(share * np.log(share)).sum())),
        f"score_variation{suffix}": float(distance.std() / max(distance.mean(), 1e-12)),
    }


def _anomaly_scores(
    configuration: Configuration, embedded: _Embedded, assignment: Assignment | None
) -> dict[str, np.ndarray]:
    """Scores of every held-out part as float32.

    Raises:
        NonFinite: a score is NaN or infinite.
    """
    fit = embedded.parts["target_fit"]
    reference = Reference(
        centre=embedded.centre,
        source=embedded.parts["source_fit"],
        trusted=fit[:0] if assignment is None else fit[assignment.trusted],
    )
    scores: dict[str, np.ndarray] = {}
    for part in ("source_val", "target_sel", "pseudo", "test"):
        values = configuration.score(embedded.parts[part], reference).astype(np.float32)
        if not np.isfinite(values).all():
            raise NonFinite(f"the scores of {part} are not all finite")
        scores[part] = values
    return scores


def _sizes(assignment: Assignment | None) -> np.ndarray:
    return np.empty(0, dtype=np.int32) if assignment is None else np.bincount(assignment.labels)
