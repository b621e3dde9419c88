"""A configuration is canonical: equal meaning, equal mapping, over random samples of the whole space."""

from __future__ import annotations

import json
import typing
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trainables.configuration import (
    DEFAULTS,
    REGISTRIES,
    Configuration,
    IncompatibleChoices,
    check_keys,
    known_keys,
)
from trainables.errors import TwofoldError, UnknownName
from trainables.seeding import canonical_json

ENTRIES = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry.names()]
FIELDS = [(kind, name, field) for kind, name in ENTRIES for field in REGISTRIES[kind].get(name).model_fields]


def valid_values(kind: str, name: str, field: str) -> list[Any]:
    """Some values that the field accepts, found by trying."""
    entry = REGISTRIES[kind].get(name)
    info = entry.model_fields[field]
    tried = [info.default, None, 0, 1, 2, 7, 0.25, 0.5, 1.5, "timm:resnet50", *literals(info.annotation)]
    found: list[Any] = []
    for value in tried:
        try:
            kept = getattr(entry(**{field: value}), field)
        except ValidationError:
            continue
        if kept not in found:
            found.append(kept)
    return found


def literals(annotation: Any) -> list[Any]:
    return list(typing.get_args(annotation)) if typing.get_origin(annotation) is typing.Literal else []


VALUES = {
    field: sorted({canonical_json(v) for k, n, f in FIELDS if f == field for v in valid_values(k, n, f)})
    for field in {field for _, _, field in FIELDS}
}


@st.composite
def mappings(draw: st.DrawFn) -> dict[str, Any]:
    """Any mapping of valid values, whether its choices use them or not."""
    flat: dict[str, Any] = {}
    for kind, registry in REGISTRIES.items():
        if draw(st.booleans()):
            flat[kind] = draw(st.sampled_from(registry.names()))
    if draw(st.booleans()):
        flat["encoder"] = draw(st.sampled_from(["efficientnet_lite0", "timm:resnet50", "backbone"]))
    for field in sorted(VALUES):
        if draw(st.booleans()):
            flat[field] = json.loads(draw(st.sampled_from(VALUES[field])))
    return flat


def parse(flat: dict[str, Any]) -> Configuration:
    """The configuration; choices that exclude each other are not the business of the property."""
    try:
        return Configuration.parse(flat)
    except IncompatibleChoices:
        assume(False)
        raise


@given(mappings())
def test_canonical_form_is_a_fixed_point(flat: dict[str, Any]) -> None:
    configuration = parse(flat)
    canonical = configuration.as_dict()
    again = Configuration.parse(json.loads(canonical_json(canonical)))
    assert canonical_json(again.as_dict()) == canonical_json(canonical)
    assert (again.embedding_key, again.trusted_key) == (
        configuration.embedding_key,
        configuration.trusted_key,
    )
    assert {**canonical, **flat}.keys() <= known_keys().keys()


@given(mappings())
def test_order_of_the_names_does_not_matter(flat: dict[str, Any]) -> None:
    configuration = parse(flat)
    assert Configuration.parse(dict(reversed(flat.items()))) == configuration


@given(mappings())
def test_only_what_is_used_is_kept(flat: dict[str, Any]) -> None:
    configuration = parse(flat)
    canonical = configuration.as_dict()
    used = {"supervision", "alignment", "score"}
    for kind in ("clusterer", "method", "encoder"):
        if getattr(configuration, kind) is not None:
            used.add(kind)
    expected = set(used)
    for kind in used - {"encoder"}:
        expected |= set(REGISTRIES[kind].get(canonical[kind]).model_fields)
    if canonical.get("negatives") != "ignore_band":
        expected.discard("band")
    if not configuration.alignment.uses_trusted:
        expected.discard("lambda_align")
    if not configuration.alignment.uses_negatives:
        expected.discard("alpha")
    assert set(canonical) == expected
    assert (configuration.method is None) == (not configuration.alignment.trains)
    for key in expected & set(flat):
        if key != "supervision":
            assert canonical[key] == flat[key]


@given(mappings())
def test_target_that_nobody_uses_is_source_only(flat: dict[str, Any]) -> None:
    configuration = parse(flat)
    reads = configuration.alignment.uses_trusted or configuration.score.uses_trusted
    if not reads:
        assert configuration.as_dict()["supervision"] == "source_only"
        assert configuration.clusterer is None
    if configuration.clusterer is not None:
        assert configuration.encoder is not None
    if configuration.supervision.needs_labels:
        assert configuration.encoder is not None


@given(mappings())
def test_negatives_exist_or_the_choice_is_refused(flat: dict[str, Any]) -> None:
    configuration = parse(flat)
    if configuration.alignment.uses_negatives and configuration.clusterer is not None:
        assert not configuration.clusterer.trusts_all
    if configuration.alignment.uses_trusted:
        assert configuration.supervision.uses_target


def training_of(configuration: Configuration) -> Any:
    """What a training depends on, in words: everything but the score, and no target without alignment."""
    flat = configuration.as_dict()
    score = set(REGISTRIES["score"].get(flat["score"]).model_fields) | {"score"}
    if configuration.alignment.uses_trusted:
        return {key: value for key, value in flat.items() if key not in score}
    target = {"supervision", "clusterer", *type(configuration.supervision).model_fields}
    if configuration.clusterer is not None:
        target |= set(type(configuration.clusterer).model_fields)
    if configuration.method is not None:
        target.add("encoder")
    return {key: value for key, value in flat.items() if key not in score | target}


@given(mappings(), mappings())
@settings(max_examples=200)
def test_embedding_key_is_equal_for_the_same_training_alone(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    left = parse(first)
    mixed = {**first, **{key: second[key] for key in list(second)[:2]}}
    right = parse(mixed)
    assert (left.embedding_key == right.embedding_key) == (training_of(left) == training_of(right))


@given(mappings(), mappings())
@settings(max_examples=200)
def test_training_key_is_equal_where_one_training_serves_both(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    """As ``embedding_key``, apart from the epochs where none of them depends on their number."""
    names = ["epochs", *list(second)[:1]]
    left, right = parse(first), parse({**first, **{key: second[key] for key in names if key in second}})

    def needs(configuration: Configuration) -> Any:
        uses_progress = configuration.alignment.uses_progress
        in_own_space = configuration.encoder == "backbone" and configuration.alignment.uses_trusted
        apart = uses_progress or in_own_space
        return {key: value for key, value in training_of(configuration).items() if apart or key != "epochs"}

    assert (left.training_key == right.training_key) == (needs(left) == needs(right))


@given(mappings(), st.sampled_from(REGISTRIES["score"].names()))
def test_scores_of_one_training_share_it(flat: dict[str, Any], score: str) -> None:
    left = parse({"alignment": "mmd", "supervision": "unsupervised", **flat, "score": "knn"})
    assume(left.alignment.uses_trusted)
    right = parse({"alignment": "mmd", "supervision": "unsupervised", **flat, "score": score})
    assert left.embedding_key == right.embedding_key and left.trusted_key == right.trusted_key


@pytest.mark.parametrize(("kind", "name", "field"), FIELDS)
def test_every_hyperparameter_of_a_training_changes_its_key(kind: str, name: str, field: str) -> None:
    base = {"alignment": "mmd", "clusterer": "kmeans", "score": "knn", kind: name}
    if field == "band":
        base["negatives"] = "ignore_band"
    if field == "alpha":
        base["alignment"] = "bce"
    keys, canonical = set(), set()
    for value in valid_values(kind, name, field):
        try:
            configuration = Configuration.parse({**base, field: value})
        except IncompatibleChoices:
            continue
        keys.add(configuration.embedding_key)
        canonical.add(canonical_json(configuration.as_dict()))
    assert len(canonical) > 1
    assert len(keys) == (1 if kind == "score" else len(canonical))


def test_trusted_key_is_about_the_trusted_set() -> None:
    def key(**values: Any) -> str:
        flat = {"alignment": "mmd", "clusterer": "kmeans", "k": 5, "score": "knn", **values}
        return Configuration.parse(flat).trusted_key

    assert key() == key(alignment="positive") == key(score="source_centre") == key(lambda_align=0.3)
    assert key(alignment="identity") == key()
    different = [
        key(),
        key(k=4),
        key(clusterer="spherical_kmeans"),
        key(clusterer="all"),
        key(encoder="timm:resnet50"),
        key(supervision="oracle"),
        key(encoder="backbone"),
        key(encoder="backbone", learning_rate=0.5),
    ]
    assert len(set(different)) == len(different)


def test_equal_numbers_are_one_configuration() -> None:
    assert Configuration.parse({"tau": 1, "k": 5.0}) == Configuration.parse({"tau": 1.0, "k": 5})
    texts = {canonical_json(Configuration.parse({"lambda_align": v}).as_dict()) for v in (1, 1.0)}
    assert len(texts) == 1


def test_unused_names_are_dropped() -> None:
    plain = {"alignment": "identity", "clusterer": "density", "score": "target_centre"}
    extra = {**plain, "k": 9, "tau": 0.5, "epochs": 3, "neighbours": 2, "backbone": "timm:resnet50"}
    assert Configuration.parse(plain) == Configuration.parse(extra)
    assert set(Configuration.parse(extra).as_dict()) == {
        "supervision", "encoder", "clusterer", "keep", "alignment", "score",
    }  # fmt: skip


@pytest.mark.parametrize("supervision", REGISTRIES["supervision"].names())
@pytest.mark.parametrize("alignment", ["none", "identity"])
def test_source_centre_without_alignment_is_the_source_only_baseline(
    supervision: str, alignment: str
) -> None:
    flat = {"supervision": supervision, "alignment": alignment, "score": "source_centre", "k": 3}
    configuration = Configuration.parse(flat)
    canonical = configuration.as_dict()
    assert canonical["supervision"] == "source_only" and "clusterer" not in canonical
    assert ("encoder" in canonical) == (alignment == "identity")


def test_the_defaults_are_a_configuration() -> None:
    canonical = Configuration.parse({}).as_dict()
    assert DEFAULTS.items() <= canonical.items()
    for kind, name in ENTRIES:
        if name in DEFAULTS.values():
            defaults = REGISTRIES[kind].get(name)().used()
            assert defaults.items() <= canonical.items()


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("lamda_align", "lambda_align"), ("clusterers", "clusterer"), ("Tau", "tau"), ("epoch", "epochs")],
)
def test_unknown_key_with_its_nearest_name(key: str, nearest: str) -> None:
    with pytest.raises(UnknownName, match=f"'{key}'.* Did you mean '{nearest}'.*Known: .*alignment"):
        Configuration.parse({key: 1})
    with pytest.raises(UnknownName):
        check_keys({"k": 5, key: 1})


@pytest.mark.parametrize("kind", REGISTRIES)
def test_unknown_choice_with_its_nearest_name(kind: str) -> None:
    known = REGISTRIES[kind].names()
    misspelt = known[-1] + "x"
    with pytest.raises(UnknownName) as error:
        Configuration.parse({kind: misspelt})
    message = str(error.value)
    assert f"{kind} '{misspelt}'" in message and f"Did you mean '{known[-1]}'?" in message
    assert all(name in message for name in known)


@pytest.mark.parametrize(
    ("flat", "key"),
    [
        ({"k": 0}, "k"),
        ({"k": 2.5}, "k"),
        ({"k": "many"}, "k"),
        ({"k": None}, "k"),
        ({"k": [2, 5]}, "k"),
        ({"clusterer": "density", "keep": 1.2}, "keep"),
        ({"tau": 0}, "tau"),
        ({"tau": float("nan")}, "tau"),
        ({"tau": float("inf")}, "tau"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"lambda_align": -1}, "lambda_align"),
        ({"lambda_dsvdd": float("inf")}, "lambda_dsvdd"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"finetune": "all"}, "finetune"),
        ({"negatives": "none"}, "negatives"),
        ({"centre": "moving"}, "centre"),
        ({"score": "knn", "neighbours": 0}, "neighbours"),
    ],
)
def test_value_out_of_range_names_its_key(flat: dict[str, Any], key: str) -> None:
    with pytest.raises(TwofoldError) as error:
        Configuration.parse(flat)
    assert str(error.value).startswith(f"{key}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        ({"supervision": "source_only", "alignment": "mmd"}, ("mmd", "source_only")),
        (
            {"supervision": "source_only", "alignment": "identity", "score": "target_centre"},
            ("target_centre", "source_only"),
        ),
        ({"clusterer": "all"}, ("contrastive", "all", "in_batch")),
        ({"clusterer": "kmeans", "k": 1}, ("contrastive", "kmeans", "in_batch")),
        ({"clusterer": "density", "keep": 1, "negatives": "both"}, ("contrastive", "density")),
        ({"encoder": "backbone", "alignment": "identity", "score": "knn"}, ("backbone", "identity")),
    ],
)
def test_choices_that_exclude_each_other(flat: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(IncompatibleChoices) as error:
        Configuration.parse(flat)
    assert all(word in str(error.value) for word in words)


def test_in_batch_negatives_need_nobody_outside() -> None:
    assert Configuration.parse({"clusterer": "all", "negatives": "in_batch"}).clusterer is not None


@pytest.mark.parametrize("name", sorted({field for _, _, field in FIELDS}))
def test_a_name_means_the_same_everywhere(name: str) -> None:
    """A sweep file writes one value for a name: it must be valid for every choice that declares it."""
    infos = [REGISTRIES[kind].get(entry).model_fields[name] for kind, entry, field in FIELDS if field == name]
    assert len({(str(info.annotation), info.default, info.description) for info in infos}) == 1
    assert infos[0].description and not infos[0].is_required()
    assert name not in DEFAULTS


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_entry_takes_part_in_some_configuration(kind: str, name: str) -> None:
    base = {"alignment": "mmd", "clusterer": "kmeans", "score": "knn"}
    if name == "source_only":
        base["alignment"] = "none"
    configuration = Configuration.parse({**base, kind: name})
    assert configuration.as_dict()[kind] == name


def test_every_key_is_described() -> None:
    assert all(known_keys().values())


def test_reclustering_needs_an_alignment_in_the_backbones_space() -> None:
    flat = {"encoder": "backbone", "alignment": "mmd", "score": "knn"}
    assert Configuration.parse(flat).reclusters
    assert not Configuration.parse({**flat, "alignment": "none"}).reclusters
    assert not Configuration.parse({**flat, "encoder": "efficientnet_lite0"}).reclusters
    assert not Configuration.parse({**flat, "supervision": "oracle"}).reclusters
