"""The pilot behind ``twofold plan``: short units of every kind, run as the sweep runs them, and thrown away.

The sweep's own driver runs units on small settings made of sampled images, with as many workers as the sweep
will have here, so that they are in each other's way as they will be. The ledger is a scratch folder: no
record of a pilot is ever taken for a result.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from orchestrator.config import BudgetConfig, SweepConfig
from orchestrator.leases import Owner
from orchestrator.ledger import Ledger
from orchestrator.plan import Unit
from orchestrator.prepare import Prepared, SettingIndex
from orchestrator.sampling import Samples
from orchestrator.storage import Storage
from orchestrator.work import Sample, Sizes, Workload
from trainables.configuration import Configuration
from trainables.data.tiled import tiled_name
from trainables.errors import TwofoldError
from trainables.methods.base import Part
from trainables.seeding import stable_hash
from trainables.types import Setting

MOST_TRAINED, MOST_TRAINED_WHOLE = 160, 48
"""Images of S_fit that the pilot trains on, with a cached trunk and with the whole network."""
MOST_ROWS, FEW_ROWS = 1500, 64
"""Images of every other part, where embedding them is measured and where it is not."""
MOST_FREE = 4000
"""Images of each part of a setting on which nothing is trained."""
EPOCHS = 3
WARM_UP_SEED = 10**6


@dataclass(frozen=True)
class Pilot:
    """What a pilot measured.

    Attributes:
        samples: work and the wall seconds that it took.
        starting: wall seconds to import and start Ray.
        launch: wall seconds from then until the first unit was recorded.
        units: how many were run.
    """

    samples: list[Sample]
    starting: float
    launch: float
    units: int


def run_pilot(
    config: SweepConfig, samples: Samples, settings: Sequence[Setting], units: Sequence[Unit], workers: int
) -> Pilot:
    """Run what measures every kind of work among ``units``.

    Args:
        config: the sweep.
        samples: arrays of a few images of each domain.
        settings: of the sweep.
        units: those of which nothing is known.
        workers: that run at once.

    Raises:
        TwofoldError: a unit fails.
    """
    stage = _Stage(samples)
    chosen = _choose(stage, settings, units, workers)
    with tempfile.TemporaryDirectory(prefix=".pilot-", dir=config.folder) as folder:
        storage = Storage(folder)
        storage.write("id", b"pilot")
        prepared = stage.prepared(config.data.image_size)
        starting, launch = _run(_alone(config, workers), prepared, storage, chosen)
        records = [record for unit in chosen if (record := Ledger(storage).read(unit.key)) is not None]
    for record in records:
        if record.state == "failed":
            reason = (record.error or "").strip().splitlines()[-1:]
            raise TwofoldError(f"a unit of the pilot failed: {''.join(reason)}")
    counted = [record for record in records if record.seed < WARM_UP_SEED]
    return Pilot(Workload(stage.sizes).measured(counted), starting, launch, len(chosen))


def _run(
    config: SweepConfig, prepared: Prepared, storage: Storage, units: Sequence[Unit]
) -> tuple[float, float]:
    """Run units; return the seconds until Ray was there, and from then until the first record."""
    began = time.time()
    from orchestrator.ray_start import RaySession  # importing Ray is a part of its start
    from orchestrator.sweep import Ended, Supervisor

    ended: list[float] = []

    def on_ended(_: Ended) -> None:
        ended.append(time.time())

    with RaySession(config, None) as session:
        session.wait()
        ready = time.time()
        Supervisor(config, prepared, storage, Owner.here(), on_ended, units, since=began).run(units)
    return ready - began, ended[0] - ready


def _alone(config: SweepConfig, workers: int) -> SweepConfig:
    """The sweep without what would end the pilot early, or share its trials unevenly among the workers."""
    shares: dict[str, Any] = {"workers": workers, "trainings_per_trial": 1}
    if not torch.cuda.is_available():  # Ray would wait for one
        shares["gpus_per_worker"] = 0.0
    resources = config.resources.model_copy(update=shares)
    changes = {"resources": resources, "scheduler": "none", "budget": BudgetConfig()}
    return config.model_copy(update=changes)


class _Stage:
    """The small settings of a pilot, whose images are those of the samples, again and again.

    Args:
        samples: arrays of a few images of each domain.

    Attributes:
        sizes: key of a small setting -> its sizes.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._index: dict[str, SettingIndex] = {}
        self.sizes: dict[str, Sizes] = {}

    def place(self, unit: Unit, setting: Setting, sizes: Sizes, **changes: Any) -> Unit:
        """A unit with the sizes given and changed hyperparameters; its key is none of the sweep's."""
        key = f"pilot-{stable_hash([setting.key, asdict(sizes)])}"
        if key not in self._index:
            self._index[key] = self._setting(key, setting, sizes)
            self.sizes[key] = sizes
        flat = Configuration.parse({**unit.configuration, **changes}).as_dict()
        name = stable_hash(["pilot", key, flat, unit.seed])
        return replace(unit, key=name, setting=key, configuration=flat, bundle=name)

    def prepared(self, image_size: int | None) -> Prepared:
        """The arrays and settings of all units placed so far."""
        return Prepared(self._samples.arrays, self._index, image_size)

    def _setting(self, key: str, setting: Setting, sizes: Sizes) -> SettingIndex:
        source, target = setting.task.source, setting.task.target
        rows: dict[Part, np.ndarray] = {
            "source_fit": self._rows((source, False), 0, sizes.source_fit),
            "source_val": self._rows((source, False), sizes.source_fit, sizes.source_val),
            "target_fit": self._rows((target, False), 0, sizes.target_fit),
            "target_sel": self._rows((target, False), sizes.target_fit, sizes.target_sel),
            "pseudo": self._rows((target, True), 0, sizes.target_sel),
            "test": self._rows((target, False), sizes.target_fit + sizes.target_sel, sizes.test),
        }
        if (tiles := (tiled_name(target), False)) in self._samples.counts:
            rows["tiled"] = self._rows(tiles, 0, sizes.target_fit)
        # Of the true normals only the number matters, and the pilot reads no label.
        return SettingIndex(
            key, setting.description, source, target, rows, np.ones(sizes.target_fit, dtype=bool)
        )

    def _rows(self, domain: tuple[str, bool], start: int, count: int) -> np.ndarray:
        return np.arange(start, start + count) % self._samples.counts[domain]


def _choose(stage: _Stage, settings: Sequence[Setting], units: Sequence[Unit], workers: int) -> list[Unit]:
    """Units that need every kind of work that ``units`` need; the first ones warm the workers up."""
    # What kinds a unit needs does not depend on the sizes of its setting.
    anywhere = Workload(defaultdict(lambda: Sizes.of(settings[0])))
    kinds = {unit.key: {part.kind for part in anywhere.of(unit)} for unit in units}
    free: list[Unit] = []
    for setting in settings:
        covered: set[str] = set()
        for unit in units:
            if not unit.trains and not kinds[unit.key] <= covered:
                covered |= kinds[unit.key]
                free.append(stage.place(unit, setting, Sizes.of(setting).capped(MOST_FREE, MOST_FREE)))
    covered = {part.kind for unit in free for part in anywhere.of(unit)}
    trained: list[Unit] = []
    for unit in units:
        if unit.trains and not kinds[unit.key] <= covered:
            trained.extend(_trainings(stage, unit, settings[len(trained) % len(settings)]))
            covered |= kinds[unit.key]
    chosen = [*trained, *free]
    return [*(_warm_up(chosen[0], number) for number in range(workers)), *chosen]


def _warm_up(unit: Unit, number: int) -> Unit:
    """The same unit once more, in a bundle of its own."""
    name = stable_hash([unit.key, "warm-up", number])
    return replace(unit, seed=WARM_UP_SEED + number, key=name, bundle=name)


def _trainings(stage: _Stage, unit: Unit, setting: Setting) -> list[Unit]:
    """Short trainings, from which the start, the epochs and the embedding can be told apart."""
    whole = unit.configuration["finetune"] == "full"
    most = max(MOST_ROWS, unit.configuration.get("k", 1))
    sizes = Sizes.of(setting).capped(MOST_TRAINED_WHOLE if whole else MOST_TRAINED, most)
    few = replace(
        sizes, **{part: min(getattr(sizes, part), FEW_ROWS) for part in ("source_val", "target_sel", "test")}
    )
    return [
        stage.place(unit, setting, sizes, epochs=1),
        stage.place(unit, setting, few, epochs=1),
        stage.place(unit, setting, few, epochs=EPOCHS),
    ]
