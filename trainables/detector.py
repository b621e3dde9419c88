"""A detector in use: images -> anomaly scores and decisions, from one folder; no sweep, Ray or MLflow needed.

``detector.safetensors`` holds the weights of the backbone and the embeddings that the score measures
distances to, ``detector.json`` everything else, in words and numbers that can be read. A threshold changed
there by hand is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from trainables.cache import write_atomically
from trainables.embedder import Embedder, NetworkDescription
from trainables.errors import NonFinite, TwofoldError
from trainables.images import ImageTransform
from trainables.scores.base import SCORES, Reference, Score, arrays_read
from trainables.types import Contamination
from trainables.weights import summary

SCHEMA_VERSION = 1
DESCRIPTION, WEIGHTS = "detector.json", "detector.safetensors"
_NETWORK, _REFERENCE = "network.", "reference."
_AGAIN = "Export the detector again, or copy the whole folder again."


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ScoreDescription(_Part):
    """The name of a score and its parameters."""

    name: str
    parameters: dict[str, Any]


class Threshold(_Part):
    """An image is anomalous where its score is above ``value``.

    Attributes:
        value: in units of the score.
        rule: how it was made.
        contamination: what the rule took for the share of anomalies.
    """

    value: float
    rule: str
    contamination: Contamination


class Origin(_Part):
    """Where a detector comes from; scoring needs none of it.

    Attributes:
        sweep: its name.
        task: dataset, source, target, normal_class, contamination and split_seed of the setting.
        setting, unit: their keys.
        configuration: canonical mapping.
        trust: high, medium or low: how clearly the choice was made.
        twofold: version that exported it.
    """

    sweep: str
    task: dict[str, Any]
    setting: str
    unit: str
    configuration: dict[str, Any]
    trust: str
    twofold: str


class Description(_Part):
    """``detector.json`` without the checksum of the weights."""

    schema_version: Literal[1] = 1
    network: NetworkDescription
    score: ScoreDescription
    threshold: Threshold
    origin: Origin


@dataclass(frozen=True, eq=False)
class Detector:
    """Scores images of a target domain.

    Attributes:
        description: what ``detector.json`` says.
        embedder: Phi.
        reference: the embeddings that the score reads; the others are empty.
    """

    description: Description
    embedder: Embedder
    reference: Reference

    @classmethod
    def load(cls, folder: Path) -> Detector:
        """Read a detector that ``save`` wrote.

        Raises:
            TwofoldError: a file is missing, damaged or of another version.
        """
        content, checksum = _read_description(folder / DESCRIPTION)
        tensors = _read_weights(folder / WEIGHTS, checksum)
        embedder = content.network.skeleton()
        _build_score(content.score)
        try:
            embedder.load_state_dict(_below(_NETWORK, tensors))
            arrays = {name: tensor.numpy() for name, tensor in _below(_REFERENCE, tensors).items()}
            reference = _completed(arrays)
        except (RuntimeError, ValueError, TypeError) as error:
            raise TwofoldError(
                f"{folder / WEIGHTS} does not fit {folder / DESCRIPTION} ({summary(error)}). {_AGAIN}"
            ) from error
        return cls(content, embedder, reference)

    def save(self, folder: Path) -> None:
        """Write ``detector.safetensors``, then ``detector.json`` with its checksum.

        Raises:
            OSError: the folder cannot be written.
        """
        arrays = arrays_read(self._score, self.reference)
        tensors = {f"{_NETWORK}{name}": weights for name, weights in self.embedder.weights().items()}
        tensors |= {f"{_REFERENCE}{name}": torch.tensor(array) for name, array in arrays.items()}
        packed = save(tensors)
        written = {**self.description.model_dump(mode="json"), "checksum": _checksum(packed)}
        text = json.dumps(written, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / WEIGHTS, lambda path: _write(path, packed))
        write_atomically(folder / DESCRIPTION, lambda path: _write(path, f"{text}\n".encode()))

    @property
    def transform(self) -> ImageTransform:
        """Makes of any picture the (s, s, 3) uint8 pixels that ``score`` takes."""
        return self.description.network.transform

    def score(self, images: np.ndarray) -> np.ndarray:
        """Score images (n, s, s, 3) uint8: (n,) float64, higher = more anomalous.

        Raises:
            NonFinite: a score is NaN or infinite.
        """
        if len(images) == 0:
            return np.empty(0)
        scores = self._score(self.embedder.embed(images), self.reference).astype(np.float64)
        if not np.isfinite(scores).all():
            row = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise NonFinite(f"the score of image {row} is {scores[row]}. {_AGAIN}")
        return scores

    def is_anomalous(self, scores: np.ndarray) -> np.ndarray:
        """Decide by scores (n,): (n,) bool."""
        return np.asarray(scores > self.description.threshold.value)

    @property
    def _score(self) -> Score:
        return _build_score(self.description.score)


def _build_score(description: ScoreDescription) -> Score:
    entry = SCORES.get(description.name)
    try:
        score: Score = entry(**description.parameters)
    except ValidationError as error:
        raise TwofoldError(
            f"score '{description.name}' does not take the parameters {description.parameters} "
            f"({summary(error)}). {_AGAIN}"
        ) from error
    return score


def _read_description(path: Path) -> tuple[Description, str]:
    """The description and the checksum of the weights that belong to it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
    except OSError as error:
        raise TwofoldError(
            f"there is no detector in {path.parent}: cannot read {path.name} ({error.strerror}). "
            "Name a folder that `twofold export` wrote."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise TwofoldError(f"{path} is damaged or not a detector ({summary(error)}). {_AGAIN}") from error
    if version != SCHEMA_VERSION:
        raise TwofoldError(
            f"{path} has schema version {version!r}, and this version of twofold reads {SCHEMA_VERSION}. "
            "Install the version that exported it, or export the detector again."
        )
    checksum = content.pop("checksum", "")
    try:
        return Description.model_validate(content), checksum
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TwofoldError(f"{path}: `{where}`: {first['msg'].lower()}. {_AGAIN}") from error


def _read_weights(path: Path, checksum: str) -> dict[str, torch.Tensor]:
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise TwofoldError(f"cannot read {path}: {error.strerror}. {_AGAIN}") from error
    # Before anything else: also what safetensors would read without a complaint may have been altered.
    if _checksum(packed) != checksum:
        raise TwofoldError(
            f"{path} is damaged, or of another export than the {DESCRIPTION} beside it: "
            f"its checksum is wrong. {_AGAIN}"
        )
    try:
        return load(packed)
    except SafetensorError as error:
        raise TwofoldError(f"{path} is not a safetensors file ({summary(error)}). {_AGAIN}") from error


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose name begins with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _completed(arrays: Mapping[str, np.ndarray]) -> Reference:
    """A reference whose arrays that no score reads are empty: (0, e), and a centre that is not a number.

    Raises:
        ValueError: there is no array at all.
        TypeError: an array has another name than those of a reference.
    """
    e = next((array.shape[-1] for array in arrays.values()), None)
    if e is None:
        raise ValueError("it holds no reference embeddings")
    unread = {field.name: np.empty((0, e), np.float32) for field in fields(Reference)}
    return Reference(**{**unread, "centre": np.full(e, np.nan, np.float32), **arrays})


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
