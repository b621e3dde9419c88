"""Encoding on real Ray workers: what one process gives, in the same order, with the same errors."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.config import ResourceConfig
from orchestrator.encoding_workers import EncodingWorkers
from trainables.errors import NonFinite, TwofoldError
from trainables.extract import InProcess
from trainables.images import ImageTransform
from trainables.networks import Pretrained

SIZE = 16


class MeanColour(nn.Module):
    """Mean colour of an image; zero, which has no direction, for a black one."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def without_weights() -> nn.Module:
    raise TwofoldError("the weights of 'colour' cannot be fetched")


def network(build: type[nn.Module] | object = MeanColour) -> Pretrained:
    return Pretrained("colour", ImageTransform(SIZE), (0.0,) * 3, (1.0,) * 3, str(build), build)  # type: ignore[arg-type]


def batches(count: int, black: int | None = None) -> Iterator[np.ndarray]:
    draws = np.random.default_rng(0)
    for number in range(count):
        images = draws.integers(1, 256, size=(3, SIZE, SIZE, 3), dtype=np.uint8)
        yield images * (number != black)


@pytest.fixture(scope="module")
def workers(ray_local: None) -> EncodingWorkers:
    return EncodingWorkers(ResourceConfig(workers=2))


def test_workers_give_what_one_process_gives_in_the_same_order(workers: EncodingWorkers) -> None:
    shared = list(workers(network(), ("pooled", "features"), batches(9)))
    alone = list(InProcess()(network(), ("pooled", "features"), batches(9)))
    assert len(shared) == 9
    for one, other in zip(shared, alone, strict=True):
        assert set(one) == {"pooled", "features"}
        assert np.allclose(one["pooled"], other["pooled"], atol=1e-6)


def test_batches_are_asked_for_as_they_are_needed(workers: EncodingWorkers) -> None:
    """A domain that does not fit in memory is never read as a whole."""
    drawn = []

    def watched() -> Iterator[np.ndarray]:
        for number, batch in enumerate(batches(50)):
            drawn.append(number)
            yield batch

    results = workers(network(), ("pooled",), watched())
    next(results)
    assert len(drawn) < 10


def test_an_error_of_a_worker_is_that_of_one_process(workers: EncodingWorkers) -> None:
    with pytest.raises(TwofoldError, match=r"^the weights of 'colour' cannot be fetched$"):
        list(workers(network(without_weights), ("pooled",), batches(1)))
    with pytest.raises(NonFinite, match="no direction"):
        list(workers(network(), ("features",), batches(6, black=4)))


def test_errors_of_the_batches_beside_a_failed_one_are_not_shown(
    workers: EncodingWorkers, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Ray logs goes where standard error was when it was imported.
    monkeypatch.setattr(logging.getLogger("ray"), "handlers", [caplog.handler])

    def fail() -> None:
        try:
            next(workers(network(), ("features",), (0 * batch for batch in batches(6))))
        except NonFinite:
            time.sleep(1)  # until the others have failed, too, while the traceback holds them

    fail()
    gc.collect()
    time.sleep(1)
    assert not caplog.messages
