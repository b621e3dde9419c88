"""Nothing that is read back can run code: no pickles, no YAML objects, no arrays of objects."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import orchestrator
import search_spaces
import trainables

FILES = sorted(
    path
    for package in (orchestrator, search_spaces, trainables)
    for path in Path(package.__path__[0]).rglob("*.py")
)
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
UNSAFE_NAMES = {"ray.cloudpickle", "torch.load"}


def unsafe(source: str) -> list[str]:
    """Every line of a module that could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call):
            if _is_unsafe_call(node):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
            continue
        else:
            continue
        if any(name.split(".")[0] in FORBIDDEN_MODULES or name in UNSAFE_NAMES for name in names):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def _is_unsafe_call(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    values = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in ("eval", "exec", "torch.jit.load", "torch.hub.load", "pandas.read_pickle", "pd.read_pickle"):
        return True
    if name.endswith((".load_pickle", ".read_pickle", "pickle.load", "pickle.loads")):
        return True
    if name == "torch.load":
        return values.get("weights_only") != "True"
    if name in ("np.load", "numpy.load"):
        return values.get("allow_pickle", "False") != "False"
    if name in ("yaml.load", "yaml.load_all"):
        return not any("SafeLoader" in part for part in [*values.values(), *map(ast.unparse, call.args)])
    return name.startswith("yaml.") and ("unsafe" in name or "full_load" in name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-2:]))
def test_no_module_runs_what_it_reads(path: Path) -> None:
    assert unsafe(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib",
        "from ray import cloudpickle",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "from torch import load\nload(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "yaml.full_load(text)",
        "eval(text)",
    ],
)
def test_the_search_finds_what_would_run_code(line: str) -> None:
    assert unsafe(line)


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "yaml.safe_load(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "json.load(file)",
        "model.eval()",
    ],
)
def test_the_search_lets_pass_what_would_not(line: str) -> None:
    assert not unsafe(line)
