"""The interactive figures of the page. Colours: Okabe and Ito's palette, told apart without colour vision."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.stats import rankdata

from orchestrator.report.summary import PairSummary, Summary, proxy_correlations
from orchestrator.report.table import HEADINGS, number
from orchestrator.report.training import Curve, Panel
from orchestrator.report.words import alignment_words, describe_trusted, proxy_words, training_words

INK, MUTED, RULE, GRID = "#1d1d1f", "#6b6f76", "#c9cdd3", "#eceef1"
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, BLACK = "#56B4E9", "#CC79A7", "#000000"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
COLUMNS = 3
MAX_POINTS = 400
"""Points drawn per proxy; the correlations use all."""

_MARKS: dict[str, dict[str, Any]] = {
    "random": {"symbol": "line-ns", "size": 13, "line": {"width": 2, "color": MUTED}, "color": MUTED},
    "source_only": {"symbol": "triangle-down", "size": 9, "color": PURPLE},
    "default": {"symbol": "square-open", "size": 12, "color": VERMILLION, "line": {"width": 2}},
    "best": {"symbol": "diamond-open", "size": 14, "color": BLACK, "line": {"width": 1.5}},
    "chosen": {"symbol": "circle", "size": 9, "color": BLUE},
}
_FAMILIES = {
    "kmeans": BLUE,
    "spherical_kmeans": SKY,
    "gmm": PURPLE,
    "density": GREEN,
    "trimmed": VERMILLION,
    "merged": ORANGE,
    "all": BLACK,
}
_ALIGNMENTS = {
    "contrastive": BLUE,
    "mmd": ORANGE,
    "grl": GREEN,
    "coral": PURPLE,
    "positive": VERMILLION,
    "none": BLACK,
}
_TITLE = 50
"""Pixels from one panel to the next, for the title between them."""


@dataclass(frozen=True)
class _TrustedLabel:
    """How a trusted set is called: in full, on an axis over K, and which family its colour comes from."""

    words: str
    short: str
    family: str
    order: tuple[bool, float]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _TrustedLabel:
        words = describe_trusted(config) or "unnamed"
        family = str(config.get("clusterer", config.get("supervision", "")))
        k, keep = config.get("k"), config.get("keep")
        short = words if k is None else f"K = {k}"
        return cls(words, short, family, (k is None, float(k if k is not None else keep or 1.0)))


@dataclass(frozen=True)
class _Point:
    """One unit in a proxy panel: the proxy's rank in its setting in percent, and points above random."""

    key: str
    trusted: _TrustedLabel
    rank: float
    gain: float


def class_figure(summary: Summary) -> go.Figure:
    """Per pair one panel, per class one row: AUROC of every compared system; a menu picks rho."""
    panels: dict[str, list[str]] = defaultdict(list)
    for pair in summary.pairs:
        known = panels[pair.name]
        known += [entry.name for entry in pair.classes if entry.name not in known]
    body = sum(26 * len(classes) + _TITLE for classes in panels.values())
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        row_heights=[len(classes) + 0.6 for classes in panels.values()],
        vertical_spacing=_TITLE / body if len(panels) > 1 else 0.0,
        subplot_titles=[_text(name) for name in panels],
    )
    low, high = _auroc_range(summary)
    owners: list[float] = []
    for pair in summary.pairs:
        traces = _class_traces(pair, panels[pair.name], high)
        owners += [pair.contamination] * len(traces)
        row = list(panels).index(pair.name) + 1
        figure.add_traces(traces, rows=[row] * len(traces), cols=[1] * len(traces))
    for row, classes in enumerate(panels.values(), start=1):
        ticks = {"tickvals": list(range(len(classes))), "ticktext": [_text(name) for name in classes]}
        figure.update_yaxes(
            range=[len(classes) - 0.5, -0.6], gridcolor=GRID, zeroline=False, row=row, **ticks
        )
    figure.update_xaxes(range=[low, high], gridcolor=GRID, zeroline=False)
    figure.update_xaxes(title_text="AUROC, %", row=len(panels))
    _style(figure, body + 110, right=130)
    _contamination_menu(figure, owners)
    return figure


def contamination_figure(summary: Summary) -> go.Figure | None:
    """AUROC against contamination, one panel per pair; None for a sweep with one contamination."""
    if len(summary.contaminations) < 2:
        return None
    panels = list(dict.fromkeys(pair.name for pair in summary.pairs))
    figure = _grid([_text(name) for name in panels])
    for index, name in enumerate(panels):
        pairs = sorted((p for p in summary.pairs if p.name == name), key=lambda p: p.contamination)
        _add(figure, index, [_contamination_trace(pairs, system) for system in _MARKS])
    figure.update_xaxes(tickvals=list(summary.contaminations))
    figure.update_yaxes(title_text="AUROC, %", gridcolor=GRID, zeroline=False, col=1)
    _style(figure, _grid_height(len(panels), 250))
    return figure


def proxy_figure(summary: Summary) -> go.Figure | None:
    """Per proxy one panel, best first: points above a random pick over the proxy's rank.

    None without labels.
    """
    found = proxy_correlations(summary)
    if not found:
        return None
    titles = [f"{_text(proxy_words(entry.proxy))}  <b>{_signed(entry.spearman)}</b>" for entry in found]
    figure = _grid(titles)
    colours = _trusted_colours(summary)
    for index, entry in enumerate(found):
        points = _proxy_points(summary, entry.proxy)
        drawn = sorted(points, key=lambda point: point.key)[:MAX_POINTS]
        traces = [
            _proxy_trace([point for point in drawn if point.trusted == label], label, colour)
            for label, colour in colours.items()
        ]
        _add(figure, index, [*traces, _trend(points)])
    figure.update_xaxes(
        range=[-4, 104], zeroline=False, tickvals=[0, 50, 100], ticktext=["lowest", "", "highest"]
    )
    figure.update_yaxes(zeroline=True, zerolinecolor=MUTED, zerolinewidth=1, gridcolor=GRID, nticks=5)
    figure.update_yaxes(title_text="points", col=1)
    _style(figure, _grid_height(len(found), 190))
    return figure


def stage_a_figure(summary: Summary) -> go.Figure | None:
    """Per stage-A proxy one panel over K, trusted-set estimators as points; None for one trusted set."""
    labels = _trusted_labels([entry.config for s in summary.settings for entry in s.trusted_sets])
    panels = _stage_a_panels(summary)
    if not panels or len(labels) < 2:
        return None
    titles = {"auroc": "<b>AUROC (the oracle's view)</b>"}
    figure = _grid([titles.get(name, _text(proxy_words(name))) for name in panels])
    for index, values in enumerate(panels.values()):
        families = list(dict.fromkeys(label.family for label in labels))
        traces = [_stage_a_trace([label for label in labels if label.family == f], values) for f in families]
        _add(figure, index, traces)
        is_last = index + COLUMNS >= len(panels)
        figure.update_xaxes(showticklabels=is_last, row=index // COLUMNS + 1, col=index % COLUMNS + 1)
    order = list(dict.fromkeys(label.short for label in labels))
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=[_text(o) for o in order])
    figure.update_xaxes(range=[-0.5, len(order) - 0.5], tickangle=-45)
    figure.update_yaxes(zeroline=True, zerolinecolor=RULE, gridcolor=GRID, nticks=5)
    figure.update_yaxes(title_text="z-score", col=1)
    _style(figure, _grid_height(len(panels), 165) + 50, bottom=95)
    return figure


def training_figure(panels: Sequence[Panel]) -> go.Figure | None:
    """Per quantity one panel over epochs, a line and a band per alignment; None without quantities."""
    if not panels:
        return None
    titles = [_text(training_words(panel.quantity)) for panel in panels]
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.06)
    for column, panel in enumerate(panels, start=1):
        traces = [trace for curve in panel.curves for trace in _curve_traces(curve)]
        figure.add_traces(traces, rows=[1] * len(traces), cols=[column] * len(traces))
        if panel.quantity == "negatives_inside":
            figure.update_yaxes(tickformat=".0%", col=column)
        if panel.quantity != "loss":
            figure.update_yaxes(rangemode="tozero", col=column)
    figure.update_xaxes(title_text="epoch", tickformat="d", nticks=6, zeroline=False)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, nticks=5)
    _style(figure, 330)
    return figure


def _curve_traces(curve: Curve) -> list[go.Scatter]:
    """Band of the quartiles and line of the median, which the legend shows and hides together."""
    words, colour = _text(alignment_words(curve.alignment)), _ALIGNMENTS.get(curve.alignment, SKY)
    ends = [*curve.high, *reversed(curve.low)]
    band = go.Scatter(
        x=[*curve.epochs, *reversed(curve.epochs)],
        y=[float(f"{value:.4g}") for value in ends],
        mode="lines",
        fill="toself",
        fillcolor=_translucent(colour),
        line={"width": 0},
        hoverinfo="skip",
        legendgroup=words,
        showlegend=False,
    )
    line = go.Scatter(
        x=curve.epochs,
        y=[float(f"{value:.4g}") for value in curve.median],
        mode="lines+markers",
        name=words,
        marker={"color": colour, "size": 4},
        line={"color": colour, "width": 2},
        hovertemplate="epoch %{x}: %{y:.3g}<extra>" + words + "</extra>",
    )
    return [band, line]


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.12)"


def _contamination_trace(pairs: Sequence[PairSummary], system: str) -> go.Scatter:
    mark = _MARKS[system]
    return go.Scatter(
        x=[pair.contamination for pair in pairs],
        y=[getattr(pair.scores, system) for pair in pairs],
        mode="lines+markers",
        name=HEADINGS[system],
        marker=mark,
        line={"color": mark["color"], "width": 2.5 if system == "chosen" else 1},
        hovertemplate="ρ %{x:g}: %{y:.1f}<extra>" + HEADINGS[system] + "</extra>",
    )


def _class_traces(pair: PairSummary, classes: Sequence[str], right: float) -> list[go.Scatter]:
    """Marks of every system, the gap from random to best, and the numbers at the ``right`` edge."""
    at = [classes.index(entry.name) for entry in pair.classes]
    names = [_text(entry.name) for entry in pair.classes]
    scores = [entry.scores for entry in pair.classes]
    gap = go.Scatter(
        x=[x for each in scores for x in (each.random, each.best, None)],
        y=[y for row in at for y in (row, row, None)],
        mode="lines",
        line={"color": RULE, "width": 5},
        hoverinfo="skip",
        showlegend=False,
    )
    marks = [
        go.Scatter(
            x=[getattr(each, system) for each in scores],
            y=at,
            mode="markers",
            name=HEADINGS[system],
            marker=mark,
            customdata=names,
            hovertemplate="%{customdata}: %{x:.1f}<extra>" + HEADINGS[system] + "</extra>",
        )
        for system, mark in _MARKS.items()
    ]
    text = [f"<b>{number(each.chosen)}</b>  regret {number(each.regret)}" for each in scores]
    values = go.Scatter(
        x=[right] * len(at),
        y=at,
        mode="text",
        text=text,
        textposition="middle right",
        textfont={"size": 12, "color": INK},
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    return [gap, *marks, values]


def _auroc_range(summary: Summary) -> tuple[float, float]:
    """Ends of the axis: multiples of five around every mark."""
    values = [
        value
        for pair in summary.pairs
        for entry in pair.classes
        for system in _MARKS
        if (value := getattr(entry.scores, system)) is not None
    ]
    if not values:
        return 0.0, 100.0
    return 5.0 * math.floor((min(values) - 1) / 5), min(101.0, 5.0 * math.ceil((max(values) + 1) / 5))


def _contamination_menu(figure: go.Figure, owners: Sequence[float]) -> None:
    """Show the traces of one contamination at a time; ``owners`` holds that of each trace."""
    choices = sorted(set(owners))
    if len(choices) < 2:
        return
    buttons = [
        {
            "label": f"contamination {choice:g}",
            "method": "restyle",
            "args": [{"visible": [owner == choice for owner in owners]}],
        }
        for choice in choices
    ]
    for trace, owner in zip(figure.data, owners, strict=True):
        trace.visible = owner == choices[0]
    menu = {"buttons": buttons, "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 30}}
    figure.update_layout(updatemenus=[menu])


def _proxy_points(summary: Summary, proxy: str) -> list[_Point]:
    """Every candidate with the proxy and an AUROC; ranks are within a setting, 100 = largest proxy."""
    points = []
    for setting in summary.settings:
        having = [c for c in setting.candidates if proxy in c.proxies and c.auroc is not None]
        if len(having) < 2 or setting.scores.random is None:
            continue
        ranks = 100 * (rankdata([c.proxies[proxy] for c in having]) - 1) / (len(having) - 1)
        points += [
            _Point(c.key, _TrustedLabel.of(c.config), float(rank), (c.auroc or 0.0) - setting.scores.random)
            for c, rank in zip(having, ranks, strict=True)
        ]
    return points


def _proxy_trace(points: Sequence[_Point], label: _TrustedLabel, colour: str) -> go.Scatter:
    words = _text(label.words)
    return go.Scatter(
        x=[round(point.rank, 2) for point in points],
        y=[round(point.gain, 2) for point in points],
        mode="markers",
        name=words,
        marker={"color": colour, "size": 5, "opacity": 0.75},
        hovertemplate="%{y:+.1f} points<extra>" + words + "</extra>",
    )


def _trend(points: Sequence[_Point], bins: int = 5) -> go.Scatter:
    """Mean gain in each fifth of the ranks: a proxy that works rises to the right."""
    gains: dict[int, list[float]] = defaultdict(list)
    for point in points:
        gains[min(int(point.rank * bins / 100), bins - 1)].append(point.gain)
    return go.Scatter(
        x=[100 * (index + 0.5) / bins for index in sorted(gains)],
        y=[round(statistics.fmean(gains[index]), 3) for index in sorted(gains)],
        mode="lines",
        name="mean of each fifth",
        line={"color": INK, "width": 2.5},
        hovertemplate="mean %{y:+.1f} points<extra></extra>",
    )


def _trusted_labels(configs: Iterable[Mapping[str, Any]]) -> list[_TrustedLabel]:
    """The distinct trusted sets: those with K first, by K, then the estimators by what they keep."""
    return sorted(
        {_TrustedLabel.of(config) for config in configs}, key=lambda label: (label.order, label.words)
    )


def _trusted_colours(summary: Summary) -> dict[_TrustedLabel, str]:
    """A colour per trusted set of the candidates: one hue per family, darker with K or the share kept."""
    labels = _trusted_labels([c.config for s in summary.settings for c in s.candidates])
    families: dict[str, list[_TrustedLabel]] = defaultdict(list)
    for label in labels:
        families[label.family].append(label)
    return {
        label: _shade(_FAMILIES.get(family, MUTED), (index + 1) / len(members))
        for family, members in families.items()
        for index, label in enumerate(members)
    }


def _shade(colour: str, strength: float) -> str:
    """A colour mixed with white; strength 1 = unchanged, 0 = 35 % of it."""
    share = 0.35 + 0.65 * strength
    channels = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(255 - share * (255 - channel)):02x}" for channel in channels)


def _stage_a_panels(summary: Summary) -> dict[str, dict[_TrustedLabel, list[float]]]:
    """Proxy -> trusted set -> z-scores, one per setting; AUROC (mean over the candidates) comes first."""
    panels: dict[str, dict[_TrustedLabel, list[float]]] = {"auroc": defaultdict(list)}
    for setting in summary.settings:
        raw: dict[str, dict[_TrustedLabel, list[float]]] = defaultdict(lambda: defaultdict(list))
        for entry in setting.trusted_sets:
            for proxy, value in sorted(entry.proxies.items()):
                raw[proxy][_TrustedLabel.of(entry.config)].append(value)
        ours = {_TrustedLabel.of(entry.config) for entry in setting.trusted_sets}
        for candidate in setting.candidates:
            label = _TrustedLabel.of(candidate.config)
            if candidate.auroc is not None and label in ours:
                raw["auroc"][label].append(candidate.auroc)
        for name, values in raw.items():
            for label, z_score in _z_scores(values).items():
                panels.setdefault(name, defaultdict(list))[label].append(z_score)
    return {name: dict(values) for name, values in panels.items() if values}


def _z_scores(values: Mapping[_TrustedLabel, Sequence[float]]) -> dict[_TrustedLabel, float]:
    """Means per trusted set, less their mean, over their standard deviation; empty where all are equal."""
    means = {label: statistics.fmean(each) for label, each in values.items()}
    if np.ptp(list(means.values())) == 0:
        return {}
    deviation = float(np.std(list(means.values())))
    centre = statistics.fmean(means.values())
    return {label: (mean - centre) / deviation for label, mean in means.items()}


def _stage_a_trace(
    labels: Sequence[_TrustedLabel], values: Mapping[_TrustedLabel, Sequence[float]]
) -> go.Scatter:
    """Mean z-score with its standard deviation over settings; a line where the family has a K."""
    known = [label for label in labels if label in values]
    family = labels[0].family
    has_k = not labels[0].order[0]
    spread = [statistics.stdev(values[x]) if len(values[x]) > 1 else 0.0 for x in known]
    colour = _FAMILIES.get(family, MUTED)
    return go.Scatter(
        x=[_text(label.short) for label in known],
        y=[round(statistics.fmean(values[label]), 4) for label in known],
        error_y={"array": [round(s, 4) for s in spread], "thickness": 1, "width": 0, "color": colour},
        mode="lines+markers" if has_k else "markers",
        name=_text(describe_trusted({"clusterer": family})),
        marker={"color": colour, "size": 8, "symbol": "circle" if has_k else "diamond"},
        line={"color": colour, "width": 2},
        hovertemplate="%{x}: %{y:+.2f}<extra></extra>",
    )


def _text(words: str) -> str:
    """Text that plotly, which reads a little HTML, shows as it is."""
    return escape(words, quote=False)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _grid(titles: Sequence[str]) -> go.Figure:
    """Small multiples, ``COLUMNS`` in a row."""
    rows = math.ceil(len(titles) / COLUMNS)
    return make_subplots(
        rows=rows,
        cols=min(COLUMNS, len(titles)),
        subplot_titles=titles,
        horizontal_spacing=0.06,
        vertical_spacing=0.28 / rows if rows > 1 else 0.0,
    )


def _grid_height(panels: int, each: int) -> int:
    rows = math.ceil(panels / COLUMNS)
    return 120 + each * rows


def _add(figure: go.Figure, index: int, traces: Sequence[go.Scatter]) -> None:
    """Put traces into panel ``index``."""
    for trace in traces:
        figure.add_trace(trace, row=index // COLUMNS + 1, col=index % COLUMNS + 1)


def _style(figure: go.Figure, height: int, right: int = 10, bottom: int = 50) -> None:
    """What all figures share: type, margins, panel titles at the left, each system once in the legend."""
    named: set[str] = set()
    for trace in figure.data:
        if trace.showlegend is not False and trace.name is not None:
            trace.legendgroup = trace.name
            trace.showlegend = trace.name not in named and len(trace.x) > 0
            named |= {trace.name} if trace.showlegend else set()
    # Pixels, so that titles keep their distance whatever the height.
    offset = 12 / max(height - 70 - bottom, 1)
    figure.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 70, "r": right, "t": 70, "b": bottom},
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1 + 3 * offset,
            "yanchor": "bottom",
            "itemsizing": "constant",
        },
        hoverlabel={"font": {"family": FONT}},
        paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff",
    )
    small = {"tickfont": {"size": 12}, "title": {"font": {"size": 12, "color": MUTED}}, "automargin": True}
    figure.update_xaxes(showline=True, linecolor=RULE, title_standoff=8, **small)
    figure.update_yaxes(title_standoff=6, **small)
    _titles_left(figure)


def _titles_left(figure: go.Figure) -> None:
    """Move each panel's title from above its middle to above its left edge."""
    lefts = sorted({axis.domain[0] for axis in figure.select_xaxes()})
    for annotation in figure.layout.annotations:
        left = max(edge for edge in lefts if edge <= annotation.x)
        annotation.update(x=left, xanchor="left", font={"size": 13, "color": INK})
