"""``report.html``: everything about a sweep in one file that loads nothing from anywhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from orchestrator.report import plots, table
from orchestrator.report.summary import PairSummary, Scores, Summary, mean_scores, summarise, trust_levels
from orchestrator.report.training import Panel, read_training
from orchestrator.report.words import describe, proxy_words, training_words
from trainables.cache import write_atomically

MAX_OPEN = 40
"""Choices up to which the tables of all pairs are unfolded."""


@dataclass(frozen=True)
class Figures:
    """The figures as HTML fragments; None where there is nothing to show."""

    classes: Markup | None
    contamination: Markup | None
    proxies: Markup | None
    stage_a: Markup | None
    training: Markup | None


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a sweep folder, whole or not at all, and return its path.

    Equal inputs give equal bytes.

    Raises:
        TwofoldError: a file of the sweep is missing or does not fit the others.
    """
    page = render_page(
        summarise(folder),
        read_training(folder / "units.parquet"),
        _text(folder / "config.yaml"),
        _versions(folder / "environment.json"),
    )
    path = folder / "report.html"

    def fill(temporary: Path) -> None:
        temporary.write_text(page, encoding="utf-8")
        temporary.chmod(0o644)

    write_atomically(path, fill)
    return path


def render_page(
    summary: Summary, training: Sequence[Panel], sweep_file: str | None, versions: Mapping[str, str]
) -> str:
    """The page as text.

    Args:
        summary: every number on it but those of the trainings.
        training: what the epochs measured; empty leaves its section out.
        sweep_file: resolved sweep file; None leaves it out.
        versions: what to install to repeat it, name -> version.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"describe": describe, "number": table.number, "canonical": _pretty}
    environment.filters |= {"quantity": training_words}
    template = environment.from_string(files(__package__).joinpath("template.html").read_text("utf-8"))
    return template.render(
        summary=summary,
        sentences=sentences(summary),
        table=table,
        systems=table.shown_systems(summary),
        trust=trust_levels(summary),
        gates=_gates(summary),
        seed_stds=sorted(pair.seed_std for pair in summary.pairs if pair.seed_std is not None),
        figures=_figures(summary, training),
        quantities=[panel.quantity for panel in training],
        open_all=len(summary.settings) <= MAX_OPEN,
        sweep_file=sweep_file,
        versions=versions,
        max_points=plots.MAX_POINTS,
        plotly=Markup(get_plotlyjs()),
    )


def sentences(summary: Summary) -> list[str]:
    """What came out, in words: the whole sweep first, then each pair where there are several."""
    if not summary.settings:
        return ["No unit finished, so nothing was chosen."]
    if not summary.labelled:
        trusts = ", ".join(f"{entry.choices} with {entry.level} trust" for entry in trust_levels(summary))
        count = len(summary.settings)
        noun = "configuration was" if count == 1 else "configurations were"
        return [
            f"{count} {noun} chosen without labels: {trusts}. No labels were given, so there is no AUROC."
        ]
    pairs: dict[str, list[PairSummary]] = {}
    for pair in summary.pairs:
        pairs.setdefault(pair.name, []).append(pair)
    lines = [_pair_line(name, members) for name, members in pairs.items()] if len(pairs) > 1 else []
    where = f"{len(pairs)} pairs" if lines else _pair_words(*next(iter(pairs.items())))
    if len(summary.contaminations) > 1:
        where += f" at {len(summary.contaminations)} contaminations"
    return [_headline(where, summary.overall), *lines]


def _pair_line(name: str, members: Sequence[PairSummary]) -> str:
    scores = mean_scores([pair.scores for pair in members])
    return f"{_pair_words(name, members)} reaches {_comparison(scores)}."


def _pair_words(name: str, members: Sequence[PairSummary]) -> str:
    count = len({entry.name for pair in members for entry in pair.classes})
    return f"{name} ({count} {'class' if count == 1 else 'classes'})"


def _worse(one: float, other: float) -> bool:
    """Whether the two differ in the first decimal, which is what the reader sees."""
    return round(one, 1) < round(other, 1)


def _headline(where: str, scores: Scores) -> str:
    """One sentence, and a second one where the choice lost to what costs nothing."""
    start = f"On {where}, the configurations chosen without labels reach a mean AUROC of"
    end = ""
    if scores.chosen is not None and scores.random is not None and _worse(scores.chosen, scores.random):
        end = " Picking at random would have been better."
    elif scores.chosen is not None and scores.default is not None and _worse(scores.chosen, scores.default):
        end = " Keeping the default would have been better."
    return f"{start} {_comparison(scores)}.{end}"


def _comparison(scores: Scores) -> str:
    """``86.1: 2.0 above the default (84.1), ...``; a loss is said as such."""
    if scores.chosen is None:
        return "– (a chosen unit has no AUROC)"
    others = {
        "the default": scores.default,
        "a random pick": scores.random,
        "the oracle's best": scores.best,
    }
    parts = [_compared(scores.chosen, value, name) for name, value in others.items() if value is not None]
    if scores.gap_closed is not None:
        parts.append(f"{table.percent(scores.gap_closed)} of the gap from random to best closed")
    return f"{table.number(scores.chosen)}: {', '.join(parts)}"


def _compared(chosen: float, other: float, name: str) -> str:
    difference = table.number(abs(chosen - other))
    if difference == "0.0":
        return f"equal to {name} ({table.number(other)})"
    return f"{difference} {'above' if chosen > other else 'below'} {name} ({table.number(other)})"


def _figures(summary: Summary, training: Sequence[Panel]) -> Figures:
    labelled = summary.labelled
    return Figures(
        classes=_fragment(plots.class_figure(summary) if labelled else None, "by-class"),
        contamination=_fragment(
            plots.contamination_figure(summary) if labelled else None, "by-contamination"
        ),
        proxies=_fragment(plots.proxy_figure(summary), "by-proxy"),
        stage_a=_fragment(plots.stage_a_figure(summary), "by-k"),
        training=_fragment(plots.training_figure(training), "by-epoch"),
    )


def _fragment(figure: go.Figure | None, name: str) -> Markup | None:
    """A figure as a div with a fixed id; the script of plotly itself is in the page once."""
    if figure is None:
        return None
    config = {"displayModeBar": False, "responsive": True}
    html = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
    return Markup(html)  # plotly escapes <, > and / in its JSON; labels are escaped where they are set


def _gates(summary: Summary) -> list[tuple[str, int]]:
    """Gate in words -> candidates it removed, the most frequent first."""
    counts: Counter[str] = Counter()
    for setting in summary.settings:
        counts.update(setting.failed_gates)
    return [(proxy_words(name), count) for name, count in sorted(counts.items(), key=lambda x: (-x[1], x[0]))]


def _pretty(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in sorted(config.items()))


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _versions(path: Path) -> dict[str, str]:
    """The entries of environment.json as one flat mapping; a nested section is merged into it."""
    text = _text(path)
    return dict(_flat(json.loads(text))) if text else {}


def _flat(content: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        elif value not in (None, [], ""):
            yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
