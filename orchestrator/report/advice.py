"""What ``twofold choose-k`` recommends, in sentences and as a table for a terminal."""

from __future__ import annotations

from rich.table import Table

from orchestrator.proxies.dominant_stability import Resamples
from orchestrator.report.words import describe_trusted
from orchestrator.trusted_sets import MARGIN, Advice, TrustedSet

ROWS = 8
"""Trusted sets in a terminal; the page has all."""


def sentences(advice: Advice) -> list[str]:
    """The choice in words: K, contamination, trusted set, trust, and what to do with it."""
    lines = [_sentence_of_k(advice)]
    if advice.contamination is not None:
        about = advice.contamination
        lines.append(
            f"About {percent(about.estimate)} of the images look anomalous "
            f"({100 * about.low:.0f}–{percent(about.high)})."
        )
    lines += [_sentence_of_trusted(advice), _sentence_of_trust(advice), _sentence_of_use(advice)]
    drawn = f", judged by {advice.judged:,} drawn from them" if advice.judged < advice.images else ""
    return [*lines, f"{advice.images:,} images{drawn}."]


def percent(share: float) -> str:
    """A share in [0, 1], e.g. ``12 %``."""
    return f"{100 * share:.0f} %"


def found_again(resamples: Resamples | None) -> str:
    """``18 of 20``, in how many resamples a trusted set was found again; a dash where that is undefined."""
    return "–" if resamples is None else f"{resamples.stable} of {len(resamples.overlaps)}"


def decimals(value: float | None) -> str:
    """A proxy with two decimals; a dash where it is undefined."""
    # Adding 0 makes the minus of a rounded zero go away.
    return "–" if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def ranking(advice: Advice) -> Table:
    """The best trusted sets, and the best K where it is not among them."""
    table = Table(title="Trusted sets, best first")
    table.add_column("trusted set")
    for heading in ("mean rank", "found again", "mean overlap", "silhouette", "images trusted"):
        table.add_column(heading, justify="right")
    shown = list(advice.ranked[:ROWS])
    shown += [entry for entry in (advice.trusted, advice.best_k) if entry not in shown]
    for entry in shown:
        table.add_row(
            describe_trusted(entry.config),
            f"{entry.rank:.2f}",
            found_again(entry.resamples),
            decimals(None if entry.resamples is None else entry.resamples.overlap),
            decimals(entry.proxies.get("dominant_silhouette")),
            percent(entry.sizes[0]),
        )
    return table


def _sentence_of_k(advice: Advice) -> str:
    best, second = advice.best_k, advice.next_k
    if best.k == 1:
        words = "K = 1 is the best K: no split of the images ranks above trusting all of them"
    else:
        words = f"K = {best.k} is the dominant cluster's best: {_stability(best)}"
    return f"{words}{f', runner-up K = {second.k}' if second else ''}."


def _sentence_of_trusted(advice: Advice) -> str:
    entry, details = advice.trusted, []
    if advice.contamination is not None:
        share = 1 - advice.contamination.estimate - MARGIN
        details.append(f"nearest to the {percent(share)} that remain with a margin of {percent(MARGIN)}")
    if entry.resamples is not None:
        details.append(_stability(entry))
    return f"Trusted set: {', '.join([describe_trusted(entry.config), *details])}."


def _stability(entry: TrustedSet) -> str:
    if entry.resamples is None:
        return "its stability is undefined"
    overlap = f"mean overlap {entry.resamples.overlap:.2f}"
    return f"stable in {found_again(entry.resamples)} resamples ({overlap})"


def _sentence_of_trust(advice: Advice) -> str:
    if advice.doubts:
        return f"Trust: {advice.trust}, because {'; '.join(advice.doubts)}."
    return (
        f"Trust: {advice.trust}: nothing here speaks against it, but frozen features alone cannot tell "
        "whether the trusted images are the normal ones."
    )


def _sentence_of_use(advice: Advice) -> str:
    """The entries of a sweep file that stand for the choice."""
    chosen = [advice.trusted.config]
    if advice.best_k is not advice.trusted:
        chosen.append(advice.best_k.config)
    entries = [", ".join(f"{key}: {value}" for key, value in config.items()) for config in chosen]
    return "For the space of a sweep file: " + " and ".join(f"{{{entry}}}" for entry in entries) + "."
