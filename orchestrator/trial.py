"""The trial glue: a Ray Tune trainable that runs one group of units and writes their records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from threadpoolctl import threadpool_limits

from orchestrator.group import GroupRun, Progress
from orchestrator.ledger import Ledger, UnitRecord
from orchestrator.plan import Unit
from orchestrator.prepare import Prepared
from trainables.memory import keep_freed_memory

MAX_ATTEMPTS = 2


class UnitGroup(tune.Trainable):
    """One step = one epoch of one training, or the records of a training that ended.

    Actors are reused from group to group. A unit during which a worker died twice is recorded as failed,
    so that a unit that kills its process costs two restarts and not the sweep.
    """

    def setup(
        self,
        config: dict[str, Any],
        prepared: Prepared | None = None,
        groups: Sequence[ray.ObjectRef[list[Unit]]] = (),
        folder: str = "",
        threads: int = 1,
    ) -> None:
        """Load the shared arrays and start on group ``config["group"]``."""
        assert prepared is not None
        keep_freed_memory()
        torch.set_num_threads(threads)
        threadpool_limits(threads)
        self._prepared = prepared
        self._groups = groups
        self._ledger = Ledger(Path(folder))
        self._steps = self._run(int(config["group"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on to another group in the same process."""
        self._steps = self._run(int(new_config["group"]))
        return True

    def step(self) -> dict[str, Any]:
        """Advance by one epoch; the result is JSON-safe."""
        progress = next(self._steps, None)
        if progress is None:
            return {"finished": [], "failed": [], "done": True}
        for record in progress.finished:
            self._ledger.write(record)
        return {
            "finished": [record.key for record in progress.finished if record.state == "done"],
            "failed": [record.key for record in progress.finished if record.state == "failed"],
            "epoch": progress.epoch,
            **progress.losses,
            "done": False,
        }

    def _run(self, group: int) -> Iterator[Progress]:
        units: list[Unit] = ray.get(self._groups[group])
        run = GroupRun(self._prepared, units)
        for members in run.trainings():
            states = self._ledger.states([unit.key for unit in members])
            left = [unit for unit in members if unit.key not in states]
            if not left:
                continue
            if self._ledger.begin(left[0].key) >= MAX_ATTEMPTS:
                yield Progress(_died(run, left))
            else:
                yield from run.run(left)


def _died(run: GroupRun, units: list[Unit]) -> list[UnitRecord]:
    return run.fail(units, f"the worker process died {MAX_ATTEMPTS} times while it ran this unit")
