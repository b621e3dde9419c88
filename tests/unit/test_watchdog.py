"""The watchdog: a process that hangs is ended, wherever it hangs, and one that works or waits is not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.watchdog import Watchdog

ROOT = Path(__file__).parents[2]
START = """
import re, sys, time
from pathlib import Path
from orchestrator import watchdog
watchdog.GRACE_SECONDS = 0.5
told = Path(sys.argv[1])
def on_timeout(stack):
    told.write_text(stack)
def step():
    {step}
with watchdog.Watchdog({seconds}, on_timeout):
    step()
print("came to its end")
"""


def run(tmp_path: Path, step: str, seconds: float = 0.3) -> tuple[int, str, str]:
    """Exit code, stack that was told ("" where none was), and what was printed."""
    told = tmp_path / "told"
    done = subprocess.run(
        [sys.executable, "-c", START.format(step=step, seconds=seconds), told],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, told.read_text() if told.exists() else "", done.stdout + done.stderr


@pytest.mark.parametrize("step", ["while True: pass", "time.sleep(60)", "__import__('queue').Queue().get()"])
def test_a_hang_ends_the_process_and_says_where(step: str, tmp_path: Path) -> None:
    code, stack, output = run(tmp_path, step)
    assert code == 1 and "came to its end" not in output
    assert "in step" in stack and stack.count("in <module>") == 1


def test_a_hang_that_holds_pythons_lock_ends_the_process_a_little_later(tmp_path: Path) -> None:
    """A regular expression that takes for ever lets no other thread run, the watchdog's neither."""
    code, stack, output = run(tmp_path, "re.match('(a+)+b', 'a' * 60)")
    assert code == 1 and "came to its end" not in output
    assert stack == "" and "Timeout" in output and "in step" in output


def test_a_process_that_is_fed_lives(tmp_path: Path) -> None:
    code, stack, output = run(tmp_path, "time.sleep(0.2)", seconds=2.0)
    assert (code, stack, output) == (0, "", "came to its end\n")


def test_the_process_ends_though_the_timeout_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "told").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", START.format(step="time.sleep(60)", seconds=0.2), tmp_path / "told"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1


def test_feeding_begins_anew_and_resting_suspends() -> None:
    """Of a child of this process: a watchdog that errs would end the test run."""
    code = """
import time
from orchestrator.watchdog import Watchdog
def on_timeout(stack):
    print("told", flush=True)
with Watchdog(0.6, on_timeout) as watchdog:
    for _ in range(5):
        time.sleep(0.2)
        watchdog.feed()
    watchdog.rest()
    time.sleep(1.2)
    watchdog.feed()
    time.sleep(0.2)
    print("fed and rested", flush=True)
    time.sleep(30)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "fed and rested\ntold\n")


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails: bool) -> None:
    try:
        with Watchdog(60, lambda stack: None):
            if fails:
                raise ValueError
    except ValueError:
        pass
    started = time.monotonic()
    while any(thread.name == "watchdog" for thread in threading.enumerate()):
        assert time.monotonic() - started < 5
        time.sleep(0.05)
