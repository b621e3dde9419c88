"""Attempts: what ended the last one, and when a bundle is given up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.attempts import MAX_DEATHS, Attempt, AttemptLog, History
from orchestrator.storage import Storage

ATTEMPT = Attempt("session.1", "node", 42, 1.5)


def alive(node: str) -> bool:
    return node == "node"


def begun(history: History | None = None, **changes: object) -> History:
    return (history or History()).begin(replace(ATTEMPT, **changes))  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> AttemptLog:
    return AttemptLog(Storage(str(tmp_path)))


def test_a_history_is_kept_until_it_is_forgotten(log: AttemptLog) -> None:
    assert log.read("b") == History() and log.bundles() == []
    history = replace(begun(begun()), deaths=1, preemptions=2, failure="worker_died", error="Größe 环\n")
    log.write("b", history)
    log.write("c", History())
    assert log.read("b") == history and log.read("c") == History() and log.bundles() == ["b", "c"]
    log.forget("b")
    log.forget("b")
    assert log.read("b") == History() and log.bundles() == ["c"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"3",
        b'"x"',
        b'{"unknown": 1}',
        b'{"open": {"run": "r"}}',
        b'{"open": 3}',
    ],
)
def test_a_damaged_history_is_an_empty_one(content: bytes, log: AttemptLog, tmp_path: Path) -> None:
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / "b.json").write_bytes(content)
    assert log.read("b") == History()


def test_beginning_counts_and_opens() -> None:
    history = begun(begun())
    assert history.begun == 2 and history.open == ATTEMPT and not history.is_exhausted


def test_nothing_is_held_against_units_whose_driver_was_stopped() -> None:
    for run in ("other.1", "session.2"):
        assert begun().settled(run, alive) == History(begun=1)
        assert begun().settled(run, lambda node: False) == History(begun=1)


def test_a_lost_node_is_a_preemption_and_never_the_end() -> None:
    history = History()
    for count in range(1, 2 * MAX_DEATHS + 1):
        history = begun(history, node="lost").settled("session.1", alive)
        assert history == History(begun=count, preemptions=count) and not history.is_exhausted


def test_a_worker_may_die_once() -> None:
    history = History()
    for count in range(1, MAX_DEATHS + 1):
        assert not history.is_exhausted
        history = begun(history).settled("session.1", alive)
        assert (history.begun, history.deaths, history.preemptions) == (count, count, 0)
        assert history.failure == "worker_died" and "died" in history.error and history.open is None
    assert history.is_exhausted


def test_what_was_said_of_an_end_is_not_judged_again() -> None:
    """The watchdog or the driver has closed the attempt: the next worker counts no second death."""
    hung = begun().died("timeout", "stack\nno progress for 3 s")
    assert hung.settled("session.1", alive) == hung and hung.deaths == 1


def test_a_hang_is_not_tried_again_and_a_full_memory_is_once() -> None:
    assert begun().died("timeout", "").is_exhausted
    once = begun().died("out_of_memory", "killed")
    assert not once.is_exhausted and begun(once).died("out_of_memory", "killed").is_exhausted


@given(st.lists(st.sampled_from(["stopped", "preempted", "died", "ended"]), max_size=12))
def test_every_attempt_is_counted_once_for_what_ended_it(ends: list[str]) -> None:
    history = History()
    for end in ends:
        history = begun(history, node="lost" if end == "preempted" else "node")
        if end == "ended":
            history = replace(history, open=None)
        history = history.settled("session.2" if end == "stopped" else "session.1", alive)
    assert history.open is None and history.begun == len(ends)
    assert (history.deaths, history.preemptions) == (ends.count("died"), ends.count("preempted"))
    assert history.is_exhausted == (ends.count("died") >= MAX_DEATHS)
