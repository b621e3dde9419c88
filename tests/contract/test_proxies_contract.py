"""What every registered proxy must do; a new one is found in the registry and tested without an edit here."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from orchestrator.proxies.base import (
    PROXIES,
    FeatureEvidence,
    Proxy,
    ScoreEvidence,
    check_objective,
    evaluate,
)
from trainables.clusterers.base import CLUSTERERS, trusted_assignment
from trainables.errors import TwofoldError, UndefinedScore, UnknownName
from trainables.types import Assignment

NAMES = PROXIES.names()
STAGE_A = [name for name in NAMES if PROXIES.get(name).stage == "A"]
STAGE_B = [name for name in NAMES if PROXIES.get(name).stage == "B"]
CONTROLS = {name for name in NAMES if PROXIES.get(name).is_control}
Evidence = FeatureEvidence | ScoreEvidence


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Hundreds of tiny clusterings are slowed tenfold by threads that wait for each other."""
    with threadpool_limits(1):
        yield


def proxy(name: str) -> Proxy:
    built: Proxy = PROXIES.get(name)()
    return built


def blobs(counts: list[int], rng: np.random.Generator, noise: float = 0.1) -> np.ndarray:
    """counts[k] unit rows around the k-th axis of a 30-dimensional space."""
    axes = np.repeat(np.arange(len(counts)), counts)
    rows = np.eye(30)[axes] + noise * rng.normal(size=(len(axes), 30))
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def feature_evidence(found: bool = True) -> FeatureEvidence:
    """A blob of 80 normals like the source and one of 40 others; found, or cut at random into 80 and 40."""
    rng = np.random.default_rng(7)
    target = blobs([80, 40], rng)
    order = np.arange(120) if found else rng.permutation(120)
    trusted = np.isin(np.arange(120), order[:80])
    return FeatureEvidence(
        target_fit=target,
        target_sel=blobs([40, 20], rng),
        source_fit=blobs([50], rng),
        assignment=trusted_assignment(target, trusted),
        cluster=CLUSTERERS.get("kmeans")(k=2),
        purpose="contract",
    )


def score_evidence(sees: bool = True) -> ScoreEvidence:
    """A detector that puts 15 of 100 images far above the others, or one that sees no difference."""
    rng = np.random.default_rng(11)
    normal, far = np.exp(0.2 * rng.normal(size=100)), np.repeat([1.0, 20.0], [85, 15])
    peers = np.exp(0.2 * rng.normal(size=(6, 100))) * far
    return ScoreEvidence(
        source_val=np.exp(0.2 * rng.normal(size=50)) * (1 if sees else 3),
        target_sel=normal * far if sees else normal,
        trusted_sel=far == 1,
        pseudo=np.exp(0.2 * rng.normal(size=30)) * (20 if sees else 1),
        peers=peers,
        purpose="contract",
        contamination=0.15,
    )


def evidence(name: str, good: bool = True) -> Evidence:
    return feature_evidence(good) if name in STAGE_A else score_evidence(good)


def value_or_undefined(name: str, given_evidence: Evidence) -> float | None:
    """The value, None where it is undefined; any other exception and any warning fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            value = evaluate(proxy(name), given_evidence)
        except UndefinedScore as error:
            assert str(error).startswith(f"{name} is undefined: ")
            return None
    assert np.isfinite(value)
    return value


def test_expected_proxies_are_found() -> None:
    assert {"compactness", "dominant_gap", "dominant_stability", "source_affinity"} <= set(STAGE_A)
    assert {"bridge", "tail_separation", "pseudo_auc", "consensus", "shuffled"} <= set(STAGE_B)
    assert set(STAGE_A) | set(STAGE_B) == set(NAMES)
    assert {"dominant_share", "shuffled"} == CONTROLS


@pytest.mark.parametrize("name", STAGE_B)
def test_says_whether_it_needs_peers(name: str) -> None:
    alone = replace(score_evidence(), peers=np.empty((0, 100)))
    assert (value_or_undefined(name, alone) is None) == PROXIES.get(name).needs_peers


@pytest.mark.parametrize("name", NAMES)
def test_an_objective_is_a_proxy_of_one_unit_that_is_no_control(name: str) -> None:
    if name in STAGE_B and name not in CONTROLS and not PROXIES.get(name).needs_peers:
        check_objective(name)
    else:
        with pytest.raises(TwofoldError, match=f"'{name}' cannot be an objective: it "):
            check_objective(name)


def test_an_unknown_objective_is_named_with_the_nearest_that_can_be_one() -> None:
    with pytest.raises(UnknownName, match=r"unknown objective 'tail_seperation'\. Did you mean 'tail_sep"):
        check_objective("tail_seperation")


@pytest.mark.parametrize("name", NAMES)
def test_states_name_direction_inputs_and_failure(name: str) -> None:
    entry = PROXIES.get(name)
    assert entry.name == name
    module = importlib.import_module(entry.__module__)
    assert (module.__doc__ or "").startswith(f"``{name}``")
    text = entry.__doc__ or ""
    for word in ("Inputs:", "Known failure"):
        assert word in text
    assert name == "shuffled" or "larger" in text


@pytest.mark.parametrize("name", NAMES)
def test_finite_python_float_that_json_keeps_and_equal_twice(name: str) -> None:
    value = evaluate(proxy(name), evidence(name))
    assert type(value) is float
    assert json.loads(json.dumps({name: value}, allow_nan=False)) == {name: value}
    assert evaluate(proxy(name), evidence(name)) == value


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_held_out_images_does_not_matter(name: str) -> None:
    given_evidence = evidence(name)
    order = np.random.default_rng(3).permutation(len(given_evidence.target_sel))
    moved: Evidence = replace(given_evidence, target_sel=given_evidence.target_sel[order])
    if isinstance(moved, ScoreEvidence):
        moved = replace(moved, trusted_sel=moved.trusted_sel[order], peers=moved.peers[:, order])
    assert evaluate(proxy(name), moved) == pytest.approx(evaluate(proxy(name), given_evidence), rel=1e-9)


@pytest.mark.parametrize("name", sorted(set(NAMES) - CONTROLS))
def test_larger_is_better(name: str) -> None:
    assert evaluate(proxy(name), evidence(name)) > evaluate(proxy(name), evidence(name, good=False))


@pytest.mark.parametrize("name", NAMES)
def test_evidence_is_left_as_it_was(name: str) -> None:
    given_evidence, untouched = evidence(name), evidence(name)
    evaluate(proxy(name), given_evidence)
    for field in fields(given_evidence):
        before, after = getattr(untouched, field.name), getattr(given_evidence, field.name)
        assert not isinstance(before, np.ndarray) or (before == after).all()


def refuse(rows: np.ndarray, rng: np.random.Generator) -> Assignment:
    raise TwofoldError("k = 9 needs at least 9 target images")


def degenerate_features() -> dict[str, FeatureEvidence]:
    usual = feature_evidence()
    target = usual.target_fit

    def trusting(mask: np.ndarray) -> Assignment:
        return Assignment(np.where(mask, 0, 1), mask, target[0])

    rank = np.arange(120)
    equal = np.ones((120, 30)) / np.sqrt(30)
    return {
        "all trusted": replace(usual, assignment=trusting(rank >= 0)),
        "two trusted": replace(usual, assignment=trusting(rank < 2)),
        "one trusted": replace(usual, assignment=trusting(rank < 1)),
        "none trusted": replace(usual, assignment=trusting(rank < 0)),
        "all equal": replace(usual, target_fit=equal, target_sel=equal),
        "one held-out image": replace(usual, target_sel=usual.target_sel[:1]),
        "no held-out image": replace(usual, target_sel=usual.target_sel[:0]),
        "three images": replace(
            usual,
            target_fit=target[:3],
            assignment=Assignment(np.array([0, 0, 1]), np.array([True, True, False]), target[0]),
        ),
        "clusterer refuses": replace(usual, cluster=refuse),
        "single precision": replace(usual, target_fit=target.astype(np.float32)),
    }


@pytest.mark.parametrize("name", STAGE_A)
@pytest.mark.parametrize("case", degenerate_features())
def test_degenerate_features_are_finite_or_undefined(name: str, case: str) -> None:
    value_or_undefined(name, degenerate_features()[case])


def degenerate_scores() -> dict[str, ScoreEvidence]:
    usual = score_evidence()

    def each(change: Callable[[np.ndarray], np.ndarray]) -> ScoreEvidence:
        return replace(
            usual,
            source_val=change(usual.source_val),
            target_sel=change(usual.target_sel),
            pseudo=change(usual.pseudo),
            peers=change(usual.peers),
        )

    return {
        "equal": each(np.ones_like),
        "zero": each(np.zeros_like),
        "mostly zero": each(lambda scores: np.where(scores > 15, scores, 0)),
        "negative": each(np.negative),
        "nan": each(lambda scores: np.where(scores > 1, np.nan, scores)),
        "infinite": each(lambda scores: np.where(scores > 1, np.inf, scores)),
        "huge": each(lambda scores: scores * 1e300),
        "tiny": each(lambda scores: scores * 1e-300),
        "two values": each(lambda scores: np.where(scores > 5, 2.0, 1.0)),
        "single precision": each(lambda scores: scores.astype(np.float32)),
        "one image": replace(
            each(lambda scores: scores[..., :1]), trusted_sel=usual.trusted_sel[:1], pseudo=usual.pseudo[:1]
        ),
        "nothing": replace(each(lambda scores: scores[..., :0]), trusted_sel=usual.trusted_sel[:0]),
        "no peers": replace(usual, peers=usual.peers[:0]),
        "none trusted": replace(usual, trusted_sel=np.zeros(100, dtype=bool)),
    }


@pytest.mark.parametrize("name", STAGE_B)
@pytest.mark.parametrize("case", degenerate_scores())
def test_degenerate_scores_are_finite_or_undefined(name: str, case: str) -> None:
    value = value_or_undefined(name, degenerate_scores()[case])
    if case in {"negative", "nan", "infinite", "nothing"}:
        assert value is None or name in CONTROLS
    if case == "single precision":
        assert value is not None


@given(st.lists(st.floats(width=32), min_size=0, max_size=12), st.integers(0, 4))
def test_no_scores_whatever_give_nan(scores: list[float], peers: int) -> None:
    array = np.array(scores, dtype=np.float32)
    given_evidence = ScoreEvidence(array, array, array > 1, array, np.tile(array, (peers, 1)), "any", 0.2)
    for name in STAGE_B:
        value_or_undefined(name, given_evidence)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_never_leaves_evaluate(broken: float) -> None:
    class Broken(Proxy):
        name = "broken"
        stage = "B"

        def __call__(self, evidence: ScoreEvidence) -> float:
            return broken

    with pytest.raises(UndefinedScore, match="broken is undefined"):
        evaluate(Broken(), score_evidence())


def test_no_evidence_has_a_field_for_a_label() -> None:
    names = {field.name for kind in (FeatureEvidence, ScoreEvidence) for field in fields(kind)}
    assert not {name for name in names if "label" in name or "anomal" in name or "class" in name}
