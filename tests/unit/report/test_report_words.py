from __future__ import annotations

import itertools

import pytest

from orchestrator.report.words import describe, describe_trusted, proxy_words
from trainables.configuration import REGISTRIES, Configuration, IncompatibleChoices


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"clusterer": "density", "keep": 0.6, "alignment": "identity", "score": "knn", "neighbours": 5},
            "density 60 %, no training, kNN score",
        ),
        (
            {"clusterer": "kmeans", "k": 5, "alignment": "contrastive", "tau": 0.2, "score": "source_centre"},
            "K-means K = 5, contrastive (τ = 0.2), source-centre score",
        ),
        (
            {"supervision": "source_only", "alignment": "none", "score": "source_centre", "epochs": 12},
            "source only, DSVDD alone (12 epochs), source-centre score",
        ),
        (
            {"supervision": "oracle", "alignment": "mmd", "score": "both_centres"},
            "true normals, MMD, both-centres score",
        ),
        ({"clusterer": "spherical_kmeans", "k": 3}, "spherical K-means K = 3"),
        ({"clusterer": "all", "k": None}, "all target images"),
        ({"clusterer": "brand_new", "alignment": "some_loss", "score": "x"}, "brand new, some loss, x score"),
        ({}, ""),
        (
            {
                "alignment": "contrastive",
                "tau": 0.07,
                "negatives": "in_batch",
                "encoder": "open_clip:ViT-B-32",
            },
            "contrastive (τ = 0.07, in-batch negatives, encoder open_clip:ViT-B-32)",
        ),
    ],
)
def test_words(config, words):
    assert describe(config) == words


def test_every_registered_choice_has_distinct_words():
    seen = {}
    names = {kind: REGISTRIES[kind].names() for kind in ("clusterer", "alignment", "score", "supervision")}
    for values in itertools.product(*names.values()):
        try:
            config = Configuration.parse(dict(zip(names, values, strict=True))).as_dict()
        except IncompatibleChoices:
            continue
        words = describe(config)
        assert seen.setdefault(words, config) == config


def test_hyperparameters_that_differ_are_said():
    base = {"clusterer": "kmeans", "k": 5, "alignment": "mmd", "score": "knn"}
    for change in ({"lambda_align": 10.0}, {"finetune": "head"}, {"epochs": 20}, {"neighbours": 1}, {"k": 2}):
        assert describe(base | change) != describe(base)


def test_names_of_parts():
    assert describe_trusted({"clusterer": "trimmed", "keep": 0.125}) == "trimmed 12.5 %"
    assert proxy_words("pseudo_auc") == "pseudo AUC"
