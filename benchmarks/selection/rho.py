"""How far off is the contamination estimate, over target sets of known contamination?

python benchmarks/selection/rho.py [--emoji-root DIR] [--pacs-root DIR] [--cache DIR]

Draws the target sets of ``freeze.py`` (every class of every target domain of the study, six contaminations)
of the digits, and of emojis and PACS where their images are, and estimates the contamination of each from its
frozen features alone. The estimate learned from these very digits, so each of their domains is judged a
second time by what the other two teach. A last table tells how good the same estimate is where it may learn
from labelled target sets like the judged one. Prints contamination.md and writes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[2]))  # the script is run by its path

from benchmarks.selection.freeze import ENCODER, RHOS, draw_target_sets, target_features, write_table
from benchmarks.selection.study import datasets
from benchmarks.selection.tables import table
from orchestrator import contamination
from orchestrator.config import load_config
from orchestrator.environment import describe_environment
from orchestrator.oracle import Request
from trainables.types import Contamination

HERE = Path(__file__).parent
UNSEEN = "digits, by the other domains"
HALVES = {"0–0.1": (0.0, 0.05, 0.1), "0.2–0.4": (0.2, 0.3, 0.4)}
NUMBERS = ("tenth 80 %", "half 80 %", "half 90 %", "core 90 %", "spread", "cosine")
"""The six numbers of ``contamination.shape``, in its order."""


Counted = tuple[float, float] | None


@dataclass(frozen=True)
class Estimated:
    """A target set and its estimate.

    Attributes:
        dataset: its dataset, and what the estimate learned from where that is not all digits.
        domain, normal_class: of its images.
        rho: true contamination, as it was asked for.
        share: of anomalies among the images; rounded to whole images it is rho.
        counted: share of images beyond a clear gap and how far that may be off; None without a gap.
        shape: (6,) what the estimate goes by without a gap.
        estimate: of the contamination, with the ends of its interval.
    """

    dataset: str
    domain: str
    normal_class: str
    rho: float
    share: float
    counted: Counted
    shape: np.ndarray
    estimate: Contamination


TEACHERS: dict[str, Callable[[Estimated, Estimated], bool]] = {
    "other domains": lambda one, other: other.domain != one.domain,
    "other classes": lambda one, other: other.normal_class != one.normal_class,
    "other classes of its domain": lambda one, other: (
        other.domain == one.domain and other.normal_class != one.normal_class
    ),
}
"""Which target sets of a dataset, with their labels, teach the estimate of one of them."""


def main() -> None:
    """Estimate, print the page and write it."""
    parser = argparse.ArgumentParser(description="judge the contamination estimate")
    parser.add_argument("--emoji-root", type=Path, help="folder that emoji.py wrote; without it, no emojis")
    parser.add_argument("--pacs-root", type=Path, help="folder of PACS; without it, no PACS")
    parser.add_argument("--cache", type=Path, help="folder of what is computed from images")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of contamination.md")
    given = parser.parse_args()
    cache = [] if given.cache is None else [f"cache={given.cache.absolute()}"]
    with threadpool_limits(1):
        digits, *others = (
            estimate_dataset(name, domains, [*own, *cache])
            for name, (domains, own) in datasets(given.emoji_root, given.pacs_root).items()
        )
        text = page(digits, without_own_domain(digits), [one for sets in others for one in sets])
    print(text)
    (given.output / "contamination.md").write_text(text)


def estimate_dataset(dataset: str, domains: Sequence[str], overrides: Sequence[str]) -> list[Estimated]:
    """Every target set of a dataset, which the page calls by this name, estimated as a sweep does it."""
    config = load_config(HERE / "grid.yaml", overrides)
    request = Request(
        dataset=config.data.dataset,
        arguments={} if config.data.root is None else {"root": str(config.data.root)},
        pairs=list(permutations(domains, 2)),
        contamination=list(RHOS),
        split_seeds=config.data.split_seeds,
    )
    found = []
    for one in draw_target_sets(request, target_features(config)):
        near = contamination._to_nearest(one.rows)
        counted, shape = contamination._count(near[0]), contamination._shape(one.rows, *near)
        found.append(
            Estimated(
                dataset=dataset,
                domain=one.domain,
                normal_class=one.setting.task.normal_class,
                rho=one.setting.contamination,
                share=one.contamination,
                counted=counted,
                shape=shape,
                estimate=estimate_from(counted, shape),
            )
        )
    return found


def estimate_from(counted: Counted, shape: np.ndarray) -> Contamination:
    """``estimate_contamination`` of a target set whose distances were measured before."""
    centre, reach = counted or contamination._compare(shape)
    ends = np.clip([centre, centre - reach, centre + reach], 0, contamination.LARGEST)
    return Contamination(*ends.tolist())


def without_own_domain(digits: Sequence[Estimated]) -> list[Estimated]:
    """The digits again, each domain by what the other two teach."""
    return [replace(one, dataset=UNSEEN) for one in taught_by(digits, TEACHERS["other domains"])]


@contextmanager
def learned_from(sets: Sequence[Estimated]) -> Iterator[None]:
    """Within it the estimate knows these target sets alone."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "contamination.csv"
        write_table(np.array([[*one.shape, one.share] for one in sets]), path)
        with mock.patch.object(contamination, "TABLE", path):
            yield
    contamination._model.cache_clear()


def page(digits: Sequence[Estimated], unseen: Sequence[Estimated], others: Sequence[Estimated]) -> str:
    """contamination.md."""
    now = describe_environment()
    versions = f"numpy {now['packages']['numpy']}, scikit-learn {now['packages']['scikit-learn']}"
    return f"""\
# The contamination estimate, judged

`python benchmarks/selection/rho.py` wrote this page at commit `{now["commit"]}`
(twofold {now["twofold"]}, Python {now["python"]}, {versions}):
every class of every target domain, ρ = {", ".join(f"{rho:g}" for rho in RHOS)}, split seed 0,
frozen features of {ENCODER}. All but `sets` is in percentage points, and the interval is one of 80 %.
The table and the constants of the estimate come from the digits: `{UNSEEN}` leaves
the judged domain out of the table, but not out of the constants. The other datasets are in neither.

{errors([*digits, *unseen, *others])}

## Where it is off, and by what

Where no gap sets the anomalies apart, the estimate goes by six numbers (`shape` in
`orchestrator/contamination.py`), one in each column: how many standard deviations a domain lies from the
digits of the same ρ, the mean over its target sets; in brackets, by how many points their estimate changes
when that number alone is replaced by the digits' mean of the same ρ.

{reasons(digits, [*digits, *others])}

Images of one class that are less alike than the digits of one class (`cosine`: the mean cosine between
images, relative to the centre of the densest half) look as if anomalies were among them, as photographs do.
Of a domain that is unlike the digits in all numbers, as paintings are, the estimate hardly leaves the mean of
what it learned from, whatever ρ is.

## Where the limit is

Mean absolute error where the estimate may learn from target sets of the same dataset whose contamination is
told, which needs labels: what the six numbers are worth at best. `as shipped` learned from the digits,
`constant` is the mean of all contaminations.

{limits([*digits, *others])}
"""


def limits(sets: Sequence[Estimated]) -> str:
    """A row per dataset: the error as shipped, with each kind of teachers, and of a constant."""
    rows = []
    for dataset in dict.fromkeys(one.dataset for one in sets):
        members = [one for one in sets if one.dataset == dataset]
        truth = np.array([one.rho for one in members])
        taught = [_mean_error(taught_by(members, teaches)) for teaches in TEACHERS.values()]
        constant = f"{100 * abs(truth - truth.mean()).mean():.1f}"
        rows.append([dataset, _mean_error(members), *taught, constant])
    return table(("dataset", "as shipped", *TEACHERS, "constant"), rows)


def taught_by(sets: Sequence[Estimated], teaches: Callable[[Estimated, Estimated], bool]) -> list[Estimated]:
    """The same sets, each by what its teachers among them teach."""
    groups: dict[tuple[str, str], list[Estimated]] = {}
    for one in sets:
        groups.setdefault((one.domain, one.normal_class), []).append(one)
    found = []
    for group in groups.values():
        with learned_from([other for other in sets if teaches(group[0], other)]):
            found += [replace(one, estimate=estimate_from(one.counted, one.shape)) for one in group]
    return found


def _mean_error(sets: Sequence[Estimated]) -> str:
    return f"{100 * np.mean([abs(one.estimate.estimate - one.rho) for one in sets]):.1f}"


def errors(sets: Sequence[Estimated]) -> str:
    """A row per dataset, contamination and target domain, and the means over them."""
    groups: dict[tuple[str, str, str], list[Estimated]] = {}
    for dataset in dict.fromkeys(one.dataset for one in sets):
        members = [one for one in sets if one.dataset == dataset]
        for rho in (*sorted({one.rho for one in members}), None):
            for domain in (None, *dict.fromkeys(one.domain for one in members)):
                key = (dataset, "all" if rho is None else f"{rho:g}", domain or "all")
                groups[key] = [o for o in members if rho in (None, o.rho) and domain in (None, o.domain)]
    heading = (
        "dataset",
        "ρ",
        "target",
        "sets",
        "mean estimate",
        "mean absolute error",
        "bias",
        "in interval",
    )
    return table(heading, [[*key, *_errors(group)] for key, group in groups.items()], 3)


def _errors(sets: Sequence[Estimated]) -> list[str]:
    estimates = np.array([one.estimate.estimate for one in sets])
    error = estimates - np.array([one.rho for one in sets])
    inside = np.mean([one.estimate.low <= one.rho <= one.estimate.high for one in sets])
    points = (f"{100 * estimates.mean():.1f}", f"{100 * abs(error).mean():.1f}", f"{100 * error.mean():+.1f}")
    return [str(len(sets)), *points, f"{inside:.0%}"]


def reasons(digits: Sequence[Estimated], sets: Sequence[Estimated]) -> str:
    """A row per target domain and half of the contaminations: what is unlike the digits, and its effect."""
    rows = []
    for domain in dict.fromkeys(one.domain for one in sets):
        for name, rhos in HALVES.items():
            members = [one for one in sets if one.domain == domain and one.rho in rhos]
            z, effect = unlike(digits, members)
            counted = np.mean([one.counted is not None for one in members])
            cells = [
                f"{a:+.1f}" + ("" if np.isnan(b) else f" ({100 * b:+.1f})")
                for a, b in zip(z, effect, strict=True)
            ]
            rows.append([domain, name, f"{counted:.0%}", *cells])
    return table(("target", "ρ", "with a gap", *NUMBERS), rows, 2)


def unlike(digits: Sequence[Estimated], sets: Sequence[Estimated]) -> tuple[np.ndarray, np.ndarray]:
    """(6,) mean distance of the shape to the digits', and (6,) mean effect of each number on the estimate.

    Distances are in standard deviations of the digits of the same contamination, effects in shares of images.
    """
    distances, effects = [], []
    for one in sets:
        alike = np.array([other.shape for other in digits if other.rho == one.rho])
        distances.append((one.shape - alike.mean(axis=0)) / alike.std(axis=0))
        if one.counted is None:
            replaced = np.where(np.eye(len(one.shape), dtype=bool), alike.mean(axis=0), one.shape)
            before = estimate_from(None, one.shape).estimate
            effects.append([estimate_from(None, row).estimate - before for row in replaced])
    return np.mean(distances, axis=0), np.mean(effects, axis=0) if effects else np.full(len(NUMBERS), np.nan)


if __name__ == "__main__":
    main()
