"""Numbers of nodes: minimum, maximum and total must be able to hold at once, and trials stay off the head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.cluster.findings import Finding, hint, section

TYPES = "available_node_types"


def node_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """Contradictions between the node types of a launcher file."""
    types = section(config.get(TYPES))
    if not types:
        return
    head = config.get("head_node_type")
    if not isinstance(head, str) or head not in types:
        near = hint(str(head), types)
        yield Finding("head_node_type", f"{head!r} is not one of `{TYPES}`.{near}")
    total = config.get("max_workers", 2)
    minimum = 0
    for name, kind in types.items():
        key = f"{TYPES}.{name}"
        least, most = section(kind).get("min_workers", 0), section(kind).get("max_workers", total)
        if not all(isinstance(number, int) for number in (least, most, total)):
            continue  # Ray's schema names it
        minimum += least
        if name == head:
            yield from _head_findings(section(kind), key)
            continue
        if least > most:
            yield Finding(
                f"{key}.min_workers", f"{least} is more than its max_workers, {most}: raise that one"
            )
        if most > total:
            yield Finding(
                f"{key}.max_workers",
                f"{most} can never be reached, since max_workers of the whole cluster is {total}: "
                "raise that one or lower this one",
            )
    if isinstance(total, int) and minimum > total:
        yield Finding("max_workers", f"{total} is less than the {minimum} of all min_workers: raise it")


def _head_findings(kind: dict[str, Any], key: str) -> Iterator[Finding]:
    resources = section(kind.get("resources"))
    if resources.get("CPU") != 0:
        yield Finding(
            f"{key}.resources.CPU",
            "trials would run on the head beside the driver and MLflow: write resources: {CPU: 0}",
        )
    if kind.get("min_workers", 0) or kind.get("max_workers", 0):
        yield Finding(
            f"{key}.max_workers", "more nodes of the head's type run no trials either: leave it out"
        )
