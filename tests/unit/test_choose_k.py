"""``twofold choose-k`` from a folder of images to the words and the page."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from threadpoolctl import threadpool_limits

from orchestrator.choose_k import recommend
from trainables.errors import TwofoldError


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    draws = np.random.default_rng(0)
    for i in range(count):
        shade = np.array([200, 40, 40]) if i % 4 else np.array([30, 60, 220])
        noise = draws.integers(-20, 20, size=(32, 32, 3))
        Image.fromarray((shade + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def test_recommendation_is_printed_and_plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = pictures(tmp_path / "a<b>", 32)
    text = io.StringIO()
    recommend(folder, "efficientnet_lite0", 3, 32, tmp_path / "cache", Console(file=text, width=120))
    said = " ".join(text.getvalue().split())
    assert "32 images." in said and "Trusted set: " in said and "Trust: low, because" in said
    assert (
        "K = " in said and "resamples (mean overlap " in said and "For the space of a sweep file: {" in said
    )
    page = (tmp_path / "choose_k.html").read_text()
    assert "plotly" in page and "a<b>" not in page.split("<body>")[0]
    assert "Which K for a&lt;b&gt;?" in page
    assert "<script src=" not in page, "the page is whole without a network"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match="there is no folder"):
        recommend(tmp_path / "absent", "efficientnet_lite0", 3, 32, tmp_path, Console(file=io.StringIO()))
    with pytest.raises(TwofoldError, match="too few"):
        recommend(
            pictures(tmp_path / "few", 4), "efficientnet_lite0", 9, 32, tmp_path, Console(file=io.StringIO())
        )
