"""Regret against budget: what is chosen when only n of the configurations of a grid were run.

The configurations are run in a random order that starts with the default, drawn ``ORDERS`` times for each
setting; a budget of n holds the first n. Regret is relative to the oracle of the whole grid, so that it has
two parts: what the budget does not hold, which is the regret of its oracle, and what is not found in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from benchmarks.selection.measures import pick
from orchestrator import select
from orchestrator.ledger import UnitRecord
from orchestrator.select import Candidate, Chooser, choose
from trainables.seeding import generator
from trainables.types import Contamination

if TYPE_CHECKING:
    from benchmarks.selection.tasks import Judged

SIZES = (5, 10, 20, 40, 80)
ORDERS = 8
"""As many as keep the report below ten minutes of one core; each takes 40 s."""
SINGLE = ("score_variation", "tail_separation")
"""Single proxies that come near the choice on the whole grid; neither needs the other units."""
ORACLE = "oracle of the budget"


def sizes(configurations: int) -> tuple[int, ...]:
    """The budgets that are smaller than a grid."""
    return tuple(n for n in SIZES if n < configurations)


@dataclass(frozen=True)
class Budgets:
    """What was chosen of the first few configurations of a grid.

    Attributes:
        orders: (d, u) positions in the grid, in the orders in which they are run.
        chosen: (d, b) position of the choice in each order at each of ``sizes(u)``.
    """

    orders: np.ndarray
    chosen: np.ndarray


def choose_early(
    candidates: Sequence[Candidate],
    default: Mapping[str, Any],
    chooser: Chooser,
    contamination: Contamination,
    mixing: float,
) -> Budgets:
    """Choose of each budget of each order; see ``choose``, which does it for the whole grid."""
    known = (default, chooser, contamination, mixing)
    position = {candidate.key: i for i, candidate in enumerate(candidates)}
    configs = [candidate.config for candidate in candidates]
    first = configs.index(default) if default in configs else None
    orders = draw_orders(candidates[0].records[0].setting, len(candidates), first)
    chosen = [
        [
            position[choose([candidates[i] for i in order[:n]], *known)["chosen"]]
            for n in sizes(len(candidates))
        ]
        for order in orders
    ]
    return Budgets(orders, np.array(chosen, dtype=int).reshape(len(orders), -1))


def draw_orders(setting: str, configurations: int, default: int | None) -> np.ndarray:
    """(``ORDERS``, u) positions in the order in which they are run, the default first."""
    found = []
    for draw in range(ORDERS):
        order = generator("budget", setting, draw).permutation(configurations)
        found.append(order if default is None else [default, *order[order != default]])
    return np.array(found)


@contextmanager
def evaluated_once() -> Iterator[None]:
    """Within it a unit is evaluated once on a sample of T_sel, for all choices that it takes part in.

    Only the consensus depends on the other units, and that is not evaluated but given.
    """
    known: dict[tuple[Any, ...], dict[str, float]] = {}
    evaluate = select._unit_proxies

    def remembered(
        record: UnitRecord,
        sample: np.ndarray,
        names: Sequence[str],
        contamination: float,
        consensus: float | None,
    ) -> dict[str, float]:
        key = (record.key, sample.tobytes(), *names, contamination)
        if key not in known:
            known[key] = evaluate(record, sample, names, contamination, None)
        given = {} if consensus is None or select.CONSENSUS not in names else {select.CONSENSUS: consensus}
        return {**given, **known[key]}

    with mock.patch.object(select, "_unit_proxies", remembered):
        yield


def regrets(setting: Judged) -> dict[str, np.ndarray]:
    """System -> (b + 1,) regret in points at each budget, the mean over the orders; last the whole grid."""
    assert setting.budgets is not None
    orders, early = setting.budgets.orders, setting.budgets.chosen
    held = [order[:n] for order in orders for n in (*sizes(len(order)), len(order))]
    chosen = np.column_stack([early, np.full(len(early), setting.chosen)])
    default = np.nan if setting.default is None else setting.auroc[setting.default]
    auroc = setting.auroc
    reached = {
        "random": [auroc[some].mean() for some in held],
        "default": [default for _ in held],
        **{n: [pick(setting.proxies[n][some], auroc[some]) for some in held] for n in SINGLE},
        "choice": auroc[chosen.ravel()],
        ORACLE: [auroc[some].max() for some in held],
    }
    return {
        name: (auroc.max() - np.reshape(values, chosen.shape)).mean(axis=0)
        for name, values in reached.items()
    }


def curves(settings: Sequence[Judged]) -> dict[str, np.ndarray]:
    """System -> (n, b + 1) regret of each setting at each budget."""
    each = [regrets(setting) for setting in settings]
    return {name: np.stack([one[name] for one in each]) for name in each[0]}
