"""``search: optuna``: one study per setting, told of all that was recorded (TPE, Bergstra et al. 2011).

A study holds each configuration once. It is **open** from the moment it is asked for until it is told, also
across processes, so that asking again after a crash gives the same ones and nothing is lost or repeated. The
records remain the truth: a study that lost its file is filled from them.
"""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from orchestrator.config import SweepConfig
from orchestrator.ledger import UnitRecord
from orchestrator.objective import record_objective
from orchestrator.ranges import Range
from orchestrator.space import Options, Space, Undrawn, text_of
from trainables.configuration import Configuration, IncompatibleChoices
from trainables.errors import TwofoldError
from trainables.seeding import canonical_json, stable_hash, stable_seed

CONFIGURATION = "configuration"
"""Attribute of an Optuna trial: the canonical JSON of its configuration."""

REPEATS = 30
"""Draws in a row that give nothing new, after which the draws are uniform; after as many again, counted."""

Outcome = tuple[TrialState, float | None]
"""How a unit, or a configuration over its seeds, ended; the objective where it is complete."""


class OptunaSearch:
    """Draws configurations for each setting by the objective of those that were run before.

    Args:
        config: the sweep; ``samples``, ``objective`` and ``seeds`` say what is drawn and told.
        path: sqlite file of all studies; made where it is missing.

    Raises:
        TwofoldError: the file is no Optuna storage, or the space cannot be drawn from.
    """

    def __init__(self, config: SweepConfig, path: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._config = config
        self._space = Space.of(config)
        self._storage = _open(path)
        self._studies: dict[str, _Study] = {}
        self._outcomes: dict[tuple[str, str], dict[int, Outcome]] = defaultdict(dict)

    def ask(self, setting: str, count: int) -> list[Configuration]:
        """The open configurations of a setting, topped up to ``count`` as far as ``samples`` allows.

        The default comes first. An empty list says that nothing is open and nothing more will be drawn.
        """
        study = self._study(setting)
        study.top_up(count, self._config.samples or 1)
        return [
            _configuration(text) for text, trial in study.asked().items() if not trial.state.is_finished()
        ]

    def asked(self, setting: str) -> list[Configuration]:
        """Every configuration asked for so far, in that order, open or told."""
        return [_configuration(text) for text in self._study(setting).asked()]

    def tell(self, records: Iterable[UnitRecord]) -> None:
        """Close each configuration of which all seeds are recorded, with their mean objective.

        A configuration with a failed unit or an undefined objective counts as failed, one with a unit that
        was stopped early as pruned. Telling again changes nothing, except that a success replaces a failure.
        """
        for record in records:
            text = canonical_json(record.config)
            study = self._study(record.setting)
            if study.is_settled(text):
                continue
            outcomes = self._outcomes[record.setting, text]
            outcomes[record.seed] = _outcome(record, self._config.objective)
            if outcomes.keys() >= set(self._config.seeds):
                study.close(text, _overall([outcomes[seed] for seed in self._config.seeds]))

    def _study(self, setting: str) -> _Study:
        if setting not in self._studies:
            default = Configuration.parse({**self._config.fixed, **self._config.default})
            # Another space or objective is another study: what an old one holds could not be compared.
            dumped = self._config.model_dump(mode="json", include={"fixed", "space", "objective"})
            name = f"{setting}-{stable_hash(dumped)}"
            self._studies[setting] = _Study(self._storage, name, setting, self._space, default)
        return self._studies[setting]


class _Study:
    """The study of one setting: each configuration is one stored trial, written whole."""

    def __init__(
        self, storage: BaseStorage, name: str, setting: str, space: Space, default: Configuration
    ) -> None:
        self._setting, self._space, self._default = setting, space, default
        self._study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
        self._asked = self._read()

    def asked(self) -> dict[str, FrozenTrial]:
        """Canonical JSON -> the latest trial of each configuration, in the order of asking."""
        return self._asked

    def is_settled(self, text: str) -> bool:
        """Whether a configuration was told as something else than failed."""
        trial = self._asked.get(text)
        return trial is not None and trial.state in (TrialState.COMPLETE, TrialState.PRUNED)

    def top_up(self, count: int, samples: int) -> None:
        """Draw until ``count`` configurations are open or ``samples`` were asked for in all."""
        # Another driver of the same sweep may have asked or told meanwhile.
        self._asked = self._read()
        open_ = sum(not trial.state.is_finished() for trial in self._asked.values())
        wanted = min(count - open_, samples - len(self._asked))
        has_default = text_of(self._default) in self._asked
        if wanted <= 0 and has_default:
            return
        draft = _Draft(self._setting, self._space, self._asked)
        if not has_default:
            self._store(self._default, draft.place(self._default))
            wanted -= 1
        for _ in range(wanted):
            if (drawn := draft.draw()) is None:
                break
            self._store(*drawn)
        self._asked = self._read()

    def close(self, text: str, outcome: Outcome) -> None:
        """Tell how a configuration ended; one that was never asked for here is taken up, if it can be."""
        trial = self._asked.get(text)
        state, value = outcome
        if trial is None or (trial.state == TrialState.FAIL and state != TrialState.FAIL):
            configuration = _configuration(text)
            if self._space.locate(configuration) is None and configuration != self._default:
                return
            draft = _Draft(self._setting, self._space, self._asked)
            self._store(configuration, draft.place(configuration))
            self._asked = self._read()
            trial = self._asked[text]
        self._asked[text] = self._study.tell(trial.number, value, state, skip_if_finished=True)

    def _store(self, configuration: Configuration, drawn: FrozenTrial) -> None:
        """Write a drawn trial as open, in one transaction, so that a crash leaves it whole or not at all."""
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=drawn.params,
                distributions=drawn.distributions,
                user_attrs={CONFIGURATION: text_of(configuration)},
            )
        )

    def _read(self) -> dict[str, FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False)
        return {trial.user_attrs[CONFIGURATION]: trial for trial in trials}


class _Draft:
    """A copy of a study in memory, in which draws are tried out; what they repeat is told there at once."""

    def __init__(self, setting: str, space: Space, asked: Mapping[str, FrozenTrial]) -> None:
        self._setting, self._space, self._known = setting, space, dict(asked)
        self._study = optuna.create_study(direction="maximize")
        self._study.add_trials(self._known.values())
        self._undrawn: Undrawn | None = None

    def draw(self) -> tuple[Configuration, FrozenTrial] | None:
        """A new configuration with its choices, or None where the space holds no other."""
        for repeats in range(2 * REPEATS):
            trial = self._ask(uniform=repeats >= REPEATS)
            try:
                configuration = self._space.draw(partial(_suggest, trial))
            except IncompatibleChoices:
                # As bad as can be, so that the sampler avoids it; a failed trial would teach it nothing.
                self._study.tell(trial, state=TrialState.PRUNED)
                continue
            known = self._known.get(text_of(configuration))
            if known is None:
                return configuration, self._note(configuration, trial)
            state = known.state if known.state.is_finished() else TrialState.FAIL
            self._study.tell(trial, known.value if state == TrialState.COMPLETE else None, state)
        self._undrawn = self._undrawn or Undrawn(self._space, "optuna", self._setting)
        left = self._undrawn.take(self._known)
        return None if left is None else (left, self.place(left))

    def place(self, configuration: Configuration) -> FrozenTrial:
        """The trial that draws a given configuration; without choices where no block holds it."""
        choices = self._space.locate(configuration)
        if choices is None:
            return self._note(configuration, self._ask(uniform=True))
        self._study.enqueue_trial(choices)
        trial = self._ask(uniform=True)
        self._space.draw(partial(_suggest, trial))
        return self._note(configuration, trial)

    def _ask(self, uniform: bool) -> Trial:
        # A sampler of its own for each draw: the draw depends on what is known, not on which process asks.
        seed = stable_seed("optuna", self._setting, len(self._study.get_trials(deepcopy=False))) % 2**32
        self._study.sampler = RandomSampler(seed) if uniform else _tpe(seed)
        return self._study.ask()

    def _note(self, configuration: Configuration, trial: Trial) -> FrozenTrial:
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        self._known[text_of(configuration)] = frozen
        return frozen


def _tpe(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _suggest(trial: Trial, name: str, options: Options) -> Any:
    if not isinstance(options, Range):
        return trial.suggest_categorical(name, options)
    if options.whole:
        return trial.suggest_int(name, int(options.low), int(options.high), log=options.log)
    return trial.suggest_float(name, options.low, options.high, log=options.log)


def _outcome(record: UnitRecord, objective: str) -> Outcome:
    if record.state == "done":
        value = record_objective(objective, record)
        return (TrialState.FAIL, None) if value is None else (TrialState.COMPLETE, value)
    return (TrialState.FAIL if record.state == "failed" else TrialState.PRUNED), None


def _overall(outcomes: Sequence[Outcome]) -> Outcome:
    """The worst state of the seeds; the mean objective where all are complete."""
    states = {state for state, _ in outcomes}
    for state in (TrialState.FAIL, TrialState.PRUNED):
        if state in states:
            return state, None
    return TrialState.COMPLETE, float(np.mean([value for _, value in outcomes if value is not None]))


def _configuration(text: str) -> Configuration:
    return Configuration.parse(json.loads(text))


def _open(path: Path) -> RDBStorage:
    """The studies in a sqlite file.

    Raises:
        TwofoldError: the file cannot be read or made, or is damaged.
    """
    try:
        with closing(sqlite3.connect(path)) as file:
            (found,) = file.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise TwofoldError(
            f"cannot read or make the search's file {path}: {found}. Where it is damaged, remove it: what "
            "was run is read from the records again."
        )
    return RDBStorage(f"sqlite:///{path.absolute()}")
