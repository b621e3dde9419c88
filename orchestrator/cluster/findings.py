"""A finding: one thing that is wrong with a cluster file, at a key, with the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from trainables.errors import nearest_name


@dataclass(frozen=True)
class Finding:
    """One mistake.

    Attributes:
        key: path of the key, such as ``available_node_types.gpu.max_workers``.
        message: what is wrong, and the remedy.
        warning: True where the cluster may start all the same.
    """

    key: str
    message: str
    warning: bool = False


# Names of a section -> the names of the section below each, or None where anything goes.
Fields: TypeAlias = Mapping[str, "Fields | None"]


def join(*parts: object) -> str:
    """Join the parts of a key by dots, leaving out empty ones."""
    return ".".join(str(part) for part in parts if part != "")


def section(value: Any) -> dict[str, Any]:
    """Return ``value`` where it is a mapping, otherwise an empty one: wrong types are named elsewhere."""
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[Any]:
    """Return ``value`` where it is a list, otherwise an empty one."""
    return value if isinstance(value, list) else []


def unknown_names(value: Any, fields: Fields | None, key: str, source: str) -> Iterator[Finding]:
    """Find the names below ``key`` that ``fields`` does not know; lists are looked through.

    Args:
        value: any part of a parsed YAML file.
        fields: the known names.
        key: where ``value`` is.
        source: who knows these names, for the message.
    """
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown_names(item, fields, join(key, index), source)
    elif isinstance(value, dict) and fields is not None:
        for name, below in value.items():
            if name in fields:
                yield from unknown_names(below, fields[name], join(key, name), source)
            else:
                yield Finding(join(key, name), f"{source} has no such field.{hint(str(name), fields)}")


def hint(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name; list them all where there are few and none is near."""
    names: Sequence[str] = sorted(known)
    return nearest_name(name, names) or (f" Known: {', '.join(names)}." if len(names) <= 12 else "")
