"""The files around the code: dependencies, wheel, import rules and Makefile."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.check_wheel import PACKAGES, ROOT, package_files, wheel_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
}


# ---- dependencies -------------------------------------------------------------------------------


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for group in [PROJECT["dependencies"], *extras] for text in group]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_direct_dependency_has_a_tested_version(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_constraints_hold_exact_versions_alone() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    other = [line for line in lines if line and not re.fullmatch(r"#.*|[\w.-]+==[\w.]+", line)]
    assert other == []
    assert [name for name in PINS if name.startswith(("nvidia-", "cuda-", "triton"))] == []


def third_party_imports() -> set[str]:
    known = {*sys.stdlib_module_names, *PACKAGES}
    found = set()
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - known


def test_everything_imported_is_a_declared_dependency() -> None:
    # botocore is asked for the fields of EC2 where the extra is installed.
    listed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["aws"]]
    declared = {canonicalize_name(Requirement(text).name) for text in listed}
    providers = importlib.metadata.packages_distributions()
    undeclared = {
        module
        for module in third_party_imports()
        if declared.isdisjoint(canonicalize_name(name) for name in providers.get(module, [module]))
    }
    assert undeclared == set()


# ---- wheel --------------------------------------------------------------------------------------


def write_project(root: Path) -> None:
    for package in PACKAGES:
        (root / package).mkdir()
        (root / package / "__init__.py").touch()
    (root / "search_spaces" / "digits.yaml").write_text("name: digits\n")
    (root / "README.md").touch()
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, root / name)


def test_wheel_follows_new_subpackages_and_shows_a_forgotten_init(tmp_path: Path) -> None:
    write_project(tmp_path)
    for name in ("whole", "forgotten"):
        (tmp_path / "trainables" / "deep" / name).mkdir(parents=True)
        (tmp_path / "trainables" / "deep" / name / "idea.py").touch()
    (tmp_path / "trainables" / "deep" / "__init__.py").touch()
    (tmp_path / "trainables" / "deep" / "whole" / "__init__.py").touch()
    expected = package_files(tmp_path)
    assert expected - wheel_files(tmp_path) == {"trainables/deep/forgotten/idea.py"}


# ---- import rules -------------------------------------------------------------------------------

LAYERS = "orchestrator imports trainables, never the reverse"
TRIAL = "What happens inside a trial knows neither Ray nor MLflow"
RAY = "Only driver, stopper, trial glue and launcher's check import Ray"
MLFLOW = "Only tracking and serving import MLflow"
LABELS = "Nothing imports the oracle: the one reader of target labels runs on its own"
VIOLATIONS = [
    ("trainables/intruder.py", "import orchestrator.config", LAYERS),
    ("trainables/data/intruder.py", "import mlflow.tracking", TRIAL),
    ("trainables/clusterers/intruder.py", "def f():\n    from ray import tune", TRIAL),
    ("orchestrator/intruder.py", "import ray.tune", RAY),
    ("orchestrator/proxies/intruder.py", "import ray", RAY),
    ("orchestrator/cluster/intruder.py", "from ray.autoscaler import sdk", RAY),
    ("orchestrator/proxies/intruder.py", "from mlflow.entities import Metric", MLFLOW),
    ("orchestrator/intruder.py", "from orchestrator import oracle", LABELS),
    ("orchestrator/proxies/intruder.py", "from orchestrator.oracle import main", LABELS),
]


def lint_imports(root: Path) -> dict[str, str]:
    """Verdict per contract name, of the packages below ``root``."""
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    verdicts = dict(re.findall(r"^(\S.*?) (KEPT|BROKEN)", result.stdout, re.M))
    assert result.returncode == (1 if "BROKEN" in verdicts.values() else 0), result.stdout + result.stderr
    return verdicts


@pytest.fixture
def copy_of_packages(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("file", "line", "rule"), VIOLATIONS)
def test_each_import_rule_bites(file: str, line: str, rule: str, copy_of_packages: Path) -> None:
    (copy_of_packages / file).write_text(line)
    verdicts = lint_imports(copy_of_packages)
    assert {name for name, verdict in verdicts.items() if verdict == "BROKEN"} == {rule}
    assert set(verdicts) == {LAYERS, TRIAL, RAY, MLFLOW, LABELS}


# ---- Makefile -----------------------------------------------------------------------------------


def make(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=root, capture_output=True, text=True)


@pytest.fixture
def makefile(tmp_path: Path) -> Path:
    """A folder with the Makefile and a ``python`` that only notes how it is called."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "python").write_text(
        '#!/bin/sh\necho "$*" >> calls\n'
        'case "$2" in venv) mkdir -p .venv/bin && cp python .venv/bin/python;; esac\n'
        'test ! -e fail-"$2"\n'
    )
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def test_nothing_is_installed_twice(makefile: Path) -> None:
    for _ in range(2):
        assert make(makefile, "setup", "PYTHON=./python").returncode == 0
    calls = (makefile / "calls").read_text()
    assert calls.count("pip install") == 1
    (makefile / "constraints.txt").write_text("# changed\n")
    os.utime(makefile / "constraints.txt", (2e9, 2e9))
    assert make(makefile, "setup", "PYTHON=./python").returncode == 0
    assert (makefile / "calls").read_text().count("pip install") == 2


def test_a_failed_installation_is_tried_again(makefile: Path) -> None:
    (makefile / "fail-pip").touch()
    assert make(makefile, "test", "PYTHON=./python").returncode != 0
    assert "pytest" not in (makefile / "calls").read_text()
    (makefile / "fail-pip").unlink()
    assert make(makefile, "test", "PYTHON=./python").returncode == 0
    assert (makefile / "calls").read_text().count("pip install") == 2


def test_an_old_python_is_refused_by_name(makefile: Path) -> None:
    (makefile / "python").write_text("#!/bin/sh\nexit 1\n")
    result = make(makefile, "sweep", "PYTHON=./python")
    assert result.returncode != 0
    assert "needs Python 3.11 or newer, and './python' is not" in result.stderr
    assert not (makefile / ".venv").exists()


def test_help_lists_every_target() -> None:
    targets = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[0].split()
    assert re.findall(r"^make ([\w-]+) +\S", make(ROOT).stdout, re.M) == targets
