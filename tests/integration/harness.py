"""What the integration tests run: the real command line, a real tracking server, images made by Pillow."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mlflow.tracking import MlflowClient
from PIL import Image
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.config import SweepConfig, load_config
from orchestrator.ledger import Ledger, UnitRecord, read_units
from orchestrator.pipeline import make_plan
from orchestrator.storage import Storage

REPOSITORY = Path(__file__).parents[2]
SMALL = REPOSITORY / "search_spaces" / "digits_small.yaml"
COMPONENTS = Path(__file__).with_name("components")
TWOFOLD = Path(sys.executable).with_name("twofold")
MLFLOW = Path(sys.executable).with_name("mlflow")
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# The command line has to keep Ray to the loopback by itself.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != LOOPBACK},
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}
# What `--set` makes of digits_small: two classes of tiny images, so that a sweep takes seconds.
TINY = ("data.image_size=32", 'data.classes=["0","1"]')


@dataclass(frozen=True)
class Finished:
    """A command that ended.

    Attributes:
        code: exit code.
        output: standard output and standard error.
        seconds: wall time.
    """

    code: int
    output: str
    seconds: float

    @property
    def message(self) -> str:
        """Output on one line, so that a message can be searched whatever the width."""
        return " ".join(self.output.split())


def twofold(*arguments: object, env: dict[str, str] | None = None) -> Finished:
    """Run the installed command in a process of its own."""
    started = time.monotonic()
    done = subprocess.run(
        [TWOFOLD, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**ENVIRONMENT, **(env or {})},
        timeout=240,
        check=False,
    )
    return Finished(done.returncode, done.stdout, time.monotonic() - started)


def start(
    arguments: Sequence[object], environment: dict[str, str], prefix: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """A command that runs on while the test goes on, in a process group of its own."""
    return subprocess.Popen(
        [*prefix, TWOFOLD, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**ENVIRONMENT, **environment},
        start_new_session=True,
        # A test run that a shell put in the background ignores SIGINT, and its children would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finished(command: subprocess.Popen[str], seconds: float) -> Finished:
    """The outcome of a command that was started, at most ``seconds`` from now."""
    begun = time.monotonic()
    output, _ = command.communicate(timeout=seconds)
    return Finished(command.returncode, output, time.monotonic() - begun)


def statuses(folder: Path) -> dict[str, list[str]]:
    """Unit key -> statuses of its MLflow runs."""
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(folder.name)
    assert experiment is not None
    found: dict[str, list[str]] = defaultdict(list)
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        if "twofold.key" in run.data.tags:
            found[run.data.tags["twofold.key"]].append(run.info.status)
    return dict(found)


def records(where: Path | Storage) -> dict[str, UnitRecord]:
    """Key -> record of every unit that has a whole one."""
    storage = where if isinstance(where, Storage) else Storage(str(where))
    keys = [name.removesuffix(".arrow") for name in storage.names("units")]
    return {key: record for key in keys if (record := Ledger(storage).read(key)) is not None}


def twofold_here(*arguments: object) -> Finished:
    """Run the command in this process, and a sweep on the Ray of this process where there is one."""
    started = time.monotonic()
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Finished(result.exit_code, result.output, time.monotonic() - started)


def refused(done: Finished, *parts: str) -> None:
    """Exit code 2, and one message, the last thing said, that holds ``parts``; no traceback."""
    assert done.code == 2, done.output
    assert done.output.count("error: ") == 1 and "Traceback" not in done.output, done.output
    message = done.message.partition("error: ")[2]
    for part in parts:
        assert part in message, done.message


def sets(*overrides: str) -> list[str]:
    """``--set`` before each override."""
    return [part for override in overrides for part in ("--set", override)]


@dataclass(frozen=True)
class Sweep:
    """A sweep on disk: its file, the overrides of the command line, and where its results are."""

    space: Path
    overrides: tuple[str, ...]
    first: Finished | None = None

    @property
    def arguments(self) -> list[str]:
        """Arguments of ``twofold sweep`` and ``twofold plan``."""
        return [str(self.space), *sets(*self.overrides)]

    @property
    def config(self) -> SweepConfig:
        return load_config(self.space, self.overrides)

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def records(self) -> dict[str, Path]:
        """Key -> file of every record."""
        return {path.stem: path for path in (self.folder / "units").glob("*.arrow")}

    def planned(self) -> set[str]:
        return {unit.key for unit in make_plan(self.config).units}

    def units(self) -> list[dict[str, Any]]:
        """Rows of units.parquet."""
        return read_units(self.folder / "units.parquet")


def modified(paths: Sequence[Path]) -> dict[Path, int]:
    """When each file was written, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in paths}


def copy_sweep(sweep: Sweep, destination: Path) -> Path:
    """Copy a sweep's folder, not its MLflow database, and return the copy."""
    return Path(shutil.copytree(sweep.folder, destination / sweep.config.name))


def draw_image(path: Path, shape: str, seed: int, dark: bool = False) -> None:
    """A noisy 24-pixel bar, square or ring at a random place."""
    draws = np.random.default_rng([seed, *path.parent.name.encode()])
    row, column = np.mgrid[0:24, 0:24] - draws.integers(9, 15, size=2)[:, None, None]
    inside = {
        "bar": np.abs(column) < 3,
        "square": np.maximum(abs(row), abs(column)) < 6,
        "ring": np.abs(np.hypot(row, column) - 6) < 2,
    }[shape]
    grey = 170 * inside + draws.integers(0, 60, size=inside.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 - grey if dark else grey).astype(np.uint8)).save(path)


SHAPES = {"plain bar": "bar", "Größe": "square", "环": "ring"}


def draw_domains(root: Path, images: int = 16) -> Path:
    """``root/<light|dark paper>/<plain bar|Größe|环>/*.png``; returns root."""
    for domain in ("light", "dark paper"):
        for label, shape in SHAPES.items():
            for index in range(images):
                draw_image(root / domain / label / f"{index} é.png", shape, index, dark=domain != "light")
    return root


def write_space(path: Path, cache: Path, **changes: Any) -> Path:
    """Write a sweep file with frozen features of tiny images; ``changes`` replace whole sections."""
    content: dict[str, Any] = {
        "name": path.stem,
        "data": {},
        "fixed": {"encoder": "efficientnet_lite0", "finetune": "head", "epochs": 1},
        "default": {"clusterer": "density", "alignment": "identity", "score": "knn"},
        "space": [{"alignment": "identity", "clusterer": "kmeans", "k": [1, 2], "score": "knn"}],
        "resources": {"workers": 2},
        "output": str(path.parent),
        "cache": str(cache),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**content, **changes}, allow_unicode=True))
    return path


def folder_data(root: Path, **changes: Any) -> dict[str, Any]:
    """Data section for ``draw_domains``."""
    pairs = [["light", "dark paper"]]
    return {"dataset": "folder", "root": str(root), "pairs": pairs, "image_size": 32, **changes}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TrackingServer:
    """A real tracking server on this machine, which can be killed and started again.

    Args:
        folder: where its log, artifacts and, unless ``store`` names another, its database are.
        options: more arguments of ``mlflow server``.
        store: backend store URI.
    """

    def __init__(
        self, folder: Path, *options: str, port: int | None = None, store: str | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "server.log"
        port = port or free_port()
        self.address = f"http://127.0.0.1:{port}"
        self._command = [
            *(MLFLOW, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *options),
            *("--backend-store-uri", store or f"sqlite:///{folder}/mlflow.db"),
            *("--serve-artifacts", "--artifacts-destination", str(folder)),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it, without waiting until it answers."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True
            )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        wait_until(lambda: _answers(f"{self.address}/health"), 90)

    def kill(self, with_signal: int = signal.SIGKILL) -> None:
        """End its processes, without notice unless ``with_signal`` gives it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, with_signal)
            self._process.wait(30)
            self._process = None


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int, *options: str) -> Iterator[str]:
    """A real tracking server on this machine; yields its address when it answers."""
    server = TrackingServer(folder, *options, port=port)
    try:
        server.start()
        yield server.address
    finally:
        server.kill(signal.SIGTERM)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing happened for {seconds:.0f} s")
        time.sleep(0.1)


_EXTENSION = """
import os
import sys
from importlib.machinery import PathFinder

FOLDERS = {folders!r}
CONSTANTS = {constants!r}

class Extended:
    def find_spec(name, path=None, target=None):
        if name == "orchestrator" and "TWOFOLD_TEST_BARE" in os.environ:
            raise ModuleNotFoundError("No module named 'orchestrator' (a node without twofold)")
        if name in FOLDERS:
            spec = PathFinder.find_spec(name, path, target)
            spec.submodule_search_locations.append(FOLDERS[name])
            return spec
        if name in CONSTANTS:
            spec = PathFinder.find_spec(name, path, target)
            run = spec.loader.exec_module
            def exec_module(module):
                run(module)
                vars(module).update(CONSTANTS[name])
            spec.loader.exec_module = exec_module
            return spec

sys.meta_path.insert(0, Extended)
"""


def with_faults(folder: Path, **constants: dict[str, float]) -> dict[str, str]:
    """Environment in which every Python process finds the components in ``components/``.

    Python imports ``sitecustomize`` at its start; this one adds folders to the packages that the registries
    search, so that production code needs no hook. Where ``TWOFOLD_TEST_BARE`` is set, there is no twofold.

    Args:
        folder: where to put it; the components leave their traces there, too.
        constants: module of orchestrator -> constants to replace in it, such as times too long for a test.
    """
    folder.mkdir(parents=True)
    text = _EXTENSION.format(
        folders={f"trainables.{path.name}": str(path) for path in COMPONENTS.iterdir()},
        constants={f"orchestrator.{module}": values for module, values in constants.items()},
    )
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(folder), "TWOFOLD_TEST_FAULTS": str(folder)}


def processes_with(marker: str, but: tuple[bytes, ...] = ()) -> list[int]:
    """Ids of the processes whose environment holds ``marker``: a sweep and everything it started.

    Those whose command line starts with one of ``but`` are left out.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment, command = ((entry / name).read_bytes() for name in ("environ", "cmdline"))
            if marker.encode() in environment and not command.startswith(but):
                found.append(int(entry.name))
    return found


def listening(processes: Sequence[int]) -> set[str]:
    """Addresses at which processes listen for TCP connections, as Linux tells it in ``/proc``."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A":
                sockets[f"socket:[{rest[5]}]"] = _address(local.partition(":")[0])
    found = set()
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").glob("*"):
            with contextlib.suppress(OSError):
                found.add(sockets.get(os.readlink(descriptor), ""))
    return found - {""}


def _address(text: str) -> str:
    """An address of /proc/net: groups of four bytes, each group in the byte order of the machine."""
    groups = [bytes.fromhex(text[i : i + 8]) for i in range(0, len(text), 8)]
    packed = b"".join(group[::-1] if sys.byteorder == "little" else group for group in groups)
    address = ipaddress.ip_address(packed)
    return str(getattr(address, "ipv4_mapped", None) or address)
