"""``twofold export``: the chosen detector of a task, trained again from its seed, checked and written.

A sweep keeps no weights. The same code that ran the unit runs it again, from the same arrays; what it scores
must be what the unit's record holds, and so must what the written detector scores from the images themselves.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from threadpoolctl import threadpool_limits

from orchestrator.config import SweepConfig
from orchestrator.embedded import Embedded
from orchestrator.group import GroupRun
from orchestrator.leases import Owner
from orchestrator.ledger import UnitRecord
from orchestrator.pipeline import Plan, make_plan, outbox_of
from orchestrator.plan import Unit
from orchestrator.prepare import Prepared, open_dataset, prepare
from orchestrator.redact import redacted
from orchestrator.threshold import make_threshold
from trainables.configuration import Configuration
from trainables.detector import Description, Detector, Origin, ScoreDescription
from trainables.embedder import Embedder, NetworkDescription
from trainables.errors import TwofoldError, nearest_name
from trainables.types import Assignment, Contamination

if TYPE_CHECKING:  # MLflow takes seconds to import
    from orchestrator.serving import Exported

TOLERANCE = 1e-5
"""Largest difference of two scores, relative where they are above 1, that is taken for rounding."""
CHECKED_IMAGES = 32
"""Test images that the written detector scores from their pixels, to be compared with the record."""


def export_detectors(config: SweepConfig, task: str | None, to: Path | None, console: Console) -> bool:
    """Write and register the chosen detectors of a sweep; say whether MLflow took them.

    Args:
        config: the sweep.
        task: ``source->target/class``, or the name of a folder that is written; None = all.
        to: folder of the detectors' folders; None = ``detectors`` in the sweep's folder.
        console: where to say what happens.

    Raises:
        TwofoldError: nothing is chosen, the task is unknown or ambiguous, or the scores are not the recorded.
    """
    wanted = pick(named_choices(config.folder), task)
    plan = make_plan(config)
    units = {name: _unit(plan, choice) for name, choice in wanted.items()}
    configurations = tuple(Configuration.parse(unit.configuration) for unit in units.values())
    # With all settings, so that every array is one that the sweep has cached.
    prepared = prepare(config, replace(plan.grid, configurations=configurations), plan.settings)
    folder = to or config.folder / "detectors"
    for name, choice in wanted.items():
        detector = rebuild(config, plan, prepared, units[name], choice)
        detector.save(folder / name)
        _say(detector, folder / name, console)
    # Imported after the networks ran: MLflow takes the cores for seconds.
    from orchestrator.serving import Exported

    exported = [
        Exported(f"{config.name}-{name}", folder / name, choice["chosen"], choice["trust"])
        for name, choice in wanted.items()
    ]
    return _register(config, plan, exported, console)


def named_choices(folder: Path) -> dict[str, dict[str, Any]]:
    """Name of a detector's folder -> entry of ``choices`` in ``selection.json``, one for each setting.

    Raises:
        TwofoldError: there is no whole selection.json.
    """
    choices = _read_choices(folder)
    details: tuple[Callable[[Mapping[str, Any]], str], ...] = (
        lambda choice: "{source}-{target}-{normal_class}".format(**choice["task"]),
        lambda choice: "-contamination{contamination:g}-split{split_seed}".format(**choice["task"]),
        lambda choice: f"-{choice['setting'][:8]}",
    )
    names = [""] * len(choices)
    for detail in details:
        # Only what is not told apart yet gets a longer name.
        taken = Counter(names)
        names = [
            name + _as_file_name(detail(choice)) if taken[name] > 1 or not name else name
            for name, choice in zip(names, choices, strict=True)
        ]
    return dict(zip(names, choices, strict=True))


def _read_choices(folder: Path) -> list[dict[str, Any]]:
    path = folder / "selection.json"
    try:
        return list(json.loads(path.read_text())["choices"])
    except FileNotFoundError as error:
        raise TwofoldError(
            f"{folder} has no selection.json yet; let `twofold sweep` come to its end"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise TwofoldError(f"{path} is damaged; `twofold select {folder}` writes it again") from error


def pick(choices: Mapping[str, dict[str, Any]], task: str | None) -> dict[str, dict[str, Any]]:
    """The choices that ``task`` names, or all.

    Raises:
        TwofoldError: no task or several have this name; lists the names there are.
    """
    if task is None or task in choices:
        return {name: choices[name] for name in ([task] if task else choices)}
    arrows = {name: "{source}->{target}/{normal_class}".format(**c["task"]) for name, c in choices.items()}
    found = [name for name, arrow in arrows.items() if arrow == task]
    if len(found) == 1:
        return {found[0]: choices[found[0]]}
    if found:
        raise TwofoldError(f"--task {task} names {len(found)} settings; name one: {', '.join(found)}.")
    hint = nearest_name(task, [*dict.fromkeys(arrows.values()), *choices])
    raise TwofoldError(f"--task {task}: there is no such task.{hint} Known: {', '.join(choices)}.")


def _as_file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)


def _unit(plan: Plan, choice: Mapping[str, Any]) -> Unit:
    for unit in plan.units:
        if unit.key == choice["chosen"]:
            return unit
    raise TwofoldError(
        f"the chosen unit {choice['chosen']} is no unit of this sweep any more: its images or its "
        "configuration have changed. Run `twofold sweep` again."
    )


def rebuild(
    config: SweepConfig, plan: Plan, prepared: Prepared, unit: Unit, choice: Mapping[str, Any]
) -> Detector:
    """The detector of a unit, read back from its files and checked against the unit's record.

    Args:
        config: the sweep.
        plan: its plan.
        prepared: arrays of all its settings.
        unit: the chosen one.
        choice: entry of selection.json.

    Raises:
        TwofoldError: record or contamination are missing, or the scores are not those of the record.
    """
    contamination, record = contamination_of(choice), plan.ledger.read(unit.key)
    if record is None:
        raise TwofoldError(f"unit {unit.key} has no whole record; run `twofold sweep` again.")
    embedded, assignment = run_again(config, prepared, unit, record)
    configuration = Configuration.parse(unit.configuration)
    network = NetworkDescription.of(configuration, config.data.image_size)
    name, parameters = dict(configuration.names)["score"], configuration.score.used()
    description = Description(
        network=network,
        score=ScoreDescription(name=name, parameters=parameters),
        threshold=make_threshold(record.source_val, record.target_sel, contamination),
        origin=_origin(config, record, choice),
    )
    embedder = Embedder(network.frozen_part(), embedded.tail, network)
    made = Detector(description, embedder, embedded.reference(assignment))
    with tempfile.TemporaryDirectory() as temporary:
        made.save(Path(temporary))
        detector = Detector.load(Path(temporary))
    _check_images(config, prepared, detector, record)
    return detector


def run_again(
    config: SweepConfig, prepared: Prepared, unit: Unit, record: UnitRecord
) -> tuple[Embedded, Assignment | None]:
    """Embeddings and trusted set of a unit, computed again as its worker did.

    Raises:
        TwofoldError: it fails, or does not give the scores of ``record``.
    """
    kept: list[tuple[Embedded, Assignment | None]] = []
    group = GroupRun(prepared, [unit], lambda *found: kept.append(found))
    # As many threads as a worker has: in another number, they add up in another order.
    threads = config.resources.cpus_per_worker
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        steps = list(group.run([unit], batch_size=record.batch_size))
    (again,) = (finished for step in steps for finished in step.finished)
    if again.state != "done":
        cause = (again.error or "").strip().splitlines()[-1:]
        raise TwofoldError(f"unit {unit.key} failed when it was run again: {''.join(cause)}")
    for part in ("source_val", "target_sel", "test"):
        _check_equal(config, record, f"the scores of {part}", getattr(again, part), getattr(record, part))
    return kept[-1]


def _check_images(config: SweepConfig, prepared: Prepared, detector: Detector, record: UnitRecord) -> None:
    """Compare what a detector makes of some test images with the record."""
    index = prepared.settings[record.setting]
    domain = open_dataset(config).domain(index.target)
    rows = np.unique(np.linspace(0, len(record.test) - 1, CHECKED_IMAGES).astype(int))
    images = [detector.transform(domain.read(int(index.rows["test"][row]))) for row in rows]
    found = detector.score(np.stack(images))
    _check_equal(config, record, "the detector's scores of test images", found, record.test[rows])


def _check_equal(
    config: SweepConfig, record: UnitRecord, what: str, found: np.ndarray, recorded: np.ndarray
) -> None:
    """Refuse scores (n,) that differ by more than ``TOLERANCE``.

    Raises:
        TwofoldError: names the unit, the difference and the remedy.
    """
    if len(found) != len(recorded):
        raise TwofoldError(f"unit {record.key}: {what} are {len(found)}, and {len(recorded)} are recorded.")
    difference = float(np.max(np.abs(found - recorded) / np.maximum(np.abs(recorded), 1), initial=0))
    if difference > TOLERANCE:
        raise TwofoldError(
            f"unit {record.key}, run again: {what} differ from its record by {difference:.1e}, and "
            f"{TOLERANCE:.0e} is taken for rounding. Another machine, a GPU or another version of a package "
            "rounds otherwise, which a training magnifies. Export where the sweep ran, with the packages of "
            f"{config.folder / 'environment.json'}; or sweep here, under another --name, and export that."
        )


def contamination_of(choice: Mapping[str, Any]) -> Contamination:
    """The label-free estimate of the share of anomalies, as selection.json holds it.

    Raises:
        TwofoldError: it holds none.
    """
    try:
        return Contamination(*(float(choice["contamination"][name]) for name in ("estimate", "low", "high")))
    except (KeyError, TypeError, ValueError) as error:
        raise TwofoldError(
            "selection.json has no contamination estimate, which the threshold is made from; "
            "`twofold select` writes it again"
        ) from error


def _origin(config: SweepConfig, record: UnitRecord, choice: Mapping[str, Any]) -> Origin:
    return Origin(
        sweep=config.name,
        task=record.task,
        setting=record.setting,
        unit=record.key,
        configuration=record.config,
        trust=choice["trust"],
        twofold=version("twofold"),
    )


def _say(detector: Detector, folder: Path, console: Console) -> None:
    content = detector.description
    share = content.threshold.contamination
    console.print(
        f"{escape(str(folder))}: {content.score.name} score, threshold {content.threshold.value:.4g} for a "
        f"contamination of {share.estimate:.1%} ({share.low:.1%} to {share.high:.1%}), "
        f"trust {content.origin.trust}",
        highlight=False,
        soft_wrap=True,
    )


def _register(config: SweepConfig, plan: Plan, exported: Sequence[Exported], console: Console) -> bool:
    """Register what was written; say whether MLflow took it."""
    from orchestrator.serving import ALIAS, register

    try:
        register(outbox_of(config, plan, Owner.here()), exported)
    except TwofoldError as error:
        console.print(
            f"[red]The detectors are written, but not registered.[/] {escape(str(error))}\n"
            f"`twofold export {config.folder}` registers them once it is back.",
            highlight=False,
        )
        return False
    where = redacted(config.mlflow_uri)
    for one in exported:
        console.print(f"Registered: models:/{one.name}@{ALIAS}", highlight=False)
    console.print(
        f"Serve one: MLFLOW_TRACKING_URI={where} mlflow models serve "
        f"-m models:/{exported[0].name}@{ALIAS} --env-manager local",
        highlight=False,
        soft_wrap=True,
    )
    return True
