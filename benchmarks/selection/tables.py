"""The study in Markdown. Every number is computed from the settings that are given; none is written here."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from benchmarks.selection.budget import SINGLE, curves, sizes
from benchmarks.selection.measures import Level
from benchmarks.selection.opponents import (
    CONTROLS,
    ELSEWHERE,
    FIXED,
    UNTOLD,
    Compared,
    best_configuration,
    by_k,
    others,
    proxy_names,
)
from benchmarks.selection.tasks import Judged
from orchestrator.proxies.base import PROXIES
from orchestrator.report.summary import TRUST_LEVELS
from orchestrator.report.words import describe

NARROW = 5
"""Points; a grid that spans less has nothing to choose."""
Rows = Sequence[Sequence[str]]


def table(heading: Sequence[str], rows: Rows, left: int = 1) -> str:
    """A Markdown table, the first ``left`` columns to the left and the others to the right."""
    rule = ["---"] * left + ["--:"] * (len(heading) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, rule, *rows))


def short(compared: Sequence[Compared]) -> str:
    """One row per grid, dataset and contamination, and what the controls did."""
    shown = ("random", "default", ELSEWHERE, "choice", "choice, ensemble", "noise ceiling", "oracle")
    rows = [
        [
            one.grid,
            one.title,
            *(f"{one.measured[name].auroc:.1f}" if name in one.measured else "–" for name in shown),
            _gap(one, "choice"),
            f"{np.mean([s.kept_default for s in one.settings]):.0%}",
        ]
        for one in compared
    ]
    wins = [
        f"`{name}` on {one.grid}, {one.title}"
        for one in compared
        for name in CONTROLS
        if one.measured[f"control: {name}"].gap > one.measured["choice"].gap
    ]
    heading = ("grid", "settings", *shown, "gap closed by the choice", "kept the default")
    control = f"Controls that close more of the gap than the choice: {listed(wins) or 'none'}."
    return f"{table(heading, rows, 2)}\n\n{control}\n\n" + "\n".join(_verdict(one) for one in compared)


def _verdict(one: Compared) -> str:
    """How the choice stands against what a user could do instead."""
    mine = one.measured["choice"]
    single = [name for name in (*proxy_names("A"), *proxy_names("B")) if one.measured[name].gap > mine.gap]
    fixed = [name for name in UNTOLD if name in one.measured and one.measured[name].gap > mine.gap]
    return (
        f"- {one.grid}, {one.title}: regret {mine.regret:.2f} points (noise ceiling: "
        f"{one.measured['noise ceiling'].regret:.2f}). Above the choice by mean AUROC: of the single proxies "
        f"{listed([f'`{name}`' for name in single]) or 'none'}; "
        f"of the fixed opponents {listed(fixed) or 'none'}."
    )


def systems(one: Compared) -> str:
    """The main table of one dataset, contamination and grid."""
    rows = []
    for name, m in one.measured.items():
        correlations = one.correlations.get(name.removeprefix("control: "), (np.nan,) * 3)
        words = f"`{name}`" if name in PROXIES.names() else name
        points = (m.regret, m.median, m.p90, m.worst)
        rows.append(
            [
                f"**{words}**" if name.startswith("choice") else words,
                f"{m.auroc:.1f}",
                _gap(one, name),
                *(f"{value:.1f}" for value in points),
                f"{m.below:.0%}",
                *map(_decimal, correlations),
            ]
        )
    heading = (
        *("system", "AUROC", "gap closed [95 %]", "mean regret", "median", "p90", "worst"),
        *(f"> 1 point below {one.opponent}", "Spearman", "Kendall", "weighted Spearman"),
    )
    missing = [name for name in (*FIXED, "default", ELSEWHERE) if name not in one.measured]
    note = f"\n\nWithout a value on every setting, and so left out: {listed(missing)}." if missing else ""
    return table(heading, rows) + note


def paired(members: Sequence[Compared]) -> str:
    """The choice minus each opponent over the settings of every contamination."""
    rows = []
    for name in dict.fromkeys(name for one in members for name in one.paired):
        cells = []
        for one in members:
            p = one.paired.get(name)
            cells += [f"{p.difference:+.2f}", f"{p.won} : {p.lost}", _p(p.p), _p(p.holm)] if p else ["–"] * 4
        rows.append([f"`{name}`" if name in PROXIES.names() else name, *cells])
    heading = [
        f"{one.title}: {word}" for one in members for word in ("points", "won : lost", "p", "p (Holm)")
    ]
    return table(("choice minus", *heading), rows)


def k_correlations(members: Sequence[Compared]) -> str:
    """Pooled, within-K and across-K Spearman of the stage-A proxies over K-means."""
    rows = [
        [f"`{name}`", *(_decimal(value) for one in members for value in by_k(one.settings, name))]
        for name in proxy_names("A")
    ]
    heading = [f"{one.title}: {word}" for one in members for word in ("pooled", "within K", "across K")]
    return table(("proxy", *heading), rows)


def budget(compared: Sequence[Compared]) -> str:
    """Mean regret in points at each budget: a row per dataset, contamination and system."""
    rows = []
    for one in compared:
        weights = Level.of(one.settings).weights()
        for name, regret in curves(one.settings).items():
            words = f"`{name}`" if name in SINGLE else f"**{name}**" if name == "choice" else name
            rows.append([one.title, words, *(_points(value) for value in weights @ regret)])
    configurations = len(compared[0].settings[0].configs)
    heading = ("settings", "system", *map(str, sizes(configurations)), f"all {configurations}")
    return table(heading, rows, 2)


def _points(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1f}"


def trust(members: Sequence[Compared]) -> str:
    """Mean regret by what the choice says of itself: halves of its confidence, and its words."""
    groups = {one.title: [one] for one in members} | {f"{members[0].name}, all": list(members)}
    rows = []
    for title, group in groups.items():
        regret = np.concatenate([one.systems["oracle"] - one.systems["choice"] for one in group])
        settings = [setting for one in group for setting in one.settings]
        words = np.array([setting.trust for setting in settings])
        cells = [_mean_regret(regret, words == level) for level in TRUST_LEVELS]
        rows.append([title, *_halves(settings, regret), *cells])
    heading = ("settings", "low half", "high half", "low / high", *TRUST_LEVELS)
    return table(heading, rows)


def _halves(settings: Sequence[Judged], regret: np.ndarray) -> list[str]:
    known = [setting.confidence for setting in settings]
    high = np.array(known) > np.median(known)
    low_regret, high_regret = regret[~high], regret[high]
    ratio = low_regret.mean() / high_regret.mean() if high.any() and high_regret.mean() > 0 else np.nan
    return [_mean_regret(regret, ~high), _mean_regret(regret, high), _decimal(ratio)]


def _mean_regret(regret: np.ndarray, chosen: np.ndarray) -> str:
    return f"{regret[chosen].mean():.2f} ({chosen.sum()})" if chosen.any() else "– (0)"


def narrow(members: Sequence[Compared]) -> str:
    """The settings whose whole grid spans fewer than ``NARROW`` points."""
    lines = []
    for one in members:
        found = [s for s in one.settings if s.span < NARROW]
        named = [f"{s.source} → {s.target} {s.normal_class} ({s.span:.1f})" for s in found]
        line = f"- {one.title}: {len(found)} of {len(one.settings)} settings span < {NARROW} points"
        lines.append(line + (f": {listed(named)}." if named else "."))
    return "\n".join(lines)


def contamination(settings: Sequence[Judged]) -> str:
    """Error of the estimated contamination, in percentage points, by contamination and target."""
    groups: dict[tuple[str, str, str], list[Judged]] = {}
    for s in settings:
        for target in (s.target, "all"):
            groups.setdefault((s.dataset, f"{s.contamination:g}", target), []).append(s)
    rows = [[*group, *_errors(members)] for group, members in sorted(groups.items())]
    heading = (
        "dataset",
        "ρ",
        "target",
        "settings",
        "mean estimate",
        "mean absolute error",
        "bias",
        "in interval",
    )
    return table(heading, rows, 3)


def _errors(settings: Sequence[Judged]) -> list[str]:
    weights = Level.of(settings).weights()
    estimates = [setting.estimate or {} for setting in settings]
    error = np.array([e["estimate"] - s.contamination for e, s in zip(estimates, settings, strict=True)])
    inside = [e["low"] <= s.contamination <= e["high"] for e, s in zip(estimates, settings, strict=True)]
    mean = weights @ np.array([e["estimate"] for e in estimates])
    points = (f"{100 * value:.1f}" for value in (mean, weights @ abs(error)))
    return [str(len(settings)), *points, f"{100 * (weights @ error):+.1f}", f"{np.mean(inside):.0%}"]


def fixed_elsewhere(members: Sequence[Compared], pool: Sequence[Judged]) -> str:
    """Which configuration ``ELSEWHERE`` stands for."""
    here = [setting for one in members for setting in one.settings]
    found: dict[str, list[str]] = {}
    for pair in dict.fromkeys(setting.pair for setting in here):
        ours = [setting for setting in here if setting.pair == pair]
        best = best_configuration(others(ours[0], pool), ours)
        words = describe(json.loads(best)) if best else "none"
        found.setdefault(words, []).append(pair)
    said = "; ".join(f"{words} (for {len(pairs)} pairs)" for words, pairs in found.items())
    foreign = any(setting.dataset != here[0].dataset for setting in pool)
    origin = "the other datasets" if foreign else "the other pairs of this dataset"
    return f"`{ELSEWHERE}` is the configuration with the highest mean AUROC on {origin}: {said}."


def _gap(one: Compared, name: str) -> str:
    m = one.measured[name]
    return f"{100 * m.gap:.0f} % [{100 * m.low:.0f}, {100 * m.high:.0f}]"


def _decimal(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"


def listed(values: Sequence[object]) -> str:
    """The values as one cell or clause, e.g. ``a, b``."""
    return ", ".join(map(str, values))
