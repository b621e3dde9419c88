"""What the commands do, in the order in which a sweep goes: plan, prepare, run, track, choose, report."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console
from rich.markup import escape

from orchestrator.config import SweepConfig, load_config
from orchestrator.environment import describe_environment
from orchestrator.ledger import Ledger
from orchestrator.plan import Grid, Unit, enumerate_grid, group_units, plan_units
from orchestrator.prepare import check_feasible, domain_fingerprints, draw_settings, prepare
from orchestrator.progress import SweepProgress
from orchestrator.redact import redacted
from trainables.cache import write_atomically
from trainables.configuration import Configuration
from trainables.errors import TwofoldError
from trainables.seeding import stable_hash
from trainables.types import Setting

if TYPE_CHECKING:  # MLflow takes seconds to import
    from orchestrator.tracking import Outbox

SECONDS_PER_TRAINING = 4.0
SECONDS_PER_SCORE = 0.15


@dataclass(frozen=True)
class Plan:
    """What a sweep is made of."""

    grid: Grid
    settings: list[Setting]
    units: list[Unit]
    ledger: Ledger


@dataclass(frozen=True)
class Outcome:
    """Counts after a sweep: units that failed, and whether MLflow misses some."""

    done: int
    failed: int
    untracked: bool


def make_plan(config: SweepConfig) -> Plan:
    """Check everything that can be checked before a trial runs, and enumerate the units.

    Raises:
        TwofoldError: bad configuration, data, or output folder.
    """
    grid = enumerate_grid(config)
    ledger = Ledger(config.folder)
    ledger.open()
    settings = draw_settings(config)
    check_feasible(grid, settings)
    units = plan_units(config, grid, settings, domain_fingerprints(config))
    return Plan(grid, settings, units, ledger)


def run_sweep(config: SweepConfig, console: Console, address: str | None) -> Outcome:
    """Run what is missing; choose and report when anything is new."""
    plan = make_plan(config)
    _write_provenance(config)
    states = plan.ledger.states(unit.key for unit in plan.units)
    left = [unit for unit in plan.units if unit.key not in states]
    console.print(_headline(config, plan, len(states)), highlight=False)
    untracked = False
    if left or not _is_complete(config, plan):
        _completion(config).unlink(missing_ok=True)
        if left:
            untracked = _run(config, plan, left, console, address)
        untracked = not _conclude(config, plan, console, untracked)
    states = plan.ledger.states(unit.key for unit in plan.units)
    failed = [key for key, state in states.items() if state == "failed"]
    if not left:
        console.print(f"Nothing is left to run. The report is {config.folder / 'report.html'}.")
    if failed:
        record = plan.ledger.read(failed[0])
        first = ((record and record.error) or "").strip().splitlines()[-1:]
        console.print(
            f"[red]{len(failed)} units failed[/], the first with: {escape(''.join(first))}\n"
            f"All tracebacks are in the column `error` of {config.folder / 'units.parquet'}. "
            f"`twofold retry {config.folder}` runs these units again."
        )
    return Outcome(len(states) - len(failed), len(failed), untracked)


def _conclude(config: SweepConfig, plan: Plan, console: Console, untracked: bool) -> bool:
    """Choose, report and end the tracking; say whether MLflow has everything."""
    plan.ledger.compact([unit.key for unit in plan.units])
    if "done" in plan.ledger.states(unit.key for unit in plan.units).values():
        choose(config, console)
        make_report(config, console)
    tracked = not untracked and _finish_tracking(config, plan, console)
    if tracked:
        _write(_completion(config), _planned(plan))
    return tracked


def _completion(config: SweepConfig) -> Path:
    """The file that says for which plan the choice, the report and the tracking are complete."""
    return config.folder / "complete"


def _is_complete(config: SweepConfig, plan: Plan) -> bool:
    outputs = [config.folder / name for name in ("selection.json", "report.html", "units.parquet")]
    stamp = _completion(config)
    exist = stamp.exists() and all(path.exists() for path in outputs)
    return exist and stamp.read_text() == _planned(plan)


def _planned(plan: Plan) -> str:
    return stable_hash(sorted(unit.key for unit in plan.units))


def _run(
    config: SweepConfig, plan: Plan, left: Sequence[Unit], console: Console, address: str | None
) -> bool:
    """Prepare, run and log; say whether the logging stopped early."""
    from orchestrator.sweep import Ended, run_units
    from orchestrator.tracking import BackgroundTracker

    started = time.perf_counter()
    prepared = prepare(config, plan.grid, plan.settings)
    console.print(f"Prepared images and features in {time.perf_counter() - started:.0f} s.", highlight=False)
    tracker = BackgroundTracker(_outbox(config, plan))
    with SweepProgress(console, len(left)) as progress:

        def on_ended(ended: Ended) -> None:
            tracker.put([*ended.done, *ended.failed])
            progress.advance(len(ended.done), len(ended.failed))

        try:
            run_units(config, prepared, left, plan.ledger, on_ended, address)
        finally:
            # Also when interrupted: a database that is left while it is created cannot be used again.
            failure = tracker.close()
    if failure is not None:
        _report_untracked(config, failure, console)
    return failure is not None


def _report_untracked(config: SweepConfig, failure: Exception, console: Console) -> None:
    text = f"[red]Not everything is in MLflow.[/] {escape(str(failure))}"
    console.print(f"{text}\n`twofold sync {config.folder}` logs the rest.", highlight=False)


def show_plan(config: SweepConfig, console: Console) -> None:
    """Print counts and a rough estimate."""
    plan = make_plan(config)
    states = plan.ledger.states(unit.key for unit in plan.units)
    left = [unit for unit in plan.units if unit.key not in states]
    console.print(_headline(config, plan, len(states)), highlight=False)
    for reason, count in plan.grid.skipped.items():
        console.print(f"  left out {count} combinations: {reason}", highlight=False)
    trainings = len(
        {
            (unit.setting, unit.seed, configuration.embedding_key)
            for unit in left
            if (configuration := Configuration.parse(unit.configuration)).method is not None
        }
    )
    groups = len(group_units(left, config.resources.trainings_per_trial)) if left else 0
    seconds = trainings * SECONDS_PER_TRAINING + len(left) * SECONDS_PER_SCORE
    console.print(
        f"  {trainings} trainings in {groups} Ray trials; very roughly {seconds / 60:.0f} CPU-minutes "
        "on 96-pixel images, after preparation",
        highlight=False,
    )


def choose(config: SweepConfig, console: Console) -> None:
    """Write selection.json from the records, without labels."""
    from orchestrator.select import select_folder

    if not (config.folder / "units.parquet").exists():
        raise TwofoldError(f"{config.folder} has no units.parquet yet; let `twofold sweep` come to its end")
    path = select_folder(config.folder, config.name, enumerate_grid(config).default.as_dict())
    console.print(f"Chosen without labels: {path}", highlight=False)


def make_report(config: SweepConfig, console: Console) -> None:
    """Open the labels in the oracle's process, then write report.html and print the table."""
    from orchestrator.report.page import write_report
    from orchestrator.report.summary import summarise
    from orchestrator.report.table import render

    command = [sys.executable, "-m", "orchestrator.oracle", "evaluate", str(config.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TwofoldError(f"the oracle could not judge {config.folder}: {done.stderr.strip()}")
    path = write_report(config.folder)
    console.print(render(summarise(config.folder)))
    console.print(f"Report: {path}", highlight=False)


def sync_tracking(config: SweepConfig, console: Console) -> bool:
    """Log what MLflow lacks; say whether it has everything now."""
    from orchestrator.tracking import open_tracker

    plan = make_plan(config)
    with open_tracker(_outbox(config, plan)) as tracker:
        new = tracker.log(unit.key for unit in plan.units)
    console.print(f"{new} units logged to {redacted(config.mlflow_uri)}.")
    # Without a report the sweep is still under way, and so is its parent run.
    return not (config.folder / "report.html").exists() or _finish_tracking(config, plan, console)


def forget_failed(config: SweepConfig, console: Console) -> None:
    """Remove the failed records, so that their units run again."""
    plan = make_plan(config)
    states = plan.ledger.states(unit.key for unit in plan.units)
    failed = [key for key, state in states.items() if state == "failed"]
    plan.ledger.forget(failed)
    console.print(f"{len(failed)} failed units will run again.")


def load_folder(folder: Path) -> SweepConfig:
    """The resolved configuration that a sweep wrote into its folder.

    Raises:
        TwofoldError: the folder holds no sweep.
    """
    path = folder / "config.yaml"
    if not path.exists():
        raise TwofoldError(f"{folder} holds no sweep (there is no {path}); run `twofold sweep` first")
    config = load_config(path)
    # The folder may have been moved, or be named from somewhere else, since the file was written.
    here = folder.absolute()
    return config.model_copy(update={"output": here.parent, "name": here.name})


def _write_provenance(config: SweepConfig) -> None:
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    _write(config.folder / "config.yaml", text)
    _write(config.folder / "environment.json", json.dumps(describe_environment(), indent=1))


def _write(path: Path, text: str) -> None:
    def fill(temporary: Path) -> None:
        temporary.write_text(text)

    write_atomically(path, fill)


def _headline(config: SweepConfig, plan: Plan, recorded: int) -> str:
    return (
        f"[bold]{config.name}[/]: {len(plan.units)} units = {len(plan.settings)} settings x "
        f"{len(plan.grid.configurations)} configurations x {len(config.seeds)} seeds; "
        f"{recorded} recorded, {len(plan.units) - recorded} to run"
    )


def _outbox(config: SweepConfig, plan: Plan) -> Outbox:
    from orchestrator.tracking import Outbox, Unshared

    artifacts = config.output / "artifacts" / config.name
    return Outbox(config.mlflow_uri, config.name, plan.ledger, artifacts, Unshared())


def _finish_tracking(config: SweepConfig, plan: Plan, console: Console) -> bool:
    """Attach the results to the parent run; say whether MLflow took them."""
    from orchestrator.report.summary import summarise
    from orchestrator.tracking import open_tracker

    names = ("report.html", "selection.json", "units.parquet", "config.yaml", "environment.json")
    judged = (config.folder / "report.html").exists()
    metrics = summarise(config.folder).metrics() if judged else {}
    try:
        with open_tracker(_outbox(config, plan)) as tracker:
            tracker.log(unit.key for unit in plan.units)
            tracker.finish([config.folder / name for name in names], metrics)
    except TwofoldError as error:
        _report_untracked(config, error, console)
        return False
    where = redacted(config.mlflow_uri)
    command = "" if where.startswith("http") else "mlflow ui --backend-store-uri "
    console.print(f"Browse the runs: {command}{where}", highlight=False)
    return True
