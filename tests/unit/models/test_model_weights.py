"""Checkpoint files and downloads: one clear error each, no code run, no minutes of retries."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch import nn

from trainables import weights
from trainables.backbones.base import build_backbone
from trainables.encoders.base import build_encoder
from trainables.errors import TwofoldError


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A server that accepts connections and never answers, with empty caches."""
    monkeypatch.setattr(weights, "_PROBE_SECONDS", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights._reachable.cache_clear()
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        yield url
    weights._reachable.cache_clear()


@pytest.mark.parametrize(
    ("name", "file", "remedy"),
    [
        (
            "open_clip:ViT-B-32/openai",
            "vit_base_patch32_clip_224.openai",
            "open_clip:ViT-B-32-quickgelu/<path>",
        ),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "CLIP-ViT-B-32-laion2B", "open_clip:ViT-B-32/<path>"),
        ("timm:resnet18", "timm/resnet18", "timm:resnet18/<path>"),
    ],
)
def test_weights_out_of_reach_say_what_to_do(silent_server: str, name: str, file: str, remedy: str) -> None:
    start = time.monotonic()
    with pytest.raises(TwofoldError) as error:
        build_encoder(name, None).pretrained.build()
    assert time.monotonic() - start < 10
    text = str(error.value)
    for part in (f"the weights {name}", "could not be fetched", file, remedy, "efficientnet_lite0"):
        assert part in text
    assert "\n" not in text


def test_torchvision_weights_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "_reachable", lambda url: False)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(
        TwofoldError, match=r"torchvision:resnet18 .*download https.*torchvision:resnet18/<path>"
    ):
        build_backbone("torchvision:resnet18", "head", None, 64, seed=0)


def test_probe_gives_up_on_a_silent_server(silent_server: str) -> None:
    start = time.monotonic()
    assert not weights._reachable(silent_server)
    assert time.monotonic() - start < 3


def test_offline_machine_still_uses_the_library_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_reachable", lambda url: False)
    before = (constants.HF_HUB_OFFLINE, socket.getdefaulttimeout())
    assert weights.fetch("w", "http://x", "do", lambda: constants.HF_HUB_OFFLINE) is True
    assert (constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()) == before


def test_identity_is_the_content(tmp_path: Path) -> None:
    one, two = tmp_path / "a.pt", tmp_path / "b.pt"
    one.write_bytes(b"weights")
    two.write_bytes(b"weights")
    assert weights.checkpoint_identity(str(one)) == weights.checkpoint_identity(str(two))
    two.write_bytes(b"others!")
    os.utime(two, ns=(1, 1))
    assert weights.checkpoint_identity(str(one)) != weights.checkpoint_identity(str(two))


@pytest.mark.parametrize(
    ("value", "expected"), [("openai", False), ("x.pt", True), ("/a/b", True), ("laion2b_s34b_b79k", False)]
)
def test_a_tag_is_not_a_path(value: str, expected: bool) -> None:
    assert weights.is_checkpoint(value) is expected


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("RN50//path/x.pt", ("RN50", "/path/x.pt")),
        ("resnet18.a1_in1k", ("resnet18.a1_in1k", None)),
        ("m/rel/x.bin", ("m", "rel/x.bin")),
        ("m/", ("m", None)),
    ],
)
def test_names_split_at_the_first_slash(argument: str, expected: tuple[str, str | None]) -> None:
    assert weights.split_name(argument) == expected


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["timm:test_resnet/{}", "open_clip:ViT-S-32-alt/{}"])
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    file, trace = tmp_path / "weights.pt", tmp_path / "trace"
    file.write_bytes(pickle.dumps({"conv1.weight": Malicious(trace)}))
    with pytest.raises(TwofoldError, match=r"weights\.pt cannot be loaded"):
        build_encoder(name.format(file), None).pretrained.build()
    assert not trace.exists()


def test_torchscript_archive_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "jit.pt"
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), str(file))
    with pytest.raises(TwofoldError, match=r"jit\.pt .*TorchScript"):
        build_encoder(f"timm:test_resnet/{file}", None).pretrained.build()


@pytest.mark.parametrize("name", ["timm:test_resnet/{}", "open_clip:ViT-S-32-alt/{}"])
def test_missing_checkpoint_is_found_before_building(tmp_path: Path, name: str) -> None:
    with pytest.raises(TwofoldError, match=r"no checkpoint file .*gone\.pt"):
        build_encoder(name.format(tmp_path / "gone.pt"), None)
