"""The worth of configurations: additive, defined for whatever exists, and never better for a wrong share."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import worth as module
from orchestrator.worth import terms, worth
from trainables.configuration import Configuration

RHO = st.floats(0, 0.5)
SHARE = st.floats(0.01, 1)
SCORES = ("source_centre", "target_centre", "both_centres", "knn", "mahalanobis")


def flat(**values: Any) -> dict[str, Any]:
    start = {"alignment": "identity", "clusterer": "density", "score": "knn"}
    return Configuration.parse({**start, **values}).as_dict()


@given(SHARE, RHO)
def test_worth_is_the_sum_of_its_terms(share: float, rho: float) -> None:
    config = flat(alignment="positive", finetune="last_stage", score="mahalanobis")
    table = module._table()
    expected = table["constant"] + table["clusterer density"] + table["training positive/last_stage"]
    expected += table["score mahalanobis"]
    over, under = max(0, share - 1 + rho), max(0, 1 - rho - share)
    for name, value in (("over", over), ("under", under)):
        expected += value * (table[name] + table[f"{name}, score mahalanobis"])
        expected += value**2 * table[f"{name} squared"]
    assert worth(config, share, rho, 0.2) == pytest.approx(expected)


@given(share=SHARE, other=SHARE, rho=RHO, score=st.sampled_from(SCORES))
def test_nothing_beats_the_share_of_the_normals(share: float, other: float, rho: float, score: str) -> None:
    config = flat(alignment="positive", score=score)
    assert worth(config, 1 - rho, rho, 0.2) >= worth(config, share, rho, 0.2) - 1e-12
    near, far = sorted((share, other), key=lambda value: abs(value - 1 + rho))
    if (near - 1 + rho) * (far - 1 + rho) > 0:
        assert worth(config, near, rho, 0.2) >= worth(config, far, rho, 0.2) - 1e-12


def test_a_configuration_nobody_tried_counts_as_average() -> None:
    known, unknown = flat(), {**flat(), "clusterer": "never_seen"}
    difference = worth(known, 0.9, 0.1, 0.2) - worth(unknown, 0.9, 0.1, 0.2)
    assert difference == pytest.approx(module._table()["clusterer density"])


def test_without_a_target_no_share_counts() -> None:
    config = flat(supervision="source_only", score="source_centre")
    assert worth(config, None, 0.0, 0.2) == worth(config, None, 0.4, 0.2)
    assert terms(config, None, 0.4, 0.2)["over"] == terms(config, None, 0.4, 0.2)["under"] == 0


@given(near=st.floats(0, 0.5), far=st.floats(0, 0.5))
def test_the_source_alone_is_worth_more_where_the_target_mixes_with_it(near: float, far: float) -> None:
    far, near = sorted((near, far))
    alone, adapted = flat(supervision="source_only", score="knn"), flat()
    assert worth(alone, None, 0.1, near) >= worth(alone, None, 0.1, far)
    assert worth(adapted, 0.9, 0.1, near) == worth(adapted, 0.9, 0.1, far)
