"""The space that random and Optuna search draw from: a choice among blocks, then the block's own values.

A value is drawn only where the choices made so far use it, so that ``k`` is no part of a configuration
without K-means: neither two draws nor the searcher's model see differences that mean nothing.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.config import SweepConfig
from orchestrator.plan import Grid, enumerate_grid
from orchestrator.ranges import Range
from trainables.configuration import DEFAULTS, Configuration, IncompatibleChoices
from trainables.errors import TwofoldError
from trainables.seeding import canonical_json, generator, unit_interval

Options = tuple[Any, ...] | Range
"""What a value is drawn from."""

BLOCK = "block"
"""Name of the draw that chooses the block."""

PATIENCE = 100
"""Draws in a row without a new configuration after which a space is counted instead."""

COUNTABLE = 20_000
"""Configurations up to which a space is counted: about 0.2 ms each."""


@dataclass(frozen=True)
class Space:
    """The blocks of a sweep file, each with what is fixed.

    Attributes:
        blocks: hyperparameter -> what it is drawn from, those that name a choice of components first.
    """

    blocks: tuple[Mapping[str, Options], ...]

    @classmethod
    def of(cls, config: SweepConfig) -> Space:
        """The space of a sweep file.

        Raises:
            TwofoldError: a value that could be drawn is not valid, or nothing can be run.
        """
        outline_configurations(config)
        return cls(_blocks(config))

    def draw(self, choose: Callable[[str, Options], Any]) -> Configuration:
        """One configuration, from ``choose(name, options)`` called where there is something to choose.

        Names are ``block`` and ``<number of the block>.<hyperparameter>``.

        Raises:
            IncompatibleChoices: the choices exclude each other.
        """
        several = len(self.blocks) > 1
        number = choose(BLOCK, tuple(range(len(self.blocks)))) if several else 0
        block = self.blocks[number]
        flat = {key: _first(options) for key, options in block.items()}
        left = [key for key, options in block.items() if isinstance(options, Range) or len(options) > 1]
        while (key := _next_used(flat, left)) is not None:
            flat[key] = choose(f"{number}.{key}", block[key])
            left.remove(key)
        # Values that nothing uses are dropped, so that equal configurations are equal objects.
        return Configuration.parse(Configuration.parse(flat).as_dict())

    def locate(self, configuration: Configuration) -> dict[str, Any] | None:
        """The choices that draw a configuration, by name, or None where no block holds it."""
        canonical = configuration.as_dict()
        for number, block in enumerate(self.blocks):
            found = {key: _matching(key, options, canonical) for key, options in block.items()}
            if all(found.values()):
                flat = {key: values[0] for key, values in found.items()}
                drawn = _parse_or_none(flat)
                if drawn is not None and drawn.as_dict() == canonical:
                    return {BLOCK: number, **{f"{number}.{key}": value for key, value in flat.items()}}
        return None

    def configurations(self) -> Iterator[Configuration]:
        """Everything that can be drawn, some of it more than once; nothing where a fraction can be.

        Draws again and again, each time with the next combination of choices.
        """
        path: list[
            tuple[int, int]
        ] = []  # for each choice of a draw: the option taken, and how many there are
        while True:
            try:
                configuration, path = self._follow(path)
            except _Uncountable:
                return
            if configuration is not None:
                yield configuration
            while path and path[-1][0] + 1 == path[-1][1]:
                path.pop()
            if not path:
                return
            path[-1] = (path[-1][0] + 1, path[-1][1])

    def _follow(self, path: Sequence[tuple[int, int]]) -> tuple[Configuration | None, list[tuple[int, int]]]:
        """Draw along a path, then by first options; return the whole path, and None for incompatible ones."""
        followed: list[tuple[int, int]] = []

        def choose(_: str, options: Options) -> Any:
            size = _size(options)
            index = path[len(followed)][0] if len(followed) < len(path) else 0
            followed.append((index, size))
            return options.low + index if isinstance(options, Range) else options[index]

        try:
            return self.draw(choose), followed
        except IncompatibleChoices:
            return None, followed


class _Uncountable(Exception):
    """A range of fractions."""


class Undrawn:
    """What can still be drawn from a space whose configurations can be counted, in a fixed order.

    Args:
        space: where draws come from.
        purpose: what the order is for; it seeds it.
    """

    def __init__(self, space: Space, *purpose: object) -> None:
        found = {text_of(one): one for one in itertools.islice(space.configurations(), COUNTABLE)}
        texts = sorted(found)
        order = generator("undrawn", *purpose).permutation(len(texts))
        self._left = {texts[i]: found[texts[i]] for i in order}

    def take(self, drawn: Container[str]) -> Configuration | None:
        """The next one whose canonical JSON is not in ``drawn``, or None at the end."""
        while self._left:
            text = next(iter(self._left))
            configuration = self._left.pop(text)
            if text not in drawn:
                return configuration
        return None


def draw_configurations(config: SweepConfig) -> Grid:
    """``search: random``: the default and ``samples`` - 1 others, or all of a space that holds fewer.

    The same on every call, and a longer draw begins with a shorter one.

    Raises:
        TwofoldError: a value is not valid, or no combination can be run.
    """
    space, samples = Space.of(config), config.samples or 1
    default = Configuration.parse({**config.fixed, **config.default})
    found = {text_of(default): default}
    skipped: Counter[str] = Counter()
    number, last = 0, 0
    while len(found) < samples and number - last < PATIENCE:
        number += 1
        try:
            configuration = space.draw(partial(_pick, number))
        except IncompatibleChoices as error:
            skipped[str(error)] += 1
            continue
        if text_of(configuration) not in found:
            found[text_of(configuration)], last = configuration, number
    rest = Undrawn(space, "random search") if len(found) < samples else None
    while rest and len(found) < samples and (another := rest.take(found)):
        found[text_of(another)] = another
    return Grid(tuple(found.values()), default, dict(skipped))


def outline_configurations(config: SweepConfig) -> Grid:
    """What the draws of a space can need: all combinations of its names, each number varied alone.

    It holds every encoder, backbone and component and the ends of every range; ``prepare`` and the check of
    feasibility take it where the draws are not known beforehand.

    Raises:
        TwofoldError: a value is not valid, or no combination can be run.
    """
    flats = [flat for block in _blocks(config) for flat in _outline(block)]
    return enumerate_grid(config.model_copy(update={"space": flats, "search": "grid"}))


def _pick(number: int, name: str, options: Options) -> Any:
    """One of the options, by a number of its own for each draw and name."""
    share = unit_interval("random search", number, name)
    return options.at(share) if isinstance(options, Range) else options[int(share * len(options))]


def _blocks(config: SweepConfig) -> tuple[dict[str, Options], ...]:
    """The blocks with what is fixed, names of components first: they decide which of the others are used."""
    wholes = [{**config.fixed, **block} for block in config.space]
    return tuple(
        {key: _options(key, whole[key]) for key in sorted(whole, key=lambda key: key not in DEFAULTS)}
        for whole in wholes
    )


def _options(key: str, value: Any) -> Options:
    if isinstance(value, Range):
        return value
    values = value if isinstance(value, list) else [value]
    if not values:
        raise TwofoldError(f"space: '{key}' is an empty list; give at least one value")
    return tuple({repr(item): item for item in values}.values())


def _first(options: Options) -> Any:
    return options.low if isinstance(options, Range) else options[0]


def _size(options: Options) -> int:
    """How many options there are.

    Raises:
        _Uncountable: they are fractions.
    """
    size = options.size if isinstance(options, Range) else len(options)
    if size is None:
        raise _Uncountable
    return size


def _matching(key: str, options: Options, canonical: Mapping[str, Any]) -> list[Any]:
    """The options that give a canonical configuration its value; the first where it does not use the name."""
    if key not in canonical:
        return [_first(options)]
    value = canonical[key]
    if isinstance(options, Range):
        return [value] if options.holds(value) else []
    return [option for option in options if option == value]


def _next_used(flat: Mapping[str, Any], left: Sequence[str]) -> str | None:
    """The first hyperparameter still to be drawn that has an effect, given the others."""
    try:
        used = Configuration.parse(flat).as_dict()
    except IncompatibleChoices:
        # What is still to be drawn may make them compatible.
        return left[0] if left else None
    return next((key for key in left if key in used), None)


def _outline(block: Mapping[str, Options]) -> Iterator[dict[str, Any]]:
    """All combinations of names; with each of them every number of the block in turn, the others first."""
    values = {key: o.probes() if isinstance(o, Range) else list(o) for key, o in block.items()}
    names = {key: v for key, v in values.items() if all(isinstance(item, str) for item in v)}
    firsts = {key: v[0] for key, v in values.items()}
    for combination in itertools.product(*names.values()):
        base = {**firsts, **dict(zip(names, combination, strict=True))}
        yield base
        for key, several in values.items():
            if key not in names:
                yield from ({**base, key: value} for value in several[1:])


def _parse_or_none(flat: Mapping[str, Any]) -> Configuration | None:
    try:
        return Configuration.parse(flat)
    except IncompatibleChoices:
        return None


def text_of(configuration: Configuration) -> str:
    """Canonical JSON: equal for equal configurations."""
    return canonical_json(configuration.as_dict())
