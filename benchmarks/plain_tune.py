"""The obvious Ray Tune script for a sweep: the yardstick that benchmarks/speed.py holds twofold against.

python benchmarks/plain_tune.py benchmarks/plain_tune.yaml --folder FOLDER

Written as Ray's documentation shows it: a function trainable, a grid as ``param_space``, a fresh actor per
trial, a report per epoch, MLflow by Ray's callback. A trial is one unit of the sweep file: it loads the
images of its setting, encodes, clusters, trains, scores and reports. Algorithms and splits are twofold's,
so that the scores are the same; its cache, grouping, ledger and tracking are not used. A trial does nothing
in vain: it decodes no image but its setting's, encodes what it will use, and keeps the frozen trunk's
activations for all epochs.

Only for sweep files with a frozen encoder, a clusterer and an image size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from sklearn.metrics import roc_auc_score
from torch import nn

from orchestrator.config import load_config
from orchestrator.oracle import Drawn, Request, draw
from orchestrator.plan import enumerate_grid
from orchestrator.prepare import open_dataset
from trainables.backbones.base import build_backbone
from trainables.configuration import Configuration
from trainables.data.base import Dataset
from trainables.encoders.base import build_encoder
from trainables.extract import batch_size
from trainables.images import ImageTransform, patch_shuffled
from trainables.methods.base import PARTS, Part, Rows, SettingArrays, Training, TrainingInputs
from trainables.networks import unit_rows
from trainables.scores.base import Reference
from trainables.seeding import generator
from trainables.types import Assignment, Setting

HELD_OUT: tuple[Part, ...] = ("source_val", "target_sel", "pseudo", "test")

Images = Callable[[Part, ImageTransform], np.ndarray]
Report = Callable[[dict[str, Any]], None]


def trial(config: dict[str, Any], dataset: Dataset, drawn: Mapping[str, Drawn], image_size: int) -> None:
    """The trainable: one configuration on one setting; its scores go to a file in the trial's folder."""
    torch.set_num_threads(1)
    setting, anomalous = drawn[config["setting"]]
    configuration = Configuration.parse(config["configuration"])
    images = partial(load_images, dataset, setting)
    scores = score_unit(images, setting, configuration, config["seed"], image_size, tune.report)
    np.savez("scores.npz", **scores)
    auroc = roc_auc_score([anomalous[image] for image in setting.test], scores["test"])
    tune.report({"auroc": float(auroc)})


def load_images(dataset: Dataset, setting: Setting, part: Part, transform: ImageTransform) -> np.ndarray:
    """Decode the images of a part: (n, s, s, 3) uint8."""
    domain = dataset.domain(setting.task.source if part.startswith("source") else setting.task.target)
    ids = setting.target_sel if part == "pseudo" else getattr(setting, part)
    decoded = np.stack([transform(domain.read(domain.ids.index(image))) for image in ids])
    return patch_shuffled(decoded, ids) if part == "pseudo" else decoded


def score_unit(
    images: Images,
    setting: Setting,
    configuration: Configuration,
    seed: int,
    image_size: int,
    report: Report,
) -> dict[Part, np.ndarray]:
    """Encode, cluster, train where the configuration does, and score.

    Args:
        images: decodes the images of a part.
        setting: names the draws.
        configuration: of the unit.
        seed: of weights, batches and clusterings.
        image_size: in pixels.
        report: hears the losses of each epoch.

    Returns:
        (n,) scores of each held-out part, higher = more anomalous.
    """
    images = cache(images)  # encoder and backbone may look at the same ones
    encoder = build_encoder(configuration.encoder, image_size).pretrained
    network = nn.Sequential(encoder.normalisation(), encoder.build())
    needed = ("target_fit",) if configuration.method else PARTS
    outputs = run_network(network, {part: images(part, encoder.transform) for part in needed})
    features = {part: unit_rows(pooled).numpy() for part, pooled in outputs.items()}
    draws = generator("cluster", setting.key, seed, configuration.trusted_key)
    assignment = configuration.clusterer(features["target_fit"], draws)
    if configuration.method:
        training = start_training(images, setting, configuration, assignment, seed, image_size)
        for _ in range(configuration.method.epochs):
            report(training.fit_epoch())
        embeddings, centre = {part: training.embed(part) for part in PARTS}, training.centre
    else:
        embeddings, centre = features, features["source_fit"].mean(axis=0)
    trusted = embeddings["target_fit"][assignment.trusted]
    reference = Reference(centre, embeddings["source_fit"], trusted)
    return {part: configuration.score(embeddings[part], reference) for part in HELD_OUT}


@torch.inference_mode()
def run_network(network: nn.Module, images: Mapping[Part, np.ndarray]) -> dict[Part, torch.Tensor]:
    """Outputs (n, ...) of a frozen network for the (n, s, s, 3) uint8 images of each part."""
    network = network.eval().to(memory_format=torch.channels_last)
    together = torch.from_numpy(np.concatenate(list(images.values())))
    # Batches of twofold's size: the last bit of a convolution depends on it, and training magnifies it.
    batches = together.split(batch_size(together.shape[1]))
    outputs = torch.cat([network(batch) for batch in batches])
    return dict(zip(images, outputs.split([len(part) for part in images.values()]), strict=True))


def start_training(
    images: Images,
    setting: Setting,
    configuration: Configuration,
    assignment: Assignment,
    seed: int,
    image_size: int,
) -> Training:
    """A training on the activations of the backbone's frozen trunk, which are computed here, once."""
    method = configuration.method
    backbone = build_backbone(method.backbone, method.finetune, method.embedding_dim, image_size, seed=seed)
    outputs = run_network(backbone.trunk, {part: images(part, backbone.transform) for part in PARTS})
    rows = {part: Rows(values.numpy(), np.arange(len(values))) for part, values in outputs.items()}
    arrays = SettingArrays(features={}, inputs=rows)
    return method.start(
        TrainingInputs(arrays, assignment, None, configuration.alignment, setting.key, seed, image_size)
    )


def run(space: Path, folder: Path) -> tune.ResultGrid:
    """Run every unit of a sweep file; everything that comes of it goes into ``folder``."""
    config = load_config(space)
    configurations = [configuration.as_dict() for configuration in enumerate_grid(config).configurations]
    request = Request(**config.data.model_dump(include=set(Request.model_fields)))
    drawn = {one.setting.key: one for one in draw(request)}
    constants = {"dataset": open_dataset(config), "drawn": drawn, "image_size": config.data.image_size}
    ray.init(num_cpus=config.resources.workers)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, **constants), {"cpu": 1}),
        param_space={
            "setting": tune.grid_search(list(drawn)),
            "configuration": tune.grid_search(configurations),
            "seed": tune.grid_search(list(config.seeds)),
        },
        run_config=tune.RunConfig(
            name=config.name,
            storage_path=str(folder),
            callbacks=[MLflowLoggerCallback(f"sqlite:///{folder}/mlflow.db", experiment_name=config.name)],
            sync_config=tune.SyncConfig(sync_artifacts=True),  # keep the files that a trial writes
        ),
    )
    return tuner.fit()


def main() -> int:
    """Entry point; the exit code is 0 if every trial ended well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("space", type=Path, help="sweep file")
    parser.add_argument("--folder", type=Path, required=True, help="of the results and of MLflow's database")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = run(arguments.space, arguments.folder.absolute())
    best = results.get_best_result("auroc", "max")
    print(f"best of {len(results)}: AUROC {best.metrics['auroc']:.3f} by {best.config}")
    return 1 if results.num_errors else 0


if __name__ == "__main__":
    sys.exit(main())
