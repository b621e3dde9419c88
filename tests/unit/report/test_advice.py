"""What choose-k says, and the page that shows why."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from plotly.offline import get_plotlyjs
from rich.console import Console

from orchestrator.proxies.dominant_stability import Resamples
from orchestrator.report.advice import decimals, ranking, sentences
from orchestrator.report.choose_k_page import render_page
from orchestrator.trusted_sets import Advice, TrustedSet, advise
from trainables.types import Contamination


def entry(rank: float, sizes: tuple[float, ...], stable: int | None, **config: Any) -> TrustedSet:
    """A trusted set found again in so many of 20 resamples with an overlap of 0.95, else of 0.55."""
    if stable is None:
        return TrustedSet(config, {"compactness": -0.5}, sizes, None, rank)
    resamples = Resamples((0.95,) * stable + (0.55,) * (20 - stable), 1.0, sizes[0])
    proxies = {"dominant_silhouette": 0.3, "dominant_gap": -0.001, "compactness": -0.25}
    return TrustedSet(config, proxies | {"dominant_stability": resamples.corrected}, sizes, resamples, rank)


SIX = entry(0.1, (0.4, 0.2, 0.15, 0.1, 0.1, 0.05), 18, clusterer="kmeans", k=6)
FOUR = entry(0.3, (0.5, 0.2, 0.2, 0.1), 9, clusterer="kmeans", k=4)
ALL = entry(0.5, (1.0,), None, clusterer="all")
DENSITY = entry(0.2, (0.8, 0.2), 20, clusterer="density", keep=0.8)
OTHERS = [entry(0.05, (0.6, 0.4), 20, clusterer="trimmed", keep=keep) for keep in (0.5, 0.6, 0.7)]
MANY = [entry(0.07, (0.6, 0.4), 20, clusterer="merged", k=k, keep=0.7) for k in range(2, 9)]


def advised(*entries: TrustedSet, contamination: Contamination | None = None, images: int = 500) -> Advice:
    return advise(sorted(entries, key=lambda each: each.rank), images, min(images, 1430), contamination)


def test_the_choice_in_words() -> None:
    advice = advised(SIX, FOUR, ALL, DENSITY, contamination=Contamination(0.12, 0.05, 0.2))
    assert sentences(advice) == [
        "K = 6 is the dominant cluster's best: stable in 18 of 20 resamples (mean overlap 0.91), "
        "runner-up K = 4.",
        "About 12 % of the images look anomalous (5–20 %).",
        "Trusted set: density 80 %, nearest to the 83 % that remain with a margin of 5 %, "
        "stable in 20 of 20 resamples (mean overlap 0.95).",
        "Trust: medium: nothing here speaks against it, but frozen features alone cannot tell "
        "whether the trusted images are the normal ones.",
        "For the space of a sweep file: {clusterer: density, keep: 0.8} and {clusterer: kmeans, k: 6}.",
        "500 images.",
    ]


def test_doubts_and_the_images_drawn_are_told() -> None:
    lines = sentences(advised(FOUR, ALL, images=5000))
    assert lines[0].startswith("K = 4 is") and lines[0].endswith("runner-up K = 1.")
    assert lines[1] == "Trusted set: K-means K = 4, stable in 9 of 20 resamples (mean overlap 0.73)."
    assert lines[2] == "Trust: low, because K-means K = 4 is stable in only 9 of 20 resamples."
    assert lines[3] == "For the space of a sweep file: {clusterer: kmeans, k: 4}."
    assert lines[4] == "5,000 images, judged by 1,430 drawn from them."


def test_all_images_may_be_best() -> None:
    lines = sentences(advised(ALL))
    assert lines[0] == "K = 1 is the best K: no split of the images ranks above trusting all of them."
    assert lines[1] == "Trusted set: all target images."


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (-0.001, "0.00"), (-0.25, "−0.25"), (1.0, "1.00")])
def test_decimals(value: float | None, text: str) -> None:
    assert decimals(value) == text


def test_the_table_holds_the_best_and_what_is_recommended() -> None:
    text = io.StringIO()
    advice = advised(SIX, FOUR, ALL, DENSITY, *OTHERS, *MANY, contamination=Contamination(0.15, 0.1, 0.2))
    Console(file=text, width=110).print(ranking(advice))
    rows = [line for line in text.getvalue().splitlines() if line.startswith("│")]
    assert len(rows) == 10
    assert "trimmed 50 %" in rows[0] and "density 80 %" in rows[-2] and "K-means K = 6" in rows[-1]
    assert "18 of 20" in rows[-1] and "0.91" in rows[-1] and "40 %" in rows[-1]


def test_the_page_is_whole_and_shows_every_trusted_set() -> None:
    advice = advised(SIX, FOUR, ALL, DENSITY)
    page = render_page(advice, "<b>R&D</b>")
    assert page == render_page(advice, "<b>R&D</b>")
    assert "&lt;b&gt;R&amp;D&lt;/b&gt;" in page and "<b>R" not in page
    assert not re.search(r"src=|href=", page.replace(get_plotlyjs(), "")), "nothing is loaded"
    body = page[page.index("<body>") :]
    assert [f'id="{name}"' in body for name in ("proxies", "overlaps", "sizes")] == [True] * 3
    rows = re.findall(r"<tr.*?</tr>", body[body.index("<tbody>") :], re.DOTALL)
    assert len(rows) == 4 and "best K" in rows[0] and "recommended" in rows[0] and "18 of 20" in rows[0]
    assert "K\u00a0=\u00a06 is the dominant cluster" in body


def test_one_k_needs_no_figure_over_k() -> None:
    body = render_page(advised(ALL, DENSITY), "stream").split("<body>")[1]
    assert 'id="overlaps"' in body and 'id="proxies"' not in body and 'id="sizes"' not in body
