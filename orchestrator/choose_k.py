"""``twofold choose-k``: stage A on a folder of unlabelled images, without a sweep."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from rich.console import Console
from rich.table import Table

from orchestrator.group import stage_a_proxies
from orchestrator.proxies.base import FeatureEvidence
from orchestrator.report.words import describe_trusted, proxy_words
from orchestrator.select import Chooser, mean_ranks
from trainables.cache import ArrayCache, write_atomically
from trainables.configuration import Configuration
from trainables.data.unlabelled import folder_domain
from trainables.encoders.base import encode_domain
from trainables.errors import TwofoldError
from trainables.memory import keep_freed_memory
from trainables.seeding import generator, unit_interval

FIT_SHARE = 0.7
SHOWN = ("dominant_stability", "dominant_silhouette", "dominant_gap", "compactness", "dominant_share")


@dataclass(frozen=True)
class TrustedSet:
    """One way to find the trusted set, judged by stage A.

    Attributes:
        config: clusterer and its parameters.
        proxies: proxy -> value, larger = better; an undefined one is absent.
        rank: mean rank over the chooser's stage-A proxies, 0 = best .. 1 = worst.
    """

    config: dict[str, object]
    proxies: dict[str, float]
    rank: float


def recommend(
    folder: Path, encoder: str, max_k: int, image_size: int | None, cache: Path, console: Console
) -> None:
    """Print the ranking of K and write ``choose_k.html`` into the current folder.

    Raises:
        TwofoldError: the folder has too few images, or one cannot be read.
    """
    keep_freed_memory()
    domain = folder_domain(folder)
    features = encode_domain(domain, encoder, image_size, ArrayCache(cache))
    held_out = np.array([unit_interval("choose-k", image) >= FIT_SHARE for image in domain.ids])
    ranked = rank_trusted_sets(features[~held_out], features[held_out], max_k)
    console.print(_table(ranked))
    best = [entry for entry in ranked if "k" in entry.config]
    console.print(
        f"{len(domain.ids)} images. Best trusted set: [bold]{describe_trusted(ranked[0].config)}[/]; "
        f"best K for K-means: [bold]{best[0].config['k']}[/].\n"
        "No proxy is reliable on its own. Where anomalies are rare, trusting every image (K = 1) or the "
        "densest 60 % is often as good as any K.",
        highlight=False,
    )
    path = Path("choose_k.html")
    page = _page(ranked, folder)
    write_atomically(path, lambda temporary: _write(temporary, page))
    console.print(f"Plot: {path}", highlight=False)


def rank_trusted_sets(target_fit: np.ndarray, target_sel: np.ndarray, max_k: int) -> list[TrustedSet]:
    """Stage A over K-means with K = 1..max_k, trimming and density, best first.

    Args:
        target_fit: (n, d) features to cluster.
        target_sel: (m, d) held-out features.
        max_k: largest K.

    Raises:
        TwofoldError: fewer images than max_k, or no held-out image.
    """
    if len(target_fit) < max(max_k, 3) or len(target_sel) < 2:
        raise TwofoldError(
            f"{len(target_fit) + len(target_sel)} images are too few to try K up to {max_k}; "
            "add images or lower --max-k"
        )
    configs: list[dict[str, object]] = [{"clusterer": "kmeans", "k": k} for k in range(1, max_k + 1)]
    configs += [{"clusterer": name, "keep": 0.6} for name in ("trimmed", "density")]
    proxies = [_judge(config, target_fit, target_sel) for config in configs]
    ranks = mean_ranks(proxies, Chooser().stage_a)
    entries = [
        TrustedSet(config, values, float(rank))
        for config, values, rank in zip(configs, proxies, ranks, strict=True)
    ]
    return sorted(entries, key=lambda entry: entry.rank)


def _judge(config: dict[str, object], target_fit: np.ndarray, target_sel: np.ndarray) -> dict[str, float]:
    clusterer = Configuration.parse({**config, "alignment": "identity", "score": "knn"}).clusterer
    assert clusterer is not None
    evidence = FeatureEvidence(
        target_fit=target_fit,
        target_sel=target_sel,
        # There is no source here: what compares with it is undefined.
        source_fit=target_fit[:0],
        assignment=clusterer(target_fit, generator("choose-k", *config.values())),
        cluster=clusterer,
        purpose="choose-k",
    )
    return stage_a_proxies(evidence)


def _table(ranked: Sequence[TrustedSet]) -> Table:
    table = Table(title="Trusted sets, best first")
    table.add_column("trusted set")
    table.add_column("mean rank", justify="right")
    for name in SHOWN:
        table.add_column(proxy_words(name), justify="right")
    for entry in ranked:
        values = [f"{entry.proxies[name]:.3f}" if name in entry.proxies else "-" for name in SHOWN]
        table.add_row(describe_trusted(entry.config), f"{entry.rank:.2f}", *values)
    return table


def _page(ranked: Sequence[TrustedSet], folder: Path) -> str:
    """A self-contained page: each proxy over K, scaled to 0..1."""
    by_k = sorted(
        (entry for entry in ranked if "k" in entry.config), key=lambda entry: int(str(entry.config["k"]))
    )
    figure = go.Figure()
    for name in SHOWN:
        points = [(entry.config["k"], entry.proxies[name]) for entry in by_k if name in entry.proxies]
        values = np.array([value for _, value in points])
        scaled = (values - values.min()) / max(np.ptp(values), 1e-12) if len(values) else values
        figure.add_scatter(x=[k for k, _ in points], y=scaled, name=proxy_words(name), mode="lines+markers")
    figure.update_layout(
        title=f"Which K for {html.escape(folder.name)}? Each proxy from its worst (0) to its best (1)",
        xaxis_title="K",
        yaxis_title="proxy, scaled",
        template="plotly_white",
    )
    return str(figure.to_html(include_plotlyjs=True, div_id="choose-k"))


def _write(path: Path, text: str) -> None:
    path.write_text(text)
