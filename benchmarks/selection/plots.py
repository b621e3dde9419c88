"""The plots of the study, as PNG. Colours: Okabe and Ito's, told apart without colour vision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.selection.budget import ORACLE, curves, sizes
from benchmarks.selection.measures import DRAWS, Level, interval
from benchmarks.selection.opponents import (
    COMBINATION,
    ELSEWHERE,
    Compared,
    by_k,
    kmeans_points,
    proxy_names,
)
from benchmarks.selection.tasks import FULL, Judged
from orchestrator.report.plots import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILLION
from trainables.seeding import generator

DPI = 110
PANELS_PER_ROW = 6
_REGRET = {
    "random": MUTED,
    "compactness": PURPLE,
    COMBINATION: ORANGE,
    "default": VERMILLION,
    ELSEWHERE: GREEN,
    "choice": BLUE,
    "choice, ensemble": SKY,
}
_BUDGET = {
    "random": MUTED,
    "default": VERMILLION,
    "score_variation": ORANGE,
    "tail_separation": PURPLE,
    "choice": BLUE,
    ORACLE: INK,
}


def draw_all(
    datasets: Mapping[str, Sequence[Judged]], compared: Sequence[Compared], folder: Path
) -> list[str]:
    """Draw every plot into ``folder``; return their Markdown, one line each. By K only where there is one.

    Args:
        datasets: name -> settings on the full grid.
        compared: every dataset, contamination and grid.
        folder: that of the Markdown.
    """
    plots = {
        "regret.png": (regret(compared), "Mean regret against contamination"),
        "budget.png": (
            budget([one for one in compared if one.grid == FULL]),
            "Mean regret against the number of configurations that were run",
        ),
        "gap_closed.png": (gap_map(compared), "Gap closed by every proxy on every dataset"),
    }
    if any(len(kmeans_points(settings, "compactness")) for settings in datasets.values()):
        by_k_plot = (proxy_by_k(datasets), "Stage-A proxies against AUROC, coloured by K")
        plots = {"proxy_by_k.png": by_k_plot, **plots}
    for name, (figure, _) in plots.items():
        # Without the writer's version and date, so that equal numbers give equal files.
        figure.savefig(folder / name, dpi=DPI, metadata={"Software": None})
    return [f"![{words}]({name})" for name, (_, words) in plots.items()]


def proxy_by_k(datasets: Mapping[str, Sequence[Judged]]) -> Figure:
    """A row per dataset, a panel per stage-A proxy, a point per setting and K: its K-means configurations."""
    names = proxy_names("A")
    figure = Figure(figsize=(2.6 * len(names), 2.8 * len(datasets)), layout="constrained")
    panels = figure.subplots(len(datasets), len(names), squeeze=False)
    for row, (dataset, settings) in zip(panels, datasets.items(), strict=True):
        for axes, name in zip(row, names, strict=True):
            points = kmeans_points(settings, name)
            ks = np.unique(points[:, 1])
            for k, colour in zip(ks, colormaps["viridis"](np.linspace(0, 0.9, len(ks))), strict=True):
                of_k = points[points[:, 1] == k]
                axes.plot(of_k[:, 2], of_k[:, 3], ".", color=colour, label=f"K = {k:g}", ms=4, alpha=0.7)
            axes.set_title(f"{name}\nacross K {by_k(settings, name)[2]:+.2f}", fontsize=9, loc="left")
            _plain(axes)
        row[0].set_ylabel(f"{dataset}: AUROC, %")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    return figure


def regret(compared: Sequence[Compared]) -> Figure:
    """A panel per dataset and grid: mean regret in points with its 95 % interval over contamination."""
    panels: dict[tuple[str, str], list[Compared]] = {}
    for one in compared:
        panels.setdefault((one.name, one.grid), []).append(one)
    figure = Figure(figsize=(3.6 * len(panels), 4.6), layout="constrained")
    for axes, (title, members) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for i, (name, colour) in enumerate(_REGRET.items()):
            shown = [one for one in members if name in one.measured]
            means = [one.measured[name].regret for one in shown]
            ends = np.array([_regret_interval(one, name) for one in shown]).reshape(-1, 2).T
            # Beside each other, so that no interval hides another.
            at = [one.contamination + 0.006 * (i - 3) for one in shown]
            axes.errorbar(at, means, abs(ends - means), fmt="o-", color=colour, label=name, ms=4, lw=1)
        axes.set_title(", ".join(title), fontsize=9, loc="left")
        axes.set_xticks([one.contamination for one in members])
        axes.set_xlabel("contamination ρ")
        _plain(axes)
    _finish(figure)
    return figure


def budget(compared: Sequence[Compared]) -> Figure:
    """A panel per dataset and contamination: mean regret in points over the budget.

    The band is the 95 % interval of the choice.
    """
    columns = min(len(compared), PANELS_PER_ROW)
    rows = -(-len(compared) // columns)
    figure = Figure(figsize=(3.6 * columns, 0.6 + 4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(compared) :]:
        axes.remove()
    for axes, one in zip(panels, compared, strict=False):
        level = Level.of(one.settings)
        configurations = len(one.settings[0].configs)
        at = (*sizes(configurations), configurations)
        regrets = curves(one.settings)
        for name, colour in _BUDGET.items():
            axes.plot(at, level.weights() @ regrets[name], "o-", color=colour, label=name, ms=4, lw=1)
        draws = level.resampled(DRAWS, generator("budget", one.title))
        ends = [interval(draws @ column) for column in regrets["choice"].T]
        axes.fill_between(at, *np.transpose(ends), color=_BUDGET["choice"], alpha=0.15, lw=0)
        axes.set_title(one.title, fontsize=9, loc="left")
        axes.set_xscale("log")
        axes.set_xticks(at, map(str, at))
        axes.minorticks_off()
        axes.set_xlabel("configurations run")
        _plain(axes)
    _finish(figure)
    return figure


def gap_map(compared: Sequence[Compared]) -> Figure:
    """Gap closed in percent: a row per proxy, a column per dataset, contamination and grid."""
    names = [*proxy_names("A"), *proxy_names("B"), COMBINATION, "choice", "choice, ensemble"]
    values = np.array([[_gap(one, name) for one in compared] for name in names])
    figure = Figure(figsize=(4.2 + 1.1 * len(compared), 1.6 + 0.33 * len(names)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.clip(values, -100, 100), cmap="RdBu", vmin=-100, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if abs(value) > 60 else INK
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    titles = [f"{one.name}\nρ = {one.contamination:g}\n{one.grid}" for one in compared]
    axes.set_xticks(range(len(compared)), titles, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    figure.colorbar(image, label="gap closed, %")
    return figure


def _regret_interval(one: Compared, name: str) -> tuple[float, float]:
    draws = Level.of(one.settings).resampled(DRAWS, generator("regret", one.title))
    return interval(draws @ (one.systems["oracle"] - one.systems[name]))


def _gap(one: Compared, name: str) -> float:
    return 100 * one.measured[name].gap if name in one.measured else np.nan


def _finish(figure: Figure) -> None:
    """Axes of regret from 0, which holds all panels only once they are drawn, and one legend."""
    for axes in figure.axes:
        axes.set_ylim(bottom=0)
    figure.axes[0].set_ylabel("mean regret, points")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = 4 if figure.get_figwidth() > 10 else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
