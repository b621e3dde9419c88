"""Stage A on a folder of images: which K, from features alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from threadpoolctl import threadpool_limits

from orchestrator.choose_k import TrustedSet, rank_trusted_sets, recommend
from trainables.errors import TwofoldError


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def blobs(counts: tuple[int, ...], seed: int, noise: float = 0.06) -> np.ndarray:
    """counts[j] unit rows around axis j."""
    draws = np.random.default_rng(seed)
    rows = np.repeat(np.eye(8)[: len(counts)], counts, axis=0) + noise * draws.normal(size=(sum(counts), 8))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def ranked(counts: tuple[int, ...], held_out: tuple[int, ...], max_k: int) -> list[TrustedSet]:
    return rank_trusted_sets(blobs(counts, 0), blobs(held_out, 1), max_k)


def ks(entries: list[TrustedSet]) -> list[int]:
    return [int(str(entry.config["k"])) for entry in entries if "k" in entry.config]


@pytest.mark.parametrize(("counts", "held_out"), [((60, 20), (25, 8)), ((60, 18, 14), (25, 8, 6))])
def test_well_separated_blobs_have_their_number_near_the_top(
    counts: tuple[int, ...], held_out: tuple[int, ...]
) -> None:
    entries = ranked(counts, held_out, 6)
    assert len(counts) in ks(entries)[:2]
    worst = max(entry.rank for entry in entries)
    right = next(entry for entry in entries if entry.config.get("k") == len(counts))
    assert right.rank < 0.5 * worst
    assert right.proxies["dominant_share"] == pytest.approx(counts[0] / sum(counts))


def test_every_k_and_both_estimators_are_ranked_best_first() -> None:
    entries = ranked((40, 10), (15, 5), 4)
    assert sorted(ks(entries)) == [1, 2, 3, 4] and len(entries) == 6
    assert {str(entry.config["clusterer"]) for entry in entries} == {"kmeans", "trimmed", "density"}
    assert [entry.rank for entry in entries] == sorted(entry.rank for entry in entries)
    for entry in entries:
        assert entry.proxies and all(np.isfinite(value) for value in entry.proxies.values())
        assert "source_affinity" not in entry.proxies, "there is no source to compare with"
    assert ranked((40, 10), (15, 5), 4) == entries


@pytest.mark.parametrize(
    ("fit", "held_out", "max_k"), [(5, 5, 6), (2, 5, 1), (30, 1, 3), (30, 0, 3), (0, 0, 2)]
)
def test_too_few_images(fit: int, held_out: int, max_k: int) -> None:
    with pytest.raises(
        TwofoldError, match=rf"{fit + held_out} images are too few .*K up to {max_k}.*--max-k"
    ):
        rank_trusted_sets(blobs((fit,), 0), blobs((held_out,), 1), max_k)


def test_as_many_clusters_as_images() -> None:
    assert sorted(ks(ranked((4, 2), (3, 2), 6))) == list(range(1, 7))


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
    assert "32 images" in text.getvalue() and "best K for K-means" in text.getvalue()
    page = (tmp_path / "choose_k.html").read_text()
    assert "plotly" in page and "a<b>" not in page.split("<body>")[0]
    assert "<script src=" not in page, "the page is whole without a network"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match="there is no folder"):
        recommend(tmp_path / "absent", "efficientnet_lite0", 3, 32, tmp_path, Console(file=io.StringIO()))
    with pytest.raises(TwofoldError, match="too few"):
        recommend(
            pictures(tmp_path / "few", 4), "efficientnet_lite0", 9, 32, tmp_path, Console(file=io.StringIO())
        )
