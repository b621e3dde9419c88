"""Checkpoint files: whole or refused, and never unpickled."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from orchestrator import checkpoints
from orchestrator.checkpoints import DamagedCheckpoint, Pace, pack, unpack

STATE = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "step": torch.tensor(3.0),
    "trusted": torch.tensor([True]),
}
PROGRESS: dict[str, Any] = {"losses": [{"loss": 0.1}], "seconds": 61.5, "batch_size": None, "name": "é"}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.int64, torch.uint8, torch.bool)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def signed(content: bytes) -> bytes:
    """The content with a right checksum, as a file made on purpose may have."""
    return content + hashlib.blake2b(content, digest_size=16).digest()


@given(
    shapes=st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
        max_size=4,
    ),
    progress=st.dictionaries(st.text(), st.lists(FINITE) | st.none() | st.text() | FINITE),
)
def test_what_is_packed_is_unpacked(
    shapes: dict[str, tuple[torch.dtype, list[int]]], progress: dict[str, Any]
) -> None:
    draws = torch.Generator().manual_seed(0)
    state = {
        name: torch.randint(0, 100, shape, generator=draws).to(dtype)
        for name, (dtype, shape) in shapes.items()
    }
    content = pack(state, progress)
    found, after = unpack(content)
    assert after == progress and found.keys() == state.keys()
    for name, value in state.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert torch.equal(found[name], value)
    assert pack(dict(reversed(state.items())), dict(reversed(progress.items()))) == content


def test_every_bit_of_a_float_survives() -> None:
    values = torch.tensor([0.1, -0.0, 1e-45, float("inf"), 3.4e38])
    found, progress = unpack(pack({"x": values}, {"loss": 0.1 + 0.2}))
    assert found["x"].numpy().tobytes() == values.numpy().tobytes() and progress == {"loss": 0.1 + 0.2}


def test_every_truncation_is_refused() -> None:
    content = pack(STATE, PROGRESS)
    for length in range(len(content)):
        for cut in (content[:length], content[len(content) - length :]):
            with pytest.raises(DamagedCheckpoint):
                unpack(cut)
    with pytest.raises(DamagedCheckpoint):
        unpack(content + b"\0")


@given(st.data())
def test_every_flipped_byte_is_refused(data: st.DataObject) -> None:
    content = bytearray(pack(STATE, PROGRESS))
    where = st.integers(0, len(content) - 1)
    for position in data.draw(st.lists(where, min_size=1, max_size=5, unique=True)):
        content[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedCheckpoint):
        unpack(bytes(content))


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    saved = io.BytesIO()
    torch.save({"weight": Trap()}, saved)
    for content in (pickle.dumps(Trap()), saved.getvalue()):
        for file in (content, signed(content)):
            with pytest.raises(DamagedCheckpoint):
                unpack(file)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Trap()))
    assert (tmp_path / "ran").exists(), "the trap works"


@given(st.binary(max_size=64))
def test_anything_else_is_refused_even_with_a_right_checksum(content: bytes) -> None:
    for file in (content, signed(content), signed(save(STATE)), signed(save(STATE, {"twofold": "{"}))):
        with pytest.raises(DamagedCheckpoint):
            unpack(file)


def test_another_schema_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SCHEMA", 2)
    later = pack(STATE, PROGRESS)
    assert unpack(later)[1] == PROGRESS
    monkeypatch.undo()
    with pytest.raises(DamagedCheckpoint, match="schema is 2, and this version reads 1"):
        unpack(later)


def test_a_number_that_is_not_finite_is_not_packed() -> None:
    with pytest.raises(ValueError, match="JSON"):
        pack(STATE, {"loss": float("nan")})


def test_saving_is_due_a_minute_after_the_start_and_after_every_save() -> None:
    now = 1000.0
    pace = Pace(checkpoints.SECONDS_BETWEEN, clock=lambda: now)
    due = []
    for seconds in (0, 59.9, 60, 300):
        now = 1000 + seconds
        due.append(pace.due())
    assert due == [False, False, True, True]
    pace.restart()
    assert not pace.due()
    now += 60
    assert pace.due()
