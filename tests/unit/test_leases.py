"""Leases: of all that claim at once at most one holds, whatever the order of their steps."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import leases
from orchestrator.leases import TTL_SECONDS, Leases, Owner
from orchestrator.storage import Storage

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")())


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def owner(session: str, **changes: Any) -> Owner:
    """A driver on another host, of which nothing is known."""
    return replace(Owner(session, "another host", 1, 1), **changes)


def claims(storage: Storage) -> list[str]:
    return [name.split(".")[0] for name in storage.names("leases")]


# ---- one holder ---------------------------------------------------------------------------------


def test_a_lease_has_one_holder_until_it_is_given_back(storage: Storage) -> None:
    a, b = (Leases(storage, owner(name)) for name in "ab")
    assert a.acquire("x") and a.acquire("x")
    assert not b.acquire("x") and not b.acquire("x")
    assert b.acquire("y"), "another name is another lease"
    assert {name: other.session for name, other in a.held_by_others().items()} == {"y": "b"}
    assert {name: other.session for name, other in b.held_by_others().items()} == {"x": "a"}
    a.release("x")
    a.release("x")
    assert b.acquire("x") and not a.acquire("x")
    b.release("x")
    b.release("y")
    assert claims(storage) == []


def test_names_may_hold_dots(storage: Storage) -> None:
    a, b = (Leases(storage, owner(name)) for name in "ab")
    assert a.acquire("x.json.y") and not b.acquire("x.json.y") and b.acquire("x.json")
    assert set(b.held_by_others()) == {"x.json.y"}


# ---- every order of steps -----------------------------------------------------------------------


@dataclass
class Stepped:
    """Storage in memory whose every call waits for its turn: a step of the claimant that makes it."""

    files: dict[str, bytes] = field(default_factory=dict)
    turn: Callable[[], None] = lambda: None

    def read(self, name: str) -> bytes | None:
        self.turn()
        return self.files.get(name)

    def write(self, name: str, content: bytes, durable: bool = True) -> None:
        self.turn()
        self.files[name] = content

    def names(self, folder: str) -> list[str]:
        self.turn()
        return sorted(name.removeprefix(f"{folder}/") for name in self.files)

    def remove(self, name: str) -> None:
        self.turn()
        self.files.pop(name, None)


class Claimant:
    """Runs ``work`` in a thread that does one step of storage at a time, when it is told to."""

    def __init__(self, files: dict[str, bytes], work: Callable[[Storage], None]) -> None:
        self._go = threading.Semaphore(0)
        self._stands = threading.Semaphore(0)
        self.ended = False
        stepped = Stepped(files, self._turn)
        self._thread = threading.Thread(target=self._run, args=(work, stepped), daemon=True)
        self._thread.start()
        self._stands.acquire()

    def _turn(self) -> None:
        self._stands.release()
        self._go.acquire()

    def _run(self, work: Callable[[Storage], None], stepped: Stepped) -> None:
        try:
            work(cast(Storage, stepped))
        finally:
            self.ended = True
            self._stands.release()

    def step(self) -> None:
        self._go.release()
        self._stands.acquire()


class Race:
    """Some claimants of one lease, and who holds it now."""

    def __init__(self, works: list[Callable[[Race, str, Storage], None]], files: dict[str, bytes]) -> None:
        self.files = files
        self.holders: set[str] = set()
        self.most = 0
        self.won = 0
        self.clock = Clock()
        self.claimants = [
            Claimant(files, lambda storage, work=work, name=name: work(self, name, storage))  # type: ignore[misc]
            for name, work in zip("abc", works, strict=False)
        ]

    def hold(self, name: str) -> None:
        self.holders.add(name)
        self.won += 1
        self.most = max(self.most, len(self.holders))

    def run(self, order: Iterator[int]) -> None:
        """Step the claimants in the order given, then each to its end."""
        for number in order:
            if not self.claimants[number].ended:
                self.claimants[number].step()
        for claimant in self.claimants:
            while not claimant.ended:
                claimant.step()


def claim_once(race: Race, name: str, storage: Storage) -> None:
    """Claims, works for one step, and gives the lease back."""
    lease = Leases(storage, owner(name), race.clock)
    if lease.acquire("x"):
        race.hold(name)
        storage.read("work")
        race.holders.discard(name)
        lease.release("x")


def claim_twice(race: Race, name: str, storage: Storage) -> None:
    """As a driver whose worker failed, or that waits for its turn: the same session claims again."""
    for _ in range(2):
        claim_once(race, name, storage)


def look(race: Race, name: str, storage: Storage) -> None:
    """As ``twofold status`` and a supervisor do: clears away what has ended and claims nothing."""
    Leases(storage, owner(name), race.clock).held_by_others()


@pytest.mark.parametrize(
    ("works", "wins"), [((claim_once, claim_once), {0, 1, 2}), ((claim_twice, claim_once), {1, 2, 3})]
)
def test_no_order_of_the_steps_of_two_lets_both_hold(works: tuple[Any, Any], wins: set[int]) -> None:
    outcomes = set()
    for chosen in itertools.combinations(range(12), 6):
        race = Race(list(works), {})
        race.run(iter([0 if step in chosen else 1 for step in range(12)]))
        assert race.most <= 1
        assert race.files == {}, "no claim is left behind"
        outcomes.add(race.won)
    assert outcomes == wins, "both may withdraw, one may win, or one after the other"


def expired(session: str, clock: Clock) -> dict[str, bytes]:
    """What a worker that was killed a while ago has left: its driver may live on and claim again."""
    claim = {**owner(session).__dict__, "until": clock.now - 1}
    return {f"leases/x.{session}.killed.json": json.dumps(claim).encode()}


@settings(max_examples=400)
@given(
    order=st.lists(st.integers(0, 2), max_size=40),
    works=st.tuples(*[st.sampled_from([claim_once, claim_twice, look])] * 3),
    dead=st.booleans(),
)
def test_no_order_of_the_steps_of_three_lets_two_hold(
    order: list[int], works: tuple[Any, ...], dead: bool
) -> None:
    race = Race(list(works), expired("a", Clock()) if dead else {})
    race.run(iter(order))
    assert race.most <= 1
    assert [name for name in race.files if ".killed." not in name] == []


def test_clearing_away_never_removes_a_claim_made_meanwhile() -> None:
    """Every order of one that looks around and one that gives back, or has lost, a claim and claims anew."""
    for start in ({}, expired("a", Clock())):
        for chosen in itertools.combinations(range(14), 5):
            held_when_lost = []

            def work(race: Race, name: str, storage: Storage) -> None:
                for _ in range(2):
                    lease = Leases(storage, owner(name), race.clock)
                    assert lease.acquire("x")
                    storage.read("work")
                    held_when_lost.append(any(".a." in file and "killed" not in file for file in race.files))  # noqa: B023
                    lease.release("x")

            race = Race([work, look], dict(start))
            race.run(iter([1 if step in chosen else 0 for step in range(14)]))
            assert held_when_lost == [True, True]


def test_those_that_wait_take_turns_and_all_get_it(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = random.Random(0)
    monkeypatch.setattr(leases.random, "uniform", lambda low, high: draws.uniform(0.005, 0.05))
    inside: list[int] = []
    served: list[str] = []

    def work(name: str) -> None:
        for _ in range(3):
            with Leases(storage, owner(name)).exclusive("x"):
                inside.append(1)
                assert len(inside) == 1
                time.sleep(0.005)
                inside.pop()
                served.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(served) == sorted("abc" * 3)
    assert claims(storage) == []


# ---- the end of a claim -------------------------------------------------------------------------


def test_a_claim_ends_when_it_is_not_renewed(storage: Storage) -> None:
    clock = Clock()
    a, b = (Leases(storage, owner(name), clock) for name in "ab")
    assert a.acquire("x")
    clock.now += TTL_SECONDS
    assert not b.acquire("x"), "not before its time is over"
    assert a.acquire("x"), "claimed anew by its holder"
    clock.now += TTL_SECONDS
    assert not b.acquire("x")
    clock.now += 1
    assert b.held_by_others() == {} and claims(storage) == []
    assert b.acquire("x")


def process() -> subprocess.Popen[str]:
    """Another driver on this host that holds lease x, and sleeps."""
    code = """
import sys, time
from orchestrator.leases import Leases, Owner
from orchestrator.storage import Storage
assert Leases(Storage(sys.argv[1]), Owner.here()).acquire("x")
print("held", flush=True)
time.sleep(100)
"""
    return subprocess.Popen(
        [sys.executable, "-c", code, os.environ["LEASES_OF_TEST"]],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("collected", [False, True], ids=["zombie", "collected"])
def test_a_driver_killed_on_this_host_is_replaced_at_once(
    collected: bool, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEASES_OF_TEST", storage.location)
    here = Leases(storage, Owner.here())
    driver = process()
    try:
        assert driver.stdout is not None and driver.stdout.readline() == "held\n"
        assert not here.acquire("x")
        os.kill(driver.pid, signal.SIGKILL)
        if collected:
            driver.wait(10)
        else:
            os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
        assert here.acquire("x") and len(claims(storage)) == 1
    finally:
        driver.kill()
        driver.communicate()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_whose_process_is_gone_is_judged_by_host_number_and_start() -> None:
    here = Owner.here()
    assert here.pid == os.getpid() and here.started > 0
    assert not here.is_gone() and not replace(here, session="other").is_gone()
    assert replace(here, started=here.started - 1).is_gone(), "another process has got its number since"
    assert not replace(here, host="another host", pid=2**22 + 1).is_gone(), "of another host nothing is known"
    assert not replace(here, started=0, pid=2**22 + 1).is_gone(), "where the start is unknown, neither"
    assert replace(here, pid=2**22 + 1).is_gone()
    assert Owner.here().session != here.session


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"until": 1e30}',
        b'{"until": "soon"}',
        b'{"until": NaN, "session": "b", "host": "h", "pid": 1, "started": 1}',
        b'{"until": 1e30, "session": "b", "host": "h", "pid": 1, "started": 1, "more": 1}',
    ],
)
def test_a_damaged_claim_holds_nothing_and_is_cleared_away(content: bytes, storage: Storage) -> None:
    storage.write("leases/x.b.123456.json", content)
    lease = Leases(storage, owner("a"))
    assert lease.acquire("x") and claims(storage) == ["x"]
    assert len(storage.names("leases")) == 1


def test_a_foreign_file_is_left_alone(storage: Storage) -> None:
    for name in ("README", "x.json", ".nfs0001", "x.b"):
        storage.write(f"leases/{name}", b"?")
    lease = Leases(storage, owner("a"))
    assert lease.acquire("x") and lease.held_by_others() == {}
    lease.release("x")
    assert storage.names("leases") == ["README", "x.b", "x.json"]


# ---- renewal ------------------------------------------------------------------------------------


def test_a_lease_is_renewed_while_its_block_runs(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.02)
    clock = Clock()
    a, b = (Leases(storage, owner(name), clock) for name in "ab")
    assert a.acquire("x")
    with a.renewed("x"):
        for _ in range(4):
            clock.now += 0.9 * TTL_SECONDS
            time.sleep(0.3)
            assert not b.acquire("x")
    assert claims(storage) == [] and b.acquire("x")
    assert not any(thread.name == "lease-renewal" for thread in threading.enumerate())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_a_lease_is_given_back_when_its_block_fails(error: type[BaseException], storage: Storage) -> None:
    lease = Leases(storage, owner("a"))
    with pytest.raises(error), lease.exclusive("x"):
        assert claims(storage) == ["x"]
        raise error
    assert claims(storage) == []


def test_renewal_outlives_a_store_that_is_away_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.02)
    storage, clock = Storage(str(tmp_path)), Clock()
    lease = Leases(storage, owner("a"), clock)
    assert lease.acquire("x")
    with lease.renewed("x"):
        with monkeypatch.context() as patch:
            patch.setattr(Storage, "write", _away)
            time.sleep(0.1)
        clock.now += 0.9 * TTL_SECONDS
        time.sleep(0.2)
        clock.now += 0.9 * TTL_SECONDS
        assert not Leases(storage, owner("b"), clock).acquire("x")


def _away(*arguments: Any, **options: Any) -> None:
    raise OSError("the store is away")


# ---- real processes -----------------------------------------------------------------------------


def test_two_processes_that_hammer_one_lease_never_overlap(tmp_path: Path) -> None:
    code = """
import pathlib, random, sys
from orchestrator import leases
from orchestrator.leases import Leases, Owner
from orchestrator.storage import Storage
folder = pathlib.Path(sys.argv[1])
lease, counter, inside = Leases(Storage(str(folder)), Owner.here()), folder / "counter", folder / "inside"
uniform = random.uniform
random.uniform = lambda low, high: uniform(0.0002, 0.004)
for _ in range(200):
    with lease.exclusive("x"):
        inside.mkdir()  # fails where the other one is inside
        counter.write_text(str(int(counter.read_text()) + 1))
        inside.rmdir()
"""
    (tmp_path / "counter").write_text("0")
    command = [sys.executable, "-c", code, tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert (tmp_path / "counter").read_text() == "400"
    assert list((tmp_path / "leases").iterdir()) == []
