"""What every target supervision promises, over the registry."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.clusterers.base import CLUSTERERS
from trainables.errors import TwofoldError
from trainables.seeding import generator
from trainables.supervision.base import SUPERVISIONS, Supervision
from trainables.types import Assignment

NAMES = SUPERVISIONS.names()
FEATURES = np.random.default_rng(0).normal(size=(30, 4))
NORMALS = np.arange(30) % 3 != 0


def build(name: str) -> Supervision:
    supervision: Supervision = SUPERVISIONS.get(name)()
    return supervision


def cluster(features: np.ndarray) -> Assignment:
    assignment: Assignment = CLUSTERERS.get("kmeans")(k=3)(features, generator("supervision"))
    return assignment


def refuse(features: np.ndarray) -> Assignment:
    raise AssertionError("clustered although the supervision does not")


def test_expected_supervisions_are_found() -> None:
    assert {"few_shot", "oracle", "source_only", "unsupervised"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_flags_tell_what_is_read(name: str) -> None:
    """A supervision gets only what it declares, and must then give a trusted set or none at all."""
    entry = build(name)
    given = (FEATURES, cluster if entry.uses_clusterer else refuse, NORMALS if entry.needs_labels else None)
    found = entry.trusted_set(*given)
    assert (found is not None) == entry.uses_target
    if found is not None:
        assert found.trusted.shape == (30,) and found.trusted.dtype == bool
        assert np.allclose(found.centre, FEATURES[found.trusted].mean(axis=0))


@pytest.mark.parametrize("name", NAMES)
def test_only_what_needs_labels_changes_with_them(name: str) -> None:
    entry = build(name)
    first, second = (entry.trusted_set(FEATURES, cluster, mask) for mask in (NORMALS, ~NORMALS))
    if first is None or second is None:
        assert first is second
    else:
        assert np.array_equal(first.trusted, second.trusted) == (not entry.needs_labels)


def test_what_each_one_trusts() -> None:
    trusted = build("oracle").trusted_set(FEATURES, None, NORMALS)
    assert trusted is not None and np.array_equal(trusted.trusted, NORMALS)
    found = build("unsupervised").trusted_set(FEATURES, cluster, None)
    assert found is not None and np.array_equal(found.trusted, cluster(FEATURES).trusted)
    assert build("source_only").trusted_set(FEATURES, None, None) is None


def test_shots_are_some_of_the_normals_and_fewer_are_among_more() -> None:
    found = []
    for shots in (2, 5, 20):
        assignment = SUPERVISIONS.get("few_shot")(shots=shots).trusted_set(FEATURES, None, NORMALS)
        assert assignment.trusted.sum() == shots and not (assignment.trusted & ~NORMALS).any()
        found.append(assignment.trusted)
    assert not (found[0] & ~found[1]).any() and not (found[1] & ~found[2]).any()
    with pytest.raises(TwofoldError, match="shots = 21, but there are 20"):
        SUPERVISIONS.get("few_shot")(shots=21).trusted_set(FEATURES, None, NORMALS)


def test_missing_ingredients_are_errors() -> None:
    with pytest.raises(ValueError, match="true normals"):
        build("few_shot").trusted_set(FEATURES, cluster, None)
    with pytest.raises(ValueError, match="true normals"):
        build("oracle").trusted_set(FEATURES, cluster, None)
    with pytest.raises(ValueError, match="clusterer"):
        build("unsupervised").trusted_set(FEATURES, None, NORMALS)
