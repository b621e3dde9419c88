"""The evidence for the choice without labels: the sweeps it is judged on, and the judgement.

python benchmarks/selection/study.py run [--grid FILE] [--emoji-root DIR] [--pacs-root DIR]
                                         [--output DIR] [--cache DIR]
python benchmarks/selection/study.py report SWEEP_FOLDER [SWEEP_FOLDER ...] [--whole] [--output DIR]

``run`` sweeps a grid over digits, and over emojis (emoji.py makes their folder) and PACS where their images
are; it goes on where it was stopped.
Besides grid.yaml there is one of the trusted sets at every contamination (k/) and one of the training
(training/). ``report`` chooses again on every setting of finished sweeps, judges the choices by the oracle's
labels, and writes RESULTS.md and its plots. The sweep folders are only read.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the script is run by its path

from benchmarks.selection import plots, tables
from benchmarks.selection.budget import ORACLE, ORDERS, SINGLE
from benchmarks.selection.measures import CEILING_DRAWS, DRAWS
from benchmarks.selection.opponents import COMBINATION, CONTROLS, ELSEWHERE, HINDSIGHT, Compared, compare
from benchmarks.selection.tasks import FULL, GRIDS, Judged, Sweep, read_sweep
from orchestrator.environment import describe_environment
from trainables.errors import TwofoldError

HERE = Path(__file__).parent
TWOFOLD = Path(sys.executable).with_name("twofold")
VERSIONS = ("torch", "timm", "scikit-learn")
FROZEN_ON = "digits"
"""Dataset that the constants of the choice were set on, all but what mixing is worth."""
DIGITS = ("typeset", "mnist", "optdigits")
EMOJI = ("noto", "twemoji", "fluent")
PACS = ("photo", "art_painting", "sketch")


def datasets(emoji_root: Path | None, pacs_root: Path | None) -> dict[str, tuple[tuple[str, ...], list[str]]]:
    """Name -> domains and what to set, of the digits and of each dataset whose folder is given."""
    found: dict[str, tuple[tuple[str, ...], list[str]]] = {"digits": (DIGITS, [])}
    if emoji_root is not None:
        found["emoji"] = (EMOJI, ["data.dataset=folder", f"data.root={emoji_root.absolute()}"])
    if pacs_root is not None:
        own = ["data.dataset=pacs", f"data.root={pacs_root.absolute()}", "data.image_size=null"]
        found["pacs"] = (PACS, own)
    return found


def run(
    grid: Path, emoji_root: Path | None, pacs_root: Path | None, output: Path | None, cache: Path | None
) -> int:
    """Sweep each dataset in turn; the exit code of the first that fails, else 0."""
    places = {"output": output, "cache": cache}
    shared = [f"{key}={path.absolute()}" for key, path in places.items() if path is not None]
    for name, (domains, own) in datasets(emoji_root, pacs_root).items():
        pairs = json.dumps(list(permutations(domains, 2)))
        overrides = [*own, *shared, f"data.pairs={pairs}", "resources.trainings_per_trial=24"]
        options = [word for override in overrides for word in ("--set", override)]
        done = subprocess.run([TWOFOLD, "sweep", grid, "--name", name, *options], check=False)
        if done.returncode:
            return done.returncode
    return 0


def report(folders: Sequence[Path], output: Path, grids: Sequence[str]) -> int:
    """Judge finished sweeps on some of ``GRIDS`` and write RESULTS.md and its plots into ``output``."""
    sweeps = [read_sweep(folder) for folder in folders]
    compared = [one for grid in grids for sweep in sweeps for one in compare_sweep(sweeps, sweep, grid)]
    full = {sweep.name: sweep.grids[FULL] for sweep in sweeps}
    pictures = plots.draw_all(full, compared, output)
    here = os.path.relpath(HERE, output)
    (output / "RESULTS.md").write_text(document(sweeps, compared, pictures, here))
    return 0


def compare_sweep(sweeps: Sequence[Sweep], sweep: Sweep, grid: str) -> list[Compared]:
    """One comparison per contamination of a sweep, ascending."""
    settings = sweep.grids[grid]
    pool = [setting for each in sweeps for setting in each.grids[grid]]
    return [
        compare(sweep.name, grid, [s for s in settings if s.contamination == rho], pool)
        for rho in sorted({s.contamination for s in settings})
    ]


def document(
    sweeps: Sequence[Sweep], compared: Sequence[Compared], pictures: Sequence[str], here: str = "."
) -> str:
    """RESULTS.md, from whose folder the pages beside this script are found in ``here``."""
    has_part = len({one.grid for one in compared}) > 1
    parts = [
        "# The choice without labels, judged",
        _provenance(sweeps, "" if has_part else " --whole"),
        _header(sweeps),
        "Left out:\n\n" + _limits(sweeps, here),
        _reading(_PART if has_part else ""),
        "## In short",
        tables.short(compared),
        *pictures,
    ]
    for grid in dict.fromkeys(one.grid for one in compared):
        sizes = sorted({len(s.configs) for sweep in sweeps for s in sweep.grids[grid]})
        parts.append(
            f"## Grid: {grid} ({'–'.join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))} configurations)"
        )
        for sweep in sweeps:
            members = [one for one in compared if one.grid == grid and one.name == sweep.name]
            parts += _sections(members, [s for each in sweeps for s in each.grids[grid]])
    settings = [setting for sweep in sweeps for setting in sweep.grids[FULL]]
    early = [one for one in compared if one.grid == FULL]
    parts += [f"## Regret against budget, in points (grid: {FULL})", tables.budget(early)]
    parts += ["## Contamination estimate, in percentage points", tables.contamination(settings)]
    parts += [f"Over more contaminations, and why it is off: [contamination.md]({here}/contamination.md)."]
    return "\n\n".join(parts) + "\n"


def _sections(members: Sequence[Compared], pool: Sequence[Judged]) -> list[str]:
    """Everything on one dataset and grid."""
    name = members[0].name
    parts = []
    for one in members:
        parts += [f"### {one.title}", tables.systems(one)]
    return [
        *parts,
        tables.fixed_elsewhere(members, pool),
        f"### {name}: paired tests",
        tables.paired(members),
        f"### {name}: Spearman of stage A with AUROC over K-means",
        tables.k_correlations(members),
        f"### {name}: mean regret in points (settings) by trust",
        tables.trust(members),
        f"### {name}: settings with little to choose",
        tables.narrow(members),
    ]


def _provenance(sweeps: Sequence[Sweep], options: str) -> str:
    now = describe_environment()
    packages = ", ".join(f"{name} {now['packages'][name]}" for name in ("numpy", "scikit-learn", "pyarrow"))
    names = " ".join(sweep.name for sweep in sweeps)
    return (
        f"`python benchmarks/selection/study.py report {names}{options}` wrote this page at commit "
        f"`{now['commit']}` (twofold {now['twofold']}, Python {now['python']}, {packages}, "
        f"{now['cores']} cores) "
        "from the records of these sweeps of [grid.yaml](grid.yaml), which `study.py run` makes:"
    )


def _header(sweeps: Sequence[Sweep]) -> str:
    """What ran: commits, versions, cores, settings and units of every sweep."""
    rows = []
    for sweep in sweeps:
        settings = next(iter(sweep.grids.values()))
        env = sweep.environment
        rows.append(
            [
                sweep.name,
                f"`{env['commit']}`, Python {env['python']}, "
                + ", ".join(f"{name} {env['packages'][name]}" for name in VERSIONS),
                str(env["cores"]),
                "; ".join(dict.fromkeys(s.pair.removeprefix(f"{s.dataset}: ") for s in settings)),
                str(len({s.normal_class for s in settings})),
                ", ".join(f"{rho:g}" for rho in sorted({s.contamination for s in settings})),
                str(len(settings)),
                ", ".join(f"{number} {state}" for state, number in sweep.states.items()),
            ]
        )
    heading = ("sweep", "ran with", "cores", "pairs", "classes", "ρ", "settings", "units")
    return tables.table(heading, rows, 4)


def _limits(sweeps: Sequence[Sweep], here: str) -> str:
    """What the numbers do not cover, as far as the sweeps themselves tell."""
    settings = [setting for sweep in sweeps for setting in next(iter(sweep.grids.values()))]
    seeds = sorted({len(sweep.seeds) for sweep in sweeps})
    splits = sorted({setting.split_seed for setting in settings})
    lines = [
        f"- training seeds per configuration: {tables.listed(seeds)}; split seeds: {tables.listed(splits)}."
        + (" With one setting per class the lowest level of the bootstrap cannot vary." * (len(splits) == 1)),
        f"- the constants of the choice, and what its contamination estimate learned from, come from "
        f"{FROZEN_ON}, and what mixing is worth from {FROZEN_ON} and emoji: only PACS tests all of it.",
        f"- settings in which the default did not finish: {sum(s.default is None for s in settings)}.",
        *(
            f"- {key}: {tables.listed(values)}."
            for key in ("encoder", "backbone", "alignment")
            if (values := _values(settings, key))
        ),
        "- not measured: another epoch than the last one."
        if len(epochs := _values(settings, "epochs")) < 2
        else f"- epochs: {tables.listed(sorted(epochs, key=int))}.",
        f"- a proxy that needs a second encoder is measured apart: [agreement.md]({here}/agreement.md).",
    ]
    return "\n".join(lines)


def _values(settings: Sequence[Judged], key: str) -> list[str]:
    configs = {config for setting in settings for config in setting.configs}
    return sorted({str(json.loads(config)[key]) for config in configs if f'"{key}":' in config})


_PART = """\
- `140 + last stage` is the grid of the first measurements, in which what needs no target counts once, with
  the source-only kNN and the fine-tuned last stage.
"""


def _reading(part: str) -> str:
    """What the columns and rows mean."""
    controls = ", ".join(f"`{name}`" for name in CONTROLS)
    return f"""\
How to read it:

- AUROC is in percent, regret and differences are in points. Means are over seeds, then classes, then pairs.
- Gap closed = (mean chosen − mean random) / (mean oracle − mean random); its interval is the middle 95 % of
  {DRAWS} hierarchical bootstrap draws: pairs, in each its classes, in each its seeds.
- The choice is made anew on each grid, without labels. `random` is the mean over the grid, `oracle` its best
  configuration on each setting. The noise ceiling is the oracle that picks by a random half of the test
  labels and is judged on the other half, the mean of {CEILING_DRAWS} draws.
{part}- A proxy picks its largest value; where several configurations share it, their mean counts.
  `{COMBINATION}` weighs the three alike.
- Spearman and Kendall are those of a ranking with AUROC, within a setting, the mean over settings. Weighted
  Spearman is Pearson's correlation of the two ranks with weights 1 / rank by AUROC (best = 1), so that the
  top of the ranking decides.
- `{ELSEWHERE}, told ρ` looks only at settings of the same contamination; `{HINDSIGHT}` needs the labels.
- Controls, which must lose: the largest {controls}.
- Regret against budget: only n configurations were run, the default and others drawn at random, in
  {ORDERS} orders per setting, of which each budget is the beginning. Regret is relative to the oracle of the
  whole grid; the `{ORACLE}` has the part of it that no choice can avoid. `random` is the mean of
  the budget, the choice is made anew of it alone, and {" and ".join(f"`{name}`" for name in SINGLE)}
  pick their largest value in it.
- Paired tests are two-sided Wilcoxon signed-rank tests (Pratt) over the settings of one contamination, with
  Holm's correction over the rows of a column. Settings of one pair share images, which the bootstrap
  allows for and these tests do not; pairs with one target share them too, which neither does."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a mistake of the user prints its message and gives exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sweeping = commands.add_parser("run", help="sweep the grid over the datasets")
    sweeping.add_argument("--grid", type=Path, default=HERE / "grid.yaml", help="what to sweep")
    sweeping.add_argument("--emoji-root", type=Path, help="folder that emoji.py wrote; without it, no emojis")
    sweeping.add_argument("--pacs-root", type=Path, help="folder of PACS; without it, no PACS")
    sweeping.add_argument("--output", type=Path, help="folder of the sweeps")
    sweeping.add_argument("--cache", type=Path, help="folder of what is computed from images")
    judging = commands.add_parser("report", help="judge finished sweeps")
    judging.add_argument("folders", type=Path, nargs="+", metavar="SWEEP_FOLDER")
    judging.add_argument("--whole", action="store_true", help="only the whole grid, of which 140 are no part")
    judging.add_argument("--output", type=Path, default=HERE, help="folder of RESULTS.md and its plots")
    given = parser.parse_args(arguments)
    try:
        if given.command == "run":
            return run(given.grid, given.emoji_root, given.pacs_root, given.output, given.cache)
        return report(given.folders, given.output, [FULL] if given.whole else list(GRIDS))
    except TwofoldError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
