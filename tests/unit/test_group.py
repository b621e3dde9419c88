"""One group of units, end to end on small arrays: failures stay where they are."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_group import ENCODER, NORMAL, OTHER, ROWS, Kept, trained, unit

from orchestrator.checkpoints import Checkpoints, Pace, pack, unpack
from orchestrator.embedded import Embedded, anomaly_scores, diagnose
from orchestrator.group import GroupRun, Progress, stage_a_proxies
from orchestrator.ledger import Ledger, UnitRecord
from orchestrator.plan import Unit, group_units
from orchestrator.prepare import ArrayName, Prepared
from orchestrator.proxies.base import PROXIES, FeatureEvidence
from orchestrator.storage import Storage
from trainables.alignments.base import ALIGNMENTS
from trainables.clusterers.base import CLUSTERERS
from trainables.configuration import Configuration
from trainables.methods.base import METHODS, PARTS, Part, Training, TrainingInputs
from trainables.scores.base import SCORES, Reference
from trainables.seeding import canonical_json, generator
from trainables.types import Assignment

TIMES = {"seconds"}


def every_kind(backbone: str) -> list[Unit]:
    frozen = [
        unit(alignment="identity", clusterer=clusterer, score=score, k=2)
        for clusterer in CLUSTERERS.names()
        for score in SCORES.names()
        if score != "source_centre"
    ]
    return [
        *frozen,
        unit(alignment="identity", score="source_centre"),
        *(trained(backbone, score=score) for score in SCORES.names()),
        trained(backbone, alignment="positive", score="source_centre"),
        trained(backbone, alignment="contrastive", negatives="ignore_band"),
        trained(backbone, alignment="none", score="source_centre"),
        trained(backbone, alignment="none", score="knn"),
        trained(backbone, alignment="none", score="knn", encoder=OTHER),
        trained(backbone, supervision="oracle"),
        trained(backbone, encoder="backbone", epochs=3),
    ]


def run(prepared: Prepared, units: Sequence[Unit]) -> dict[str, UnitRecord]:
    group = GroupRun(prepared, units)
    return {
        record.key: record
        for members in group.bundles()
        for progress in group.run(members)
        for record in progress.finished
    }


@pytest.fixture(scope="module")
def records(prepared: Prepared, backbone: str) -> dict[str, UnitRecord]:
    return run(prepared, every_kind(backbone))


def equal(left: UnitRecord, right: UnitRecord) -> bool:
    for entry in fields(UnitRecord):
        a, b = getattr(left, entry.name), getattr(right, entry.name)
        if entry.name not in TIMES and not (np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b):
            return False
    return True


def test_every_unit_gets_a_whole_record(
    records: dict[str, UnitRecord], backbone: str, tmp_path: Path
) -> None:
    ledger = Ledger(Storage(str(tmp_path)))
    ledger.open()
    for member in every_kind(backbone):
        record = records[member.key]
        assert record.state == "done", record.error
        assert record.error is None
        assert record.config == member.configuration and record.setting == "s1" and record.seed == 0
        assert (record.source, record.target, record.contamination) == ("typeset", "mnist", 0.2)
        for part in ("source_val", "target_sel", "pseudo", "test"):
            scores = getattr(record, part)
            assert scores.shape == ROWS[part].shape and scores.dtype == np.float32  # type: ignore[index]
            assert np.isfinite(scores).all() and (scores >= 0).all()
        configuration = Configuration.parse(member.configuration)
        uses = configuration.supervision.uses_target
        assert record.trusted_fit.shape == ((30,) if uses else (0,))
        assert record.trusted_sel.shape == ((10,) if uses else (0,))
        assert record.cluster_sizes.sum() == (30 if uses else 0)
        assert bool(record.stage_a) == (configuration.clusterer is not None)
        epochs = configuration.method.epochs if configuration.method else 0
        assert [entry["epoch"] for entry in record.epochs] == list(range(1, epochs + 1))
        names = ("effective_rank", "score_variation")
        expected = {f"{name}{end}" for name in names for end in ("", "_initial")}
        if uses:
            expected |= {"contamination", "contamination_low", "contamination_high", "mixing"}
        assert set(record.diagnostics) == expected
        ledger.write(record)
        stored = ledger.read(member.key)
        assert stored is not None and equal(stored, record)


@pytest.mark.parametrize("order", ["reversed", "alone", "grouped"])
def test_results_do_not_depend_on_grouping_or_order(
    order: str, records: dict[str, UnitRecord], prepared: Prepared, backbone: str
) -> None:
    units = every_kind(backbone)
    groups = {
        "reversed": [units[::-1]],
        "alone": [[member] for member in units[-8:]],
        "grouped": group_units(units, 2),
    }[order]
    torch.manual_seed(99)
    again = {key: record for group in groups for key, record in run(prepared, group).items()}
    for key, record in again.items():
        assert equal(record, records[key]), record.config
    assert order == "alone" or set(again) == set(records)


def by_hand(prepared: Prepared, model: str, part: Part) -> np.ndarray:
    domain = "typeset" if part.startswith("source") else "mnist"
    return prepared.arrays[ArrayName("features", model, domain, part == "pseudo")][ROWS[part]]


def test_frozen_scores_computed_again(records: dict[str, UnitRecord], prepared: Prepared) -> None:
    fit, source = by_hand(prepared, ENCODER, "target_fit"), by_hand(prepared, ENCODER, "source_fit")
    for part in ("source_val", "target_sel", "pseudo", "test"):
        x = by_hand(prepared, ENCODER, part)
        found = records[unit(alignment="identity", score="source_centre").key]
        assert np.allclose(getattr(found, part), ((x - source.mean(axis=0)) ** 2).sum(axis=1), atol=1e-5)
        found = records[unit(alignment="identity", clusterer="all", score="target_centre").key]
        assert np.allclose(getattr(found, part), ((x - fit.mean(axis=0)) ** 2).sum(axis=1), atol=1e-5)
        found = records[unit(alignment="identity", clusterer="density", score="knn").key]
        bank = fit[found.trusted_fit]
        nearest = np.sort(np.linalg.norm(x[:, None] - bank[None], axis=2), axis=1)[:, :5]
        assert np.allclose(getattr(found, part), nearest.mean(axis=1), atol=1e-4)


def test_trusted_set_and_proxies_computed_again(records: dict[str, UnitRecord], prepared: Prepared) -> None:
    member = unit(alignment="identity", clusterer="kmeans", k=2, score="knn")
    record, configuration = records[member.key], Configuration.parse(member.configuration)
    assert configuration.clusterer is not None
    fit = by_hand(prepared, ENCODER, "target_fit")
    found = configuration.clusterer(fit, generator("cluster", "s1", 0, configuration.trusted_key))
    assert np.array_equal(record.trusted_fit, found.trusted)
    assert record.trusted_fit.sum() == record.cluster_sizes.max()
    trusted_mean, other_mean = fit[found.trusted].mean(axis=0), fit[~found.trusted].mean(axis=0)
    sel = by_hand(prepared, ENCODER, "target_sel")
    near = np.linalg.norm(sel - trusted_mean, axis=1) < np.linalg.norm(sel - other_mean, axis=1)
    assert np.array_equal(record.trusted_sel, near)
    inner = ((fit[found.trusted] - trusted_mean) ** 2).sum(axis=1).mean()
    assert record.stage_a["compactness"] == pytest.approx(-inner, rel=1e-4)
    evidence = FeatureEvidence(
        fit, sel, by_hand(prepared, ENCODER, "source_fit"), found, configuration.clusterer, "s1/0"
    )
    assert stage_a_proxies(evidence) == record.stage_a
    assert set(record.stage_a) <= {name for name in PROXIES.names() if PROXIES.get(name).stage == "A"}


def test_trained_scores_computed_again(
    records: dict[str, UnitRecord], prepared: Prepared, backbone: str
) -> None:
    member = trained(backbone, score="both_centres")
    record, configuration = records[member.key], Configuration.parse(member.configuration)
    fit = by_hand(prepared, ENCODER, "target_fit")
    assert configuration.clusterer is not None
    found = configuration.clusterer(fit, generator("cluster", "s1", 0, configuration.trusted_key))
    inputs = TrainingInputs(
        arrays=prepared.setting_arrays("s1", configuration),
        assignment=found,
        recluster=None,
        alignment=ALIGNMENTS.get("mmd")(),
        purpose="s1",
        seed=0,
        image_size=32,
    )
    values = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3}
    training = METHODS.get("cluster_align")(backbone=backbone, finetune="head", **values).start(inputs)
    losses = [training.fit_epoch(), training.fit_epoch()]
    assert record.epochs == [{"epoch": float(i), **loss} for i, loss in enumerate(losses, 1)]
    target = training.embed("target_fit")[found.trusted]
    reference = Reference(training.centre, training.embed("source_fit"), target)
    expected = SCORES.get("both_centres")()(training.embed("test"), reference)
    assert np.allclose(record.test, expected, rtol=1e-5)


def test_oracle_supervision_trusts_the_true_normals(records: dict[str, UnitRecord], backbone: str) -> None:
    record = records[trained(backbone, supervision="oracle").key]
    assert np.array_equal(record.trusted_fit, NORMAL[ROWS["target_fit"]]) and record.stage_a == {}


def test_one_training_without_target_serves_two_encoders(
    records: dict[str, UnitRecord], prepared: Prepared, backbone: str
) -> None:
    """Each unit's trusted set is found in its own encoder's features, though the embeddings are shared."""
    first = trained(backbone, alignment="none", score="knn")
    second = trained(backbone, alignment="none", score="knn", encoder=OTHER)
    keys = {Configuration.parse(member.configuration).embedding_key for member in (first, second)}
    assert len(keys) == 1
    for member, model in ((first, ENCODER), (second, OTHER)):
        configuration = Configuration.parse(member.configuration)
        assert configuration.clusterer is not None
        draws = generator("cluster", "s1", 0, configuration.trusted_key)
        expected = configuration.clusterer(by_hand(prepared, model, "target_fit"), draws)
        assert np.array_equal(records[member.key].trusted_fit, expected.trusted)


def test_seeds_differ_and_repeat(prepared: Prepared, backbone: str) -> None:
    first, second = trained(backbone, seed=1), trained(backbone, seed=2)
    one, again, other = (next(iter(run(prepared, [member]).values())) for member in (first, first, second))
    assert equal(one, again) and not np.array_equal(one.test, other.test)


def test_each_training_runs_once_and_says_its_epochs(
    prepared: Prepared, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    method = METHODS.get("cluster_align")
    real = method.start
    monkeypatch.setattr(method, "start", lambda self, inputs: started.append(1) or real(self, inputs))
    units = [trained(backbone, score=score) for score in SCORES.names()]
    group = GroupRun(prepared, units)
    assert [len(members) for members in group.bundles()] == [len(units)]
    steps = list(group.run(units))
    assert len(started) == 1 and [step.epoch for step in steps] == [1, 2] + [0] * len(units)
    assert all({"loss", "loss_dsvdd", "loss_align"} <= set(step.losses) for step in steps[:2])
    assert [len(step.finished) for step in steps] == [0, 0] + [1] * len(units)


SHARED: list[dict[str, Any]] = [
    {"alignment": "mmd"},
    {"alignment": "contrastive", "negatives": "ignore_band", "centre": "ema"},
    {"alignment": "positive", "centre": "refresh", "embedding_dim": 4},
    {"alignment": "none"},
]


def alone(prepared: Prepared, units: Sequence[Unit]) -> dict[str, UnitRecord]:
    """What each unit gives in a training of its own."""
    return {key: record for one in units for key, record in run(prepared, [one]).items()}


@pytest.mark.parametrize("values", SHARED)
def test_the_longest_training_serves_every_number_of_epochs(
    values: dict[str, Any], prepared: Prepared, backbone: str
) -> None:
    units = [
        trained(backbone, epochs=epochs, score=score, **values)
        for epochs in (2, 4, 1)
        for score in ("knn", "source_centre")
    ]
    expected = alone(prepared, units)
    group = GroupRun(prepared, units)
    assert len(group.bundles()) == 1
    steps = list(group.run(units))
    assert [step.epoch for step in steps if step.epoch] == [1, 2, 3, 4]
    found = {record.key: record for step in steps for record in step.finished}
    assert all(record.state == "done" for record in found.values())
    assert found.keys() == expected.keys() and all(equal(found[key], expected[key]) for key in expected)
    seconds = {len(record.epochs): record.seconds["train"] for record in found.values()}
    assert list(seconds) == [1, 2, 4] and sorted(seconds.values()) == list(seconds.values())


@pytest.mark.parametrize("values", [{"alignment": "grl"}, {"encoder": "backbone"}])
def test_epochs_that_depend_on_their_number_are_trained_apart(
    values: dict[str, Any], prepared: Prepared, backbone: str
) -> None:
    units = [trained(backbone, epochs=epochs, **values) for epochs in (1, 2)]
    assert GroupRun(prepared, units).bundles() == [[unit] for unit in units]
    found = run(prepared, units)
    first, second = (found[unit.key].epochs for unit in units)
    assert (len(first), len(second)) == (1, 2)


def test_a_training_goes_only_as_far_as_is_needed(prepared: Prepared, backbone: str) -> None:
    """The unit of more epochs has its record already."""
    short = trained(backbone, epochs=1)
    assert short.bundle == trained(backbone, epochs=4).bundle
    steps = list(GroupRun(prepared, [short]).run([short]))
    assert [step.epoch for step in steps] == [1, 0]


def test_a_failing_training_fails_its_own_units_alone(prepared: Prepared, backbone: str) -> None:
    broken = [trained(backbone, learning_rate=1e30, score=score) for score in ("knn", "source_centre")]
    too_many = unit(alignment="identity", clusterer="kmeans", k=31, score="knn")
    good = [trained(backbone), unit(alignment="identity", clusterer="all", score="knn")]
    found = run(prepared, [broken[0], good[0], too_many, broken[1], good[1]])
    assert len(found) == 5
    for member in good:
        assert found[member.key].state == "done"
    for member in broken:
        record = found[member.key]
        assert record.state == "failed" and record.test.size == 0 and record.epochs == []
        assert record.error is not None
        assert record.error.startswith("Traceback") and "NonFinite" in record.error
        assert record.config == member.configuration and record.normal_class == "3"
    error = found[too_many.key].error
    assert error is not None and "k = 31" in error


def test_a_failing_score_fails_its_unit_alone(
    prepared: Prepared, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, embeddings: np.ndarray, reference: Reference) -> np.ndarray:
        return np.full(len(embeddings), np.nan)

    monkeypatch.setattr(SCORES.get("knn"), "__call__", broken)
    bad, good = trained(backbone), trained(backbone, score="source_centre")
    found = run(prepared, [bad, good])
    assert found[good.key].state == "done"
    error = found[bad.key].error
    assert found[bad.key].state == "failed" and error is not None and "not all finite" in error


def test_interrupts_are_not_swallowed(
    prepared: Prepared, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: object, inputs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(METHODS.get("cluster_align"), "start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(prepared, [trained(backbone)])


def test_an_undefined_proxy_is_absent(prepared: Prepared, backbone: str) -> None:
    record = next(iter(run(prepared, [unit(alignment="identity", clusterer="all", score="knn")]).values()))
    assert "dominant_silhouette" not in record.stage_a, "one cluster has no silhouette"
    assert record.stage_a and canonical_json(record.stage_a)


def test_diagnostics_by_hand(records: dict[str, UnitRecord], prepared: Prepared) -> None:
    record = records[unit(alignment="identity", score="source_centre").key]
    sel = by_hand(prepared, ENCODER, "target_sel").astype(float)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(sel.T)), 0))
    share = values[values > 1e-9] / values.sum()
    rank = np.exp(-(share * np.log(share)).sum())
    assert record.diagnostics["effective_rank"] == pytest.approx(rank, rel=1e-3)
    distance = record.target_sel
    variation = distance.std() / distance.mean()
    assert record.diagnostics["score_variation"] == pytest.approx(variation, rel=1e-3)


def test_parts_are_all_there(prepared: Prepared, backbone: str) -> None:
    configuration = Configuration.parse(trained(backbone).configuration)
    arrays = prepared.setting_arrays("s1", configuration)
    assert set(arrays.features) == set(arrays.inputs) == set(PARTS)
    alone = Configuration.parse(trained(backbone, alignment="none", score="source_centre").configuration)
    assert prepared.setting_arrays("s1", alone).features == {}
    pseudo = prepared.arrays[ArrayName("features", ENCODER, "mnist", True)]
    assert np.array_equal(arrays.features["pseudo"].all(), pseudo[:10])
    assert replace(prepared, image_size=64).image_size == 64


def steps_of(prepared: Prepared, units: list[Unit], kept: Checkpoints, bundle: str = "b") -> list[Progress]:
    """A step for each epoch, and one with all records."""
    steps = list(GroupRun(prepared, units).run(in_bundle(units, bundle), kept))
    return [*(step for step in steps if step.epoch), Progress([r for step in steps for r in step.finished])]


def in_bundle(units: list[Unit], bundle: str = "b") -> list[Unit]:
    return [replace(one, bundle=bundle) for one in units]


def interrupt(prepared: Prepared, units: list[Unit], kept: Checkpoints, epoch: int) -> None:
    """Run until ``epoch`` is reported, as a worker does that is taken away then."""
    steps = GroupRun(prepared, units).run(in_bundle(units), kept)
    assert [next(steps).epoch for _ in range(epoch)] == list(range(1, epoch + 1))
    steps.close()  # type: ignore[attr-defined]


LONG: list[dict[str, Any]] = [
    {"alignment": "mmd"},
    {"alignment": "contrastive", "negatives": "ignore_band", "centre": "ema"},
    {"alignment": "positive", "centre": "refresh", "embedding_dim": 4},
    {"alignment": "mmd", "encoder": "backbone"},
    {"alignment": "none"},
]


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("values", LONG)
def test_an_interrupted_training_ends_like_an_uninterrupted_one(
    epoch: int, values: dict[str, Any], prepared: Prepared, backbone: str
) -> None:
    units = [trained(backbone, epochs=3, score=score, **values) for score in ("knn", "both_centres")]
    expected = run(prepared, units)
    kept = Kept()
    interrupt(prepared, units, kept, epoch)
    torch.manual_seed(epoch)
    steps = steps_of(prepared, units, kept)
    assert [step.epoch for step in steps] == [*range(epoch + 1, 4), 0]
    assert len(steps[-1].finished) == 2 and kept.loads == 2
    for record in steps[-1].finished:
        assert record.state == "done" and equal(record, expected[record.key])


@pytest.mark.parametrize(("last", "recorded"), [(1, 0), (2, 0), (2, 1), (3, 1)])
def test_an_interrupted_training_goes_on_for_the_units_that_are_left(
    last: int, recorded: int, prepared: Prepared, backbone: str
) -> None:
    """Taken away after epoch ``last``, before or after the record of the unit that ends at epoch 2."""
    units = [trained(backbone, epochs=epochs) for epochs in (2, 4)]
    expected, kept = alone(prepared, units), Kept()
    steps = GroupRun(prepared, units).run(in_bundle(units), kept)
    before = [next(steps) for _ in range(last + recorded)]
    steps.close()  # type: ignore[attr-defined]
    found = {record.key: record for step in before for record in step.finished}
    assert list(found) == [units[0].key][:recorded]
    left = [unit for unit in units if unit.key not in found]
    after = steps_of(prepared, left, kept)
    assert [step.epoch for step in after] == [*range(last + 1, 5), 0]
    found |= {record.key: record for record in after[-1].finished}
    assert found.keys() == expected.keys() and all(equal(found[key], expected[key]) for key in expected)


def test_a_checkpoint_behind_the_end_of_a_unit_is_not_used(prepared: Prepared, backbone: str) -> None:
    """As where the record of the shorter unit was removed, so that it runs again."""
    short, long = trained(backbone, epochs=1), trained(backbone, epochs=4)
    expected, kept = alone(prepared, [short, long]), Kept()
    interrupt(prepared, [long], kept, 2)
    steps = steps_of(prepared, [long, short], kept)
    assert [step.epoch for step in steps] == [1, 2, 3, 4, 0]
    assert all(equal(record, expected[record.key]) for record in steps[-1].finished)


def test_nothing_is_saved_once_every_unit_has_its_record(prepared: Prepared, backbone: str) -> None:
    units, kept = [trained(backbone, epochs=epochs) for epochs in (1, 2)], Kept(lambda: False)
    steps = GroupRun(prepared, units).run(units, kept)
    assert [len(next(steps).finished) for _ in range(4)] == [0, 1, 0, 1]
    steps.close()  # type: ignore[attr-defined]
    assert not kept.files


def test_an_exception_between_epochs_loses_that_epoch_alone(
    prepared: Prepared, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, kept = trained(backbone, epochs=3), Kept()
    expected = run(prepared, [member])[member.key]
    real, calls = ALIGNMENTS.get("mmd").__call__, []

    def die(self: object, batch: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        found: torch.Tensor = real(self, batch)
        return found

    monkeypatch.setattr(ALIGNMENTS.get("mmd"), "__call__", die)
    with pytest.raises(KeyboardInterrupt):
        steps_of(prepared, [member], kept)
    monkeypatch.undo()
    assert unpack(kept.files["b"])[1]["losses"] == [
        {name: value for name, value in entry.items() if name != "epoch"} for entry in expected.epochs[:2]
    ]
    steps = steps_of(prepared, [member], kept)
    assert [step.epoch for step in steps] == [3, 0] and equal(steps[-1].finished[0], expected)


def test_seconds_before_the_interruption_count(prepared: Prepared, backbone: str) -> None:
    member, kept = trained(backbone, epochs=2), Kept()
    interrupt(prepared, [member], kept, 1)
    state, progress = unpack(kept.files["b"])
    assert 0 < progress["seconds"] < 60
    kept.files["b"] = pack(state, {**progress, "seconds": 5000.0})
    record = steps_of(prepared, [member], kept)[-1].finished[0]
    assert 5000 < record.seconds["train"] < 5060


def other_training(prepared: Prepared, backbone: str, content: bytes) -> bytes:
    member, kept = trained(backbone, epochs=3, embedding_dim=4), Kept()
    interrupt(prepared, [member], kept, 2)
    return kept.files["b"]


def other_names(prepared: Prepared, backbone: str, content: bytes) -> bytes:
    state, progress = unpack(content)
    return pack({f"x{name}": value for name, value in state.items()}, progress)


@pytest.mark.parametrize(
    "damage",
    [
        lambda prepared, backbone, content: content[:-1],
        lambda prepared, backbone, content: b"",
        lambda prepared, backbone, content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
        other_training,
        other_names,
    ],
    ids=["truncated", "empty", "flipped", "of another training", "of other names"],
)
def test_a_damaged_checkpoint_is_ignored_and_the_training_starts_anew(
    damage: Callable[[Prepared, str, bytes], bytes],
    prepared: Prepared,
    backbone: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    member, kept = trained(backbone, epochs=3), Kept()
    interrupt(prepared, [member], kept, 2)
    kept.files["b"] = damage(prepared, backbone, kept.files["b"])
    steps = steps_of(prepared, [member], kept)
    assert [step.epoch for step in steps] == [1, 2, 3, 0]
    assert equal(steps[-1].finished[0], run(prepared, [member])[member.key])
    assert "checkpoint b is not used" in caplog.text


def test_a_place_that_fails_costs_the_checkpoint_and_not_the_training(
    prepared: Prepared, backbone: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Kept):
        def load(self, bundle: str) -> bytes | None:
            raise OSError("the store is away")

        def save(self, bundle: str, content: bytes) -> None:
            raise OSError("no space left on device")

    member = trained(backbone, epochs=3)
    steps = steps_of(prepared, [member], Broken())
    assert equal(steps[-1].finished[0], run(prepared, [member])[member.key])
    assert "the store is away" in caplog.text and caplog.text.count("no space left") == 2


def test_a_training_is_saved_when_due_and_never_after_its_last_epoch(
    prepared: Prepared, backbone: str
) -> None:
    now = 0.0
    pace = Pace(60, clock=lambda: now)
    saved: list[tuple[str, int]] = []

    class Timed(Kept):
        def save(self, bundle: str, content: bytes) -> None:
            saved.append((bundle, len(unpack(content)[1]["losses"])))
            pace.restart()

    members = [trained(backbone, epochs=6, score=score) for score in ("knn", "both_centres")]
    for step in GroupRun(prepared, members).run(members, Timed(pace.due)):
        del step
        now += 25
    assert saved == [(members[0].bundle, 4)], "due at 75 s; the sixth epoch needs no checkpoint"


def test_a_frozen_configuration_has_no_checkpoint(prepared: Prepared) -> None:
    kept = Kept()
    steps = steps_of(prepared, [unit(alignment="identity", score="source_centre")], kept)
    assert steps[-1].finished[0].state == "done" and kept.loads == 0 and not kept.files


class Memory:
    """A device that holds ``limit`` source images a step; from step ``full_from`` on, where given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int, full_from: int = 1) -> None:
        self.starts: list[int] = []
        self.trainings: list[weakref.ref[Training]] = []
        alive: list[int] = []
        self.alive_at_start = alive
        alignment, method = ALIGNMENTS.get("mmd"), METHODS.get("cluster_align")
        loss, begin, steps = alignment.__call__, method.start, [0]

        def align(own: object, batch: Any) -> torch.Tensor:
            steps[0] += 1
            if len(batch.source) > limit and steps[0] >= full_from:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            found: torch.Tensor = loss(own, batch)
            return found

        def start(own: Any, inputs: TrainingInputs) -> Training:
            alive.append(sum(training() is not None for training in self.trainings))
            training: Training = begin(own, inputs)
            self.starts.append(own.batch_size)
            self.trainings.append(weakref.ref(training))
            return training

        monkeypatch.setattr(alignment, "__call__", align)
        monkeypatch.setattr(method, "start", start)


@pytest.mark.parametrize("full_from", [1, 4, 6])
@pytest.mark.parametrize("encoder", [ENCODER, "backbone"])
def test_a_full_device_halves_the_batch_once(
    full_from: int, encoder: str, prepared: Prepared, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the start, whatever the larger batch had trained and saved: one training, one batch size."""
    units = [trained(backbone, encoder=encoder, score=score) for score in ("knn", "both_centres")]
    by_half = [replace(member, configuration={**member.configuration, "batch_size": 4}) for member in units]
    # The clusterer of the backbone's own space is seeded by the whole configuration.
    comparable = encoder != "backbone"
    expected = run(prepared, by_half)
    memory, kept = Memory(monkeypatch, 4, full_from), Kept()
    finished = steps_of(prepared, units, kept)[-1].finished
    assert memory.starts == [8, 4] and memory.alive_at_start == [0, 0], "the failed training is freed"
    for record, member in zip(finished, units, strict=True):
        assert (record.state, record.batch_size) == ("done", 4) and record.config == member.configuration
        assert not comparable or np.array_equal(record.test, expected[record.key].test)
        assert not comparable or record.epochs == expected[record.key].epochs


def test_a_full_device_costs_no_unit_that_had_ended(
    prepared: Prepared, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = [trained(backbone, epochs=epochs) for epochs in (1, 3)]
    expected = alone(prepared, units)
    memory = Memory(monkeypatch, 4, full_from=4)
    found = run(prepared, units)
    assert memory.starts == [8, 4]
    assert [found[unit.key].batch_size for unit in units] == [None, 4]
    assert equal(found[units[0].key], expected[units[0].key])


def test_a_second_time_is_a_failure(
    prepared: Prepared, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(monkeypatch, 1)
    sizes = {8: [8, 4], 3: [3, 2], 2: [2]}
    for size, starts in sizes.items():
        memory.starts.clear()
        member = trained(backbone, batch_size=size)
        record = run(prepared, [member])[member.key]
        assert memory.starts == starts and record.state == "failed"
        assert record.batch_size == (starts[1] if len(starts) == 2 else None)
        assert record.error is not None and "OutOfMemoryError: CUDA out of memory" in record.error


def test_units_that_fit_have_no_batch_size_of_their_own(records: dict[str, UnitRecord]) -> None:
    assert {record.batch_size for record in records.values()} == {None}


def test_a_halved_training_goes_on_at_half(
    prepared: Prepared, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted, it ends at the batch size it began with, even on a device that could hold more."""
    member, kept = trained(backbone, epochs=3), Kept()
    with monkeypatch.context() as full:
        Memory(full, 4)
        expected = run(prepared, [member])[member.key]
        interrupt(prepared, [member], kept, 2)
    steps = steps_of(prepared, [member], kept)
    assert [step.epoch for step in steps] == [3, 0]
    assert expected.batch_size == 4 and equal(steps[-1].finished[0], expected)


@pytest.mark.parametrize("encoder", [ENCODER, "backbone"])
def test_a_halved_training_is_repeated_where_there_is_room(
    encoder: str, prepared: Prepared, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is behind the scores, the trained part of the backbone included, is there to be kept."""
    member = trained(backbone, encoder=encoder)
    with monkeypatch.context() as full:
        Memory(full, 4)
        expected = run(prepared, [member])[member.key]
    kept: list[tuple[Embedded, Assignment | None]] = []
    group = GroupRun(prepared, [member], lambda *found: kept.append(found))
    (record,) = list(group.run([member], batch_size=4))[-1].finished
    assert record.batch_size == 4 and equal(record, expected)
    ((embedded, assignment),) = kept
    configuration = Configuration.parse(member.configuration)
    assert np.array_equal(anomaly_scores(configuration, embedded, assignment)["test"], record.test)
    inputs = prepared.setting_arrays("s1", configuration).inputs["test"].all()
    assert embedded.tail is not None
    with torch.inference_mode():
        again = embedded.tail(torch.from_numpy(inputs)).numpy()
    assert np.allclose(again, embedded.parts["test"], atol=1e-6)


@pytest.mark.parametrize(("n", "e"), [(9, 30), (30, 9), (12, 12)])
def test_diagnostics_are_those_of_the_singular_values(n: int, e: int) -> None:
    embeddings = np.random.default_rng(0).normal(size=(n, e)).astype(np.float32)
    centre = embeddings.mean(axis=0) + 0.1
    values = np.linalg.svd(embeddings - embeddings.mean(axis=0), compute_uv=False)
    share = values / values.sum()
    entropy = -sum(p * np.log(p) for p in share if p > 0)
    distances = [float(((row - centre) ** 2).sum()) for row in embeddings]
    found = diagnose(embeddings, centre, "_x")
    assert found["effective_rank_x"] == pytest.approx(np.exp(entropy), rel=1e-4)
    assert found["score_variation_x"] == pytest.approx(np.std(distances) / np.mean(distances), rel=1e-4)
