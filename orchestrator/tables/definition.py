"""What a table is made of: rows of configurations, the paper's figures beside them, and its claims."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainables.errors import TwofoldError, UnknownName, nearest_name

FOLDER = Path(str(resources.files("search_spaces"))) / "tables"
NAME = r"^[a-z0-9][a-z0-9_.]*$"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RowDefinition(_Part):
    """One system of a table.

    Attributes:
        name: what cells are addressed by, e.g. ``mmd``.
        label: what the table prints.
        configuration: hyperparameters on top of the table's ``base``; None where ``kind`` says otherwise.
        kind: ``configuration``; ``default``: the preset's default configuration; ``choice``: what is chosen
            without labels from the preset's search space; ``missing``: a system of the paper that is not
            built here, so that only its figures are shown.
        scores: anomaly scores that replace the configuration's, one row each; the first is the paper's.
    """

    name: str = Field(pattern=NAME)
    label: str
    configuration: dict[str, Any] = {}
    kind: Literal["configuration", "default", "choice", "missing"] = "configuration"
    scores: list[str] | None = None


class ClaimDefinition(_Part):
    """Row ``better`` has a higher mean AUROC than row ``than``; ``text`` says it in words."""

    text: str
    better: str
    than: str


class PaperColumn(_Part):
    """Figures of the paper on one pair of domains: row name -> mean AUROC in percent over the classes."""

    dataset: str
    source: str
    target: str
    label: str
    figures: dict[str, float]


class TableDefinition(_Part):
    """One table, as ``search_spaces/tables/NAME.yaml`` holds it.

    Attributes:
        title: one line.
        question: what it answers, one sentence.
        base: hyperparameters common to all rows.
        scores: the table's rows once per score, where a row does not name its own; None: as configured.
        rows: systems, in the order of the table.
        columns: ``pair``: one per pair of domains; ``contamination``: one per rho, mean over the pairs.
        contamination: shares rho of anomalies in the unlabelled target training set.
        axis: what the rows vary, where they are numbers that a line is drawn over, e.g. ``K``; None: bars.
        paper: the paper's figures.
        claims: what the paper says about the rows.
    """

    title: str
    question: str
    base: dict[str, Any] = {}
    scores: list[str] | None = None
    rows: list[RowDefinition] = Field(min_length=1)
    columns: Literal["pair", "contamination"] = "pair"
    contamination: list[float] = Field([0.1], min_length=1)
    axis: str | None = None
    paper: list[PaperColumn] = []
    claims: list[ClaimDefinition] = []


def table_names() -> list[str]:
    """All tables, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_table(name: str) -> TableDefinition:
    """The definition of a table.

    Raises:
        UnknownName: there is none of this name; names the nearest.
        TwofoldError: its file is not valid.
    """
    if name not in table_names():
        known = table_names()
        raise UnknownName(f"unknown table '{name}'.{nearest_name(name, known)} Known: {', '.join(known)}.")
    try:
        return TableDefinition.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))
    except ValidationError as error:
        raise TwofoldError(f"{name}.yaml is not a valid table: {error}") from error
