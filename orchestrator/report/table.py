"""The table of a sweep for a terminal (at most 100 columns wide) and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.report.summary import PairSummary, Scores, SettingSummary, Summary
from orchestrator.report.words import describe

HEADINGS = {
    "source_only": "source only",
    "published": "published cell",
    "default": "default",
    "compactness": "raw compactness",
    "random": "random pick",
    "chosen": "chosen",
    "best": "oracle best",
    "true_normals": "true normals",
}
"""System -> heading, in the order of every table: without labels, then with labels."""

WITHOUT_LABELS = ("source_only", "published", "default", "compactness", "random", "chosen")
_NARROW = {
    "source_only": "source\nonly",
    "published": "publ.\ncell",
    "default": "default",
    "compactness": "comp.\npick",
    "random": "rand.\npick",
    "chosen": "chosen",
    "best": "oracle\nbest",
    "true_normals": "true\nnorm.",
}
_DASH = "–"


@dataclass(frozen=True)
class Row:
    """One line of the main table.

    Attributes:
        contamination: as printed; empty in the row of means.
        cells: system -> AUROC with one decimal, a dash where there is none.
        leaders: the systems that share the highest AUROC among those that see no label.
        stds: system -> standard deviation over the classes, in points; empty where there is none.
    """

    name: str
    contamination: str
    cells: dict[str, str]
    leaders: frozenset[str]
    stds: dict[str, str]
    regret: str
    gap: str


def number(value: float | None) -> str:
    """One decimal, or a dash; a value that rounds to zero has no sign."""
    return _DASH if value is None else f"{round(value, 1) + 0.0:.1f}"


def percent(value: float | None) -> str:
    """A fraction as a whole percentage, or a dash."""
    return _DASH if value is None else f"{round(100 * value) + 0} %"


def shown_systems(summary: Summary) -> list[str]:
    """The systems that have a value somewhere, in the order of ``HEADINGS``."""
    return [
        name for name in HEADINGS if any(getattr(pair.scores, name) is not None for pair in summary.pairs)
    ]


def pair_label(pair: PairSummary, summary: Summary) -> str:
    """The name of a pair, with its contamination where the sweep has several."""
    return f"{pair.name} ρ {pair.contamination:g}" if len(summary.contaminations) > 1 else pair.name


def setting_label(setting: SettingSummary, summary: Summary) -> str:
    """The class of a setting, with its split seed where the sweep has several."""
    several = len({entry.split_seed for entry in summary.settings}) > 1
    return f"{setting.normal_class}, split {setting.split_seed}" if several else setting.normal_class


def rows(summary: Summary) -> list[Row]:
    """One row per pair and, where there are several, one for their mean."""
    found = [
        _row(pair.name, f"{pair.contamination:g}", pair.scores, pair.class_std) for pair in summary.pairs
    ]
    return [*found, _row("mean", "", summary.overall, {})] if len(found) > 1 else found


def render(summary: Summary, per_class: bool = False) -> RenderableType:
    """The table for a terminal; without labels, or ``per_class``, one line per choice is part of it."""
    parts: list[RenderableType] = [_main_table(summary)] if summary.labelled else []
    if per_class or not summary.labelled:
        parts.append(_choice_table(summary))
    if not summary.labelled:
        parts.append(Text("No labels were given: there is no AUROC, and trust is all that can be said."))
    if summary.failed:
        parts.append(Text(f"{summary.failed} of {summary.units} units failed.", style="red"))
    return Group(*parts)


def markdown(summary: Summary) -> str:
    """The main table, or without labels the choices, as a Markdown table with a line break at its end."""
    if not summary.labelled:
        choices = [[*_choice(setting, summary)[:4]] for setting in summary.settings]
        return _markdown_table(["pair", "class", "chosen", "trust"], choices, numeric=0)
    systems = shown_systems(summary)
    several = len(summary.contaminations) > 1
    lines = [
        [
            row.name,
            *([row.contamination] if several else []),
            *(f"**{row.cells[s]}**" if s in row.leaders else row.cells[s] for s in systems),
            row.stds["chosen"],
            row.regret,
            row.gap,
        ]
        for row in rows(summary)
    ]
    headings = [
        "pair",
        *(["ρ"] if several else []),
        *(HEADINGS[s] for s in systems),
        "± classes",
        "regret",
        "gap closed",
    ]
    return _markdown_table(headings, lines, numeric=len(headings) - 1)


def _row(name: str, contamination: str, scores: Scores, stds: Mapping[str, float | None]) -> Row:
    cells = {system: number(getattr(scores, system)) for system in HEADINGS}
    known = {s: value for s in WITHOUT_LABELS if (value := getattr(scores, s)) is not None}
    # Compared as they are printed: of two equal numbers on paper both are bold.
    top = max((round(value, 1) for value in known.values()), default=None)
    leaders = frozenset(s for s, value in known.items() if round(value, 1) == top)
    spread = {s: "" if stds.get(s) is None else number(stds[s]) for s in HEADINGS}
    regret, gap = number(scores.regret), percent(scores.gap_closed)
    return Row(name, contamination, cells, leaders, spread, regret, gap)


def _main_table(summary: Summary) -> Table:
    table = Table(
        title="AUROC in percent, mean over classes; bold = best without labels",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    systems = shown_systems(summary)
    several = len(summary.contaminations) > 1
    table.add_column("pair", overflow="fold")
    if several:
        table.add_column("ρ", justify="right", no_wrap=True)
    for system in systems:
        table.add_column(_NARROW[system], justify="right", no_wrap=True)
        if system == "chosen" and not several:
            table.add_column("±", justify="right", no_wrap=True)
    table.add_column("regret", justify="right", no_wrap=True)
    table.add_column("gap\nclosed", justify="right", no_wrap=True)
    for row in rows(summary):
        cells = [Text(row.contamination)] if several else []
        for system in systems:
            cells.append(Text(row.cells[system], style="bold" if system in row.leaders else ""))
            if system == "chosen" and not several:
                cells.append(Text(row.stds["chosen"], style="dim"))
        table.add_row(Text(row.name.replace(" → ", "→")), *cells, row.regret, row.gap)
    return table


def _choice_table(summary: Summary) -> Table:
    table = Table(title="Choices", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("pair", "class", "chosen"):
        table.add_column(heading, overflow="fold")
    table.add_column("trust")
    if summary.labelled:
        table.add_column("AUROC", justify="right", no_wrap=True)
        table.add_column("regret", justify="right", no_wrap=True)
    for setting in summary.settings:
        cells = _choice(setting, summary)
        table.add_row(*(Text(cell) for cell in (cells if summary.labelled else cells[:4])))
    return table


def _choice(setting: SettingSummary, summary: Summary) -> tuple[str, ...]:
    pair = f"{setting.source} → {setting.target}"
    if len(summary.contaminations) > 1:
        pair += f" ρ {setting.contamination:g}"
    words = describe(setting.config) + (" (default)" if setting.kept_default else "")
    scores = number(setting.scores.chosen), number(setting.scores.regret)
    return pair, setting_label(setting, summary), words, setting.trust, *scores


def _markdown_table(headings: Sequence[str], lines: Sequence[Sequence[str]], numeric: int) -> str:
    """A table whose last ``numeric`` columns are right-aligned; a bar inside a cell is escaped."""
    marks = ["---"] * (len(headings) - numeric) + ["--:"] * numeric
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in (headings, marks, *escaped))
