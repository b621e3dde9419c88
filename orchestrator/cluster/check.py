"""``twofold cluster check``: everything that is wrong with a cluster file, before anything is paid for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from orchestrator.cluster.aws import aws_findings
from orchestrator.cluster.commands import command_findings
from orchestrator.cluster.findings import Finding, section
from orchestrator.cluster.gcp import gcp_findings
from orchestrator.cluster.kuberay import kuberay_findings
from orchestrator.cluster.launcher import launcher_findings
from orchestrator.cluster.local import local_findings
from orchestrator.cluster.mounts import mount_findings
from orchestrator.cluster.nodes import node_findings
from orchestrator.cluster.placeholders import placeholder_findings
from orchestrator.cluster.source import ClusterFile, read_cluster_file
from orchestrator.cluster.summary import summarise
from orchestrator.cluster.versions import version_findings
from trainables.errors import TwofoldError

PROVIDERS = {"aws": aws_findings, "gcp": gcp_findings, "local": local_findings}


def check_cluster(path: Path, console: Console) -> None:
    """Print what the file would start, and what to do first.

    Raises:
        TwofoldError: all mistakes at once, each with its key and the remedy.
    """
    file = read_cluster_file(path)
    found = list(dict.fromkeys([*find(file), *placeholder_findings(path.read_text())]))
    for finding in found:
        if finding.warning:
            console.print(f"[yellow]first:[/] {escape(_line(finding))}", highlight=False, soft_wrap=True)
    mistakes = [f"  {_line(finding)}" for finding in found if not finding.warning]
    if mistakes:
        raise TwofoldError("\n".join([f"{path} is not ready to start:", *mistakes]))
    console.print(escape("\n".join(summarise(file))), highlight=False, soft_wrap=True)


def find(file: ClusterFile) -> Iterator[Finding]:
    """Every mistake in the file."""
    if file.kubernetes:
        yield from kuberay_findings(file.documents)
        return
    config = file.documents[0]
    yield from launcher_findings(config)
    yield from node_findings(config)
    yield from PROVIDERS.get(str(section(config.get("provider")).get("type")), _no_findings)(config)
    yield from command_findings(config)
    yield from mount_findings(config)
    yield from version_findings(config)


def _no_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """Nothing more is known of other providers."""
    return iter(())


def _line(finding: Finding) -> str:
    return f"{finding.key}: {finding.message}" if finding.key else finding.message
