"""Does anything tell, without labels, on which settings the choice is bad? Judged on finished sweeps.

python benchmarks/selection/confidence.py SWEEP_FOLDER [SWEEP_FOLDER ...] [--output DIR]

Every signal parts the settings of a sweep at its median; a good one leaves the regret in the half that it
trusts less. The digits alone may decide which one is stated, the other datasets only test it. Prints
confidence.md and writes it; the sweep folders are only read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[2]))  # the script is run by its path

from benchmarks.selection.measures import DRAWS, Level, correlation, interval
from benchmarks.selection.study import FROZEN_ON
from benchmarks.selection.tables import table
from benchmarks.selection.tasks import (
    candidate_values,
    mean_aurocs,
    over_settings,
    what_is_known,
)
from orchestrator.environment import describe_environment
from orchestrator.select import Candidate, Chooser, choose, score_tail
from trainables.seeding import generator
from trainables.types import Contamination, Setting

HERE = Path(__file__).parent
FIRST = 20
"""Configurations at the head of the ranking that are compared with the chosen one."""
LEAST_SHARE = 0.05
"""Share of T_sel that counts as its top where the contamination is estimated to be less."""
ORACLE = "narrow grid (needs labels)"
PROXIES = (
    "bridge",
    "consensus",
    "contamination_split",
    "dominant_gap",
    "dominant_stability",
    "pseudo_auc",
    "relative_compactness",
    "score_variation",
    "source_affinity",
    "tail_separation",
)


@dataclass(frozen=True)
class Chosen:
    """The choice of one setting, before the labels are opened.

    Attributes:
        candidates: all of them, best first.
        position: of the choice among them.
        proxies: of the choice, by name; an undefined one is absent.
        contamination: the estimate.
    """

    candidates: Sequence[Candidate]
    position: int
    proxies: Mapping[str, float]
    contamination: Contamination

    @property
    def candidate(self) -> Candidate:
        """The chosen one."""
        return self.candidates[self.position]


@dataclass(frozen=True)
class Case:
    """One setting, judged.

    Attributes:
        sweep, dataset, pair, normal_class, contamination: where it comes from.
        signals: name -> value, larger = more confidence, NaN = undefined.
        regret: points of AUROC between the choice and the best configuration of the grid.
    """

    sweep: str
    dataset: str
    pair: str
    normal_class: str
    contamination: float
    signals: Mapping[str, float]
    regret: float


def scores(candidates: Sequence[Candidate]) -> np.ndarray:
    """(u, n) rank of every image of T_sel, 0..1, mean over the seeds of a candidate."""
    return np.stack(
        [
            np.mean([rankdata(record.target_sel) / len(record.target_sel) for record in one.records], axis=0)
            for one in candidates
        ]
    )


def agreement(candidates: Sequence[Candidate]) -> float:
    """Mean Spearman correlation between the scores of two candidates; NaN where some do not vary."""
    ranks = scores(candidates)
    if len(ranks) < 2 or np.ptp(ranks, axis=1).min() == 0:
        return np.nan
    matrix = np.corrcoef(ranks)
    return float(matrix[np.triu_indices(len(matrix), 1)].mean())


def overlap(chosen: Chosen) -> float:
    """Mean Jaccard index of the top of T_sel, as large as the estimated share of anomalies, by the chosen
    candidate and by each of the first ``FIRST``."""
    ranks = scores([chosen.candidate, *chosen.candidates[:FIRST]])
    share = max(chosen.contamination.estimate, LEAST_SHARE)
    own, *others = ranks >= np.quantile(ranks, 1 - share, axis=1, keepdims=True)
    return float(np.mean([(own & other).sum() / (own | other).sum() for other in others]))


def proxy(name: str) -> Callable[[Chosen], float]:
    """The value of a proxy for the chosen candidate."""
    return lambda chosen: chosen.proxies.get(name, np.nan)


STATED = "tail of the scores"
SIGNALS: dict[str, Callable[[Chosen], float]] = {
    STATED: lambda chosen: score_tail(chosen.candidate.records),
    "tail, mean of the first 20": lambda chosen: float(
        np.mean([score_tail(one.records) for one in chosen.candidates[:FIRST]])
    ),
    "overlap of the top, first 20": overlap,
    "agreement of the first 5": lambda chosen: agreement(chosen.candidates[:5]),
    "agreement of the first 20": lambda chosen: agreement(chosen.candidates[:FIRST]),
    "agreement of all": lambda chosen: agreement(chosen.candidates),
    "narrow estimate of the contamination": lambda chosen: (
        chosen.contamination.low - chosen.contamination.high
    ),
    "low estimate of the contamination": lambda chosen: -chosen.contamination.estimate,
    **{f"`{name}`": proxy(name) for name in PROXIES},
}
"""What might tell how good a choice is: larger = more confidence."""


def main() -> None:
    """Judge every signal, print the page and write it."""
    parser = argparse.ArgumentParser(description="judge what tells without labels how good a choice is")
    parser.add_argument("folders", type=Path, nargs="+", metavar="SWEEP_FOLDER")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of confidence.md")
    given = parser.parse_args()
    text = page([case for folder in given.folders for case in over_settings(folder, judge)])
    print(text)
    (given.output / "confidence.md").write_text(text)


def judge(folder: Path, setting: Setting) -> Case:
    """Choose and ask every signal, and only then look at the AUROC."""
    candidates, default, rho, mixing = what_is_known(folder, setting, Chooser())
    with threadpool_limits(1):
        chosen = choose_setting(candidates, default, rho, mixing)
        signals = {name: float(signal(chosen)) for name, signal in SIGNALS.items()}
    auroc = mean_aurocs(folder, chosen.candidates)
    task = setting.task
    return Case(
        sweep="/".join(folder.absolute().parts[-2:]),
        dataset=task.dataset,
        pair=f"{task.source} → {task.target}",
        normal_class=task.normal_class,
        contamination=setting.contamination,
        signals={**signals, ORACLE: float(auroc.mean() - auroc.max())},
        regret=float(auroc.max() - auroc[chosen.position]),
    )


def choose_setting(
    candidates: Sequence[Candidate], default: Mapping[str, object], rho: Contamination, mixing: float
) -> Chosen:
    """The choice of a setting."""
    choice = choose(candidates, default, Chooser(), rho, mixing)
    known = {candidate.key: candidate for candidate in candidates}
    order = [entry["key"] for entry in choice["ranking"]]
    position = order.index(choice["chosen"])
    stage_b = choice["ranking"][position]["proxies"]
    proxies = candidate_values(known[choice["chosen"]], stage_b)
    return Chosen([known[key] for key in order], position, proxies, rho)


def page(cases: Sequence[Case]) -> str:
    """confidence.md."""
    now = describe_environment()
    sweeps = {
        name: [case for case in cases if case.sweep == name] for name in dict.fromkeys(c.sweep for c in cases)
    }
    ran = "; ".join(
        f"{name}: {len(members)} settings, mean regret {np.mean([c.regret for c in members]):.1f} points"
        for name, members in sweeps.items()
    )
    return f"""\
# What tells how good a choice is, judged

`python benchmarks/selection/confidence.py {" ".join(sweeps)}` wrote this page at commit `{now["commit"]}`
({ran}).

Each signal parts the settings of a sweep at its median. A cell is the mean regret of the half that is trusted
less, relative to that of the other half, with the middle 95 % of {DRAWS} hierarchical bootstrap draws (pairs,
in each its classes, in each its settings): 1 = the signal tells nothing, 2 was asked for. In brackets is
Spearman's correlation of the signal with minus the regret. Rows are in the order of their mean over the
{FROZEN_ON}, which alone may decide what the choice states as its confidence. **{STATED}** is stated, with
bounds set on the {FROZEN_ON}. `{ORACLE}` knows how far the mean configuration lies below the best one.

{signals_table(sweeps)}
"""


def signals_table(sweeps: Mapping[str, Sequence[Case]]) -> str:
    """A row per signal, a column per sweep."""
    names = list(next(iter(sweeps.values()))[0].signals)
    found = {name: [measure(cases, name) for cases in sweeps.values()] for name in names}
    decides = [cases[0].dataset == FROZEN_ON for cases in sweeps.values()]

    def worse(name: str) -> float:
        deciding = [r.value for r, d in zip(found[name], decides, strict=True) if d or not any(decides)]
        return -float(np.nan_to_num(np.mean(deciding)))

    rows = [
        [f"**{name}**" if name == STATED else name, *map(str, found[name])]
        for name in sorted(names, key=worse)
    ]
    return table(("signal", *sweeps), rows)


@dataclass(frozen=True)
class Ratio:
    """Regret of the half that is trusted less relative to the other half; NaN where nothing parts them.

    Attributes:
        low, high: ends of its interval.
        rank: Spearman's correlation of the signal with minus the regret.
    """

    value: float
    low: float = np.nan
    high: float = np.nan
    rank: float = np.nan

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "–"
        return f"{self.value:.2f} [{self.low:.1f}, {self.high:.1f}] ({self.rank:+.2f})"


def measure(cases: Sequence[Case], name: str) -> Ratio:
    """How well a signal parts the settings; an undefined value is one that is not trusted."""
    values = np.nan_to_num([case.signals[name] for case in cases], nan=-np.inf)
    regret = np.array([case.regret for case in cases])
    high = values > np.median(values)
    if not high.any():
        return Ratio(np.nan)
    level = Level(tuple(case.pair for case in cases), tuple(case.normal_class for case in cases))
    drawn = level.resampled(DRAWS, generator("confidence", name))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = _part(drawn, regret, ~high) / _part(drawn, regret, high)
    plain = regret[~high].mean() / regret[high].mean()
    return Ratio(float(plain), *interval(ratios), correlation(rankdata(values), -regret).spearman)


def _part(weights: np.ndarray, regret: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(draws,) weighted mean regret of a part of the settings."""
    return (weights[:, part] @ regret[part]) / weights[:, part].sum(axis=1)


if __name__ == "__main__":
    main()
