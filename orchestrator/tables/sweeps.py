"""The sweeps behind a table: its rows, and the preset's whole search space where a row is chosen from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from orchestrator.config import SweepConfig, load_config
from orchestrator.prepare import open_dataset
from orchestrator.tables.definition import TableDefinition
from trainables.configuration import Configuration
from trainables.data.base import DATASETS
from trainables.data.folder import Preset
from trainables.errors import TwofoldError, UnknownName, nearest_name
from trainables.seeding import canonical_json

PRESETS = ("digits", "office31", "office_home", "pacs", "visda")
SPLIT_SEEDS = [0, 1, 2]
# PACS too is measured with what comes installed; the others keep CLIP and ResNet50, as the paper has them.
INSTALLED_MODELS = {
    "pacs": ["fixed.encoder=efficientnet_lite0", "fixed.backbone=efficientnet_lite0"],
}


def preset_of_table(
    definition: TableDefinition, data: str, root: Path | None, fast: bool, overrides: Sequence[str]
) -> SweepConfig:
    """The preset's own sweep under the protocol of a table.

    Args:
        definition: the table.
        data: name of the preset.
        root: folder of its images; None: as the overrides have it, or none is needed.
        fast: one split seed instead of three.
        overrides: ``key=value``, which win over everything else.

    Raises:
        TwofoldError: unknown preset, no folder of images, or a mistake in the overrides.
    """
    if data not in PRESETS:
        raise UnknownName(
            f"--data: there is no preset '{data}'.{nearest_name(data, PRESETS)} Known: {', '.join(PRESETS)}."
        )
    protocol = {
        "data.contamination": definition.contamination,
        "data.split_seeds": SPLIT_SEEDS[:1] if fast else SPLIT_SEEDS,
        # A split seed already changes the split, the weights and the batches: the key of a setting, from
        # which every draw is seeded, holds it.
        "seeds": [0],
        **({} if root is None else {"data.root": str(root)}),
    }
    written = [f"{key}={json.dumps(value)}" for key, value in protocol.items()]
    file = Path(str(resources.files("search_spaces"))) / f"{data}.yaml"
    config = load_config(file, [*written, *INSTALLED_MODELS.get(data, []), *overrides])
    check_root(config, data)
    return config.model_copy(update={"ledger": config.ledger or str(_ledger(config, data))})


def check_root(config: SweepConfig, data: str) -> None:
    """Refuse a dataset of folders without the folder that holds them.

    Raises:
        TwofoldError: names the option.
    """
    if "root" in DATASETS.get(config.data.dataset).model_fields and config.data.root is None:
        raise TwofoldError(f"--data {data}: name the folder of its images, --data-root DIR")


def _ledger(config: SweepConfig, data: str) -> Path:
    """One for all tables of a dataset: records go by content, so a row that tables share is trained once."""
    return (config.output / "tables" / data / "ledger").absolute()


def sweep_of(config: SweepConfig, name: str, configurations: Sequence[Configuration]) -> SweepConfig:
    """A sweep of some configurations, at least one, and no others.

    Args:
        config: of the data, the seeds and the machine.
        name: of the sweep.
        configurations: what is run.
    """
    space: list[dict[str, Any]] = [configuration.as_dict() for configuration in configurations]
    distinct = list({canonical_json(flat): flat for flat in space}.values())
    own = {"name": name, "space": distinct, "default": distinct[0], "fixed": {}}
    # What is listed here is all run, whatever the preset draws.
    plain = {"search": "grid", "samples": None, "scheduler": "none"}
    return config.model_copy(update={**own, **plain})


def pairs_left_out(config: SweepConfig) -> dict[tuple[str, str], list[str]]:
    """The published pairs that this copy of the dataset cannot give -> the domains that it lacks for them.

    Raises:
        TwofoldError: it can give none of them.
    """
    dataset = open_dataset(config)
    if config.data.pairs is not None or not isinstance(dataset, Preset):
        return {}
    present, domains = dataset.pairs(), dataset.domains()
    left_out = [pair for pair in dataset.default_pairs if pair not in present]
    return {pair: [name for name in pair if name not in domains] for pair in left_out}


def resolved_data(config: SweepConfig) -> dict[str, Any]:
    """The data section with pairs and classes as the dataset gives them, and without places; JSON-safe."""
    dataset = open_dataset(config)
    data = config.data.model_dump(mode="json", exclude={"root", "source", "target"})
    data["pairs"] = [list(pair) for pair in config.data.pairs or dataset.pairs()]
    data["classes"] = config.data.classes or dataset.classes()
    return data
