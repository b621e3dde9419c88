"""What a training promises, over the registry, on a tiny network with random weights in a local file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm
import torch

from trainables.alignments.base import ALIGNMENTS, Batch
from trainables.backbones.base import build_backbone
from trainables.clusterers.base import CLUSTERERS, trusted_assignment
from trainables.errors import NonFinite, TwofoldError
from trainables.methods.base import METHODS, PARTS, Part, Rows, SettingArrays, Training, TrainingInputs
from trainables.methods.cluster_align import _draw, _Training
from trainables.scores.base import SCORES, Reference
from trainables.seeding import generator
from trainables.types import Assignment

NAMES = METHODS.names()
ALIGNED = [name for name in ALIGNMENTS.names() if ALIGNMENTS.get(name).trains]
FINETUNED = ("full", "last_stage", "head")
SIZE = 32
COUNTS: dict[Part, int] = {
    "source_fit": 14, "source_val": 4, "target_fit": 12, "target_sel": 5, "pseudo": 5, "test": 6,
}  # fmt: skip
TRUSTED = np.arange(12) < 8


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a small residual network with BatchNorm and random weights."""
    file = tmp_path_factory.mktemp("checkpoints") / "test_resnet.pt"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        torch.save(timm.create_model("test_resnet").state_dict(), file)
    return f"timm:test_resnet/{file}"


def pictures(part: Part) -> np.ndarray:
    """Grey noise in both domains; the target is brighter, and its anomalies have stripes."""
    draws = np.random.default_rng(PARTS.index(part))
    images = draws.integers(0, 120, size=(COUNTS[part], SIZE, SIZE, 3))
    if not part.startswith("source"):
        images[:] += 60
    if part == "target_fit":
        images[~TRUSTED, ::4] = 255
    return images.astype(np.uint8)


def inputs(
    alignment: str = "mmd",
    finetune: str = "full",
    backbone: str = "",
    change: Callable[[Part, np.ndarray], np.ndarray] | None = None,
    **values: Any,
) -> TrainingInputs:
    arrays: dict[Part, np.ndarray] = {part: pictures(part) for part in PARTS}
    if finetune != "full":
        trunk = build_backbone(backbone, finetune, None, SIZE, seed=0).trunk  # type: ignore[arg-type]
        with torch.inference_mode():
            arrays = {part: trunk(torch.from_numpy(x)).numpy() for part, x in arrays.items()}
    if change is not None:
        arrays = {part: change(part, x) for part, x in arrays.items()}
    # Rows stand in another order, among others that are not theirs.
    rows = {
        part: Rows(np.concatenate([x[:2], x[::-1]]), np.arange(len(x) + 1, 1, -1))
        for part, x in arrays.items()
    }
    features = {part: Rows(x.reshape(len(x), -1)[:, :8].astype(np.float32), np.arange(len(x)))
                for part, x in arrays.items()}  # fmt: skip
    assignment = trusted_assignment(features["target_fit"].all(), TRUSTED)
    return TrainingInputs(
        arrays=SettingArrays(features=features, inputs=rows),
        assignment=assignment,
        recluster=None,
        alignment=ALIGNMENTS.get(alignment)(**values),
        purpose="contract",
        seed=0,
        image_size=SIZE,
    )


def start(backbone: str, given: TrainingInputs | None = None, **values: Any) -> Training:
    values = {"finetune": "full", "batch_size": 6, "learning_rate": 1e-3, **values}
    training: Training = METHODS.get("cluster_align")(backbone=backbone, **values).start(given or inputs())
    return training


def fit(training: Training, epochs: int = 2) -> list[dict[str, float]]:
    return [training.fit_epoch() for _ in range(epochs)]


def test_rows_are_read_by_their_index() -> None:
    rows = Rows(np.arange(20).reshape(10, 2), np.array([7, 3, 5]))
    assert len(rows) == 3
    assert rows.all().tolist() == [[14, 15], [6, 7], [10, 11]]
    assert rows.take(np.array([2, 0])).tolist() == [[10, 11], [14, 15]]
    assert rows.take(slice(1, 9)).tolist() == [[6, 7], [10, 11]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alignment", ALIGNED)
@pytest.mark.parametrize("finetune", FINETUNED)
def test_same_seed_same_weights_whatever_ran_before(
    name: str, alignment: str, finetune: str, backbone: str
) -> None:
    given = inputs(alignment, finetune, backbone)
    values = {"backbone": backbone, "finetune": finetune, "batch_size": 6}

    def train(seed: int) -> tuple[list[dict[str, float]], np.ndarray, np.ndarray]:
        training = METHODS.get(name)(**values).start(replace(given, seed=seed))
        return fit(training), training.embed("test"), training.centre

    torch.manual_seed(123)
    first = train(0)
    torch.rand(7)
    np.random.default_rng(1).random(3)
    second, other = train(0), train(1)
    assert first[0] == second[0] != other[0]
    assert np.array_equal(first[1], second[1]) and np.array_equal(first[2], second[2])
    assert not np.array_equal(first[1], other[1])
    for losses in first[0]:
        assert {"loss", "loss_dsvdd", "loss_align"} <= set(losses)
        assert all(type(value) is float and np.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("alignment", ["mmd", "positive", "contrastive"])
def test_loss_falls_and_its_terms_add_up(alignment: str, backbone: str) -> None:
    training = start(backbone, inputs(alignment), lambda_dsvdd=0.5, lambda_align=2.0)
    losses = fit(training, 6)
    assert losses[-1]["loss"] < 0.9 * losses[0]["loss"]
    for epoch in losses:
        assert epoch["loss"] == pytest.approx(0.5 * epoch["loss_dsvdd"] + 2 * epoch["loss_align"], rel=1e-5)


def test_embeddings_have_unit_length_and_one_row_an_image(backbone: str) -> None:
    training = start(backbone)
    fit(training, 1)
    for part in PARTS:
        embeddings = training.embed(part)
        assert embeddings.shape[0] == COUNTS[part] and embeddings.dtype == np.float32
        assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert start(backbone, embedding_dim=3).embed("test").shape == (6, 3)


def test_embeddings_are_those_of_the_backbone_in_order(backbone: str) -> None:
    reference = build_backbone(backbone, "full", None, SIZE, seed=0).tail
    with torch.inference_mode():
        expected = reference(torch.from_numpy(pictures("test"))).numpy()
        source = reference(torch.from_numpy(pictures("source_fit"))).numpy()
    training = start(backbone)
    assert np.allclose(training.embed("test"), expected, atol=1e-5)
    assert np.allclose(training.centre, source.mean(axis=0), atol=1e-5)


def test_many_images_are_embedded_in_blocks(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    training = start(backbone)
    whole = training.embed("target_fit")
    monkeypatch.setattr("trainables.methods.cluster_align.EMBED_BATCH", 5)
    assert np.allclose(training.embed("target_fit"), whole, atol=1e-6)


def test_batch_norm_statistics_stay_and_weights_move(backbone: str) -> None:
    training = start(backbone)
    assert isinstance(training, _Training)
    state = {name: value.clone() for name, value in training._tail.state_dict().items()}
    fit(training, 2)
    after = training._tail.state_dict()
    statistics = [name for name in state if "running" in name or "num_batches" in name]
    assert statistics
    assert all(torch.equal(state[name], after[name]) for name in statistics)
    assert any(not torch.equal(state[name], after[name]) for name in state)
    assert not any(module.training for module in training._tail.modules())


def test_embedding_does_not_change_a_training(backbone: str) -> None:
    plain, watched = start(backbone), start(backbone)
    losses = fit(plain, 2)
    watched.embed("test")
    first = watched.fit_epoch()
    watched.embed("pseudo")
    assert [first, watched.fit_epoch()] == losses


@pytest.mark.parametrize("centre", ["fixed", "ema", "refresh"])
def test_how_the_centre_moves(centre: str, backbone: str) -> None:
    training = start(backbone, centre=centre)
    initial = training.centre
    training.fit_epoch()
    assert np.array_equal(training.centre, initial), "the first epoch starts from the initial centre"
    mean = training.embed("source_fit").mean(axis=0)
    training.fit_epoch()
    expected = {"fixed": initial, "ema": 0.9 * initial + 0.1 * mean, "refresh": mean}[centre]
    assert np.allclose(training.centre, expected, atol=1e-6)
    assert centre == "fixed" or not np.allclose(training.centre, initial, atol=1e-4)


def test_fixed_centre_does_not_collapse(backbone: str) -> None:
    """A constant map has effective rank 1; the embeddings must keep more than one direction."""
    training = start(backbone, inputs("none"), learning_rate=3e-3)
    before = effective_rank(training.embed("source_fit"))
    losses = fit(training, 15)
    assert losses[-1]["loss"] < 0.5 * losses[0]["loss"]
    assert effective_rank(training.embed("source_fit")) > max(2, 0.4 * before)


def effective_rank(embeddings: np.ndarray) -> float:
    values = np.linalg.svd(embeddings - embeddings.mean(axis=0), compute_uv=False)
    share = values / values.sum()
    return float(np.exp(-sum(p * np.log(p) for p in share if p > 0)))


@pytest.mark.parametrize("alignment", ["mmd", "positive", "contrastive"])
def test_without_weight_an_alignment_is_none(alignment: str, backbone: str) -> None:
    weightless = start(backbone, inputs(alignment), lambda_align=0)
    alone = start(backbone, inputs("none"))
    for left, right in zip(fit(weightless), fit(alone), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
    assert np.allclose(weightless.embed("test"), alone.embed("test"), atol=1e-4)


def test_without_alignment_the_target_is_not_looked_at(backbone: str) -> None:
    def garble(part: Part, images: np.ndarray) -> np.ndarray:
        return images if part.startswith("source") else 255 - images

    first = start(backbone, inputs("none"))
    second = start(backbone, replace(inputs("none", change=garble), assignment=None))
    assert fit(first) == fit(second)
    assert np.array_equal(first.embed("source_val"), second.embed("source_val"))


def test_alignment_brings_the_domains_together(backbone: str) -> None:
    def gap(training: Training) -> float:
        target = training.embed("target_fit")[TRUSTED].mean(axis=0)
        return float(np.linalg.norm(training.embed("source_fit").mean(axis=0) - target))

    for alignment in ("mmd", "positive"):
        training = start(backbone, inputs(alignment))
        before = gap(training)
        fit(training, 5)
        assert gap(training) < 0.7 * before


@pytest.mark.parametrize("part", ["source_fit", "target_fit"])
def test_non_finite_input_names_the_epoch(part: Part, backbone: str) -> None:
    def spoil(name: Part, values: np.ndarray) -> np.ndarray:
        return np.full_like(values, np.nan) if name == part else values

    given = inputs("mmd", "head", backbone, change=spoil)
    with pytest.raises(NonFinite, match=r"epoch \d"):
        fit(start(backbone, given, finetune="head"), 1)


def test_divergence_names_the_epoch_and_the_remedy(backbone: str) -> None:
    training = start(backbone, learning_rate=1e30)
    with pytest.raises(NonFinite, match=r"epoch 1.*lower learning_rate"):
        fit(training, 3)


def test_non_finite_loss_is_caught_before_the_step(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    training = start(backbone, inputs("positive"))
    assert isinstance(training, _Training)
    before = [p.detach().clone() for p in training._tail.parameters()]
    broken = type(training._inputs.alignment)
    monkeypatch.setattr(broken, "__call__", lambda self, batch: batch.source.sum() * float("nan"))
    with pytest.raises(NonFinite, match="loss is nan in epoch 1"):
        training.fit_epoch()
    assert all(torch.equal(a, b) for a, b in zip(before, training._tail.parameters(), strict=True))


@pytest.mark.parametrize("negatives", ["non_dominant", "both", "ignore_band"])
def test_a_batch_without_negatives_never_reaches_the_loss(negatives: str, backbone: str) -> None:
    given = inputs("contrastive", negatives=negatives)
    everyone = trusted_assignment(given.arrays.features["target_fit"].all(), np.ones(12, dtype=bool))
    with pytest.raises(TwofoldError, match=r"outside the trusted set.*in_batch"):
        start(backbone, replace(given, assignment=everyone)).fit_epoch()
    # A single image outside is drawn again and again.
    one = trusted_assignment(given.arrays.features["target_fit"].all(), np.arange(12) < 11)
    assert start(backbone, replace(given, assignment=one)).fit_epoch()["loss_align"] > 0


def test_batches_hold_every_source_image_once_and_the_right_target(backbone: str) -> None:
    training = start(backbone, inputs("contrastive"))
    assert isinstance(training, _Training)
    batches = training._batches(generator("test"))
    source = np.concatenate([batch[0] for batch in batches])
    assert np.array_equal(np.sort(source), np.arange(14)) and len(batches) == 3
    for rows, trusted, negatives in batches:
        assert 4 <= len(rows) <= 6 and len(trusted) == len(negatives) == 6
        assert TRUSTED[trusted].all() and not TRUSTED[negatives].any()
    drawn = np.concatenate([batch[1] for batch in batches])
    assert set(drawn) == set(np.flatnonzero(TRUSTED))


def test_tiled_negatives_are_those_of_the_trusted_images(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pushed-away embedding is that of a tiled image at the position of a trusted one."""
    given = inputs("bce", "full", backbone)
    tiles = np.random.default_rng(9).integers(0, 255, size=(12, SIZE, SIZE, 3)).astype(np.uint8)
    rows = {**given.arrays.inputs, "tiled": Rows(tiles, np.arange(12)[::-1])}
    given = replace(given, arrays=replace(given.arrays, inputs=rows), negatives="tiled", negative_weight=3.0)
    seen: list[Batch] = []
    loss = type(given.alignment).__call__
    monkeypatch.setattr(
        type(given.alignment), "__call__", lambda self, batch: seen.append(batch) or loss(self, batch)
    )
    training = start(backbone, given, learning_rate=1e-12)
    fit(training, 1)
    tail = build_backbone(backbone, "full", None, SIZE, seed=0).tail
    tail.load_state_dict(training.tail.state_dict())
    with torch.inference_mode():
        expected = tail(torch.from_numpy(tiles[::-1][:8].copy()))  # TRUSTED are the first 8
    assert seen and all(batch.negative_weight == 3.0 for batch in seen)
    for negative in torch.cat([batch.negatives for batch in seen]).detach():
        assert (expected - negative).abs().amax(dim=1).min() < 1e-4


@pytest.mark.parametrize("alignment", ["grl", "mmd"])
def test_progress_grows_from_step_to_step_for_who_uses_it(
    alignment: str, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(alignment, "full", backbone)
    seen: list[float] = []
    loss = type(given.alignment).__call__
    monkeypatch.setattr(
        type(given.alignment),
        "__call__",
        lambda self, batch: seen.append(batch.progress) or loss(self, batch),
    )
    training = start(backbone, given, epochs=2)
    fit(training, 2)
    expected = [i / len(seen) if alignment == "grl" else 0.0 for i in range(len(seen))]
    assert len(seen) == 6 and seen == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alignment", ALIGNED)
def test_a_training_is_the_beginning_of_a_longer_one_unless_it_says_otherwise(
    name: str, alignment: str, backbone: str
) -> None:
    given, values = inputs(alignment, "head", backbone), {"backbone": backbone, "finetune": "head"}
    short, long = (METHODS.get(name)(epochs=n, batch_size=6, **values).start(given) for n in (2, 5))
    same = fit(short) == fit(long) and np.array_equal(short.embed("test"), long.embed("test"))
    assert same or METHODS.get(name).uses_progress or given.alignment.uses_progress


def test_the_domain_classifier_learns_and_is_kept_in_the_state(backbone: str) -> None:
    training = start(backbone, inputs("grl", "full", backbone))
    first = training.state()
    fit(training, 1)
    second = training.state()
    learned = [name for name in first if name.startswith("critic.")]
    assert learned and all(not torch.equal(first[name], second[name]) for name in learned)
    assert {f"adam.exp_avg.{name}" for name in learned} <= set(second)
    assert not any("critic" in name for name, _ in training.tail.named_parameters())


@pytest.mark.parametrize("alignment", ["contrastive", "mmd", "none"])
def test_diagnostics_are_of_the_epoch(alignment: str, backbone: str) -> None:
    epochs = fit(start(backbone, inputs(alignment, "full", backbone)), 2)
    for found in epochs:
        assert ("negatives_inside" in found) == (alignment == "contrastive")
        assert 1 <= found["effective_rank"] <= 128 and found["score_spread"] >= 0
    assert epochs[0]["effective_rank"] != epochs[1]["effective_rank"]


@pytest.mark.parametrize(("pool", "steps", "size"), [(3, 4, 5), (20, 2, 5), (1, 3, 2), (10, 2, 5)])
def test_draws_use_every_member_before_any_comes_again(pool: int, steps: int, size: int) -> None:
    members = np.arange(pool) + 100
    batches = _draw(members, steps, size, generator("draw"))
    assert [len(batch) for batch in batches] == [size] * steps
    counts = np.bincount(np.concatenate(batches) - 100, minlength=pool)
    assert counts.max() - counts.min() <= 1
    assert _draw(members[:0], 2, 5, generator("draw"))[1].size == 0


def test_reclustering_starts_with_the_second_epoch_in_the_backbones_space(backbone: str) -> None:
    seen: list[np.ndarray] = []

    def recluster(embeddings: np.ndarray) -> Assignment:
        seen.append(embeddings)
        return kmeans_again(embeddings)

    training = start(backbone, replace(inputs("contrastive"), recluster=recluster))
    initial = training.assignment
    training.fit_epoch()
    assert training.assignment is initial and not seen
    expected = training.embed("target_fit")
    training.fit_epoch()
    assert len(seen) == 1 and np.array_equal(seen[0], expected)
    assert training.assignment is not None and training.assignment is not initial


def kmeans_again(embeddings: np.ndarray) -> Assignment:
    found: Assignment = CLUSTERERS.get("kmeans")(k=2)(embeddings, generator("recluster"))
    return found


def outcome(training: Training) -> dict[str, np.ndarray]:
    """Everything a training gives, bit for bit."""
    found: dict[str, np.ndarray] = {part: training.embed(part) for part in PARTS}
    found["centre"] = training.centre
    if training.assignment is not None:
        found.update({f"assignment.{name}": value for name, value in vars(training.assignment).items()})
        trusted = training.embed("target_fit")[training.assignment.trusted]
        reference = Reference(training.centre, training.embed("source_fit"), trusted)
        found.update({name: SCORES.get(name)()(training.embed("test"), reference) for name in SCORES.names()})
    return found


def assert_same_bits(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype and value.tobytes() == right[name].tobytes(), name


INTERRUPTED: list[tuple[str, dict[str, Any], bool]] = [
    *((alignment, {"finetune": tuned}, False) for alignment in ALIGNED for tuned in FINETUNED),
    *(("positive", {"finetune": "last_stage", "centre": centre}, False) for centre in ("ema", "refresh")),
    ("mmd", {"embedding_dim": 3}, False),
    *(("contrastive", {"centre": centre}, True) for centre in ("fixed", "ema", "refresh")),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("alignment", "values", "reclusters"), INTERRUPTED)
def test_an_interrupted_training_goes_on_to_the_same_bits(
    name: str, alignment: str, values: dict[str, Any], reclusters: bool, backbone: str
) -> None:
    given = inputs(alignment, values.get("finetune", "full"), backbone)
    given = replace(given, recluster=kmeans_again if reclusters else None)
    given = replace(given, assignment=None) if alignment == "none" else given
    arguments = {"backbone": backbone, "finetune": "full", "batch_size": 6, "learning_rate": 1e-3, **values}

    def begin() -> Training:
        training: Training = METHODS.get(name)(**arguments).start(given)
        return training

    whole = begin()
    states, losses = [whole.state()], []
    for _ in range(3):
        losses.append(whole.fit_epoch())
        states.append(whole.state())
    expected = outcome(whole)
    assert all(v.is_contiguous() and v.device.type == "cpu" for state in states for v in state.values())
    for epoch in range(4):
        torch.manual_seed(epoch)
        anew = begin()
        torch.rand(5)
        anew.restore(states[epoch], epoch)
        assert fit(anew, 3 - epoch) == losses[epoch:]
        assert_same_bits(outcome(anew), expected)
        again = anew.state()
        assert again.keys() == states[3].keys()
        assert all(torch.equal(again[key], states[3][key]) for key in again)


def test_states_are_copies_and_differ_from_epoch_to_epoch(backbone: str) -> None:
    training = start(backbone, replace(inputs("contrastive"), recluster=kmeans_again), centre="ema")
    training.fit_epoch()
    state = training.state()
    kept = {name: value.clone() for name, value in state.items()}
    training.fit_epoch()
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    changed = {
        name.split(".")[0] for name, value in training.state().items() if not torch.equal(value, kept[name])
    }
    assert {"tail", "adam", "centre", "assignment"} <= changed
    anew = start(backbone, inputs("contrastive"))
    anew.restore(state, 1)
    anew.fit_epoch()
    assert all(torch.equal(state[name], kept[name]) for name in kept), "a restored training shares no memory"


@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_another_training_is_refused_and_changes_nothing(name: str, backbone: str) -> None:
    given = inputs("mmd")

    def begin(**values: Any) -> Training:
        training: Training = METHODS.get(name)(backbone=backbone, **{"finetune": "full", **values}).start(
            given
        )
        return training

    trained, training = begin(), begin()
    trained.fit_epoch()
    state, before = trained.state(), training.state()
    head = METHODS.get(name)(backbone=backbone, finetune="head").start(inputs("mmd", "head", backbone))
    wrong = [begin(embedding_dim=3).state(), head.state(), {}]
    wrong += [{key: value for key, value in state.items() if key != missing} for missing in state]
    wrong += [{**state, key: torch.zeros(2, 7)} for key in state if key != "assignment.centre"]
    wrong.append({**state, "unknown": torch.zeros(1)})
    for other in wrong:
        with pytest.raises(ValueError, match="this training has"):
            training.restore(other, 1)
    after = training.state()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in after)


@pytest.mark.parametrize("name", NAMES)
def test_trainings_in_one_process_do_not_disturb_each_other(
    name: str, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where a loss draws from torch's global generator, as dropout would."""
    given = inputs("positive")
    real = type(given.alignment).__call__
    noisy = lambda self, batch: real(self, batch) * (1 + torch.rand(()))  # noqa: E731
    monkeypatch.setattr(type(given.alignment), "__call__", noisy)

    def begin(seed: int) -> Training:
        torch.manual_seed(7 * seed)
        method = METHODS.get(name)(backbone=backbone, finetune="full", batch_size=6)
        training: Training = method.start(replace(given, seed=seed))
        return training

    alone = [fit(begin(seed)) for seed in (0, 1)]
    first, second = begin(0), begin(1)
    torch.rand(3)
    before = torch.get_rng_state()
    woven = [(first.fit_epoch(), second.fit_epoch()) for _ in range(2)]
    assert [list(losses) for losses in zip(*woven, strict=True)] == alone
    assert torch.equal(torch.get_rng_state(), before), "a training leaves the global generator as it was"
    assert alone[0][0] != alone[0][1] != alone[1][1]


def test_small_source_and_odd_batches(backbone: str) -> None:
    def two(part: Part, images: np.ndarray) -> np.ndarray:
        return images[:3] if part == "source_fit" else images

    for negatives in ("non_dominant", "in_batch", "both"):
        given = inputs("contrastive", change=two, negatives=negatives)
        losses = fit(start(backbone, given, batch_size=2), 1)[0]
        assert losses["loss_align"] > 0


def test_embedded_network_trains_on_its_last_stage() -> None:
    given = inputs("positive", "last_stage", "efficientnet_lite0")
    training = start("efficientnet_lite0", given, finetune="last_stage", batch_size=8)
    losses = fit(training, 3)
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert training.embed("test").shape == (6, 1280)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_out_of_range_are_refused(name: str) -> None:
    for field in ("epochs", "learning_rate", "batch_size", "lambda_align", "lambda_dsvdd"):
        for value in (-1, float("nan"), float("inf"), "much"):
            with pytest.raises(ValueError, match=field):
                METHODS.get(name)(**{field: value})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("finetune", ["full", "last_stage"])
def test_bfloat16_follows_float32(name: str, finetune: str, backbone: str) -> None:
    """Eight bits of precision in the forward pass: near, not equal; what is kept is float32."""
    given = inputs("mmd", finetune, backbone)
    exact, reduced = (start(backbone, given, finetune=finetune, precision=p) for p in ("float32", "bfloat16"))
    for one, other in zip(fit(exact), fit(reduced), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.1)
        assert one["loss"] != other["loss"]
    assert {str(value.dtype) for value in reduced.state().values() if value.is_floating_point()} == {
        "torch.float32"
    }
    embeddings = reduced.embed("test")
    assert embeddings.dtype == np.float32
    assert ((embeddings * exact.embed("test")).sum(axis=1) > 0.99).all()
