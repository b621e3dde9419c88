"""A PostgreSQL server in a folder of its own, run by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import free_port

PASSWORD = "s3cr3t"


def binaries_here() -> Path | None:
    """The newest installed server binaries; Debian keeps them out of PATH."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), *Path("/usr").glob("pgsql-*/bin/initdb")]
    on_path = shutil.which("initdb")
    found += [Path(on_path)] if on_path else []
    return max(found, key=lambda path: path.parts).parent if found else None


def _unprivileged() -> list[str]:
    """What runs a command as a user that PostgreSQL accepts: not root."""
    if os.geteuid():
        return []
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        if shutil.which("setpriv"):
            return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    pytest.skip(
        "PostgreSQL does not run as root, and there is no setpriv to become the user postgres or nobody"
    )


class Cluster:
    """A PostgreSQL server on the loopback that asks for a password."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._as_user = _unprivileged()
        self._data = folder / "data"
        self._port = free_port()
        self.uri = f"postgresql://me:{PASSWORD}@127.0.0.1:{self._port}/postgres"
        if not os.geteuid():
            user = int(self._as_user[1].partition("=")[2])
            os.chown(folder, user, -1)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        options = [
            "--auth=scram-sha-256",
            "--username=me",
            f"--pwfile={secret}",
            "--no-sync",
            "--encoding=UTF8",
        ]
        self._run("initdb", "-D", str(self._data), *options)

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self._port} -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", f"{self._data}/log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._binaries / program), *arguments]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            env={**os.environ, "LC_ALL": "C"},
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}"
