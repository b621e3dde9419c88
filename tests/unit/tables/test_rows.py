"""Rows and claims of a definition, as they are printed."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config import SweepConfig
from orchestrator.tables.definition import TableDefinition
from orchestrator.tables.rows import PlannedRow, plan_claims, plan_paper, plan_rows, rows_named
from trainables.errors import TwofoldError, UnknownName

CONFIG = SweepConfig.model_validate(
    {
        "name": "demo",
        "data": {"dataset": "digits"},
        "fixed": {"finetune": "head", "epochs": 7},
        "default": {"clusterer": "density", "alignment": "identity", "score": "knn"},
        "space": [{"clusterer": "kmeans"}],
    }
)
ROWS = [
    {"name": "mmd", "label": "MMD", "configuration": {"alignment": "mmd"}},
    {"name": "so", "label": "source", "configuration": {"supervision": "source_only", "alignment": "none"},
     "scores": ["source_centre"]},
    {"name": "own", "label": "own score", "configuration": {"score": "mahalanobis"}, "scores": []},
    {"name": "kept", "label": "default", "kind": "default"},
    {"name": "chosen", "label": "choice", "kind": "choice"},
    {"name": "gone", "label": "BiOST", "kind": "missing"},
]  # fmt: skip


def definition(**values: Any) -> TableDefinition:
    start: dict[str, Any] = {
        "title": "t",
        "question": "q",
        "base": {"clusterer": "kmeans", "k": 3},
        "scores": ["source_centre", "knn"],
        "rows": ROWS,
    }
    return TableDefinition.model_validate({**start, **values})


def planned(**values: Any) -> list[PlannedRow]:
    return plan_rows(definition(**values), CONFIG)


def flat(rows: list[PlannedRow], name: str) -> dict[str, Any]:
    (found,) = (row.configuration for row in rows if row.row.name == name)
    assert found is not None
    return found.as_dict()


def test_rows_of_one_score_stand_together() -> None:
    rows = planned()
    assert [(row.row.name, row.row.group) for row in rows] == [
        ("mmd.source_centre", "source_centre"),
        ("so.source_centre", "source_centre"),
        ("mmd.knn", "knn"),
        ("own", ""),
        ("kept", ""),
        ("chosen", ""),
        ("gone", ""),
    ]
    assert [row.row.name for row in rows if row.configuration is None] == ["chosen", "gone"]
    assert rows[0].row.label == rows[2].row.label == "MMD"


def test_a_row_stands_above_the_base_and_the_base_above_what_is_fixed() -> None:
    base = {"clusterer": "kmeans", "k": 3, "epochs": 2}
    rows = planned(base=base, rows=[*ROWS, {"name": "k9", "label": "9", "configuration": {"k": 9}}])
    assert flat(rows, "mmd.knn")["finetune"] == "head", "fixed"
    assert (flat(rows, "mmd.knn")["k"], flat(rows, "mmd.knn")["epochs"]) == (3, 2)
    assert flat(rows, "k9.knn")["k"] == 9
    assert flat(rows, "own")["score"] == "mahalanobis"
    assert flat(rows, "kept")["clusterer"] == "density", "the default knows nothing of the base"


def test_without_scores_each_row_is_there_once() -> None:
    rows = planned(scores=None, rows=ROWS[:1])
    assert [row.row.name for row in rows] == ["mmd"] and rows[0].row.group == ""


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"alignment": "mmdd"}, r"row 'x\.source_centre' cannot be run.*Did you mean 'mmd'"),
        ({"supervision": "source_only"}, r"row 'x\.source_centre' cannot be run.*needs target images"),
        ({"k": 0}, r"row 'x\.source_centre' cannot be run: k: 0 is not valid"),
    ],
)
def test_a_row_that_cannot_be_run_is_named(configuration: dict[str, Any], message: str) -> None:
    with pytest.raises(TwofoldError, match=message):
        planned(rows=[{"name": "x", "label": "x", "configuration": configuration}])


def test_two_rows_may_not_share_a_name() -> None:
    with pytest.raises(TwofoldError, match=r"two rows of the table are called 'mmd\.knn'"):
        planned(rows=[ROWS[0], {"name": "mmd.knn", "label": "x", "scores": []}])


def claims(*sides: tuple[str, str]) -> list[tuple[str, str, str]]:
    given = [{"text": "c", "better": better, "than": than} for better, than in sides]
    found = plan_claims(definition(claims=given).claims, planned(rows=[*ROWS, SECOND, THIRD]))
    return [(one.text, one.better, one.than) for one in found]


SECOND = {"name": "pull", "label": "pull", "configuration": {"alignment": "positive"}}
THIRD = {
    "name": "odd", "label": "odd", "configuration": {"alignment": "positive", "k": 4},
    "scores": ["both_centres", "target_centre"],
}  # fmt: skip


def test_a_claim_between_rows_with_scores_is_tested_for_each() -> None:
    assert claims(("mmd", "pull")) == [
        ("c (source_centre)", "mmd.source_centre", "pull.source_centre"),
        ("c (knn)", "mmd.knn", "pull.knn"),
    ]


def test_a_claim_between_two_printed_rows_is_one() -> None:
    assert claims(("mmd.knn", "pull.source_centre"), ("kept", "gone")) == [
        ("c", "mmd.knn", "pull.source_centre"),
        ("c", "kept", "gone"),
    ]


def test_a_row_without_scores_is_compared_with_each_of_the_others() -> None:
    assert claims(("kept", "mmd")) == [
        ("c (source_centre)", "kept", "mmd.source_centre"),
        ("c (knn)", "kept", "mmd.knn"),
    ]
    assert [better for _, better, _ in claims(("mmd", "chosen"))] == ["mmd.source_centre", "mmd.knn"]


def test_only_scores_that_both_sides_have_are_compared() -> None:
    assert claims(("mmd", "so")) == [("c (source_centre)", "mmd.source_centre", "so.source_centre")]
    assert claims(("mmd", "odd")) == [("c", "mmd.source_centre", "odd.both_centres")], "no claim is lost"


def test_an_unknown_row_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"no row 'mdm'\. Did you mean 'mmd'"):
        rows_named("mdm", planned())


def test_a_figure_of_the_paper_belongs_to_the_first_score() -> None:
    column = {"dataset": "pacs", "source": "photo", "target": "sketch", "label": "P→S",
              "figures": {"mmd": 70.0, "gone": 60.0, "so.source_centre": 50.0}}  # fmt: skip
    table = definition(paper=[column])
    (found,) = plan_paper(table, planned(), "pacs", ["photo->sketch"])
    assert found.figures == {"mmd.source_centre": 70.0, "gone": 60.0, "so.source_centre": 50.0}
    assert found.column == "photo->sketch"
    assert plan_paper(table, planned(), "pacs", ["rho=0.1"])[0].column is None
    assert plan_paper(table, planned(), "digits", ["photo->sketch"])[0].column is None
