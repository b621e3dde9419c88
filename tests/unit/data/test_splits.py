from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.data.splits import draw_setting, draw_unlabelled
from trainables.errors import TwofoldError
from trainables.types import Setting, Task

TASK = Task("folder", "photo", "sketch", "cat")


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{index}" for index in range(count)]


def anomalies(*sizes: int) -> dict[str, list[str]]:
    return {f"class{label}": names(f"a{label}_", size) for label, size in enumerate(sizes)}


def drawn(rho: float = 0.1, seed: int = 0, transductive: bool = False, size: int = 100) -> Setting:
    others = anomalies(40, 40, 40)
    return draw_setting(TASK, names("s", size), names("n", size), others, rho, seed, transductive)


@settings(max_examples=60, deadline=None)
@given(
    source=st.integers(10, 80),
    normals=st.integers(10, 120),
    classes=st.integers(1, 6),
    rho=st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.3, 0.4]),
    seed=st.integers(0, 10**6),
)
def test_parts_are_exact_even_sorted_and_complete(
    source: int, normals: int, classes: int, rho: float, seed: int
) -> None:
    others = anomalies(*[90] * classes)
    setting = draw_setting(TASK, names("s", source), names("n", normals), others, rho, seed)
    training = {*setting.target_fit, *setting.target_sel}
    kept = sum(image.startswith("n") for image in training)
    taken = [len(training & set(ids)) for ids in others.values()]

    assert len(setting.source_fit) == round(0.8 * source)
    assert sorted(setting.source_fit + setting.source_val) == sorted(names("s", source))
    assert kept == round(0.7 * normals)
    assert sum(taken) == round(rho / (1 - rho) * kept)
    assert max(taken) - min(taken) <= 1
    assert len(setting.target_fit) == round(0.7 * len(training))
    everything = names("n", normals) + [image for ids in others.values() for image in ids]
    assert sorted(setting.target_fit + setting.target_sel + setting.test) == sorted(everything)
    for part in (
        setting.source_fit,
        setting.source_val,
        setting.target_fit,
        setting.target_sel,
        setting.test,
    ):
        assert all(left < right for left, right in pairwise(part))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.randoms(use_true_random=False))
def test_same_seed_same_split_whatever_the_order(seed: int, order: random.Random) -> None:
    def shuffled(ids: list[str]) -> list[str]:
        return order.sample(ids, len(ids))

    others = anomalies(30, 30, 30)
    mixed = {name: shuffled(others[name]) for name in shuffled(list(others))}
    first = draw_setting(TASK, names("s", 50), names("n", 60), others, 0.2, seed)
    second = draw_setting(TASK, shuffled(names("s", 50)), shuffled(names("n", 60)), mixed, 0.2, seed)
    assert first == second
    assert first.key == second.key


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_contamination_only_adds_anomalies(seed: int) -> None:
    previous: set[str] = set()
    for rho in (0.0, 0.05, 0.1, 0.2, 0.3, 0.4):
        setting = drawn(rho, seed)
        training = {*setting.target_fit, *setting.target_sel}
        assert (setting.source_fit, setting.source_val) == (
            drawn(0, seed).source_fit,
            drawn(0, seed).source_val,
        )
        assert previous <= training
        assert all(image.startswith("a") for image in training - previous) or rho == 0
        previous = training


def test_seeds_give_different_splits() -> None:
    assert len({(s.source_fit, s.target_fit, s.test) for s in (drawn(seed=seed) for seed in range(20))}) == 20


def test_anomalies_reach_both_training_parts_in_proportion() -> None:
    """Drawing anomalies and dividing the training set use different hashes, so neither part is starved."""
    shares = []
    for seed in range(40):
        setting = drawn(0.3, seed)
        shares.append(sum(image.startswith("a") for image in setting.target_sel) / len(setting.target_sel))
    assert 0.25 < sum(shares) / len(shares) < 0.35


def test_a_new_image_moves_few_others() -> None:
    before = drawn(size=100)
    after = draw_setting(TASK, names("s", 101), names("n", 101), anomalies(40, 40, 40), 0.1, 0)
    assert len({*before.source_fit} - {*after.source_fit}) <= 1


def test_transductive_judges_every_target_image() -> None:
    setting = drawn(transductive=True)
    assert sorted(setting.test) == sorted(
        names("n", 100) + [i for ids in anomalies(40, 40, 40).values() for i in ids]
    )
    assert setting.target_fit == drawn().target_fit


def test_unreachable_contamination_names_the_largest() -> None:
    with pytest.raises(
        TwofoldError, match=r"`contamination` 0\.4 .*largest reachable contamination is ([\d.]+)"
    ) as e:
        draw_setting(TASK, names("s", 50), names("n", 100), anomalies(5, 40), 0.4, 0)
    largest = float(str(e.value).split("contamination is ")[1].split(". ")[0])
    assert largest == pytest.approx(11 / 81, abs=1e-3)
    draw_setting(TASK, names("s", 50), names("n", 100), anomalies(5, 40), largest, 0)
    with pytest.raises(TwofoldError, match="not reachable"):
        draw_setting(TASK, names("s", 50), names("n", 100), anomalies(5, 40), largest + 0.02, 0)


def test_no_anomaly_class_reaches_only_zero() -> None:
    assert not any(
        i.startswith("a") for i in draw_setting(TASK, names("s", 50), names("n", 50), {}, 0, 0).test
    )
    with pytest.raises(TwofoldError, match=r"largest reachable contamination is 0\. .*anomaly_classes"):
        draw_setting(TASK, names("s", 50), names("n", 50), {}, 0.1, 0)


@pytest.mark.parametrize("rho", [-0.1, 1, 1.5, float("nan")])
def test_contamination_must_be_a_share(rho: float) -> None:
    with pytest.raises(TwofoldError, match=r"give a number in \[0, 1\)"):
        drawn(rho)


def test_too_few_images_are_named() -> None:
    with pytest.raises(TwofoldError, match=r"'photo' has 5 to split.*'cat' to 'photo'"):
        draw_setting(TASK, names("s", 5), names("n", 50), anomalies(20), 0.1, 0)
    with pytest.raises(TwofoldError, match=r"'sketch' has 4 to split"):
        draw_setting(TASK, names("s", 50), names("n", 4), {}, 0, 0)


def test_unlabelled_target_is_training_set_and_test() -> None:
    setting = draw_unlabelled(TASK, names("s", 20), names("t", 30), 3)
    assert (len(setting.target_fit), len(setting.target_sel)) == (21, 9)
    assert sorted(setting.target_fit + setting.target_sel) == list(setting.test) == sorted(names("t", 30))
    assert (setting.contamination, setting.split_seed) == (0.0, 3)
    assert draw_unlabelled(TASK, names("s", 20), names("t", 30), 4).target_fit != setting.target_fit
