"""A configuration: one choice of supervision, encoder, clusterer, alignment, training and score.

It is written as a flat mapping of plain names (``clusterer: kmeans``, ``k: 5``, ``alignment: mmd``). Every
name belongs to the choices that declare it; names that a choice does not use are dropped, so that two
mappings which mean the same training have the same canonical form and are run once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from trainables.alignments.base import ALIGNMENTS, Alignment
from trainables.clusterers.base import CLUSTERERS, Clusterer
from trainables.errors import TwofoldError, UnknownName, nearest_name
from trainables.methods.base import METHODS, Method
from trainables.registry import Registry
from trainables.scores.base import SCORES, Score
from trainables.seeding import stable_hash
from trainables.supervision.base import SUPERVISIONS, Supervision

DEFAULTS = {
    "supervision": "unsupervised",
    "encoder": "efficientnet_lite0",
    "clusterer": "kmeans",
    "alignment": "contrastive",
    "method": "cluster_align",
    "score": "source_centre",
}
REGISTRIES: dict[str, Registry[Any]] = {
    "supervision": SUPERVISIONS,
    "clusterer": CLUSTERERS,
    "alignment": ALIGNMENTS,
    "method": METHODS,
    "score": SCORES,
}


class IncompatibleChoices(TwofoldError):
    """Two choices that cannot be combined, such as a target score without a target."""


@dataclass(frozen=True)
class Configuration:
    """A checked configuration; what it does not use is None.

    Attributes:
        supervision: what is known of the target.
        encoder: name of the frozen encoder, or ``backbone``.
        clusterer: how the trusted set is found.
        alignment: L_uda of eq. 10.
        method: the training; None where nothing is trained.
        score: the anomaly score.
        names: (kind of choice, name) of everything that is used, sorted.
    """

    supervision: Supervision
    encoder: str | None
    clusterer: Clusterer | None
    alignment: Alignment
    method: Method | None
    score: Score
    names: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, flat: Mapping[str, Any]) -> Configuration:
        """Check a flat mapping and drop what its choices do not use.

        Raises:
            UnknownName: a key or a choice nobody knows, with the nearest known name.
            TwofoldError: a value outside its range.
            IncompatibleChoices: choices that exclude each other.
        """
        check_keys(flat)
        chosen = {key: str(flat.get(key, default)) for key, default in DEFAULTS.items()}
        supervision: Supervision = _build("supervision", SUPERVISIONS, chosen, flat)
        clusterer: Clusterer = _build("clusterer", CLUSTERERS, chosen, flat)
        alignment: Alignment = _build("alignment", ALIGNMENTS, chosen, flat)
        method: Method = _build("method", METHODS, chosen, flat)
        score: Score = _build("score", SCORES, chosen, flat)
        if supervision.uses_target and not (alignment.uses_trusted or score.uses_trusted):
            chosen["supervision"] = "source_only"
            supervision = SUPERVISIONS.get("source_only")()
        clusters = supervision.uses_clusterer
        used = {
            "clusterer": clusters,
            "method": alignment.trains,
            "encoder": clusters or supervision.needs_labels or not alignment.trains,
        }
        configuration = cls(
            supervision=supervision,
            encoder=chosen["encoder"] if used["encoder"] else None,
            clusterer=clusterer if clusters else None,
            alignment=alignment,
            method=method if alignment.trains else None,
            score=score,
            names=tuple(sorted((key, name) for key, name in chosen.items() if used.get(key, True))),
        )
        configuration._check()
        return configuration

    def as_dict(self) -> dict[str, Any]:
        """The canonical flat mapping: every name this configuration uses, JSON-safe."""
        clusterer = self.clusterer.used() if self.clusterer else {}
        return {
            **dict(self.names),
            **self._supervision,
            **clusterer,
            **self.alignment.used(),
            **self._training,
            **self.score.used(),
        }

    @property
    def trusted_key(self) -> str:
        """Equal for configurations that trust the same target images."""
        clusterer = self.clusterer.used() if self.clusterer else {}
        names = dict(self.names)
        # Without hyperparameters the name alone: keys of existing records rest on it.
        shots = self._supervision.get("shots")
        supervision = names["supervision"] if shots is None else [names["supervision"], shots]
        return stable_hash(
            [supervision, names.get("encoder"), names.get("clusterer"), clusterer, self._own_space]
        )

    @property
    def embedding_key(self) -> str:
        """Equal for configurations that have the same embeddings and differ in the score alone."""
        return self._key_of(self._training)

    @property
    def training_key(self) -> str:
        """Equal for configurations that share one training, each of them scored after its own epochs.

        Apart from the score they differ in ``epochs`` alone, and in these only where no epoch depends on
        them. A trusted set found in the backbone's own space does: its draws are named by all of
        ``_training``.
        """
        if self.method is None or self.method.uses_progress or self.alignment.uses_progress:
            return self.embedding_key
        return self._key_of({name: value for name, value in self._training.items() if name != "epochs"})

    @property
    def epochs(self) -> int:
        """Epochs of the training; 0 where nothing is trained."""
        return self.method.epochs if self.method else 0

    @property
    def reclusters(self) -> bool:
        """Whether the trusted set is found anew in the backbone's own space at each epoch."""
        return self.encoder == "backbone" and self.clusterer is not None and self.alignment.uses_trusted

    @property
    def pushes_tiled(self) -> bool:
        """Whether pseudo-anomalies made of T_fit are the negatives."""
        return self.supervision.negatives == "tiled" and self.alignment.uses_negatives

    @property
    def _supervision(self) -> dict[str, Any]:
        """Hyperparameters of the supervision; without negatives their weight has no effect."""
        used = self.supervision.used()
        return {
            name: value for name, value in used.items() if name != "alpha" or self.alignment.uses_negatives
        }

    def _key_of(self, training: Mapping[str, Any]) -> str:
        """Hash of the hyperparameters of a training and of everything else that embeddings depend on."""
        method = training if self.method else self.encoder
        trusted = self.trusted_key if self.alignment.uses_trusted else None
        weight = [self._supervision["alpha"]] if "alpha" in self._supervision else []
        return stable_hash([dict(self.names)["alignment"], self.alignment.used(), method, trusted, *weight])

    @property
    def _own_space(self) -> Any:
        return self._training if self.encoder == "backbone" else None

    @property
    def _training(self) -> dict[str, Any]:
        """Hyperparameters of the training; without an alignment loss its weight has no effect."""
        used = self.method.used() if self.method else {}
        return {name: value for name, value in used.items() if self._aligns or name != "lambda_align"}

    @property
    def _aligns(self) -> bool:
        return self.alignment.uses_trusted

    def _check(self) -> None:
        names = dict(self.names)
        if not self.supervision.uses_target and self.alignment.uses_trusted:
            raise IncompatibleChoices(
                f"alignment '{names['alignment']}' needs target images, which supervision "
                f"'{names['supervision']}' does not use"
            )
        if not self.supervision.uses_target and not self.score.works_on_source_alone:
            raise IncompatibleChoices(
                f"score '{names['score']}' needs a trusted set, which supervision "
                f"'{names['supervision']}' does not have"
            )
        if self.alignment.uses_negatives and self.clusterer is not None and self.clusterer.trusts_all:
            raise IncompatibleChoices(
                f"alignment '{names['alignment']}' needs target images outside the trusted set, and "
                f"clusterer '{names['clusterer']}' leaves none out; use negatives 'in_batch'"
            )
        if self.encoder == "backbone" and self.method is None:
            raise IncompatibleChoices("encoder 'backbone' needs a training; name an encoder for 'identity'")


def known_keys() -> dict[str, str]:
    """Every name a configuration may hold -> its one-line description."""
    keys = {key: f"{key}: {', '.join(registry.names())}" for key, registry in REGISTRIES.items()}
    keys["encoder"] = "frozen encoder: efficientnet_lite0, open_clip:..., timm:..., or backbone"
    for registry in REGISTRIES.values():
        for name in registry.names():
            fields = registry.get(name).model_fields
            keys.update({field: info.description or "" for field, info in fields.items()})
    return keys


def check_keys(flat: Mapping[str, Any]) -> None:
    """Refuse names that no choice declares.

    Raises:
        UnknownName: with the nearest known name.
    """
    known = known_keys()
    for key in flat:
        if key not in known:
            hint = nearest_name(key, known)
            raise UnknownName(f"unknown hyperparameter '{key}'.{hint} Known: {', '.join(sorted(known))}.")


def _build(key: str, registry: Registry[Any], chosen: Mapping[str, str], flat: Mapping[str, Any]) -> Any:
    """Build the component chosen for ``key`` from the names it declares."""
    entry = registry.get(chosen[key])
    own = {field: flat[field] for field in entry.model_fields if field in flat}
    try:
        return entry(**own)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise TwofoldError(
            f"{field}: {first['input']!r} is not valid for {key} '{chosen[key]}': {first['msg'].lower()}"
        ) from error
