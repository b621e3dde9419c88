"""Leases: among several drivers on one ledger, one at a time works on a bundle of units or logs to MLflow.

An object store has no lock, so a lease is taken in two steps that need none: write a claim of one's own,
then look for the claims of others, and withdraw when there is one. Of two that claim at once, each writes
before it looks, so at least one of them sees the other: never both hold the lease. Both may withdraw; they
try again later. A claim ends when it is released, when it was not renewed for ``TTL_SECONDS`` (the clocks of
all nodes must agree to within a fraction of that), or when its driver is known to be gone from this host.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.storage import Storage

TTL_SECONDS = 60.0
RENEW_SECONDS = 15.0


@dataclass(frozen=True)
class Owner:
    """The driver that leases are held for; its workers, wherever they run, hold them in its name.

    Attributes:
        session: random name of this run of the driver.
        host: the host and the process namespace in which ``pid`` means that process.
        pid: process id of the driver.
        started: when that process started, in clock ticks since the host booted; 0 where it is not known.
    """

    session: str
    host: str
    pid: int
    started: int

    @classmethod
    def here(cls) -> Owner:
        """A new session of this process."""
        return cls(uuid.uuid4().hex[:12], _host(), os.getpid(), _started(os.getpid()))

    def is_gone(self) -> bool:
        """Whether the driver's process is known to have ended; of another host nothing is known."""
        if self.host != _host() or not self.started:
            return False
        return _started(self.pid) != self.started


class Leases:
    """Claims in ``leases/<name>.<session>.<claimant>.json``; only those of what is under way exist.

    Each instance claims under a name of its own: what was found to have ended and is then removed can thus
    never be a claim that the same session has made anew meanwhile.

    Args:
        storage: folder shared by everyone who may work on the sweep.
        owner: for whom leases are taken.
        clock: seconds since the epoch.
    """

    def __init__(self, storage: Storage, owner: Owner, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._owner = owner
        self._clock = clock
        self._claimant = uuid.uuid4().hex[:6]

    def acquire(self, name: str) -> bool:
        """Take the lease, or say that somebody else has it; a second call of its holder succeeds."""
        self._claim(name)
        if name not in self.held_by_others():
            return True
        self.release(name)
        return False

    def release(self, name: str) -> None:
        """Give the lease back."""
        self._storage.remove(self._file(name))

    def held_by_others(self) -> dict[str, Owner]:
        """Name -> another owner with a living claim on it; claims that have ended are removed."""
        held: dict[str, Owner] = {}
        for file in self._storage.names("leases"):
            name, *session = file.rsplit(".", 3)
            if len(session) < 3 or session[0] == self._owner.session:
                continue
            claim = self._storage.read(f"leases/{file}")
            if claim is None:  # given back since the folder was listed
                continue
            other = self._living(claim)
            if other is None:
                self._storage.remove(f"leases/{file}")
            else:
                held[name] = other
        return held

    @contextlib.contextmanager
    def renewed(self, name: str) -> Iterator[None]:
        """Keep a lease that is held from ending while the block runs, and give it back afterwards."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEW_SECONDS):
                # A store that is away for a moment is tried again; the claim outlives several failures.
                with contextlib.suppress(OSError):
                    self._claim(name)

        thread = threading.Thread(target=renew, name="lease-renewal", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.release(name)

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Wait for the lease and hold it while the block runs."""
        while not self.acquire(name):
            # Two that claim at the same time both withdraw; they must not try again at the same time.
            time.sleep(random.uniform(0.05, 0.5))
        with self.renewed(name):
            yield

    def _claim(self, name: str) -> None:
        claim = {**asdict(self._owner), "until": self._clock() + TTL_SECONDS}
        self._storage.write(self._file(name), json.dumps(claim).encode(), durable=False)

    def _living(self, content: bytes) -> Owner | None:
        """The owner of a claim, or None where it has ended or is damaged."""
        try:
            claim = json.loads(content)
            until = float(claim.pop("until"))
            owner = Owner(**claim)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        # Written so that an `until` that is not a number ends the claim.
        return owner if until >= self._clock() and not owner.is_gone() else None

    def _file(self, name: str) -> str:
        return f"leases/{name}.{self._owner.session}.{self._claimant}.json"


def _host() -> str:
    """Name of this host and process namespace; containers may share a name, and restarted hosts a number."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "/".join(parts)


def _started(pid: int) -> int:
    """Start of a running process in clock ticks since boot, as Linux tells it; 0 where it is not known."""
    try:
        # The second field, the command's name in parentheses, may hold blanks.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # A zombie has ended, though nobody has asked for its exit code yet.
        return 0 if state in "ZX" else int(fields[18])
    except (OSError, IndexError, ValueError):
        return 0
