"""Files that are copied to the nodes: they must be there, where `ray up` looks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.cluster.findings import Finding, hint, section


def mount_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """Sources of ``file_mounts`` that are missing, relative to the current folder as for ``ray up``."""
    for remote, local in section(config.get("file_mounts")).items():
        path = Path(str(local)).expanduser()
        if path.exists():
            continue
        key = f"file_mounts.{remote}"
        if path.parts[-2:] == (".ray", "auth_token"):
            yield Finding(key, f"{local} is missing: `ray get-auth-token --generate` writes it", warning=True)
        else:
            names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            yield Finding(
                key,
                f"{local} is not there, seen from {Path.cwd()}.{hint(path.name, names) if names else ''} "
                "`ray up` takes paths from the folder it is called in: call it from the repository's",
            )
