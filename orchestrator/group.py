"""One group of units on one setting: cluster once per trusted set, train once per bundle, score many.

Knows neither Ray nor MLflow: the trial wraps it, and tests run it as it is.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from orchestrator import contamination, mixing
from orchestrator.attempts import Failure
from orchestrator.checkpoints import Bookmark, Checkpoints
from orchestrator.embedded import (
    Embedded,
    anomaly_scores,
    checked_losses,
    diagnose,
    embed_all,
    frozen_embeddings,
    rows_of,
)
from orchestrator.ledger import UnitRecord
from orchestrator.plan import Unit
from orchestrator.prepare import Prepared
from orchestrator.proxies.base import PROXIES, FeatureEvidence, evaluate
from orchestrator.race import Judge, Race
from trainables.clusterers.base import trusted_among
from trainables.configuration import Configuration
from trainables.errors import NonFinite, UndefinedScore
from trainables.methods.base import PARTS, Method, Part, SettingArrays, TrainingInputs
from trainables.seeding import generator
from trainables.types import Assignment

SMALLEST_BATCH = 2


OnScored = Callable[[Embedded, Assignment | None], None]


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
    """A trusted set, its stage-A proxies, what was measured of its setting, and the seconds of it all."""

    assignment: Assignment | None
    trusted_sel: np.ndarray
    proxies: dict[str, float]
    measured: dict[str, float]
    seconds: float


class GroupRun:
    """Runs units that share a setting and a seed.

    Args:
        prepared: arrays and settings of the sweep.
        units: units of one setting and one seed.
        on_scored: told the embeddings and the trusted set behind the scores of a unit, whenever it is scored.
    """

    def __init__(self, prepared: Prepared, units: Sequence[Unit], on_scored: OnScored | None = None) -> None:
        self._prepared = prepared
        self._on_scored = on_scored
        self._setting = prepared.settings[units[0].setting]
        self._units = list(units)
        self._trusted: dict[str, _Trusted] = {}
        self._measured: dict[str, dict[str, float]] = {}

    def bundles(self) -> list[list[Unit]]:
        """The units, those of one bundle together."""
        shared: dict[str, list[Unit]] = defaultdict(list)
        for unit in self._units:
            shared[unit.bundle].append(unit)
        return list(shared.values())

    def run(
        self,
        units: Sequence[Unit],
        checkpoints: Checkpoints | None = None,
        judge: Judge | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Progress]:
        """Run the units of one bundle, yielding after every epoch and with every record.

        Its training goes on to the end of the unit of most epochs; each is scored after its own.

        A training that the GPU's memory cannot hold starts once more with half the batch, from epoch 1. Any
        other exception becomes a failed record of each unit; it never leaves this method.

        Args:
            units: of one bundle.
            checkpoints: where the training is saved, and continued from after the epochs it has behind it.
            judge: says which units end early.
            batch_size: images per domain in a step, in place of the configuration's.
        """
        recorded: set[str] = set()
        try:
            members = [(unit, Configuration.parse(unit.configuration)) for unit in units]
            bookmark = Bookmark(checkpoints, units[0].bundle)
            try:
                yield from _noting(self._run(members, bookmark, judge, batch_size), recorded)
                return
            except torch.OutOfMemoryError:
                method = members[0][1].method
                size = batch_size or (method.batch_size if method else 0)
                if size <= SMALLEST_BATCH:
                    raise
                batch_size = max(SMALLEST_BATCH, size // 2)
            # Not until here has the exception let go of the failed training.
            _free_memory()
            again = [member for member in members if member[0].key not in recorded]
            yield from _noting(self._run(again, bookmark, judge, batch_size), recorded)
        except Exception as error:
            left = [unit for unit in units if unit.key not in recorded]
            yield Progress(self.fail(left, _failure(error), traceback.format_exc(), batch_size))

    def fail(
        self, units: Sequence[Unit], failure: Failure, error: str, batch_size: int | None = None
    ) -> list[UnitRecord]:
        """Failed records for ``units``."""
        return [
            self._record(unit, "failed", failure=failure, error=error, batch_size=batch_size)
            for unit in units
        ]

    def _run(
        self,
        members: list[tuple[Unit, Configuration]],
        bookmark: Bookmark,
        judge: Judge | None,
        batch_size: int | None,
    ) -> Iterator[Progress]:
        unit, configuration = members[0]
        arrays = self._prepared.setting_arrays(unit.setting, configuration)
        longest = max((config for _, config in members), key=lambda config: config.epochs)
        if longest.method is None:
            embedded = frozen_embeddings(arrays)
            for unit, config in members:
                yield Progress([self._score(unit, config, embedded)])
        else:
            inputs = self._training_inputs(unit, configuration, arrays)
            yield from self._train(members, longest.method, inputs, bookmark, judge, batch_size)

    def _train(
        self,
        members: list[tuple[Unit, Configuration]],
        method: Method,
        inputs: TrainingInputs,
        bookmark: Bookmark,
        judge: Judge | None,
        batch_size: int | None,
    ) -> Iterator[Progress]:
        """Train what the checkpoint has not trained yet, and score every unit where it ends."""
        started = time.perf_counter()
        configurations = {unit.key: configuration for unit, configuration in members}
        epochs = {key: configuration.epochs for key, configuration in configurations.items()}
        race = Race(judge, [unit for unit, _ in members], epochs)
        training, past = bookmark.begin(method, inputs, batch_size, min(epochs.values()))
        if past.epoch == 0:
            past.initial = diagnose(rows_of(training, inputs, "target_sel"), training.centre, "_initial")
        past.seconds += time.perf_counter() - started

        @functools.lru_cache(maxsize=1)
        def embedded(epoch: int) -> Embedded:
            return embed_all(training, inputs, past)

        def score(unit: Unit) -> UnitRecord:
            return self._score(unit, configurations[unit.key], embedded(past.epoch))

        try:
            if ended := race.resume(past, score):
                yield Progress(ended)
            while True:
                for record in race.finish(past, score):
                    yield Progress([record])
                if past.epoch >= race.epochs:
                    return
                started = time.perf_counter()
                past.losses.append(checked_losses(training.fit_epoch(), past.epoch + 1))
                past.seconds += time.perf_counter() - started
                ended = race.judge(past, score)
                if past.epoch < race.epochs:
                    bookmark.save_if_due(training, past)
                yield Progress(ended, past.epoch, past.losses[-1])
        except GeneratorExit:
            # The driver stops this trial: what is trained so far is not trained again.
            if race.open:
                bookmark.save(training, past)
            raise

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
            negatives=configuration.supervision.negatives,
            negative_weight=configuration.supervision.negative_weight,
            purpose=unit.setting,
            seed=unit.seed,
            image_size=self._prepared.image_size,
        )

    def _find_trusted(self, unit: Unit, configuration: Configuration, arrays: SettingArrays) -> _Trusted:
        """The trusted set of a configuration, found once per group, with its stage-A proxies."""
        if not configuration.supervision.uses_target:
            return _Trusted(None, np.empty(0, dtype=bool), {}, {}, 0.0)
        key = configuration.trusted_key
        if key not in self._trusted:
            started = time.perf_counter()
            features: dict[Part, np.ndarray] = {part: arrays.features[part].all() for part in PARTS[:4]}
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
            measured = self._measure(features, str(configuration.encoder))
            seconds = time.perf_counter() - started
            self._trusted[key] = _Trusted(assignment, inside, proxies, measured, seconds)
        return self._trusted[key]

    def _measure(self, features: Mapping[Part, np.ndarray], encoder: str) -> dict[str, float]:
        """What is measured of the setting itself, once for each encoder: contamination and mixing."""
        if encoder not in self._measured:
            purpose = self._setting.key
            target = np.concatenate([features["target_fit"], features["target_sel"]])
            source = np.concatenate([features["source_fit"], features["source_val"]])
            found = self._measured[encoder] = {}
            with contextlib.suppress(UndefinedScore):
                rho = contamination.estimate_contamination(target, purpose)
                found |= contamination.as_diagnostics(rho)
            with contextlib.suppress(UndefinedScore):
                found |= mixing.as_diagnostics(mixing.measure_mixing(source, target, purpose))
        return self._measured[encoder]

    def _score(self, unit: Unit, configuration: Configuration, embedded: Embedded) -> UnitRecord:
        try:
            # One training without a target may serve trusted sets of several encoders.
            arrays = self._prepared.setting_arrays(unit.setting, configuration)
            trusted = self._find_trusted(unit, configuration, arrays)
            started = time.perf_counter()
            assignment = embedded.assignment if configuration.reclusters else trusted.assignment
            scores = anomaly_scores(configuration, embedded, assignment)
            if self._on_scored is not None:
                self._on_scored(embedded, assignment)
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
                diagnostics=embedded.diagnostics | trusted.measured,
                batch_size=embedded.batch_size,
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


def _noting(steps: Iterator[Progress], recorded: set[str]) -> Iterator[Progress]:
    """The same steps; adds the keys of their records to ``recorded``."""
    for progress in steps:
        recorded.update(record.key for record in progress.finished)
        yield progress


def _failure(error: Exception) -> Failure:
    """What a caught exception is called in a record."""
    if isinstance(error, NonFinite):
        return "non_finite"
    if isinstance(error, torch.OutOfMemoryError):
        return "gpu_out_of_memory"
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


def _free_memory() -> None:
    """Give the device what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _sizes(assignment: Assignment | None) -> np.ndarray:
    return np.empty(0, dtype=np.int32) if assignment is None else np.bincount(assignment.labels)
