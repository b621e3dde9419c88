"""Hosts on one machine: each a network, process and mount namespace with an sshd, on a bridge of their own.

A host sees the machine's files, but has its own /home, /tmp, /dev/shm and user ``ubuntu``; /srv is common to
all. The first one is the laptop. Its bridge is not connected to the machine's network, and everything ends
with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("unshare", "nsenter", "ip", "sshd", "ssh", "ssh-keygen", "rsync", "pgrep", "curl")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
ENTER = ("nsenter", "--net", "--pid", "--mount", "--target")

# The sources lie below /tmp, which the last mount hides.
BOOT = """
set -eu
mount --make-rprivate /
mount -t tmpfs home {folder}/layer
mkdir {folder}/layer/upper {folder}/layer/work
mount -t overlay home -o lowerdir=/home,upperdir={folder}/layer/upper,workdir={folder}/layer/work /home
mkdir -p /home/ubuntu
cp -r {folder}/home/. /home/ubuntu
mount --bind {folder}/passwd /etc/passwd
mount --bind {common} /srv
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mkdir -m 755 /run/sshd
cp {folder}/host_key /run/host_key
chmod 600 /run/host_key
mount --bind {folder}/tmp /tmp
ip link set lo up
exec $(command -v sshd) -D -e -o HostKey=/run/host_key -o UsePAM=no -o StrictModes=no -o PidFile=none \
    -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o AcceptEnv=no -o UseDNS=no
"""


def why_not() -> str | None:
    """What this machine lacks to hold hosts, or None."""
    missing = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: rsync openssh-server iproute2 procps curl)"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--fork", "true"], capture_output=True, text=True
    )
    return f"no right to make namespaces: {tried.stderr.strip()}" if tried.returncode else None


@dataclass(frozen=True)
class Host:
    """A namespace: the id of its first process, its address and its files on this machine."""

    init: int
    address: str
    folder: Path

    def run(
        self, command: str, timeout: float = 120, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as ``ubuntu`` in its home."""
        return subprocess.run(
            self._enter(command, env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, command: str, log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a shell command and leave it running."""
        with log.open("w") as output:
            return subprocess.Popen(
                self._enter(command, env or {}), stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )

    def processes(self) -> list[str]:
        """Command lines of everything that runs on the host, but for its sshd and this question."""
        listed = self.run("ps -eo pid=,args=").stdout.splitlines()
        own = ("sshd", "ps -eo", "bash -c ps -eo")
        return [
            line for line in listed if not line.split(None, 1)[1].startswith(own) and line.split()[0] != "1"
        ]

    def _enter(self, command: str, env: Mapping[str, str]) -> list[str]:
        home = "/home/ubuntu"
        clean = {"HOME": home, "USER": "ubuntu", "PATH": PATH, "LANG": "C.UTF-8", **env}
        variables = [f"{name}={value}" for name, value in clean.items()]
        return [*ENTER, str(self.init), "--", "env", "-i", f"-C{home}", *variables, "bash", "-c", command]


@contextlib.contextmanager
def hosts(folder: Path, addresses: Mapping[str, str]) -> Iterator[dict[str, Host]]:
    """Hosts by name, connected; the first one holds the bridge and the key that opens the others."""
    common = folder / "common"
    common.mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    started = {}
    with contextlib.ExitStack() as stack:
        for name, address in addresses.items():
            init = stack.enter_context(_namespace(folder / name, common, folder / "key"))
            started[name] = Host(init, address, folder / name)
        _connect(list(started.values()))
        yield started


@contextlib.contextmanager
def _namespace(folder: Path, common: Path, key: Path) -> Iterator[int]:
    """Start a host; yields the id of its first process. All of its processes end with it."""
    _furnish(folder, key)
    script = BOOT.format(folder=folder, common=common)
    command = ["unshare", "--net", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child"]
    with (folder / "sshd.log").open("w") as log:
        parent = subprocess.Popen(
            [*command, "bash", "-c", script], stdout=log, stderr=log, env={"PATH": PATH}
        )
    try:
        end = time.monotonic() + 10
        while "Server listening" not in (folder / "sshd.log").read_text():
            if parent.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no host {folder.name}: {(folder / 'sshd.log').read_text()}")
            time.sleep(0.05)
        yield int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()[0])
    finally:
        parent.kill()
        parent.wait(10)


def _furnish(folder: Path, key: Path) -> None:
    """Files of a host: keys, user, and a virtual environment that the set-up commands find complete."""
    for name in ("layer", "tmp", "home/.ssh", "home/venv"):
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    shutil.copy(key, folder / "home/.ssh/id_ed25519")
    shutil.copy(key.with_suffix(".pub"), folder / "home/.ssh/authorized_keys")
    shutil.copy(key, folder / "host_key")
    # Before root, who has the same number: ssh takes its home from the first line that fits.
    users = Path("/etc/passwd").read_text()
    (folder / "passwd").write_text(f"ubuntu:x:0:0::/home/ubuntu:/bin/bash\n{users}")
    (folder / "home/.bashrc").touch()
    venv = Path(sys.prefix)
    for name in ("bin", "lib", "pyvenv.cfg"):
        (folder / "home/venv" / name).symlink_to(venv / name)
    repository = Path(__file__).parents[2]
    installed = [(repository / name).read_text() for name in ("pyproject.toml", "constraints.txt")]
    (folder / "home/venv/installed").write_text("".join(installed))


def _connect(members: list[Host]) -> None:
    """A bridge on the first host, and a cable from it to each of the others."""
    first, *others = members
    commands = [
        "ip link add br0 type bridge",
        f"ip addr add {first.address}/24 dev br0",
        "ip link set br0 up",
    ]
    for number, host in enumerate(others):
        commands += [
            f"ip link add port{number} type veth peer name eth0 netns {host.init}",
            f"ip link set port{number} master br0 up",
        ]
    _ip(first, commands)
    for host in others:
        # Ray finds its own address by asking for the way to the Internet, which ends at the first host.
        way = f"ip route add default via {first.address}"
        _ip(host, [f"ip addr add {host.address}/24 dev eth0", "ip link set eth0 up", way])


def _ip(host: Host, commands: list[str]) -> None:
    subprocess.run(
        ["nsenter", "--net", "--target", str(host.init), "sh", "-ec", textwrap.dedent("\n".join(commands))],
        check=True,
        env={"PATH": PATH},
    )
