from __future__ import annotations

import subprocess
import sys

import pytest

from trainables.data.base import DATASETS, build_dataset
from trainables.errors import TwofoldError


def test_all_datasets_are_found() -> None:
    assert {"digits", "folder", "office31", "office_home", "visda", "pacs", "unlabelled"} <= set(
        DATASETS.names()
    )


def test_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(TwofoldError, match=r"unknown dataset 'digit'.*'digits'"):
        build_dataset("digit")


def test_missing_argument_is_named() -> None:
    with pytest.raises(TwofoldError, match="dataset 'pacs': `root`: field required"):
        build_dataset("pacs")


def test_all_wrong_arguments_are_named_together() -> None:
    with pytest.raises(TwofoldError, match=r"`source`.*`target`.*`rooot`.*It takes: `source`, `target`"):
        build_dataset("unlabelled", rooot="/nowhere")


def test_listing_datasets_loads_no_heavy_library() -> None:
    code = (
        "import sys; from trainables.data.base import DATASETS; DATASETS.names();"
        "print([m for m in ('torch', 'ray', 'mlflow', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
