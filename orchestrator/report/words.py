"""Configurations in a few words, for tables, plots and log lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TRUSTED = {
    "all": "all target images",
    "gmm": "Gaussian mixture",
    "hdbscan": "HDBSCAN",
    "kmeans": "K-means",
    "merged": "merged K-means",
    "spherical_kmeans": "spherical K-means",
}
_SUPERVISION = {"source_only": "source only", "oracle": "true normals", "few_shot": "few shots"}
_TRAINING = {
    "identity": "no training",
    "none": "DSVDD alone",
    "mmd": "MMD",
    "grl": "gradient reversal",
    "coral": "CORAL",
    "bce": "cross-entropy",
}
_QUANTITIES = {"negatives_inside": "negatives inside the band"}
_SCORES = {"knn": "kNN", "knn_both": "two-domain kNN", "mahalanobis": "Mahalanobis"}
_CAPITALS = {"auc": "AUC", "k": "K"}
_DETAILS: dict[str, tuple[Any, str]] = {
    "tau": (None, "τ = {}"),
    "negatives": ("non_dominant", "{} negatives"),
    "lambda_align": (1.0, "alignment weight {}"),
    "lambda_dsvdd": (1.0, "DSVDD weight {}"),
    "finetune": ("last_stage", "fine-tuned: {}"),
    "backbone": ("efficientnet_lite0", "backbone {}"),
    "embedding_dim": (None, "{} dimensions"),
    "centre": ("fixed", "{} centre"),
    "epochs": (6, "{} epochs"),
    "learning_rate": (1e-4, "learning rate {}"),
    "encoder": ("efficientnet_lite0", "encoder {}"),
    "shots": (10, "{} shots"),
    "alpha": (1.0, "pseudo-anomaly weight {}"),
}
"""Hyperparameter -> (the usual value, which goes without saying; how any other value is said)."""


def counted(number: int, noun: str) -> str:
    """A number and its noun: ``1 unit``, ``2 units``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def describe(config: Mapping[str, Any]) -> str:
    """A configuration in short words, e.g. ``density 60 %, no training, kNN score``.

    Names that nobody has words for are written as they are, so that a new component needs no entry here. A
    mapping that holds only part of a configuration is described as far as it goes.
    """
    parts = [describe_trusted(config), _training(config), _score(config)]
    return ", ".join(part for part in parts if part)


def describe_trusted(config: Mapping[str, Any]) -> str:
    """The trusted set of a configuration, e.g. ``K-means K = 5``; empty where none is named."""
    supervision = str(config.get("supervision", "unsupervised"))
    if "clusterer" not in config:
        return "" if supervision == "unsupervised" else _SUPERVISION.get(supervision, _plain(supervision))
    name = str(config["clusterer"])
    words = _TRUSTED.get(name, _plain(name))
    if config.get("k") is not None:
        words += f" K = {config['k']}"
    if config.get("keep") is not None:
        words += f"{' up to' if 'k' in config else ''} {100 * float(config['keep']):.3g} %"
    return words


def proxy_words(name: str) -> str:
    """A proxy's name in words, e.g. ``pseudo AUC``."""
    return " ".join(_CAPITALS.get(word, word) for word in name.split("_"))


def alignment_words(name: str) -> str:
    """An alignment's name in words, e.g. ``gradient reversal``."""
    return _TRAINING.get(name, _plain(name))


def training_words(quantity: str) -> str:
    """What is measured in every epoch, in words."""
    return _QUANTITIES.get(quantity, _plain(quantity))


def _training(config: Mapping[str, Any]) -> str:
    if "alignment" not in config:
        return ""
    name = str(config["alignment"])
    words = alignment_words(name)
    details = [
        text.format(_value(key, config[key]))
        for key, (usual, text) in _DETAILS.items()
        if config.get(key) is not None and config[key] != usual
    ]
    return f"{words} ({', '.join(details)})" if details else words


def _value(key: str, value: Any) -> str:
    if not isinstance(value, str):
        return f"{value:g}"
    return value if key in ("backbone", "encoder") else value.replace("_", "-")


def _score(config: Mapping[str, Any]) -> str:
    if "score" not in config:
        return ""
    name = str(config["score"])
    words = f"{_SCORES.get(name, name.replace('_', '-'))} score"
    neighbours = config.get("neighbours", 5)
    return words if neighbours == 5 else f"{words} (k = {neighbours})"


def _plain(name: str) -> str:
    return name.replace("_", " ")
