"""The cost model on made-up numbers: rates, list scheduling, what comes on top, and prices."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import PriceConfig
from orchestrator.cost import (
    SMALLEST_SPREAD,
    Fixed,
    Load,
    Machine,
    Rates,
    list_schedule,
    predict,
    worker_counts,
)
from orchestrator.work import Sample, Work
from trainables.errors import TwofoldError

NOTHING = Fixed(**dict.fromkeys((field.name for field in fields(Fixed)), 0.0))
MANY_CORES = Machine(cores=64, workers=2)

seconds = st.floats(0.01, 1000)
loads = st.builds(
    Load,
    rounds=st.lists(st.lists(seconds, min_size=1, max_size=20), min_size=1, max_size=3),
    units=st.integers(1, 1000),
    spread=st.floats(0.1, 0.5),
)
machines = st.builds(Machine, cores=st.integers(1, 16), workers=st.integers(1, 16), threads=st.integers(1, 4))


def test_rates_tell_start_training_and_embedding_apart() -> None:
    """2 s to start, 0.01 s for an image and epoch, 0.001 s for an embedded image."""
    samples = [
        Sample([Work("t", 1, 100, 500)], 2 + 1 + 0.5),
        Sample([Work("t", 1, 100, 2000)], 2 + 1 + 2),
        Sample([Work("t", 1, 300, 500)], 2 + 3 + 0.5),
    ]
    rates = Rates(samples)
    assert rates.seconds(Work("t", 1, 600, 4000)) == pytest.approx(2 + 6 + 4)
    assert rates.seconds(Work("t", 10, 6000, 40000)) == pytest.approx(10 * (2 + 6 + 4))


def test_of_one_measurement_the_seconds_grow_with_the_images() -> None:
    rates = Rates([Sample([Work("score knn", rows=200)], 0.4)])
    assert rates.seconds(Work("score knn", rows=1000)) == pytest.approx(2.0)


def test_kinds_that_were_measured_together_are_told_apart() -> None:
    """Two trainings by one network: 1 s to start, 1 ms to embed an image, 10 and 20 ms an image and epoch."""

    def sample(kind: str, trained: int, rows: int, seconds: float) -> Sample:
        return Sample([Work(kind, trained=trained), Work("network", starts=1, rows=rows)], seconds)

    rates = Rates(
        [
            *(sample("cheap", 100, 500, 2.5), sample("cheap", 300, 500, 4.5)),
            *(sample("dear", 100, 500, 3.5), sample("dear", 100, 2500, 5.5)),
        ]
    )
    assert rates.seconds(Work("cheap", trained=1)) == pytest.approx(0.01)
    assert rates.seconds(Work("dear", trained=1)) == pytest.approx(0.02)
    assert rates.seconds(Work("network", starts=1, rows=10_000)) == pytest.approx(11)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=30))
def test_the_seconds_of_all_samples_add_up(measured: list[float]) -> None:
    """However much they scatter: a sweep takes their sum, not what the fast ones take."""
    rates = Rates([Sample([Work("score", rows=100)], seconds) for seconds in measured])
    assert len(measured) * rates.seconds(Work("score", rows=100)) == pytest.approx(sum(measured), rel=0.01)


def test_no_rate_is_negative() -> None:
    """A larger setting that happened to be faster does not make work of less than nothing."""
    rates = Rates([Sample([Work("t", 1, 100, 500)], 2.0), Sample([Work("t", 1, 100, 1000)], 1.0)])
    assert rates.seconds(Work("t", 0, 0, 10**6)) >= 0


def test_a_kind_that_was_not_measured_is_named() -> None:
    with pytest.raises(TwofoldError, match="nothing is known of what this takes: score mahalanobis"):
        Rates([Sample([Work("score knn", rows=1)], 1.0)]).seconds(Work("score mahalanobis", rows=1))


def test_the_spread_is_that_of_the_kinds_by_their_share() -> None:
    steady = [Sample([Work("steady", rows=n)], float(n)) for n in (1, 2, 3)]
    noisy = [Sample([Work("noisy", rows=1)], value) for value in (0.5, 1.5)]
    rates = Rates(steady + noisy)
    assert rates.spread([Work("steady", rows=5)]) == pytest.approx(
        SMALLEST_SPREAD
    )  # no machine is steadier than that
    alone = rates.spread([Work("noisy", rows=5)])
    assert alone > 0.3
    half = [Work("noisy", rows=5), Work("steady", rows=rates.seconds(Work("noisy", rows=5)))]
    assert rates.spread(half) == pytest.approx(alone / 2, rel=0.01)


def test_trials_start_in_their_order_on_the_worker_that_is_free_first() -> None:
    """Two workers: 5 | 4, then 3 where 4 ended, 2 where 5 ended, 2 where both end at 7: 7 | 7, then 9."""
    assert list_schedule([5, 4, 3, 2, 2], 2) == 9
    assert list_schedule([5, 4, 3, 2, 2], 1) == 16
    assert list_schedule([5, 4, 3, 2, 2], 5) == 5
    assert list_schedule([5, 4, 3, 2, 2], 99) == 5
    assert list_schedule([], 3) == 0


def test_a_prediction_by_hand() -> None:
    start = replace(
        NOTHING, planning=1, preparing=10, starting=6, launch=3, tracking=2, refit=3, concluding=2
    )
    fixed = replace(start, trial=0.5, unit=0.1, tracked=0.01, concluding_unit=0.05)
    load = Load([[4.0, 3.0, 2.0], [1.0]], units=20, spread=0.2)
    prices = PriceConfig(currency="EUR", worker_hour=0.5, gpu_hour=4)
    found = predict(load, fixed, Machine(cores=64, workers=2, gpus=0.5), 2, prices)
    # 20 units in 4 trials: 0.5 s a trial and, on the mean, 0.5 s for the records of each.
    running = (3 + 2 + 2 * 1.0) + (1 + 1.0)
    # Ray starts beside the preparation, for one of whose 64 cores it takes 6 s.
    around = 1 + (10 + 6 / 64) + 5 + 3 + 2 + 20 * 0.05
    assert found.seconds == pytest.approx(running + around)
    assert found.running == pytest.approx(running)
    assert found.high - found.seconds == pytest.approx(0.2 * running + SMALLEST_SPREAD * around)
    assert found.seconds - found.low == pytest.approx(found.high - found.seconds)
    assert found.worker_hours == pytest.approx(2 * found.seconds / 3600)
    assert found.gpu_hours == pytest.approx(found.seconds / 3600)
    assert found.cost == pytest.approx(0.5 * found.worker_hours + 4 * found.gpu_hours)


def test_a_machine_that_starts_ray_slowly_is_slow_in_what_no_pilot_measures() -> None:
    usual, slow = Fixed(), Fixed.measured(planning=4, starting=2 * Fixed().starting, launch=20)
    assert (slow.planning, slow.starting, slow.launch) == (4, 2 * usual.starting, 20)
    for name in ("importing", "refit", "concluding", "concluding_unit"):
        assert getattr(slow, name) == 2 * getattr(usual, name)
    # The workers' share of these is measured, or next to nothing.
    assert (slow.trial, slow.unit, slow.driver) == (usual.trial, usual.unit, usual.driver)


def test_without_prices_there_is_no_cost() -> None:
    assert predict(Load([[1.0]], 1, 0.1), NOTHING, MANY_CORES, 1).cost is None


def test_nothing_left_takes_the_command_itself() -> None:
    found = predict(
        Load([], 0, 0.1), replace(NOTHING, planning=1, preparing=5, launch=7, concluding=2), MANY_CORES, 4
    )
    assert found.seconds == 3


def test_driver_and_workers_share_the_cores_of_one_machine() -> None:
    fixed = replace(NOTHING, driver=0.1)
    load = Load([[10.0] * 4], units=100, spread=0.1)
    # Two workers alone would take 20 s; with 10 CPU seconds of the driver, two cores take 25.
    assert predict(load, fixed, Machine(cores=2, workers=2), 2).seconds == pytest.approx(25)
    assert predict(load, fixed, Machine(cores=4, workers=2), 2).seconds == pytest.approx(20)
    # On a second machine, half of the work leaves the driver's.
    assert predict(load, fixed, Machine(cores=2, workers=2), 4).seconds == pytest.approx(15)


def test_cheap_units_wait_for_the_writer_of_mlflow() -> None:
    fixed = replace(NOTHING, tracked=0.025)
    assert predict(Load([[1.0]], 2000, 0.1), fixed, MANY_CORES, 8).seconds == pytest.approx(50)


@given(loads, machines, st.integers(1, 40), st.integers(1, 40))
def test_more_workers_never_take_longer(load: Load, machine: Machine, few: int, more: int) -> None:
    fewer, many = (predict(load, Fixed(), machine, count).seconds for count in sorted((few, few + more)))
    assert many <= fewer * (1 + 1e-9)


@given(loads, machines, st.integers(1, 40))
def test_workers_are_held_for_at_least_the_work(load: Load, machine: Machine, workers: int) -> None:
    found = predict(load, NOTHING, machine, workers)
    work = sum(map(sum, load.rounds))
    assert workers * found.seconds >= work * (1 - 1e-9)
    assert found.seconds >= max(map(max, load.rounds))
    assert found.low <= found.seconds <= found.high


@given(st.lists(seconds, min_size=1, max_size=30), st.integers(1, 10))
def test_a_schedule_keeps_grahams_bound(durations: list[float], workers: int) -> None:
    bound = sum(durations) / workers + (1 - 1 / workers) * max(durations)
    assert list_schedule(durations, workers) <= bound * (1 + 1e-9)


def test_workers_are_counted_as_far_as_there_are_trials() -> None:
    assert worker_counts(Load([[1.0] * 11, [1.0] * 5], 16, 0.1), {2}) == [1, 2, 4, 8, 11]
    assert worker_counts(Load([[1.0]], 1, 0.1), {3}) == [1, 3]
    assert worker_counts(Load([], 0, 0.1), {2}) == [1, 2]
