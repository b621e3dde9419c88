"""Would one more proxy, or one less, make the choice better? Judged on finished sweeps.

python benchmarks/selection/evidence.py SWEEP_FOLDER [SWEEP_FOLDER ...] [--output DIR]

The choice adds the ranks of some proxies to what a configuration is worth elsewhere (``Chooser.evidence``).
Here each of them is left out, and every other one is added. The digits decide what is used, the other
datasets only test it. Prints evidence.md and writes it; the sweep folders are only read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[2]))  # the script is run by its path

from benchmarks.selection.opponents import CONTROLS
from benchmarks.selection.study import FROZEN_ON
from benchmarks.selection.tables import table
from benchmarks.selection.tasks import (
    candidate_values,
    mean_aurocs,
    over_settings,
    what_is_known,
)
from orchestrator.environment import describe_environment
from orchestrator.proxies.base import PROXIES
from orchestrator.select import Chooser, choose, mean_ranks
from trainables.types import Setting

HERE = Path(__file__).parent
ADDED = (1.0, 2.0)
"""Points of AUROC between the first and the last of the ranking of a proxy that is added."""

NAMES = sorted(set(PROXIES.names()) - set(CONTROLS))

SHIPPED = "as shipped"

Evidence = Mapping[str, float]


@dataclass(frozen=True)
class Case:
    """One setting and what its choice is made of.

    Attributes:
        sweep, dataset, contamination: where it comes from.
        worth: (u,) points before the evidence.
        ranks: proxy -> (u,) rank of each configuration, 0 = best .. 1 = worst.
        say: share of its points that the evidence has.
        is_open: (u,) bool, whether no gate is failed.
        auroc: (u,) percent.
    """

    sweep: str
    dataset: str
    contamination: float
    worth: np.ndarray
    ranks: Mapping[str, np.ndarray]
    say: float
    is_open: np.ndarray
    auroc: np.ndarray

    def regret(self, evidence: Evidence) -> float:
        """Points between the best configuration and the first by worth and evidence."""
        added = sum(points * (1 - self.ranks[name]) for name, points in evidence.items())
        values = self.worth + self.say * added
        return float(self.auroc.max() - self.auroc[np.where(self.is_open, values, -np.inf).argmax()])


def main() -> None:
    """Judge every change of the evidence, print the page and write it."""
    parser = argparse.ArgumentParser(description="judge each proxy as evidence for the choice")
    parser.add_argument("folders", type=Path, nargs="+", metavar="SWEEP_FOLDER")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of evidence.md")
    given = parser.parse_args()
    text = page([case for folder in given.folders for case in over_settings(folder, read_case)])
    print(text)
    (given.output / "evidence.md").write_text(text)


def read_case(folder: Path, setting: Setting) -> Case:
    """What the choice goes by, and what the oracle says."""
    chooser = Chooser(bootstraps=1)  # what leads in how many of them has no say here
    candidates, default, rho, mixing = what_is_known(folder, setting, chooser)
    with threadpool_limits(1):
        choice = choose(candidates, default, chooser, rho, mixing)
    entries = {entry["key"]: entry for entry in choice["ranking"]}
    proxies = [candidate_values(c, entries[c.key]["proxies"]) for c in candidates]
    return Case(
        sweep="/".join(folder.absolute().parts[-2:]),
        dataset=setting.task.dataset,
        contamination=setting.contamination,
        worth=np.array([entries[c.key]["worth"] for c in candidates]),
        ranks={name: mean_ranks(proxies, (name,)) for name in NAMES},
        say=chooser.say(rho.estimate),
        is_open=np.array([not c.gates for c in candidates]),
        auroc=mean_aurocs(folder, candidates),
    )


def changes() -> dict[str, Evidence]:
    """What is asked for -> evidence."""
    used = dict(Chooser().evidence)
    found: dict[str, Evidence] = {SHIPPED: used, "without any": {}}
    for name in used:
        found[f"without `{name}`"] = {other: points for other, points in used.items() if other != name}
    for name in NAMES:
        for points in ADDED:
            found[f"{points:g} more for `{name}`"] = {**used, name: used.get(name, 0.0) + points}
    return found


def page(cases: Sequence[Case]) -> str:
    """evidence.md."""
    now = describe_environment()
    names = list(dict.fromkeys(case.sweep for case in cases))
    return f"""\
# The evidence of the choice, judged

`python benchmarks/selection/evidence.py {" ".join(names)}` wrote this page at commit `{now["commit"]}`.

Mean regret in points over the settings of a sweep and contamination, where the first by worth and evidence is
chosen of what passes the gates; the bootstrap that may keep the default is left out. Rows are in the order of
their mean over the {FROZEN_ON}, from which the worth was learned and on which the evidence was set; emojis
taught it what mixing is worth, and PACS tests all of it. The controls are left out.

{regrets(cases)}
"""


def regrets(cases: Sequence[Case]) -> str:
    """A row per change of the evidence, a column per sweep and contamination."""
    sweeps = list(dict.fromkeys(case.sweep for case in cases))
    parts = sorted({(sweeps.index(case.sweep), case.contamination) for case in cases})
    columns = {
        f"{sweeps[i]}, ρ = {rho:g}": [c for c in cases if (c.sweep, c.contamination) == (sweeps[i], rho)]
        for i, rho in parts
    }
    found = {
        title: [float(np.mean([case.regret(evidence) for case in members])) for members in columns.values()]
        for title, evidence in changes().items()
    }
    decides = [members[0].dataset == FROZEN_ON for members in columns.values()]

    def decided(title: str) -> float:
        return float(
            np.mean([value for value, d in zip(found[title], decides, strict=True) if d or not any(decides)])
        )

    rows = [
        [f"**{title}**" if title == SHIPPED else title, *(f"{value:.2f}" for value in found[title])]
        for title in sorted(found, key=decided)
    ]
    return table(("evidence", *columns), rows)


if __name__ == "__main__":
    main()
