"""An alignment that breaks its worker on request; ``harness.with_faults`` lets Ray's workers discover it.

It leaves one file per call, so that a test can count what was run, and sleeps on request, so that a sweep
can be interrupted. When the file ``$TWOFOLD_TEST_FAULTS/mended`` exists, it breaks nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Literal

import torch

from trainables.alignments.base import ALIGNMENTS, Alignment, Batch

MEBIBYTE = 2**20


@ALIGNMENTS.register("faulty")
class Faulty(Alignment):
    fault: Literal[
        "none",
        "raise",
        "nan",
        "kill_once",
        "kill",
        "slow",
        "long",
        "hang",
        "hang_locked",
        "memory_error",
        "gpu_full",
        "memory",
    ] = "none"

    def __call__(self, batch: Batch) -> torch.Tensor:
        folder = Path(os.environ["TWOFOLD_TEST_FAULTS"])
        (folder / f"{self.fault}.{time.time_ns()}").touch()
        loss = (batch.source.mean(dim=0) - batch.trusted.mean(dim=0)).square().sum()
        if not (folder / "mended").exists():
            self._break(folder, len(batch.source))
        return loss * torch.nan if self.fault == "nan" and not (folder / "mended").exists() else loss

    def _break(self, folder: Path, size: int) -> None:
        match self.fault:
            case "raise":
                raise ValueError("a fault of the test")
            case "slow" | "long":
                time.sleep(0.3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill_once" if len(list(folder.glob("kill_once.*"))) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)
            case "hang_locked":
                # Unlike time.sleep, this keeps Python's lock: no other thread runs any more.
                ctypes.PyDLL(None).sleep(3600)
            case "memory_error":
                bytearray(2**62)
            case "gpu_full" if size > 4:
                raise torch.OutOfMemoryError(f"a GPU that holds no batch of {size}")
            case "memory":
                _take_memory()


def _take_memory() -> None:
    """Take 2 GiB in steps, and keep them for a while."""
    taken = []
    for _ in range(32):
        taken.append(bytearray(os.urandom(MEBIBYTE) * 64))
        time.sleep(0.05)
    time.sleep(10)
