"""Embeddings of a setting and what is measured on them; numbers that are not finite end here."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from orchestrator.checkpoints import Past
from trainables.backbones.base import Tail
from trainables.configuration import Configuration
from trainables.diagnostics import effective_rank, score_spread
from trainables.errors import NonFinite
from trainables.methods.base import PARTS, Part, SettingArrays, Training, TrainingInputs
from trainables.scores.base import Reference
from trainables.types import Assignment


@dataclass(frozen=True)
class Embedded:
    """Embeddings of every part after training, and how they came about.

    ``tail`` is the part of the backbone that was trained; None where the frozen encoder made them.
    """

    parts: dict[Part, np.ndarray]
    centre: np.ndarray
    epochs: list[dict[str, float]]
    diagnostics: dict[str, float]
    assignment: Assignment | None
    seconds: float
    batch_size: int | None = None
    tail: Tail | None = None

    def reference(self, assignment: Assignment | None) -> Reference:
        """What a score measures distances to, given the trusted set of T_fit, if there is one."""
        fit = self.parts["target_fit"]
        return Reference(
            centre=self.centre,
            source=self.parts["source_fit"],
            trusted=fit[:0] if assignment is None else fit[assignment.trusted],
        )


def frozen_embeddings(arrays: SettingArrays) -> Embedded:
    """The encoder's features as embeddings; the centre is the source mean."""
    parts: dict[Part, np.ndarray] = {part: arrays.features[part].all() for part in PARTS}
    centre = parts["source_fit"].mean(axis=0)
    same = diagnose(parts["target_sel"], centre, "")
    diagnostics = {**same, **{f"{name}_initial": value for name, value in same.items()}}
    return Embedded(parts, centre, [], diagnostics, None, 0.0)


def checked_losses(losses: dict[str, float], epoch: int) -> dict[str, float]:
    """The losses of an epoch, which is a failure without them: a scheduler compares what others report.

    Raises:
        ValueError: there is no loss.
        NonFinite: a loss is not a number.
    """
    if "loss" not in losses:
        raise ValueError(f"epoch {epoch} reported no loss, only {sorted(losses)}")
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise NonFinite(f"{broken[0]} is {losses[broken[0]]} in epoch {epoch}")
    return losses


def embed_all(training: Training, inputs: TrainingInputs, past: Past) -> Embedded:
    """The embeddings of every part as the training stands.

    Args:
        training: after the epochs of ``past``.
        inputs: what it started from.
        past: its epochs.

    Raises:
        ValueError, NonFinite: what ``rows_of`` says.
    """
    started = time.perf_counter()
    parts: dict[Part, np.ndarray] = {part: rows_of(training, inputs, part) for part in PARTS}
    diagnostics = {**past.initial, **diagnose(parts["target_sel"], training.centre, "")}
    epochs = [{"epoch": float(epoch), **losses} for epoch, losses in enumerate(past.losses, 1)]
    seconds = past.seconds + time.perf_counter() - started
    return Embedded(
        parts,
        training.centre,
        epochs,
        diagnostics,
        training.assignment,
        seconds,
        past.batch_size,
        training.tail,
    )


def rows_of(training: Training, inputs: TrainingInputs, part: Part) -> np.ndarray:
    """Embeddings (n, e) of a part, one row per image.

    Raises:
        ValueError: there are more or fewer.
        NonFinite: an embedding is NaN or infinite.
    """
    rows = training.embed(part)
    expected = len(inputs.arrays.inputs[part])
    if len(rows) != expected:
        raise ValueError(f"the training gave {len(rows)} embeddings of the {expected} images of {part}")
    if not np.isfinite(rows).all():
        raise NonFinite(f"the embeddings of {part} are not all finite")
    return rows


def diagnose(embeddings: np.ndarray, centre: np.ndarray, suffix: str) -> dict[str, float]:
    """Effective rank and coefficient of variation of ||h - c||^2, on the (n, e) embeddings of T_sel."""
    return {
        f"effective_rank{suffix}": effective_rank(embeddings),
        f"score_variation{suffix}": score_spread(embeddings, centre),
    }


def anomaly_scores(
    configuration: Configuration, embedded: Embedded, assignment: Assignment | None
) -> dict[str, np.ndarray]:
    """Scores of every held-out part as float32.

    Raises:
        NonFinite: a score is NaN or infinite.
    """
    held_out: tuple[Part, ...] = ("source_val", "target_sel", "pseudo", "test")
    rows = [embedded.parts[part] for part in held_out]
    # In one call: what a score learns of the reference, it learns once.
    reference = embedded.reference(assignment)
    values = configuration.score(np.concatenate(rows), reference).astype(np.float32)
    ends = np.cumsum([len(part) for part in rows])[:-1]
    scores: dict[str, np.ndarray] = dict(zip(held_out, np.split(values, ends), strict=True))
    for part, found in scores.items():
        if not np.isfinite(found).all():
            raise NonFinite(f"the scores of {part} are not all finite")
    return scores
