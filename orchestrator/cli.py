"""The command line: every command says what it did, and exits with 0 only when it did what was asked.

Exit codes: 1 = something that was asked for failed (a unit, the tracking), 2 = a mistake in the input, or
nothing can be recorded, 3 = stopped by ``twofold stop``, 130 = interrupted.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer
from rich.console import Console
from rich.markup import escape

from trainables.errors import TwofoldError

if TYPE_CHECKING:
    from orchestrator.pipeline import Outcome

# Before PyTorch is imported. Its threads otherwise spin for milliseconds while they wait for each other. That
# keeps the one they wait for off its core where cores are shared: encoding then takes much longer.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

app = typer.Typer(
    name="twofold",
    help="Anomaly detection across domains: sweep on Ray, choose without labels, browse in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cluster_app = typer.Typer(no_args_is_help=True, help="Cluster files for Ray's launcher and KubeRay.")
app.add_typer(cluster_app, name="cluster")
# A pipe or a log file has no width of its own, and the tables are made for 100 columns.
console = Console(width=None if sys.stdout.isatty() else 110)
errors = Console(stderr=True, soft_wrap=True)
F = TypeVar("F", bound=Callable[..., Any])

SpaceFile = Annotated[Path, typer.Argument(help="Sweep file, e.g. search_spaces/digits.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. data.image_size=64."),
]
Name = Annotated[str | None, typer.Option(help="Name of the sweep; default: the file's.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to run on; default: this machine.")]
Data = Annotated[str, typer.Option(metavar="PRESET", help="digits, pacs, office31, office_home or visda.")]
DataRoot = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of the images, DIR/<domain>/<class>/*.")
]
SweepFolder = Annotated[Path, typer.Argument(help="Folder of a sweep, e.g. runs/digits.")]


def _end(outcome: Outcome) -> None:
    """Exit with a code other than 0 where the sweep is not what was asked for."""
    if outcome.stopped:
        raise typer.Exit(3)
    if outcome.failed or outcome.untracked:
        raise typer.Exit(1)


def _reports_errors(command: F) -> F:
    """Turn a user's mistake into one message and exit code 2."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except TwofoldError as error:
            errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
            raise typer.Exit(2) from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            where = f" ({error.filename})" if error.filename else ""
            errors.print(
                f"[bold red]error:[/] the disk is full{escape(where)}. Make room and give the command again.",
                highlight=False,
            )
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            errors.print("Interrupted. The same command goes on where this one stopped.")
            raise typer.Exit(130) from None

    return cast(F, run)


@app.command()
@_reports_errors
def sweep(
    space: SpaceFile,
    set_: Overrides = None,
    name: Name = None,
    address: Address = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on in a folder whose sweep was planned otherwise.")
    ] = False,
) -> None:
    """Run every unit of a search space that has no result yet, then choose and report."""
    from orchestrator.config import load_config
    from orchestrator.pipeline import run_sweep

    _end(run_sweep(load_config(space, set_ or [], name), console, address, accept_changes))


@app.command()
@_reports_errors
def plan(
    space: SpaceFile,
    set_: Overrides = None,
    name: Name = None,
    pilot: Annotated[
        bool, typer.Option("--pilot/--no-pilot", help="Predict time and cost, or only count the units.")
    ] = True,
) -> None:
    """Show what a sweep would run, and how long it takes on 1..N workers, without running it.

    A pilot of under a minute measures what no record of the sweep tells: it encodes some images of each
    domain and runs short units of every kind on this machine. Its results are thrown away. With `prices` in
    the sweep file, the cost is told as well.
    """
    from orchestrator.config import load_config
    from orchestrator.pipeline import show_plan

    show_plan(load_config(space, set_ or [], name), console, pilot)


@app.command()
@_reports_errors
def retry(folder: SweepFolder, address: Address = None) -> None:
    """Run the failed units of a sweep again."""
    from orchestrator.pipeline import forget_failed, load_folder, run_sweep

    config = load_folder(folder)
    forget_failed(config, console)
    _end(run_sweep(config, console, address))


@app.command()
@_reports_errors
def status(folder: SweepFolder) -> None:
    """Show how far a sweep is: units per state, time left, failures grouped by cause."""
    from orchestrator.pipeline import load_folder, print_status

    print_status(load_folder(folder), console)


@app.command()
@_reports_errors
def stop(folder: SweepFolder) -> None:
    """Ask a running sweep, wherever its drivers run, to end after the steps under way."""
    from orchestrator.pipeline import load_folder, stop_sweep

    stop_sweep(load_folder(folder), console)


@app.command()
@_reports_errors
def sync(folder: SweepFolder) -> None:
    """Log to MLflow every unit of a sweep that has no run yet."""
    from orchestrator.pipeline import load_folder, sync_tracking

    if not sync_tracking(load_folder(folder), console):
        raise typer.Exit(1)


@app.command()
@_reports_errors
def select(folder: SweepFolder) -> None:
    """Choose a configuration per setting without labels; writes selection.json."""
    from orchestrator.pipeline import choose, load_folder

    choose(load_folder(folder), console)


@app.command()
@_reports_errors
def rescore(
    folder: SweepFolder,
    proxy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A proxy, e.g. tail_separation; default: all.")
    ] = None,
) -> None:
    """Compute the proxies of every finished unit again, without training; writes proxies.parquet."""
    from orchestrator.pipeline import load_folder
    from orchestrator.rescore import rescore as rescore_folder

    rescore_folder(load_folder(folder).folder, proxy or [], console)


@app.command()
@_reports_errors
def report(folder: SweepFolder) -> None:
    """Open the labels once, after the choice, and write the table and report.html."""
    from orchestrator.pipeline import load_folder, make_report

    make_report(load_folder(folder), console)


@app.command()
@_reports_errors
def export(
    folder: SweepFolder,
    task: Annotated[
        str | None, typer.Option(metavar="SOURCE->TARGET/CLASS", help="One task; default: all.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder of the detectors; default: `detectors` in the sweep's folder.")
    ] = None,
) -> None:
    """Train the chosen detectors again, check them against their records, write and register them."""
    from orchestrator.export import export_detectors
    from orchestrator.pipeline import load_folder

    if not export_detectors(load_folder(folder), task, to, console):
        raise typer.Exit(1)


@app.command()
@_reports_errors
def score(
    folder: Annotated[Path, typer.Argument(help="Folder of images, searched recursively.")],
    detector: Annotated[
        str, typer.Option(help="Folder that `twofold export` wrote, or models:/NAME@champion in MLflow.")
    ],
    to: Annotated[Path, typer.Option(metavar="FILE_STEM", help="The tables without their ending.")] = Path(
        "scores"
    ),
) -> None:
    """Score every image of a folder with an exported detector; writes a Parquet and a CSV table.

    A registered detector is looked for at MLFLOW_TRACKING_URI, or else in runs/mlflow.db.
    """
    from orchestrator.score_folder import score_folder

    if not score_folder(folder, detector, to, console):
        raise typer.Exit(1)


@app.command()
@_reports_errors
def table(
    name: Annotated[str, typer.Argument(help="Table, a file of search_spaces/tables without its ending.")],
    data: Data = "digits",
    data_root: DataRoot = None,
    fast: Annotated[bool, typer.Option("--fast", help="One split seed instead of three.")] = False,
    set_: Overrides = None,
    to: Annotated[Path | None, typer.Option(help="Folder of the tables; default: runs/tables.")] = None,
) -> None:
    """Measure a table of the paper: run the rows that have no result yet, judge them, write and print it."""
    from orchestrator.tables.run import make_table

    _end(make_table(name, data, data_root, fast, set_ or [], to, console))


@app.command()
@_reports_errors
def reproduce(
    cell: Annotated[str, typer.Argument(metavar="TABLE:ROW/COLUMN", help="Cell of a measured table.")],
    data: Data = "digits",
    data_root: DataRoot = None,
    results: Annotated[Path, typer.Option(help="Folder of the measured tables.")] = Path("benchmarks/tables"),
) -> None:
    """Run one cell of a measured table again from its splits, and compare every AUROC behind it.

    Exit code 1 where one differs by more than 0.0001 points, 2 where images or splits are not those of the
    table.
    """
    from orchestrator.tables.reproduce import reproduce as reproduce_cell

    _end(reproduce_cell(cell, data, data_root, results, console))


@app.command(name="choose-k")
@_reports_errors
def choose_k(
    folder: Annotated[Path, typer.Argument(help="Folder of unlabelled images, searched recursively.")],
    encoder: Annotated[str, typer.Option(help="Frozen encoder.")] = "efficientnet_lite0",
    max_k: Annotated[int, typer.Option(min=1, help="Largest K to try.")] = 12,
    image_size: Annotated[int | None, typer.Option(help="Pixels; default: the encoder's own.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder of cached features.")] = Path("runs/cache"),
) -> None:
    """Recommend K, and the images to trust, for a folder of images, and say why; writes choose_k.html."""
    from orchestrator.choose_k import recommend

    recommend(folder, encoder, max_k, image_size, cache, console)


@cluster_app.callback()
def _cluster() -> None:
    """Keep `check` a command of its own although it is the only one."""


@cluster_app.command(name="check")
@_reports_errors
def cluster_check(
    file: Annotated[Path, typer.Argument(help="Cluster file, e.g. cluster.yaml or clusters/kuberay.yaml.")],
) -> None:
    """Name every mistake in a cluster file, offline, or say what it would start and who pays."""
    from orchestrator.cluster.check import check_cluster

    check_cluster(file, console)


def main() -> None:
    """Entry point of the ``twofold`` command."""
    try:
        app()
    finally:
        # Or the interpreter looks through every object of PyTorch and Ray before it ends.
        gc.freeze()
