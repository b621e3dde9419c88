"""What units are made of: what costs the same is one kind, and what is shared is done once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from small_group import trained, unit

from orchestrator.plan import Unit
from orchestrator.work import Sizes, Workload, scoring, training, trusting
from tests.stubs import stub_record
from trainables.configuration import Configuration
from trainables.types import Setting, Task

SIZES = Sizes(source_fit=100, source_val=20, target_fit=50, target_sel=30, test=200)
BACKBONE = "efficientnet_lite0"


def parse(**flat: Any) -> Configuration:
    return Configuration.parse(flat)


def test_sizes_are_those_of_the_setting() -> None:
    ids = [tuple(str(i) for i in range(n)) for n in (100, 20, 50, 30, 200)]
    setting = Setting(Task("digits", "typeset", "mnist", "3"), 0.1, 0, *ids)
    assert Sizes.of(setting) == SIZES
    assert SIZES.scored == 20 + 30 + 30 + 200
    # S_fit for the centre and T_sel for the diagnostics, then every part.
    assert SIZES.embedded == (100 + 30) + (100 + 20 + 50 + 30 + 30 + 200)
    assert SIZES.capped(10, 25) == Sizes(10, 20, 25, 25, 25)


@pytest.mark.parametrize(
    "same",
    [
        {"learning_rate": 1e-3},
        {"lambda_align": 0.3},
        {"lambda_dsvdd": 0.5},
        {"epochs": 30},
        {"batch_size": 30},
        {"clusterer": "trimmed"},
        {"score": "mahalanobis"},
    ],
)
def test_what_costs_the_same_for_an_image_is_one_kind(same: dict[str, Any]) -> None:
    start = {"alignment": "mmd", "clusterer": "density", "score": "knn", "batch_size": 32}
    one, other = (training([parse(**flat)], SIZES) for flat in (start, {**start, **same}))
    assert [work.kind for work in one] == [work.kind for work in other] and len(one) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"alignment": "positive"},
        {"finetune": "full"},
        {"backbone": "timm:resnet18"},
        {"batch_size": 8},
        {"encoder": "backbone"},
    ],
)
def test_what_costs_more_is_another_kind(other: dict[str, Any]) -> None:
    start = {"alignment": "mmd", "clusterer": "density", "score": "knn", "finetune": "head"}
    one, two = (training([parse(**flat)], SIZES) for flat in (start, {**start, **other}))
    assert one[0].kind != two[0].kind


def test_a_training_grows_with_its_epochs() -> None:
    epochs, network = training([parse(alignment="mmd", clusterer="all", score="knn", epochs=7)], SIZES)
    assert (epochs.starts, epochs.trained, epochs.rows) == (0, 700, 0)
    assert (network.starts, network.trained, network.rows) == (1, 0, SIZES.embedded)
    assert training([parse(alignment="identity", clusterer="all", score="knn")], SIZES) == []


def test_a_trusted_set_is_named_by_its_clusterer_and_k() -> None:
    few, many = (
        trusting(parse(alignment="identity", clusterer="kmeans", k=k, score="knn"), SIZES) for k in (2, 9)
    )
    assert few is not None and many is not None and few.kind != many.kind and few.rows == 50
    source = parse(supervision="source_only", alignment="identity", score="source_centre")
    assert trusting(source, SIZES) is None
    assert scoring(source, SIZES).rows == SIZES.scored


def units() -> list[Unit]:
    """A training with two scores, another one, and two free units; two trusted sets in all."""
    return [
        trained(BACKBONE, score="knn"),
        trained(BACKBONE, score="mahalanobis"),
        trained(BACKBONE, alignment="positive"),
        unit(alignment="identity", clusterer="kmeans", k=2, score="knn"),
        unit(alignment="identity", clusterer="density", score="knn"),
    ]


def test_a_group_does_what_is_shared_once() -> None:
    load = Workload({"s1": SIZES})
    found = Counter(work.kind.split()[0] for work in load.of_group(units()))
    assert found == {"training": 2, "embedding": 2, "trusted": 2, "score": 5}
    alone = Counter(work.kind.split()[0] for one in units() for work in load.of(one))
    assert alone == {"training": 3, "embedding": 3, "trusted": 5, "score": 5}


def test_the_longest_of_a_bundle_is_trained_and_every_number_of_epochs_embedded() -> None:
    bundle = [
        trained(BACKBONE, epochs=epochs, score=score) for epochs in (2, 9, 4) for score in ("knn", "knn_both")
    ]
    assert len({one.bundle for one in bundle}) == 1
    epochs, network, *_ = Workload({"s1": SIZES}).of_group(bundle)
    assert (epochs.starts, epochs.trained, epochs.rows) == (0, 900, 0)
    parts = 100 + 20 + 50 + 30 + 30 + 200
    assert (network.starts, network.trained, network.rows) == (1, 0, 100 + 30 + 3 * parts)


def test_records_tell_each_training_and_trusted_set_once() -> None:
    load = Workload({"s1": SIZES})
    seconds = {"train": 3.0, "cluster": 0.5, "score": 0.1}
    records = [
        stub_record(one.key, setting="s1", config=dict(one.configuration), seconds=seconds) for one in units()
    ]
    measured = load.measured(records)
    found = Counter((sample.works[0].kind.split()[0], sample.seconds) for sample in measured)
    assert found == {("training", 3.0): 2, ("trusted", 0.5): 2, ("score", 0.1): 5}
    done = {work for sample in measured for work in sample.works}
    assert done == {work for one in units() for work in load.of(one)}


@pytest.mark.parametrize(
    "broken", [{"state": "failed"}, {"state": "stopped"}, {"attempts": 2}, {"batch_size": 16}]
)
def test_what_was_interrupted_or_cut_short_tells_nothing(broken: dict[str, Any]) -> None:
    one = trained(BACKBONE)
    seconds = {"train": 3.0, "cluster": 0.5, "score": 0.1}
    record = stub_record("k", setting="s1", config=dict(one.configuration), seconds=seconds)
    assert Workload({"s1": SIZES}).measured([record])
    assert not Workload({"s1": SIZES}).measured([replace(record, **broken)])
