"""The spec: a ledger takes the units of one plan, and says what differs in another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import SweepConfig
from orchestrator.leases import Leases, Owner
from orchestrator.spec import describe_spec, differences, open_spec
from orchestrator.storage import Storage
from trainables.errors import TwofoldError

START: dict[str, Any] = {
    "name": "demo",
    "data": {"dataset": "folder", "root": "/data/here", "pairs": [["a", "b"]], "classes": [1, 2]},
    "fixed": {"epochs": 2},
    "default": {"clusterer": "density", "alignment": "identity", "score": "knn"},
    "space": [{"alignment": "mmd", "clusterer": "kmeans", "k": [2, 5]}],
    "seeds": [0, 1],
}
PRINTS = {"a": "f1", "b": "f2"}


def changed(**sections: Any) -> SweepConfig:
    """The sweep with keys of some sections replaced; a section that is no mapping is replaced itself."""
    content = {**START}
    for name, value in sections.items():
        old = content.get(name)
        content[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return SweepConfig(**content)


def opens(
    storage: Storage, config: SweepConfig, prints: dict[str, str] | None = None, accept: bool = False
) -> None:
    open_spec(storage, Leases(storage, Owner.here()), describe_spec(config, prints or PRINTS), accept)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    opens(storage, changed())
    return storage


def refusal(storage: Storage, config: SweepConfig, prints: dict[str, str] | None = None) -> list[str]:
    """Lines of the message that refuses a plan."""
    before = storage.read("spec.json")
    with pytest.raises(TwofoldError, match="--accept-changes") as refused:
        opens(storage, config, prints)
    assert storage.read("spec.json") == before and storage.location in str(refused.value)
    assert storage.names("leases") == []
    return [line.strip() for line in str(refused.value).splitlines() if line.startswith("  ")]


def test_a_new_ledger_gets_a_spec_and_an_id_that_stay(storage: Storage) -> None:
    content = storage.read("spec.json")
    identity = storage.read("id")
    assert content is not None and identity is not None and len(identity) == 32
    assert json.loads(content) == describe_spec(changed(), PRINTS)
    opens(storage, changed())
    assert (storage.read("spec.json"), storage.read("id")) == (content, identity)
    assert storage.names("leases") == []


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"data": {"contamination": [0.2]}}, "data.contamination.0: 0.1 -> 0.2"),
        ({"data": {"image_size": 64}}, "data.image_size: null -> 64"),
        ({"data": {"classes": [1, 3]}}, 'data.classes.1: "2" -> "3"'),
        (
            {"data": {"pairs": [["a", "b"], ["b", "a"]]}},
            'data.pairs: [["a", "b"]] -> [["a", "b"], ["b", "a"]]',
        ),
        ({"fixed": {"epochs": 3}}, "fixed.epochs: 2 -> 3"),
        ({"fixed": {"encoder": "open_clip"}}, 'fixed.encoder: null -> "open_clip"'),
        ({"default": {"score": "target_centre"}}, 'default.score: "knn" -> "target_centre"'),
        ({"space": [{"alignment": "mmd", "clusterer": "kmeans", "k": [2, 6]}]}, "space.0.k.1: 5 -> 6"),
        ({"seeds": [0, 2]}, "seeds.1: 1 -> 2"),
        ({"seeds": [0]}, "seeds: [0, 1] -> [0]"),
    ],
)
def test_a_change_of_what_is_run_is_refused_with_its_key(
    sections: dict[str, Any], line: str, storage: Storage
) -> None:
    assert refusal(storage, changed(**sections)) == [line]


def test_every_change_is_named(storage: Storage) -> None:
    config = changed(seeds=[5, 6], fixed={"epochs": 1}, data={"split_seeds": [1]})
    assert sorted(line.partition(":")[0] for line in refusal(storage, config)) == [
        "data.split_seeds.0", "fixed.epochs", "seeds.0", "seeds.1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "sections",
    [
        {"resources": {"workers": 7, "step_minutes": 1.5}},
        {"budget": {"hours": 1.0, "units": 3}},
        {"prices": {"currency": "EUR", "worker_hour": 0.3, "gpu_hour": 2}},
        {"output": "elsewhere", "cache": "another", "ledger": "s3://bucket/folder"},
        {"tracking_uri": "http://127.0.0.1:5000"},
        {"name": "renamed"},
        {"data": {"root": "/moved/there"}},
    ],
)
def test_where_how_fast_and_how_long_may_change(sections: dict[str, Any], storage: Storage) -> None:
    opens(storage, changed(**sections))


def test_moved_images_are_accepted_and_changed_ones_are_not(storage: Storage) -> None:
    moved = changed(data={"root": "/moved/there"})
    opens(storage, moved)
    assert refusal(storage, moved, {**PRINTS, "b": "f3"}) == ['images.b: "f2" -> "f3"']


def test_accepted_changes_are_the_new_spec(storage: Storage) -> None:
    identity = storage.read("id")
    storage.write("units/k1.arrow", b"a record")
    opens(storage, changed(seeds=[0, 1, 2]), accept=True)
    assert storage.read("units/k1.arrow") == b"a record" and storage.read("id") == identity
    opens(storage, changed(seeds=[0, 1, 2]))
    assert refusal(storage, changed()) == ["seeds: [0, 1, 2] -> [0, 1]"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"null"])
def test_a_damaged_spec_is_written_anew(content: bytes, storage: Storage) -> None:
    whole = storage.read("spec.json")
    storage.write("spec.json", content)
    opens(storage, changed())
    assert storage.read("spec.json") == whole


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 3}]}}, ["a.b.1.c: 2 -> 3"]),
        ({"a": 1}, {"a": None}, ["a: 1 -> null"]),
        ({"a": None}, {}, []),
        ({"a": [1]}, {"a": {"0": 1}}, ['a: [1] -> {"0": 1}']),
        ({"a": 1}, {"b": 1}, ["a: 1 -> null", "b: null -> 1"]),
        ({"a": "1"}, {"a": 1}, ['a: "1" -> 1']),
    ],
)
def test_differences(old: Any, new: Any, lines: list[str]) -> None:
    assert differences(old, new) == lines and differences(old, old) == []
