"""``choose_k.html``: a recommended K in one file that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from orchestrator.proxies.dominant_stability import STABLE
from orchestrator.report.advice import decimals, found_again, percent, sentences
from orchestrator.report.plots import BLUE, FONT, GRID, INK, MUTED, RULE, SKY
from orchestrator.report.words import describe_trusted, proxy_words
from orchestrator.trusted_sets import Advice, TrustedSet

OVER_K = ("dominant_stability", "dominant_silhouette", "dominant_gap", "compactness")
GREYS = ("#c3c8cf", "#dcdfe4")


def render_page(advice: Advice, folder: str) -> str:
    """The page as text.

    Args:
        advice: everything on it.
        folder: name of the folder of images.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"trusted": describe_trusted, "decimals": decimals}
    environment.filters |= {"found_again": found_again, "percent": percent}
    template = environment.from_string(files(__package__).joinpath("choose_k.html").read_text("utf-8"))
    over_k = sorted((entry for entry in advice.ranked if entry.k is not None), key=lambda entry: entry.k or 0)
    several = len(over_k) > 1
    return template.render(
        advice=advice,
        folder=folder,
        lines=sentences(advice),
        stable=STABLE,
        figures={
            "proxies": _fragment(_proxies(over_k, advice), "proxies") if several else None,
            "overlaps": _fragment(_overlaps(advice), "overlaps"),
            "sizes": _fragment(_sizes(over_k, advice), "sizes") if several else None,
        },
        plotly=Markup(get_plotlyjs()),
    )


def _proxies(over_k: Sequence[TrustedSet], advice: Advice) -> go.Figure:
    """One panel per proxy over K."""
    figure = make_subplots(
        rows=1,
        cols=len(OVER_K),
        subplot_titles=[proxy_words(name) for name in OVER_K],
        horizontal_spacing=0.06,
    )
    for column, name in enumerate(OVER_K, start=1):
        known = [entry for entry in over_k if name in entry.proxies]
        figure.add_scatter(
            x=[entry.k for entry in known],
            y=[round(entry.proxies[name], 4) for entry in known],
            mode="lines+markers",
            marker={"color": [BLUE if entry is advice.best_k else SKY for entry in known], "size": 9},
            line={"color": SKY, "width": 2},
            hovertemplate="K = %{x}: %{y:.3f}<extra></extra>",
            row=1,
            col=column,
        )
        figure.add_vline(x=advice.best_k.k, line={"color": BLUE, "width": 1}, row=1, col=column)
    figure.update_xaxes(title_text="K", range=[0.4, (over_k[-1].k or 1) + 0.6], dtick=2 * _step(over_k))
    return _styled(figure, 300)


def _overlaps(advice: Advice) -> go.Figure:
    """The overlaps of every trusted set as dots, best rank first, with their mean as a bar."""
    figure = go.Figure()
    entries = [entry for entry in advice.ranked if entry.resamples is not None]
    for entry in entries:
        assert entry.resamples is not None
        recommended = entry is advice.trusted or entry is advice.best_k
        words, overlaps = describe_trusted(entry.config), entry.resamples.overlaps
        colour = SKY if recommended else GREYS[1]
        figure.add_bar(x=[words], y=[entry.resamples.overlap], marker={"color": colour}, hoverinfo="skip")
        figure.add_box(
            x=[words] * len(overlaps),
            y=[round(overlap, 4) for overlap in overlaps],
            boxpoints="all",
            jitter=0.6,
            pointpos=0,
            marker={"color": INK, "size": 4, "opacity": 0.55},
            # The dots alone: a box around 20 of them says less.
            line={"color": "rgba(0,0,0,0)"},
            fillcolor="rgba(0,0,0,0)",
            hovertemplate="%{y:.2f}<extra>" + words + "</extra>",
        )
    figure.add_hline(y=STABLE, line={"color": MUTED, "width": 1, "dash": "dot"})
    order = [describe_trusted(entry.config) for entry in entries]
    figure.update_xaxes(categoryorder="array", categoryarray=order)
    figure.update_yaxes(title_text="overlap", range=[0, 1.03])
    return _styled(figure, 420, angle=-45)


def _sizes(over_k: Sequence[TrustedSet], advice: Advice) -> go.Figure:
    """The shares of the clusters, stacked over K."""
    figure = go.Figure()
    for cluster in range(max(len(entry.sizes) for entry in over_k)):
        having = [entry for entry in over_k if len(entry.sizes) > cluster]
        shades = [BLUE if entry is advice.best_k else SKY for entry in having]
        figure.add_bar(
            x=[entry.k for entry in having],
            y=[round(100 * entry.sizes[cluster], 2) for entry in having],
            marker={
                "color": GREYS[cluster % 2] if cluster else shades,
                "line": {"color": "#ffffff", "width": 1},
            },
            hovertemplate="K = %{x}: %{y:.1f} % of the images<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_xaxes(title_text="K", dtick=_step(over_k))
    figure.update_yaxes(title_text="share of the images, %", range=[0, 100.5])
    return _styled(figure, 340)


def _step(over_k: Sequence[TrustedSet]) -> int:
    """Distance of the ticks of K, so that about 12 of them stand on an axis."""
    return max(1, round((over_k[-1].k or 1) / 12))


def _styled(figure: go.Figure, height: int, angle: int = 0) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        showlegend=False,
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 60, "r": 10, "t": 40, "b": 50},
        hoverlabel={"font": {"family": FONT}},
    )
    small: dict[str, Any] = {"tickfont": {"size": 12}, "title": {"font": {"size": 12, "color": MUTED}}}
    figure.update_xaxes(
        tickangle=angle, showline=True, linecolor=RULE, zeroline=False, automargin=True, **small
    )
    figure.update_yaxes(gridcolor=GRID, zerolinecolor=RULE, automargin=True, **small)
    figure.update_annotations(font={"size": 13, "color": INK})
    return figure


def _fragment(figure: go.Figure, name: str) -> Markup:
    """A figure as a div with a fixed id; the script of plotly itself is in the page once."""
    config = {"displayModeBar": False, "responsive": True}
    # plotly escapes <, > and / in its JSON, and every label here is our own word or a number.
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config))
