"""The script that twofold is measured against computes what twofold computes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.plain_tune import HELD_OUT, load_images, score_unit
from orchestrator.config import SweepConfig
from orchestrator.group import GroupRun
from orchestrator.plan import enumerate_grid, plan_units
from orchestrator.prepare import domain_fingerprints, draw_settings, open_dataset, prepare
from trainables.configuration import Configuration

SIZE = 32
FROZEN = {"alignment": "identity", "clusterer": "kmeans", "k": 4, "score": "both_centres"}
TRAINED = {
    "alignment": "positive",
    "clusterer": "trimmed",
    "score": "knn",
    "epochs": 2,
    "learning_rate": 1e-3,
}


def sweep(folder: Path, backbone: str) -> SweepConfig:
    for domain, level in (("photo", 0), ("sketch", 60)):
        for shade, label in enumerate(("cat", "dog")):
            (folder / domain / label).mkdir(parents=True)
            for i in range(16):
                draws = np.random.default_rng([i, shade, level])
                pixels = draws.integers(level, level + 80 + 60 * shade, size=(SIZE, SIZE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / domain / label / f"{i}.png")
    return SweepConfig.model_validate({
        "name": "yardstick",
        "data": {"dataset": "folder", "root": folder, "pairs": [["photo", "sketch"]], "image_size": SIZE,
                 "classes": ["cat"], "anomaly_classes": ["dog"], "contamination": [0.2]},
        "fixed": {"encoder": backbone, "backbone": backbone, "finetune": "last_stage"},
        "default": FROZEN, "space": [FROZEN, TRAINED], "output": folder / "runs", "cache": folder / "cache",
    })  # fmt: skip


@pytest.mark.parametrize("flat", [FROZEN, TRAINED])
def test_a_trial_of_the_script_agrees_with_the_record(
    flat: dict[str, Any], tmp_path: Path, backbone: str
) -> None:
    config = sweep(tmp_path, backbone)
    config.folder.mkdir(parents=True)
    [setting], grid = draw_settings(config, domain_fingerprints(config)), enumerate_grid(config)
    configuration = Configuration.parse({**config.fixed, **flat})
    [unit] = plan_units(config, [configuration], [setting], domain_fingerprints(config))
    *steps, last = GroupRun(prepare(config, grid, [setting]), [unit]).run([unit])
    [record] = last.finished
    assert record.state == "done", record.error

    losses: list[dict[str, float]] = []
    images = partial(load_images, open_dataset(config), setting)
    scores = score_unit(images, setting, configuration, unit.seed, SIZE, losses.append)
    assert [step.losses for step in steps] == [pytest.approx(loss, abs=1e-4) for loss in losses]
    assert len(losses) == len(record.epochs) == (2 if configuration.method else 0)
    for part in HELD_OUT:
        spread = float(scores[part].std())
        assert np.abs(scores[part] - getattr(record, part)).max() <= min(1e-4, spread / 100)
