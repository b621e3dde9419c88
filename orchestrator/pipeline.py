"""What the commands do, in the order in which a sweep goes: plan, prepare, run, track, choose, report."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console
from rich.markup import escape

from orchestrator.config import SweepConfig, load_config
from orchestrator.environment import describe_environment
from orchestrator.leases import Leases, Owner
from orchestrator.ledger import Ledger
from orchestrator.plan import Grid, Unit, default_configuration, group_units, within_budget
from orchestrator.prepare import check_feasible, domain_fingerprints, draw_settings, prepare
from orchestrator.progress import SweepProgress
from orchestrator.ray_environment import set_ray_environment
from orchestrator.redact import redacted
from orchestrator.report.words import counted
from orchestrator.rounds import Rounds, make_grid
from orchestrator.spec import describe_spec, open_spec
from orchestrator.status import read_status, show_status
from orchestrator.stop import request_stop
from orchestrator.storage import Storage
from trainables.cache import write_atomically
from trainables.errors import TwofoldError
from trainables.seeding import stable_hash
from trainables.types import Setting

if TYPE_CHECKING:  # Ray and MLflow take seconds to import
    from orchestrator.estimate import Estimate
    from orchestrator.ray_start import RaySession
    from orchestrator.sweep import Supervisor
    from orchestrator.tracking import Outbox


@dataclass(frozen=True)
class Plan:
    """What a sweep is made of."""

    grid: Grid
    settings: list[Setting]
    rounds: Rounds
    storage: Storage
    fingerprints: dict[str, str]

    @property
    def ledger(self) -> Ledger:
        """The records of the units."""
        return Ledger(self.storage)

    @property
    def units(self) -> list[Unit]:
        """All units planned so far."""
        return self.rounds.units


@dataclass(frozen=True)
class Outcome:
    """What came of a launch: units done and failed, whether MLflow misses some, whether it was stopped."""

    done: int
    failed: int
    untracked: bool
    stopped: bool


def make_plan(
    config: SweepConfig,
    meanwhile: Callable[[], None] | None = None,
    only: Callable[[Unit], bool] | None = None,
) -> Plan:
    """Check everything that can be checked before a trial runs, and enumerate the units.

    Args:
        config: the sweep.
        meanwhile: called when the images are found and before the settings are drawn, in a process that is
            waited for: begins what can go on beside it.
        only: which units of a grid to plan; None = all.

    Raises:
        TwofoldError: bad configuration, data, or output folder.
    """
    grid = make_grid(config)
    open_folder(config)
    storage = Storage(config.ledger_location)
    Ledger(storage).open()
    fingerprints = domain_fingerprints(config)
    if meanwhile is not None:
        meanwhile()
    settings = draw_settings(config, fingerprints)
    check_feasible(grid, settings)
    rounds = Rounds(config, grid, settings, fingerprints, Ledger(storage))
    if only is not None:
        rounds.units = [unit for unit in rounds.units if only(unit)]
    return Plan(grid, settings, rounds, storage, fingerprints)


def run_sweep(
    config: SweepConfig,
    console: Console,
    address: str | None,
    accept_changes: bool = False,
    chooses: bool = True,
    only: Callable[[Unit], bool] | None = None,
) -> Outcome:
    """Run what is missing; choose and report when anything is new.

    Args:
        config: the sweep.
        console: where to say what happens.
        address: Ray cluster; None = this machine.
        accept_changes: go on in a folder whose sweep was planned otherwise.
        chooses: choose and report at the end; False = only judge, for configurations that nothing is chosen
            from, such as the rows of a table.
        only: which units of a grid to run; None = all.
    """
    set_ray_environment(address)
    from orchestrator.ray_start import RaySession

    owner = Owner.here()
    stopped = untracked = False
    with RaySession(config, address) as session:
        # A sweep that was complete most likely is: Ray then starts only if it is not.
        plan = make_plan(config, None if _completion(config).exists() else session.start, only)
        leases = Leases(plan.storage, owner)
        open_spec(plan.storage, leases, describe_spec(config, plan.fingerprints), accept_changes)
        _write_provenance(config)
        left = plan.rounds.next(leases)
        console.print(_headline(config, plan, left), highlight=False)
        if left or not _is_complete(config, plan, chooses):
            _completion(config).unlink(missing_ok=True)
            if left:
                stopped, untracked = _run(config, plan, left, console, owner, session)
            session.end()
            if not stopped:
                untracked = not _conclude(config, plan, console, owner, untracked, chooses)
        else:
            where = f" The report is {config.folder / 'report.html'}." if chooses else ""
            console.print(f"Nothing is left to run.{where}")
    retry = f"`twofold retry {config.folder}` runs them" if chooses else "The same command runs them"
    return _outcome(config, plan, console, retry, untracked, stopped)


def _outcome(
    config: SweepConfig, plan: Plan, console: Console, retry: str, untracked: bool, stopped: bool
) -> Outcome:
    """Count the records, and say what failed and what is left."""
    rows = plan.ledger.outlines(unit.key for unit in plan.units)
    failed = [row for row in rows if row["state"] == "failed"]
    if failed:
        first = (failed[0]["error"] or "").strip().splitlines()[-1:]
        console.print(
            f"[red]{counted(len(failed), 'unit')} failed[/], the first with: {escape(''.join(first))}\n"
            f"`twofold status {config.folder}` groups them by cause; the tracebacks are in column `error` "
            f"of {config.folder / 'units.parquet'}. {retry} again."
        )
    if left := len(plan.units) - len(rows):
        console.print(f"{left} of {len(plan.units)} units are left. The same command goes on.")
    return Outcome(len(rows) - len(failed), len(failed), untracked, stopped)


def _conclude(
    config: SweepConfig, plan: Plan, console: Console, owner: Owner, untracked: bool, chooses: bool
) -> bool:
    """Choose and report, or only judge, and end the tracking; say whether MLflow has everything."""
    states = plan.ledger.compact(_by_setting(plan.units), config.folder / "units.parquet")
    if not chooses:
        judge(config)
    elif states["done"]:
        choose(config, console)
        make_report(config, console)
    tracked = not untracked and _finish_tracking(config, plan, console, owner)
    if tracked and states.total() == len(plan.units):
        _write(_completion(config), _planned(plan))
    return tracked


def _by_setting(units: Iterable[Unit]) -> Iterable[list[str]]:
    """The keys of units, those of one setting together."""
    keys: dict[str, list[str]] = defaultdict(list)
    for unit in units:
        keys[unit.setting].append(unit.key)
    return keys.values()


def open_folder(config: SweepConfig) -> None:
    """Create the sweep's folder.

    Raises:
        TwofoldError: it cannot be written.
    """
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TwofoldError(
            f"cannot write the output folder {config.folder}: {error.strerror}. "
            "Set `output:` to a folder you can write."
        ) from error


def _completion(config: SweepConfig) -> Path:
    """The file that says for which plan the choice, the report and the tracking are complete."""
    return config.folder / "complete"


def _is_complete(config: SweepConfig, plan: Plan, chooses: bool) -> bool:
    made = ("selection.json", "report.html") if chooses else ("oracle/auroc.parquet",)
    outputs = [config.folder / name for name in ("units.parquet", *made)]
    stamp = _completion(config)
    exist = stamp.exists() and all(path.exists() for path in outputs)
    return exist and stamp.read_text() == _planned(plan)


def _planned(plan: Plan) -> str:
    return stable_hash(sorted(unit.key for unit in plan.units))


def _run(
    config: SweepConfig, plan: Plan, left: list[Unit], console: Console, owner: Owner, session: RaySession
) -> tuple[bool, bool]:
    """Prepare, run and log; say whether a stop was asked for, and whether the logging stopped early."""
    from orchestrator.encoding_workers import encoding_workers
    from orchestrator.sweep import Ended, Supervisor
    from orchestrator.tracking import BackgroundTracker

    launched = time.time()
    encode = encoding_workers(config, session)
    prepared = prepare(config, plan.grid, plan.settings, encode)
    console.print(f"Prepared images and features in {time.time() - launched:.0f} s.", highlight=False)
    session.wait()
    tracker = BackgroundTracker(outbox_of(config, plan, owner))
    total = plan.rounds.most - len(plan.units) + len(left)
    with SweepProgress(console, min(total, config.budget.units or total)) as progress:

        def on_ended(ended: Ended) -> None:
            tracker.put([*ended.done, *ended.failed])
            progress.advance(len(ended.done), len(ended.failed))

        try:
            supervisor = Supervisor(
                config, prepared, plan.storage, owner, on_ended, plan.units, since=launched
            )
            ending = _run_rounds(config, plan, left, owner, supervisor)
        finally:
            # Also when interrupted: a database that is left while it is created cannot be used again.
            failure = tracker.close()
    if ending != "complete":
        console.print(_ENDINGS[ending])
    if failure is not None:
        _report_untracked(config, failure, console)
    return ending == "stopped", failure is not None


_ENDINGS = {
    "stopped": "Stopped, as `twofold stop` asked.",
    "budget": "The budget of this launch is spent.",
}


def _run_rounds(
    config: SweepConfig, plan: Plan, units: list[Unit], owner: Owner, supervisor: Supervisor
) -> str:
    """Run round after round, ``units`` first; say how it ended."""
    budget = config.budget.units
    leases = Leases(plan.storage, owner)
    while units:
        wanted = within_budget(units, budget)
        ending = supervisor.run(wanted)
        if ending.value != "complete":
            return ending.value
        spent = len(wanted) < len(units)
        units = plan.rounds.next(leases)
        if budget is not None:
            budget -= len(wanted)
            if units and (spent or budget == 0):
                return "budget"
    return "complete"


def _report_untracked(config: SweepConfig, failure: Exception, console: Console) -> None:
    text = f"[red]Not everything is in MLflow.[/] {escape(str(failure))}"
    console.print(f"{text}\n`twofold sync {config.folder}` logs the rest.", highlight=False)


def show_plan(config: SweepConfig, console: Console, pilot: bool = True) -> None:
    """Print counts and, with ``pilot``, what the sweep will take by a short pilot."""
    started = time.monotonic()
    plan = make_plan(config)
    planning = time.monotonic() - started
    left = plan.rounds.missing()
    console.print(_headline(config, plan, left), highlight=False)
    for reason, count in plan.grid.skipped.items():
        console.print(f"  left out {count} combinations: {reason}", highlight=False)
    rounds = plan.rounds.expected()
    trainings = len({unit.bundle for units in rounds for unit in units if unit.trains})
    groups = sum(len(group_units(units, config.resources.trainings_per_trial)) for units in rounds)
    console.print(f"  {counted(trainings, 'training')} in {counted(groups, 'Ray trial')}", highlight=False)
    if pilot and rounds:
        from orchestrator.plan_table import show_estimate

        show_estimate(config, estimate_sweep(config, plan, planning), console)


def estimate_sweep(config: SweepConfig, plan: Plan, planning: float) -> Estimate:
    """What the units without a record will take, by records of the others or by a short pilot.

    Args:
        config: the sweep.
        plan: its plan.
        planning: seconds that making the plan took.

    Raises:
        TwofoldError: a unit of the pilot fails.
    """
    set_ray_environment(None)
    from orchestrator.estimate import Estimator

    missing = {unit.key for unit in plan.rounds.missing()}
    recorded = [unit for unit in plan.units if unit.key not in missing]
    estimator = Estimator(config, plan.grid, plan.settings, planning)
    return estimator.estimate(plan.rounds.expected(), recorded, plan.ledger)


def print_status(config: SweepConfig, console: Console) -> None:
    """Print how far a sweep is."""
    plan = make_plan(config)
    show_status(config.name, read_status(plan.units, plan.storage), console)


def stop_sweep(config: SweepConfig, console: Console) -> None:
    """Ask the drivers of a sweep that run now to stop."""
    request_stop(Storage(config.ledger_location))
    console.print(
        "Asked to stop: each driver of this sweep that runs now ends after the steps under way. "
        "`twofold sweep` goes on later."
    )


def choose(config: SweepConfig, console: Console) -> None:
    """Write selection.json from the records, without labels."""
    from orchestrator.select import select_folder

    if not (config.folder / "units.parquet").exists():
        raise TwofoldError(f"{config.folder} has no units.parquet yet; let `twofold sweep` come to its end")
    path = select_folder(config.folder, config.name, default_configuration(config).as_dict())
    console.print(f"Chosen without labels: {path}", highlight=False)


def judge(config: SweepConfig) -> None:
    """Open the labels in the oracle's process, which writes oracle/auroc.parquet.

    Raises:
        TwofoldError: what the oracle says of the units.
    """
    command = [sys.executable, "-m", "orchestrator.oracle", "evaluate", str(config.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TwofoldError(f"the oracle could not judge {config.folder}: {done.stderr.strip()}")


def make_report(config: SweepConfig, console: Console) -> None:
    """Open the labels once, then write report.html and print the table."""
    from orchestrator.report.page import write_report
    from orchestrator.report.summary import summarise
    from orchestrator.report.table import render

    judge(config)
    path = write_report(config.folder)
    console.print(render(summarise(config.folder)))
    console.print(f"Report: {path}", highlight=False)


def sync_tracking(config: SweepConfig, console: Console) -> bool:
    """Log what MLflow lacks; say whether it has everything now."""
    from orchestrator.tracking import open_tracker

    plan, owner = make_plan(config), Owner.here()
    with open_tracker(outbox_of(config, plan, owner)) as tracker:
        new = tracker.log(unit.key for unit in plan.units)
    console.print(f"{counted(new, 'unit')} logged to {redacted(config.mlflow_uri)}.")
    # Without a report the sweep is still under way, and so is its parent run.
    return not (config.folder / "report.html").exists() or _finish_tracking(config, plan, console, owner)


def forget_failed(config: SweepConfig, console: Console) -> None:
    """Remove the failed records, so that their units run again."""
    plan = make_plan(config)
    states = plan.ledger.states(unit.key for unit in plan.units)
    failed = [unit for unit in plan.units if states.get(unit.key) == "failed"]
    plan.ledger.forget(unit.key for unit in failed)
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


def _headline(config: SweepConfig, plan: Plan, left: Sequence[Unit]) -> str:
    most, recorded = plan.rounds.most, len(plan.units) - len(left)
    per_setting = most // (len(plan.settings) * len(set(config.seeds)))
    up_to = "up to " if config.search == "optuna" else ""
    return (
        f"[bold]{config.name}[/]: {up_to}{counted(most, 'unit')} = "
        f"{counted(len(plan.settings), 'setting')} x {counted(per_setting, 'configuration')} x "
        f"{counted(len(set(config.seeds)), 'seed')}; "
        f"{recorded} recorded, {up_to}{most - recorded} to run"
    )


def outbox_of(config: SweepConfig, plan: Plan, owner: Owner) -> Outbox:
    """The records of a sweep and where they are to be logged."""
    from orchestrator.tracking import Outbox

    artifacts = config.output / "artifacts" / config.name
    return Outbox(config.mlflow_uri, config.name, plan.ledger, artifacts, Leases(plan.storage, owner))


def _finish_tracking(config: SweepConfig, plan: Plan, console: Console, owner: Owner) -> bool:
    """Attach the results to the parent run; say whether MLflow took them."""
    from orchestrator.report.summary import summarise
    from orchestrator.tracking import open_tracker

    names = ("report.html", "selection.json", "units.parquet", "config.yaml", "environment.json")
    judged = (config.folder / "report.html").exists()
    metrics = summarise(config.folder).metrics() if judged else {}
    try:
        with open_tracker(outbox_of(config, plan, owner)) as tracker:
            tracker.log(unit.key for unit in plan.units)
            tracker.finish([config.folder / name for name in names], metrics)
    except TwofoldError as error:
        _report_untracked(config, error, console)
        return False
    where = redacted(config.mlflow_uri)
    command = "" if where.startswith("http") else "mlflow ui --backend-store-uri "
    console.print(f"Browse the runs: {command}{where}", highlight=False)
    return True
