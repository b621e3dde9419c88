"""The rows of a table on one dataset: each row of its definition once per score, with its configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config import SweepConfig
from orchestrator.plan import default_configuration
from orchestrator.tables.definition import ClaimDefinition, RowDefinition, TableDefinition
from orchestrator.tables.result import PaperFigures, Row
from trainables.configuration import Configuration
from trainables.errors import TwofoldError, UnknownName, nearest_name


@dataclass(frozen=True)
class PlannedRow:
    """A printed row and what is behind it.

    Attributes:
        row: as printed.
        base: name of the row in the definition; its rows with other scores share it.
        kind: see ``RowDefinition``.
        configuration: what is run; None for ``choice`` and ``missing``.
    """

    row: Row
    base: str
    kind: str
    configuration: Configuration | None


@dataclass(frozen=True)
class PlannedClaim:
    """A claim between two printed rows."""

    text: str
    better: str
    than: str


def plan_rows(definition: TableDefinition, config: SweepConfig) -> list[PlannedRow]:
    """The printed rows, those of one score together.

    Args:
        definition: the table.
        config: the preset of the dataset, for what is fixed and for the default configuration.

    Raises:
        TwofoldError: a configuration cannot be run; the message names its row.
    """
    rows = [row for defined in definition.rows for row in _expand(definition, defined, config)]
    twice = [name for name, count in Counter(row.row.name for row in rows).items() if count > 1]
    if twice:
        raise TwofoldError(f"two rows of the table are called '{twice[0]}'; rename one")
    groups = list(dict.fromkeys(row.row.group for row in rows))
    return sorted(rows, key=lambda row: groups.index(row.row.group))


def _expand(definition: TableDefinition, defined: RowDefinition, config: SweepConfig) -> Iterator[PlannedRow]:
    plain = Row(defined.name, defined.label)
    if defined.kind == "default":
        yield PlannedRow(plain, defined.name, defined.kind, default_configuration(config))
    elif defined.kind != "configuration":
        yield PlannedRow(plain, defined.name, defined.kind, None)
    else:
        flat = {**config.fixed, **definition.base, **defined.configuration}
        scores = definition.scores if defined.scores is None else defined.scores
        if not scores:
            yield PlannedRow(plain, defined.name, defined.kind, _parse(defined.name, flat))
        for score in scores or ():
            row = Row(f"{defined.name}.{score}", defined.label, score)
            configuration = _parse(row.name, {**flat, "score": score})
            yield PlannedRow(row, defined.name, defined.kind, configuration)


def _parse(name: str, flat: Mapping[str, Any]) -> Configuration:
    try:
        return Configuration.parse(flat)
    except TwofoldError as error:
        raise TwofoldError(f"row '{name}' cannot be run: {error}") from error


def rows_named(name: str, rows: Sequence[PlannedRow]) -> list[Row]:
    """The printed rows that a name of the definition, or of a printed row, stands for; at least one.

    Raises:
        UnknownName: there is none.
    """
    found = [row.row for row in rows if name in (row.row.name, row.base)]
    if not found:
        known = sorted({name for row in rows for name in (row.base, row.row.name)})
        raise UnknownName(f"there is no row '{name}'.{nearest_name(name, known)} Known: {', '.join(known)}.")
    return found


def plan_claims(claims: Sequence[ClaimDefinition], rows: Sequence[PlannedRow]) -> list[PlannedClaim]:
    """The claims between printed rows, a claim between rows with scores once for each score.

    Raises:
        UnknownName: a claim names a row that does not exist.
    """
    return [
        PlannedClaim(f"{claim.text} ({score})" if score else claim.text, better.name, than.name)
        for claim in claims
        for score, better, than in _matched(rows_named(claim.better, rows), rows_named(claim.than, rows))
    ]


def _matched(better: Sequence[Row], than: Sequence[Row]) -> list[tuple[str, Row, Row]]:
    """Score to tell the claim from its likes, and the rows that it compares."""
    if len(better) == len(than) == 1:
        return [("", better[0], than[0])]
    if len(better) == 1 and not better[0].group:
        return [(other.group, better[0], other) for other in than]
    if len(than) == 1 and not than[0].group:
        return [(one.group, one, than[0]) for one in better]
    of_score = {row.group: row for row in than}
    shared = [(one.group, one, of_score[one.group]) for one in better if one.group in of_score]
    # Without a score in common, the first of each side is the paper's.
    return shared or [("", better[0], than[0])]


def plan_paper(
    definition: TableDefinition, rows: Sequence[PlannedRow], dataset: str, columns: Sequence[str]
) -> list[PaperFigures]:
    """The paper's columns; a figure belongs to the first of the rows that its name stands for.

    Args:
        definition: the table.
        rows: its printed rows.
        dataset: that is measured.
        columns: names of the measured columns.
    """
    found = []
    for paper in definition.paper:
        figures = {rows_named(name, rows)[0].name: figure for name, figure in paper.figures.items()}
        name = f"{paper.source}->{paper.target}"
        column = name if paper.dataset == dataset and name in columns else None
        found.append(PaperFigures(paper.label, paper.dataset, figures, column))
    return found
