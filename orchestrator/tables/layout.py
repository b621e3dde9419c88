"""What every printed form of a table shares: order of columns, texts, best cells, footnotes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.report.table import number
from orchestrator.tables.result import Cell, Claim, Column, PaperFigures, Row, TableResult

NOT_MEASURED = "–"
INCOMPLETE = "†"
_GROUPS = {
    "source_centre": "distance to the source centre (the paper's score)",
    "target_centre": "distance to the mean of the trusted set",
    "both_centres": "distance to the point midway between both centres",
    "knn": "distance to the nearest trusted embeddings (kNN)",
    "knn_both": "distance to the nearest embeddings of both domains (kNN)",
    "mahalanobis": "Mahalanobis distance to the trusted set",
    "": "other systems",
}
_PROVENANCE = ("encoder", "backbone", "epochs", "seeds", "split_seeds", "commit", "hardware")


@dataclass(frozen=True)
class Heading:
    """Of one printed column, in one or two lines; ``paper``: the numbers below are the paper's."""

    first: str
    second: str = ""
    paper: bool = False

    @property
    def text(self) -> str:
        """Both lines as one."""
        return f"{self.first} {self.second}".strip()


@dataclass(frozen=True)
class Entry:
    """One printed number, with its interval and mark where it has some; ``best``: of its column."""

    text: str = ""
    interval: str = ""
    mark: str = ""
    best: bool = False


@dataclass(frozen=True)
class Strip:
    """Printed columns that stay side by side: a measured one and what belongs to it, or one of the paper.

    Attributes:
        entries: row name -> one entry per heading.
    """

    headings: tuple[Heading, ...]
    entries: Mapping[str, tuple[Entry, ...]]


@dataclass(frozen=True)
class Block:
    """Rows of one score under a subheading, which is empty in a table without scores."""

    heading: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class ClaimLine:
    """A claim in words: ``verdict``, ``text``, and the difference in points, empty where not measured."""

    verdict: str
    text: str
    difference: str


@dataclass(frozen=True)
class Layout:
    """A table ready to print; no text holds a line break.

    Attributes:
        caption: what the numbers are.
        stub: heading of the column of row labels.
        notes: what its marks mean, as far as they occur.
        missing: see ``TableResult``.
        provenance: one line.
    """

    title: str
    question: str
    caption: str
    stub: str
    blocks: tuple[Block, ...]
    strips: tuple[Strip, ...]
    notes: tuple[str, ...]
    claims: tuple[ClaimLine, ...]
    missing: tuple[str, ...]
    provenance: str

    @property
    def headings(self) -> tuple[Heading, ...]:
        """Of all printed columns, the row labels aside."""
        return tuple(heading for strip in self.strips for heading in strip.headings)

    def entries(self, row: Row) -> tuple[Entry, ...]:
        """One per heading."""
        return tuple(entry for strip in self.strips for entry in strip.entries[row.name])


def lay_out(result: TableResult) -> Layout:
    """Arrange a result: each measured column with the paper's beside it, then the paper's other columns."""
    return Layout(
        title=flat(result.title),
        question=flat(result.question),
        caption=f"Mean AUROC in percent [95 % interval] on {flat(result.data)}; bold: the best of a column.",
        stub=flat(result.axis or "system"),
        blocks=blocks(result),
        strips=tuple(_strips(result)),
        notes=tuple(_notes(result)),
        claims=tuple(map(_claim, result.claims)),
        missing=tuple(map(flat, result.missing)),
        provenance=_provenance(result),
    )


def blocks(result: TableResult) -> tuple[Block, ...]:
    """The rows by score, both in order of appearance."""
    groups: dict[str, list[Row]] = {}
    for row in result.rows:
        groups.setdefault(row.group, []).append(Row(row.name, flat(row.label), row.group))
    if set(groups) == {""}:
        return (Block("", tuple(groups[""])),)
    return tuple(Block(_group_words(name), tuple(rows)) for name, rows in groups.items())


def plain_name(row: Row) -> str:
    """The row's name without its score, e.g. ``mmd`` of ``mmd.knn``."""
    return row.name.removesuffix(f".{row.group}") if row.group else row.name


def paper_figures(result: TableResult, paper: PaperFigures) -> dict[str, float]:
    """Row name -> the paper's figure, for rows of the result.

    A figure under a name without its score belongs to the first such row: that score is the paper's.
    """
    first: dict[str, str] = {}
    for row in result.rows:
        first.setdefault(plain_name(row), row.name)
    owners = {first.get(name, name): figure for name, figure in paper.figures.items()}
    return {row.name: owners[row.name] for row in result.rows if row.name in owners}


def beside(result: TableResult, column: Column) -> list[PaperFigures]:
    """The paper's columns of the same pair that have a figure for some row."""
    return [p for p in result.paper if p.column == column.name and paper_figures(result, p)]


def elsewhere(result: TableResult) -> list[PaperFigures]:
    """The paper's columns that no measured column matches and that have a figure for some row."""
    ours = {column.name for column in result.columns}
    return [p for p in result.paper if p.column not in ours and paper_figures(result, p)]


def is_incomplete(cell: Cell) -> bool:
    """Whether fewer units finished than were planned."""
    return cell.units < cell.planned


def flat(text: str) -> str:
    """Text on one line."""
    return " ".join(text.split())


def signed(value: float) -> str:
    """A difference with its sign and one decimal."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def _strips(result: TableResult) -> Iterable[Strip]:
    names = [row.name for row in result.rows]
    for column in result.columns:
        headings = [Heading(flat(column.label))]
        entries = {name: entry for name, entry in zip(names, _measured(result, column), strict=True)}
        parts = {name: [entries[name]] for name in names}
        if result.name == "seeds":
            headings += [Heading("± classes"), Heading("± seeds")]
            for name in names:
                parts[name] += _spreads(result.cells.get((name, column.name)))
        for paper in beside(result, column):
            headings.append(Heading("paper", paper=True))
            figures = paper_figures(result, paper)
            for name in names:
                parts[name].append(_published(figures.get(name)))
        yield Strip(tuple(headings), {name: tuple(each) for name, each in parts.items()})
    for paper in elsewhere(result):
        heading = Heading(f"paper: {flat(paper.dataset)}", flat(paper.label), paper=True)
        figures = paper_figures(result, paper)
        yield Strip((heading,), {name: (_published(figures.get(name)),) for name in names})


def _measured(result: TableResult, column: Column) -> list[Entry]:
    """One entry per row; what is equal as printed is equally good."""
    cells = [result.cells.get((row.name, column.name)) for row in result.rows]
    top = max((round(cell.mean, 1) for cell in cells if cell is not None), default=None)
    return [
        Entry(NOT_MEASURED)
        if cell is None
        else Entry(
            text=number(cell.mean),
            interval=f"[{number(cell.low)}, {number(cell.high)}]",
            mark=INCOMPLETE if is_incomplete(cell) else "",
            best=round(cell.mean, 1) == top,
        )
        for cell in cells
    ]


def _spreads(cell: Cell | None) -> list[Entry]:
    """Standard deviations over classes and over seeds, in points."""
    if cell is None:
        return [Entry(NOT_MEASURED)] * 2
    return [Entry(number(cell.class_std)), Entry(number(cell.seed_std))]


def _published(figure: float | None) -> Entry:
    return Entry() if figure is None else Entry(number(figure))


def _notes(result: TableResult) -> Iterable[str]:
    addresses = [(row.name, column.name) for row in result.rows for column in result.columns]
    cells = [result.cells[address] for address in addresses if address in result.cells]
    if len(cells) < len(addresses):
        yield f"{NOT_MEASURED} not measured."
    if any(map(is_incomplete, cells)):
        yield f"{INCOMPLETE} incomplete: fewer units finished than planned; table.csv has both counts."
    if result.name == "seeds":
        yield (
            "± classes: standard deviation over classes of their means over seeds; ± seeds: over seeds of "
            f"their means over classes; in points, {NOT_MEASURED} where there is only one."
        )
    if any(paper_figures(result, paper) for paper in result.paper):
        several = len({row.group for row in result.rows}) > 1
        where = " They belong to its own score, the first one." if several else ""
        yield f"paper: figures printed in the paper, empty where it gives none.{where}"


def _claim(claim: Claim) -> ClaimLine:
    verdict = "not measured here" if claim.verdict == "not measured" else claim.verdict
    difference = ""
    if claim.difference is not None:
        difference = f"{signed(claim.difference)} points"
        if claim.low is not None and claim.high is not None:
            difference += f" [{signed(claim.low)}, {signed(claim.high)}]"
    return ClaimLine(verdict, flat(claim.text), difference)


def _group_words(name: str) -> str:
    return _GROUPS.get(name, f"{name.replace('_', ' ')} score")


def _provenance(result: TableResult) -> str:
    known = {name: result.provenance[name] for name in _PROVENANCE if name in result.provenance}
    parts = [
        f"data {result.data}",
        *(f"{name.replace('_', ' ')} {_value(value)}" for name, value in known.items()),
    ]
    return flat("; ".join(parts)) + "."


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "none"
    return "unknown" if value is None else str(value)
