"""A detector on disk: the same scores after it is read back, what it holds, and files that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from trainables.backbones.base import build_backbone
from trainables.configuration import Configuration
from trainables.detector import (
    Description,
    Detector,
    Origin,
    ScoreDescription,
    Threshold,
    _checksum,
)
from trainables.embedder import Embedder, NetworkDescription
from trainables.encoders.base import build_encoder
from trainables.errors import NonFinite, TwofoldError
from trainables.scores.base import SCORES, Reference
from trainables.types import Contamination

SIZE = 32
SCORE_NAMES = SCORES.names()


@pytest.fixture
def network(backbone: str, tmp_path: Path) -> str:
    """A network whose checkpoint file goes away before its detectors are read."""
    kept = Path(backbone.partition("/")[2])
    return f"timm:test_resnet/{shutil.copy(kept, tmp_path / 'weights.pt')}"


def pictures(count: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def configured(network: str, score: str, **values: Any) -> Configuration:
    trained = {"alignment": "mmd", "backbone": network, **values} if values else {"alignment": "identity"}
    return Configuration.parse({"encoder": network, "clusterer": "all", "score": score, **trained})


def assembled(configuration: Configuration, tail: torch.nn.Module | None, reference: Reference) -> Detector:
    network = NetworkDescription.of(configuration, SIZE)
    description = Description(
        network=network,
        score=ScoreDescription(
            name=dict(configuration.names)["score"], parameters=configuration.score.used()
        ),
        threshold=Threshold(
            value=0.5, rule="by hand", contamination=Contamination(estimate=0.1, low=0, high=0.2)
        ),
        origin=Origin(
            sweep="s", task={"source": "a"}, setting="1", unit="2", configuration=configuration.as_dict(),
            trust="low", twofold="0",
        ),
    )  # fmt: skip
    return Detector(description, Embedder(network.frozen_part(), tail, network), reference)  # type: ignore[arg-type]


def reference_of(embed: Callable[[np.ndarray], np.ndarray], trusted: int = 12) -> Reference:
    source = embed(pictures(8, seed=1))
    return Reference(source.mean(axis=0), source, embed(pictures(12, seed=2))[:trusted])


def saved(detector: Detector, folder: Path) -> Path:
    detector.save(folder)
    Path(detector.description.network.name.partition("/")[2]).unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("score", SCORE_NAMES)
def test_frozen_features_are_scored_as_the_encoder_gives_them(
    score: str, network: str, tmp_path: Path
) -> None:
    configuration = configured(network, score)
    encode = build_encoder(network, SIZE).encode
    reference = reference_of(encode)
    expected = configuration.score(encode(pictures()), reference)
    folder = saved(assembled(configuration, None, reference), tmp_path / "detector")
    found = Detector.load(folder).score(pictures())
    assert found.shape == (9,) and found.dtype == np.float64
    assert np.array_equal(found, expected.astype(np.float64))


@pytest.mark.parametrize(
    ("finetune", "dim", "score"),
    [("head", None, "knn"), *(("last_stage", 8, score) for score in SCORE_NAMES), ("full", None, "knn")],
)
def test_a_trained_backbone_is_all_there(
    finetune: Any, dim: int | None, score: str, network: str, tmp_path: Path
) -> None:
    configuration = configured(network, score, finetune=finetune, embedding_dim=dim)
    built = build_backbone(network, finetune, dim, SIZE, seed=3)
    with torch.no_grad():
        for weight in built.tail.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def embed(images: np.ndarray) -> np.ndarray:
        return np.asarray(built.tail(built.trunk(torch.tensor(images))))

    reference = reference_of(embed)
    expected = configuration.score(embed(pictures()), reference)
    folder = saved(assembled(configuration, built.tail, reference), tmp_path / "detector")
    found = Detector.load(folder).score(pictures())
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(found, found[0]), "a network of arbitrary weights sees hardly a difference"


def test_the_precision_of_the_training_is_kept(network: str, tmp_path: Path) -> None:
    configuration = configured(network, "knn", finetune="last_stage", precision="bfloat16")
    built = build_backbone(network, "last_stage", None, SIZE, seed=3)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = built.tail(built.trunk(torch.tensor(pictures()))).float().numpy()
    reference = reference_of(build_encoder(network, SIZE).encode)
    folder = saved(assembled(configuration, built.tail, reference), tmp_path / "detector")
    found = Detector.load(folder).embedder
    assert np.allclose(found.embed(pictures()), expected, atol=0.01)
    with torch.inference_mode():
        full = built.tail(built.trunk(torch.tensor(pictures()))).numpy()
    assert 1e-5 < np.abs(found.embed(pictures()) - full).max() < 0.05


@pytest.mark.parametrize(
    ("score", "trusted", "expected"),
    [
        ("source_centre", 12, {"centre"}),
        ("target_centre", 12, {"trusted"}),
        ("both_centres", 12, {"centre", "trusted"}),
        ("knn", 12, {"trusted"}),
        ("knn", 0, {"source", "trusted"}),
        ("mahalanobis", 12, {"trusted"}),
    ],
)
def test_only_what_the_score_reads_is_kept(
    score: str, trusted: int, expected: set[str], network: str, tmp_path: Path
) -> None:
    embed = build_encoder(network, SIZE).encode
    reference = reference_of(embed, trusted)
    detector = assembled(configured(network, score), None, reference)
    folder = saved(detector, tmp_path / "detector")
    stored = load_file(folder / "detector.safetensors")
    kept = {name.partition(".")[2]: array for name, array in stored.items() if name.startswith("reference.")}
    assert set(kept) == expected
    assert all(np.array_equal(array, getattr(reference, name)) for name, array in kept.items())
    again = Detector.load(folder)
    assert np.array_equal(again.score(pictures()), detector.score(pictures()))
    again.save(tmp_path / "copy")
    for name in ("detector.json", "detector.safetensors"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()


def test_batches_do_not_matter(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = assembled(configured(network, "knn"), None, reference_of(build_encoder(network, SIZE).encode))
    whole = detector.score(pictures())
    monkeypatch.setattr("trainables.embedder.batch_size", lambda size: 2)
    assert np.allclose(detector.score(pictures()), whole, rtol=1e-5)
    assert detector.score(pictures()[:0]).shape == (0,)


@pytest.fixture
def folder(network: str, tmp_path: Path) -> Path:
    detector = assembled(configured(network, "knn"), None, reference_of(build_encoder(network, SIZE).encode))
    return saved(detector, tmp_path / "detector")


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "detector.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_threshold_changed_by_hand_decides(folder: Path) -> None:
    scores = Detector.load(folder).score(pictures())
    threshold = json.loads((folder / "detector.json").read_text())["threshold"]
    rewrite(folder, threshold={**threshold, "value": float(np.median(scores))})
    assert Detector.load(folder).is_anomalous(scores).tolist() == (scores > np.median(scores)).tolist()


def test_reading_draws_nothing_from_the_global_generator(folder: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Detector.load(folder)
    assert torch.equal(torch.rand(3), expected)


def test_a_score_that_is_not_finite_is_an_error(folder: Path) -> None:
    detector = Detector.load(folder)
    detector.reference.trusted[:] = 1e30
    with pytest.raises(NonFinite, match="score of image 0"):
        detector.score(pictures())


def _cut_off(folder: Path) -> None:
    path = folder / "detector.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _alter(folder: Path) -> None:
    content = bytearray((folder / "detector.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "detector.safetensors").write_bytes(content)


def _lose_a_tensor(folder: Path) -> None:
    """Whole files that do not belong together, checksum and all."""
    path = folder / "detector.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if name.endswith(".weight")))
    save_file(tensors, path)
    rewrite(folder, checksum=_checksum(path.read_bytes()))


def _no_reference(folder: Path) -> None:
    path = folder / "detector.safetensors"
    save_file({name: a for name, a in load_file(path).items() if not name.startswith("reference.")}, path)
    rewrite(folder, checksum=_checksum(path.read_bytes()))


DAMAGES: list[tuple[Callable[[Path], object], list[str]]] = [
    (_cut_off, ["detector.safetensors is damaged", "checksum", "Export the detector again"]),
    (_alter, ["detector.safetensors is damaged", "checksum"]),
    (_lose_a_tensor, ["detector.safetensors does not fit", "detector.json", "Missing key"]),
    (_no_reference, ["does not fit", "no reference embeddings"]),
    (lambda folder: (folder / "detector.safetensors").unlink(), ["cannot read", "detector.safetensors"]),
    (lambda folder: (folder / "detector.json").unlink(), ["no detector in", "`twofold export`"]),
    (lambda folder: (folder / "detector.json").write_text("{"), ["detector.json is damaged"]),
    (lambda folder: (folder / "detector.json").write_text("[]"), ["detector.json is damaged"]),
    (lambda folder: (folder / "detector.json").write_bytes(b"\xff\xfe"), ["detector.json is damaged"]),
    (lambda folder: rewrite(folder, schema_version=2), ["schema version 2", "reads 1"]),
    (lambda folder: rewrite(folder, treshold=1), ["detector.json", "`treshold`"]),
    (lambda folder: rewrite(folder, checksum="0"), ["checksum is wrong"]),
    (
        lambda folder: rewrite(folder, score={"name": "kn", "parameters": {}}),
        ["unknown score 'kn'", "Did you mean 'knn'?"],
    ),
    (
        lambda folder: rewrite(folder, score={"name": "knn", "parameters": {"neighbours": 0}}),
        ["score 'knn'", "neighbours"],
    ),
]


@pytest.mark.parametrize(("damage", "parts"), DAMAGES)
def test_damaged_files_are_refused_by_name(
    damage: Callable[[Path], object], parts: list[str], folder: Path
) -> None:
    damage(folder)
    with pytest.raises(TwofoldError) as error:
        Detector.load(folder)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_that_is_not_installed_is_refused_by_name(folder: Path) -> None:
    network = json.loads((folder / "detector.json").read_text())["network"]
    rewrite(folder, network={**network, "name": "timm:no_such_network"})
    with pytest.raises(TwofoldError, match=r"timm:no_such_network cannot be built.*constraints\.txt"):
        Detector.load(folder)
