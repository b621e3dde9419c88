"""What the shell commands of a launcher file do: their syntax, whom they let in, and what they open."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

from orchestrator.cluster.findings import Finding, entries, hint, section

MODES = ("token", "disabled")
START = {"head": "head_start_ray_commands", "worker": "worker_start_ray_commands"}
_ANY = r"(0\.0\.0\.0|::|\[::\]|\*)(?![\w.:])"
_OPEN = {
    rf"--dashboard-host[= ]{_ANY}": "Ray's dashboard, which runs any code it is sent",
    rf"\bmlflow\b[^;&|]*--host[= ]{_ANY}": "MLflow, which asks nobody who they are",
    rf"--ray-client-server-host[= ]{_ANY}": "Ray's client server, which runs any code it is sent",
}


def command_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """Mistakes in the commands of a launcher file."""
    for key, command in _commands(config):
        yield from syntax_findings(command, key)
        yield from open_findings(command, key)
    yield from _start_findings(config)
    yield from _auth_findings(config)


def syntax_findings(command: str, key: str) -> Iterator[Finding]:
    """What bash says of the command without running it."""
    done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[0].rpartition(": ")[2]
        yield Finding(
            key, f"is not a shell command ({said}); YAML cuts unquoted text at ' #', so write it below `- >-`"
        )


def open_findings(command: str, key: str) -> Iterator[Finding]:
    """Services that the command would open to everybody who can reach the node."""
    for pattern, service in _OPEN.items():
        match = re.search(pattern, command)
        if match:
            yield Finding(
                key,
                f"`{match[0].split(' ')[-1]}` opens {service} to everybody who can reach the node: "
                "write 127.0.0.1, "
                "and reach it by `ray attach -p PORT`",
            )


def auth_mode_findings(mode: str | None, key: str, token: bool, where: str) -> Iterator[Finding]:
    """A mode that is missing or unknown, or ``token`` without one."""
    if mode is None:
        yield Finding(
            key,
            f"RAY_AUTH_MODE is not set {where}: Ray then decides by what it finds on each node. "
            "Write export RAY_AUTH_MODE=token",
        )
    elif mode not in MODES:
        yield Finding(key, f"RAY_AUTH_MODE={mode} is not a mode.{hint(str(mode), MODES)}")
    elif mode == "token" and not token:
        yield Finding(
            "file_mounts",
            "RAY_AUTH_MODE=token needs the token on every node: mount ~/.ray/auth_token at "
            "<home>/.ray/auth_token",
        )


def _commands(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Key and text of each command, those of node types included."""
    places = [("", config)]
    places += [
        (f"available_node_types.{name}.", section(kind))
        for name, kind in section(config.get("available_node_types")).items()
    ]
    for prefix, place in places:
        for name, commands in place.items():
            if str(name).endswith("_commands") and isinstance(commands, list):
                for index, command in enumerate(commands):
                    if isinstance(command, str):
                        yield f"{prefix}{name}.{index}", command


def _starts(config: dict[str, Any], node: str) -> list[str]:
    return [str(command) for command in entries(config.get(START[node])) if "ray start" in str(command)]


def _start_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """Start commands that are missing, or let trials run on the head."""
    for node, key in START.items():
        if not _starts(config, node):
            yield Finding(
                key, "has no `ray start`: Ray's default opens the dashboard and leaves RAY_AUTH_MODE open"
            )
    for command in _starts(config, "head"):
        if not re.search(r"--num-cpus[= ]0(?!\d)", command):
            yield Finding(
                START["head"], "trials would run on the head beside the driver and MLflow: add --num-cpus=0"
            )


def _auth_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """RAY_AUTH_MODE in the start commands, where no login file can be forgotten."""
    mounts = section(config.get("file_mounts"))
    token = any(str(path).endswith("/.ray/auth_token") for path in mounts)
    modes = {}
    for node, key in START.items():
        for command in _starts(config, node):
            match = re.search(r"RAY_AUTH_MODE=([\w-]+)", command)
            modes[node] = match[1] if match else None
            yield from auth_mode_findings(modes[node], key, token or node == "worker", f"on the {node}")
    given = {mode for mode in modes.values() if mode}
    if len(given) > 1:
        yield Finding(
            START["worker"],
            f"RAY_AUTH_MODE is {modes['worker']} on the workers and {modes['head']} on the head, which "
            "would refuse "
            "them: make them equal",
        )
    for key, command in _commands(config):
        match = re.search(r"RAY_AUTH_MODE=([\w-]+)", command)
        if match and key.rpartition(".")[0] not in START.values() and given and match[1] not in given:
            yield Finding(
                key,
                f"RAY_AUTH_MODE={match[1]} here, and {'/'.join(sorted(given))} where Ray starts: make "
                "them equal",
            )
