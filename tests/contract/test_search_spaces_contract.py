"""Every shipped search space can be read, enumerated and launched by its first line."""

from __future__ import annotations

import json
import re
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config import SweepConfig, load_config
from orchestrator.plan import Grid, enumerate_grid
from orchestrator.space import Space, outline_configurations
from trainables.configuration import Configuration, check_keys
from trainables.data.base import DATASETS
from trainables.seeding import canonical_json

FOLDER = Path(str(resources.files("search_spaces")))
FILES = sorted(FOLDER.glob("*.y*ml"))


def load(path: Path) -> SweepConfig:
    """The file as its launch command reads it."""
    words = launch_command(path)
    overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    return load_config(path, overrides)


def some_configurations(config: SweepConfig) -> Grid:
    """All that a grid holds, and what the draws of another search can need."""
    return enumerate_grid(config) if config.search == "grid" else outline_configurations(config)


def launch_command(path: Path) -> list[str]:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# "), "the first line is a comment that holds the launch command"
    return shlex.split(first.removeprefix("# "))


def test_there_are_search_spaces() -> None:
    assert {"digits.yaml", "digits_search.yaml", "digits_small.yaml", "pacs.yaml"} <= {
        path.name for path in FILES
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_first_line_launches_this_very_file(path: Path) -> None:
    words = launch_command(path)
    assert words[:3] == ["twofold", "sweep", f"search_spaces/{path.name}"]
    assert all(word == "--set" or words[i - 1] == "--set" for i, word in enumerate(words) if i > 2)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_loads_and_is_named_after_its_file(path: Path) -> None:
    config = load(path)
    assert config.name == path.stem
    assert config.data.dataset in DATASETS.names()
    needs = {n for n, f in DATASETS.get(config.data.dataset).model_fields.items() if f.is_required()}
    assert needs <= {name for name in ("root", "source", "target") if getattr(config.data, name) is not None}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_configuration_can_be_run_and_written_down(path: Path) -> None:
    config = load(path)
    grid = some_configurations(config)
    assert len(grid.configurations) > 1
    texts = []
    for configuration in grid.configurations:
        text = canonical_json(configuration.as_dict())
        assert Configuration.parse(json.loads(text)) == configuration
        texts.append(text)
    assert len(set(texts)) == len(texts)
    assert not any(c.supervision.needs_labels for c in grid.configurations)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_default_lies_inside_the_space(path: Path) -> None:
    """Otherwise the chooser compares the default with configurations that differ in more than the space."""
    config = load(path)
    default = Configuration.parse({**config.fixed, **config.default})
    assert some_configurations(config).configurations[0] == default
    assert Space.of(config).locate(default) is not None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_name_is_written_in_vain(path: Path) -> None:
    """Every hyperparameter of a block changes some configuration of that block."""
    config = load(path)
    for block in config.space:
        check_keys(block)
        used: set[str] = set()
        blocks = config.model_copy(update={"space": [block]})
        for configuration in some_configurations(blocks).configurations[1:]:
            used |= set(configuration.as_dict())
        assert set(block) <= used | {"k", "keep"}, block


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_baselines_and_the_published_method_are_in_every_space(path: Path) -> None:
    flats: list[dict[str, Any]] = [c.as_dict() for c in some_configurations(load(path)).configurations]
    assert any(f["supervision"] == "source_only" and f["alignment"] == "none" for f in flats)
    assert any(f["supervision"] == "source_only" and f["alignment"] == "identity" for f in flats)
    assert any(f.get("clusterer") == "all" and f["alignment"] == "identity" for f in flats)
    published = {"alignment": "contrastive", "clusterer": "kmeans", "score": "source_centre"}
    assert any(published.items() <= f.items() for f in flats)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_comments_name_only_keys_that_exist(path: Path) -> None:
    config = load(path)
    for override in re.findall(r"--set (\S+=\S+)", path.read_text()):
        load_config(path, [override])
    keys = set(yaml.safe_load(path.read_text()))
    assert keys <= set(SweepConfig.model_fields) and config.resources.trainings_per_trial >= 1
