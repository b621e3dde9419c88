"""Training the last stage from cached activations against the same training with the trunk in every step.

python benchmarks/training.py [--repeats 3] [--epochs 3]

One setting of the digits sweep, one thread, the same batches. The other training reads images that are in
memory, so that only the trunk is between the two. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rows import Row, spread, table
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.config import load_config
from orchestrator.pipeline import make_plan
from orchestrator.prepare import prepare
from trainables.backbones.base import build_backbone, trunk_activations
from trainables.cache import ArrayCache
from trainables.configuration import Configuration
from trainables.data.base import build_dataset
from trainables.memory import keep_freed_memory
from trainables.methods.base import Part, Rows, SettingArrays, TrainingInputs
from trainables.seeding import generator

SPACE = Path(__file__).parents[1] / "search_spaces" / "digits.yaml"
TRAINING = {"clusterer": "density", "keep": 0.6, "alignment": "positive", "score": "knn"}
NAMES = {"encoder": "efficientnet_lite0", "backbone": "efficientnet_lite0", "finetune": "last_stage"}


@dataclass(frozen=True)
class Recomputed(Rows):
    """Rows of images whose activations are computed each time they are taken.

    Attributes:
        trunk: (b, s, s, 3) uint8 -> activations.
    """

    trunk: torch.nn.Module

    def take(self, positions: np.ndarray | slice) -> np.ndarray:
        """Activations of the images at ``positions``."""
        with torch.inference_mode():
            return np.asarray(self.trunk(torch.from_numpy(super().take(positions))).numpy())


def training_inputs(folder: Path, size: int = 96) -> TrainingInputs:
    """What the default configuration trains on, for one class of typeset -> optdigits."""
    overrides = [f"output={folder}", f"cache={folder / 'cache'}", "data.pairs=[[typeset, optdigits]]"]
    overrides.append(f"data.image_size={size}")
    config = load_config(SPACE, overrides)
    plan = make_plan(config)
    prepared = prepare(config, plan.grid, plan.settings)
    configuration = Configuration.parse({**NAMES, **TRAINING})
    setting = plan.settings[0].key
    arrays = prepared.setting_arrays(setting, configuration)
    assert configuration.clusterer is not None
    assignment = configuration.clusterer(arrays.features["target_fit"].all(), generator("benchmark"))
    return TrainingInputs(arrays, assignment, None, configuration.alignment, setting, 0, size)


def recomputing(inputs: TrainingInputs, folder: Path) -> TrainingInputs:
    """The same inputs without cached activations."""
    size = inputs.image_size
    trunk = build_backbone("efficientnet_lite0", "last_stage", None, size, seed=0).trunk
    trunk.to(memory_format=torch.channels_last)
    cache, dataset = ArrayCache(folder / "cache"), build_dataset("digits")
    images = {
        name: trunk_activations(dataset.domain(name), "efficientnet_lite0", "full", size, cache)
        for name in ("typeset", "optdigits")
    }
    rows: dict[Part, Rows] = {}
    parts: tuple[Part, Part] = ("source_fit", "target_fit")
    for part in parts:
        domain = "typeset" if part == "source_fit" else "optdigits"
        rows[part] = Recomputed(images[domain], inputs.arrays.inputs[part].index, trunk)
    arrays = SettingArrays(inputs.arrays.features, {**inputs.arrays.inputs, **rows})
    return replace(inputs, arrays=arrays)


def run(inputs: TrainingInputs, epochs: int) -> tuple[float, list[float]]:
    """Seconds per epoch after the first, and the loss of every epoch."""
    method = Configuration.parse({**NAMES, **TRAINING}).method
    assert method is not None
    training = method.start(inputs)
    losses = [training.fit_epoch()["loss"]]
    started = time.perf_counter()
    losses += [training.fit_epoch()["loss"] for _ in range(epochs)]
    return (time.perf_counter() - started) / epochs, losses


def operations(inputs: TrainingInputs) -> int:
    """Floating-point operations of the first epoch."""
    method = Configuration.parse({**NAMES, **TRAINING}).method
    assert method is not None
    with FlopCounterMode(display=False) as counter:
        method.start(inputs).fit_epoch()
    return counter.get_total_flops()


def measure(repeats: int, epochs: int) -> list[Row]:
    """The rows of this benchmark: at the size of the digits sweep, and at that of the presets."""
    keep_freed_memory()
    torch.set_num_threads(1)
    return [_compare(size, repeats, epochs) for size in (96, 224)]


def _compare(size: int, repeats: int, epochs: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        cached = training_inputs(Path(folder), size)
        recomputed = recomputing(cached, Path(folder))
        pairs = [(run(cached, epochs), run(recomputed, epochs)) for _ in range(repeats)]
        # What lies above it is the trunk's maps, which wait for memory.
        arithmetic = operations(recomputed) / operations(cached)
    ratios = [slow / fast for (fast, _), (slow, _) in pairs]
    differences = [abs(a - b) for (_, one), (_, other) in pairs for a, b in zip(one, other, strict=True)]
    seconds = statistics.median(fast for (fast, _), _ in pairs)
    return Row(
        f"`last_stage` per epoch: trunk recomputed / from the cache (digits, {size} px)",
        ">= 5x, losses equal to 1e-4",
        f"{spread(ratios)}x, of which {arithmetic:.2f}x is arithmetic (floating-point operations); "
        f"{1000 * seconds:.0f} ms an epoch; largest difference {max(differences):.1e}",
        statistics.median(ratios) >= 5 and max(differences) <= 1e-4,
    )


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description="cached activations against a recomputed trunk")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    print(table(measure(given.repeats, given.epochs)))


if __name__ == "__main__":
    main()
