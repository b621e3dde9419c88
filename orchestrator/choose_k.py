"""``twofold choose-k``: stage A on a folder of unlabelled images, without a sweep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from orchestrator.contamination import estimate_contamination
from orchestrator.report.advice import ranking, sentences
from orchestrator.report.choose_k_page import render_page
from orchestrator.trusted_sets import PURPOSE, advise, judged_images, rank_trusted_sets
from trainables.cache import ArrayCache, write_atomically
from trainables.data.unlabelled import folder_domain
from trainables.encoders.base import encode_domain
from trainables.errors import UndefinedScore
from trainables.memory import keep_freed_memory
from trainables.seeding import unit_interval

FIT_SHARE = 0.7


def recommend(
    folder: Path, encoder: str, max_k: int, image_size: int | None, cache: Path, console: Console
) -> None:
    """Recommend K and a trusted set in words, and write ``choose_k.html`` into the current folder.

    Every image is encoded, once. Of more than about 1,400, only that many are clustered and judged.

    Raises:
        TwofoldError: the folder has too few images, or one cannot be read.
    """
    keep_freed_memory()
    domain = folder_domain(folder)
    features = encode_domain(domain, encoder, image_size, ArrayCache(cache))
    held_out = np.array([unit_interval(PURPOSE, image) >= FIT_SHARE for image in domain.ids])
    ranked = rank_trusted_sets(features[~held_out], features[held_out], max_k)
    judged = judged_images(int((~held_out).sum()), int(held_out.sum()))
    try:
        contamination = estimate_contamination(features, PURPOSE)
    except UndefinedScore:
        contamination = None
    advice = advise(ranked, len(domain.ids), judged, contamination)
    console.print(ranking(advice))
    for sentence in sentences(advice):
        console.print(sentence, highlight=False, markup=False)
    path = Path("choose_k.html")
    page = render_page(advice, folder.name)
    write_atomically(path, lambda temporary: _write(temporary, page))
    console.print(f"Page: {path}", highlight=False)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
