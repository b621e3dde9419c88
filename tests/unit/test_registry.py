"""Registries: names, lookups with hints, and components that check their hyperparameters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from trainables.errors import UnknownName, nearest_name
from trainables.registry import Component, Registry


class Idea(Component):
    """A component of the tests."""

    weight: float = Field(1.0, ge=0, description="a weight")


def filled() -> Registry[Idea]:
    registry: Registry[Idea] = Registry("idea", "trainables.scores")
    registry.register("second")(Idea)
    registry.register("first")(Idea)
    return registry


def test_names_are_sorted_and_found() -> None:
    registry = filled()
    assert registry.names() == ["first", "second"]
    assert registry.get("first") is Idea


def test_a_name_is_used_once() -> None:
    with pytest.raises(ValueError, match="idea 'first' is registered twice"):
        filled().register("first")(Idea)


def test_unknown_name_says_which_are_known_and_near() -> None:
    with pytest.raises(
        UnknownName, match=r"unknown idea 'secund'. Did you mean 'second'\? Known: first, second"
    ):
        filled().get("secund")
    with pytest.raises(UnknownName) as error:
        filled().get("xyz")
    assert "Did you mean" not in str(error.value)


def test_a_new_file_is_the_only_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "ideas_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text(
        "from trainables.registry import Registry\nIDEAS = Registry('idea', 'ideas_of_a_test')\n"
    )
    (package / "new.py").write_text(
        "from ideas_of_a_test.base import IDEAS\n@IDEAS.register('new')\nclass New: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import ideas_of_a_test.base as base  # type: ignore[import-not-found]

    try:
        assert base.IDEAS.names() == ["new"]
        assert base.IDEAS.get("new").__name__ == "New"
    finally:
        for name in [name for name in sys.modules if name.startswith("ideas_of_a_test")]:
            del sys.modules[name]


def test_components_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        Idea().weight = 2  # type: ignore[misc]
    for bad in ({"wait": 1}, {"weight": -1}, {"weight": float("inf")}, {"weight": float("nan")}):
        with pytest.raises(ValidationError):
            Idea(**bad)


def test_nearest_name() -> None:
    assert nearest_name("kmean", ["kmeans", "density"]) == " Did you mean 'kmeans'?"
    assert nearest_name("zzz", ["kmeans"]) == ""
