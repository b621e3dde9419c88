"""What of a selection is exported, and under which name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.export import contamination_of, named_choices, pick
from trainables.errors import TwofoldError


def choice(setting: str, normal_class: str, rho: float = 0.1, split: int = 0) -> dict[str, Any]:
    task = {
        "dataset": "folder", "source": "light", "target": "dark paper", "normal_class": normal_class,
        "contamination": rho, "split_seed": split,
    }  # fmt: skip
    return {"setting": setting * 8, "task": task, "chosen": setting}


def names(folder: Path, *choices: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (folder / "selection.json").write_text(json.dumps({"choices": choices}))
    return named_choices(folder)


def test_names_are_those_of_the_tasks(tmp_path: Path) -> None:
    found = names(tmp_path, choice("a1", "Größe"), choice("b2", "0"))
    assert {name: entry["chosen"] for name, entry in found.items()} == {
        "light-dark_paper-Größe": "a1",
        "light-dark_paper-0": "b2",
    }


def test_what_has_the_same_name_gets_a_longer_one(tmp_path: Path) -> None:
    found = names(
        tmp_path, choice("a1", "0"), choice("b2", "1"), choice("c3", "0", rho=0), choice("d4", "0", split=2),
        choice("e5", "a b"), choice("f6", "a_b"),
    )  # fmt: skip
    assert list(found) == [
        "light-dark_paper-0-contamination0.1-split0",
        "light-dark_paper-1",
        "light-dark_paper-0-contamination0-split0",
        "light-dark_paper-0-contamination0.1-split2",
        "light-dark_paper-a_b-contamination0.1-split0-e5e5e5e5",
        "light-dark_paper-a_b-contamination0.1-split0-f6f6f6f6",
    ]


def test_a_task_is_picked_by_its_arrow_or_its_name(tmp_path: Path) -> None:
    found = names(tmp_path, choice("a1", "0"), choice("b2", "1"), choice("c3", "1", rho=0))
    assert list(pick(found, None)) == list(found)
    assert list(pick(found, "light->dark paper/0")) == list(pick(found, "light-dark_paper-0"))
    assert [c["chosen"] for c in pick(found, "light-dark_paper-1-contamination0-split0").values()] == ["c3"]


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        ("light->dark paper/1", ["2 settings", "-1-contamination0.1-split0", "-1-contamination0-split0"]),
        ("light->dark paper/2", ["no such task", "Did you mean 'light->dark paper/", "light-dark_paper-0"]),
    ],
)
def test_another_task_lists_what_there_is(task: str, parts: list[str], tmp_path: Path) -> None:
    found = names(tmp_path, choice("a1", "0"), choice("b2", "1"), choice("c3", "1", rho=0))
    with pytest.raises(TwofoldError) as error:
        pick(found, task)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("content", ["{", "{}", '{"choices": 3}'])
def test_a_damaged_selection_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(TwofoldError, match=r"no selection\.json yet"):
        named_choices(tmp_path)
    (tmp_path / "selection.json").write_text(content)
    with pytest.raises(TwofoldError, match="`twofold select"):
        named_choices(tmp_path)


@pytest.mark.parametrize("found", [{}, {"contamination": None}, {"contamination": {"estimate": 2, "low": 0}}])
def test_a_selection_without_an_estimate_says_what_to_do(found: dict[str, Any]) -> None:
    with pytest.raises(TwofoldError, match=r"contamination estimate.*`twofold select`"):
        contamination_of(found)
    whole = {"estimate": 0.1, "low": 0.05, "high": 0.2, "resamples": 20}
    assert contamination_of({"contamination": whole}).high == 0.2
