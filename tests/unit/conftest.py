"""A source blob and a target of two blobs, as a sweep has prepared them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

sys.path.insert(0, str(Path(__file__).parent))  # the tests share small_group.py

from small_group import ENCODER, NORMAL, OTHER, ROWS

from orchestrator.prepare import ArrayName, Prepared, SettingIndex
from trainables.backbones.base import build_backbone
from trainables.seeding import generator


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("checkpoints") / "test_resnet.pt"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        torch.save(timm.create_model("test_resnet").state_dict(), file)
    return f"timm:test_resnet/{file}"


@pytest.fixture(scope="session")
def prepared(backbone: str) -> Prepared:
    """A source blob, and a target of one large and one small blob, seen by two encoders and a trunk."""
    d = build_backbone(backbone, "head", None, 32, seed=0).embedding_dim
    arrays: dict[ArrayName, np.ndarray] = {}
    for kind, model, size in (
        ("features", ENCODER, 12),
        ("features", OTHER, 7),
        ("features", f"backbone|{backbone}", d),
        ("activations", f"{backbone}|head", d),
    ):
        for domain, pseudo in (("typeset", False), ("mnist", False), ("mnist", True)):
            draws = generator("group", kind, model, domain, pseudo)
            rows = np.abs(draws.normal(size=(60, size))) * 0.4
            rows[:, 0] += 1
            if domain == "mnist":
                rows[~NORMAL, 2] += 1.5
                rows[:, 1] += 0.5
            if kind == "features":
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            arrays[ArrayName(kind, model, domain, pseudo)] = rows.astype(np.float32)  # type: ignore[arg-type]
    description = {
        "dataset": "digits", "source": "typeset", "target": "mnist", "normal_class": "3",
        "contamination": 0.2, "split_seed": 0,
    }  # fmt: skip
    truth = NORMAL[ROWS["target_fit"]]
    index = SettingIndex("s1", description, "typeset", "mnist", ROWS, truth)
    return Prepared(arrays, {"s1": index}, 32)
