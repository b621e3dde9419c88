"""What a unit is made of: kinds of work and how much of each, so that one unit's seconds tell another's.

A training costs by the images it trains on and embeds, not by its learning rate: whatever takes equally long
for each image is one kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.ledger import UnitRecord
from orchestrator.plan import Unit
from trainables.configuration import Configuration
from trainables.seeding import canonical_json
from trainables.types import Setting

FREE_OF_COST = ("epochs", "learning_rate", "lambda_dsvdd", "lambda_align", "embedding_dim")
"""Hyperparameters of a training that do not change the seconds for an image and epoch, or hardly do."""


@dataclass(frozen=True)
class Work:
    """Some work of one kind.

    Attributes:
        kind: what is done, in words; seconds per amount are the same for all of a kind.
        starts: how often it begins.
        trained: images trained on, times epochs.
        rows: images that are embedded, clustered, scored or prepared.
    """

    kind: str
    starts: float = 0.0
    trained: float = 0.0
    rows: float = 0.0


@dataclass(frozen=True)
class Sample:
    """Some work that was measured.

    Attributes:
        works: what was done.
        seconds: wall seconds that all of it took one worker.
    """

    works: Sequence[Work]
    seconds: float


@dataclass(frozen=True)
class Sizes:
    """How many images each part of a setting has."""

    source_fit: int
    source_val: int
    target_fit: int
    target_sel: int
    test: int

    @classmethod
    def of(cls, setting: Setting) -> Sizes:
        """The sizes of a setting."""
        return cls(
            len(setting.source_fit),
            len(setting.source_val),
            len(setting.target_fit),
            len(setting.target_sel),
            len(setting.test),
        )

    @property
    def scored(self) -> int:
        """Images that get a score, the patch-shuffled ones of T_sel included."""
        return self.source_val + 2 * self.target_sel + self.test

    @property
    def parts(self) -> int:
        """Images of every part, the patch-shuffled ones of T_sel included."""
        return self.source_fit + self.target_fit + self.scored

    @property
    def embedded(self) -> int:
        """Images that a training embeds: S_fit and T_sel at its start, and every part at its end."""
        return self.source_fit + self.target_sel + self.parts

    def capped(self, trained: int, others: int) -> Sizes:
        """At most ``trained`` images of S_fit, and ``others`` of each other part."""
        rest = (self.source_val, self.target_fit, self.target_sel, self.test)
        return Sizes(min(self.source_fit, trained), *(min(size, others) for size in rest))


def training(configurations: Sequence[Configuration], sizes: Sizes) -> list[Work]:
    """The epochs of a training, and the start and embeddings of its network; nothing without a training.

    Args:
        configurations: those that share it, at least one.
        sizes: of the setting.
    """
    epochs = {one.epochs for one in configurations}
    configuration = configurations[0]
    if configuration.method is None:
        return []
    names = dict(configuration.names)
    used = configuration.method.used()
    shown = {name: value for name, value in used.items() if name not in FREE_OF_COST}
    # Smaller batches take longer for an image, and two of similar size do not.
    shown["batch_size"] = 2 ** max(0, int(shown["batch_size"]) - 1).bit_length()
    parts = [f"training {names['method']} with alignment {names['alignment']}"]
    parts += ["negatives"] if configuration.alignment.uses_negatives else []
    parts += [f"clustering by {names['clusterer']} in each epoch"] if configuration.reclusters else []
    parts += [f"{name} {value}" for name, value in sorted(shown.items())]
    # The longest contains the others; every part is embedded after each number of epochs.
    trained = max(epochs) * sizes.source_fit
    embedded = sizes.embedded + (len(epochs) - 1) * sizes.parts
    network = f"embedding by {shown.get('backbone')}, finetune {shown.get('finetune')}"
    return [Work(", ".join(parts), trained=trained), Work(network, starts=1, rows=embedded)]


def trusting(configuration: Configuration, sizes: Sizes) -> Work | None:
    """Finding a trusted set and its proxies of stage A; None where no target is used."""
    if not configuration.supervision.uses_target:
        return None
    names = dict(configuration.names)
    k = configuration.clusterer.used().get("k") if configuration.clusterer else None
    how = f"clusterer {names['clusterer']}" if "clusterer" in names else f"supervision {names['supervision']}"
    k_of = "" if k is None else f" with k {k}"
    return Work(f"trusted set by {how}{k_of} of {configuration.encoder} features", rows=sizes.target_fit)


def scoring(configuration: Configuration, sizes: Sizes) -> Work:
    """One score of every held-out image."""
    values = configuration.as_dict()
    space = values["backbone"] if configuration.method else configuration.encoder
    return Work(f"score {values['score']} of {space} embeddings", rows=sizes.scored)


class Workload:
    """The work of units, configuration by configuration.

    Args:
        sizes: setting key -> sizes.
    """

    def __init__(self, sizes: Mapping[str, Sizes]) -> None:
        self._sizes = sizes
        self._parsed: dict[str, Configuration] = {}

    def parse(self, flat: Mapping[str, object]) -> Configuration:
        """The configuration of a canonical mapping, parsed once."""
        text = canonical_json(dict(flat))
        if text not in self._parsed:
            self._parsed[text] = Configuration.parse(flat)
        return self._parsed[text]

    def of(self, unit: Unit) -> list[Work]:
        """Everything that a unit needs when it runs alone."""
        configuration, sizes = self.parse(unit.configuration), self._sizes[unit.setting]
        found = trusting(configuration, sizes)
        return [
            *training([configuration], sizes),
            *([] if found is None else [found]),
            scoring(configuration, sizes),
        ]

    def of_group(self, units: Sequence[Unit]) -> list[Work]:
        """Everything that one Ray trial does: each trusted set and each training once, each score."""
        sizes = self._sizes[units[0].setting]
        bundles: dict[str, list[Configuration]] = defaultdict(list)
        trusted: dict[str, Work] = {}
        scores: list[Work] = []
        for unit in units:
            configuration = self.parse(unit.configuration)
            bundles[unit.bundle].append(configuration)
            if found := trusting(configuration, sizes):
                trusted[configuration.trusted_key] = found
            scores.append(scoring(configuration, sizes))
        trained = [work for members in bundles.values() for work in training(members, sizes)]
        return [*trained, *trusted.values(), *scores]

    def measured(self, records: Iterable[UnitRecord]) -> list[Sample]:
        """Work and the seconds that it took, from records; what was interrupted or cut short is left out."""
        found: dict[tuple[object, ...], Sample] = {}
        for record in records:
            if record.state != "done" or record.attempts != 1 or record.batch_size is not None:
                continue
            configuration, sizes = self.parse(record.config), self._sizes[record.setting]
            where = (record.setting, record.seed)
            if trained := training([configuration], sizes):
                name = ("train", where, configuration.embedding_key)
                found[name] = Sample(trained, record.seconds["train"])
            if trusted := trusting(configuration, sizes):
                set_name = ("cluster", where, configuration.trusted_key)
                found[set_name] = Sample([trusted], record.seconds["cluster"])
            found["score", record.key] = Sample([scoring(configuration, sizes)], record.seconds["score"])
        return list(found.values())
