"""An alignment that breaks its worker on request; ``harness.with_faults`` lets Ray's workers discover it.

It sleeps too, so that a sweep can be interrupted while it runs. When the file ``$TWOFOLD_TEST_FAULTS/mended``
exists, it does neither.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Literal

import torch

from trainables.alignments.base import ALIGNMENTS, Alignment, Batch


@ALIGNMENTS.register("faulty")
class Faulty(Alignment):
    fault: Literal["none", "raise", "nan", "kill_once", "kill", "slow"] = "none"

    def __call__(self, batch: Batch) -> torch.Tensor:
        folder = Path(os.environ["TWOFOLD_TEST_FAULTS"])
        (folder / f"{self.fault}.{time.time_ns()}").touch()
        loss = (batch.source.mean(dim=0) - batch.trusted.mean(dim=0)).square().sum()
        if (folder / "mended").exists() or self.fault == "none":
            return loss
        if self.fault == "raise":
            raise ValueError("a fault of the test")
        if self.fault == "slow":
            time.sleep(0.3)
        if self.fault == "kill" or (self.fault == "kill_once" and len(list(folder.glob("kill_once.*"))) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return loss * torch.nan if self.fault == "nan" else loss
