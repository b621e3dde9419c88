"""Registries: a new idea is one file in its package, with one decorator.

A registry imports every module of its package on first use, so that adding a file is the only edit and
the contract tests find the entry by themselves.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from trainables.errors import UnknownName, nearest_name

T = TypeVar("T")


class Component(BaseModel):
    """A registered idea whose fields are its hyperparameters, checked on construction.

    Fields carry the default, the valid range and a one-line description: the search space, the errors and
    the documentation are all derived from them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def used(self) -> dict[str, Any]:
        """The hyperparameters that have an effect, given the others: by default all of them."""
        return self.model_dump()


class Registry(Generic[T]):
    """Names -> classes of one kind (``clusterer``, ``alignment``, ...), filled by decorators.

    Args:
        kind: what an entry is called in error messages.
        package: dotted package whose modules hold the entries.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, type[Any]] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that adds the class under ``name``; a second use of a name is an error."""

        def add(entry: type[T]) -> type[T]:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._load()
        return sorted(self._entries)

    def get(self, name: str) -> type[Any]:
        """Return the class registered under ``name``.

        Raises:
            UnknownName: with the nearest and all known names.
        """
        self._load()
        if name not in self._entries:
            raise UnknownName(
                f"unknown {self.kind} '{name}'.{nearest_name(name, self._entries)} "
                f"Known: {', '.join(sorted(self._entries))}."
            )
        return self._entries[name]

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        self._loaded = True
