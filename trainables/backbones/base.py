"""The backbone Phi: embeddings h = W Phi(x) / ||W Phi(x)||, cut in a frozen trunk and a trainable tail.

``full`` trains every layer, ``last_stage`` everything from the network's last stage on, ``head`` a linear
map of the pooled features. The trunk never changes, so its activations are computed once and cached.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from trainables.backbones.stages import split_last_stage
from trainables.cache import ArrayCache
from trainables.errors import TwofoldError, UnknownName, nearest_name
from trainables.extract import Output, Tap, extract
from trainables.images import ImageTransform, decode
from trainables.networks import Pretrained, unit_rows
from trainables.registry import Registry
from trainables.seeding import stable_hash
from trainables.types import ImageDomain

Finetune = Literal["full", "last_stage", "head"]
TAPS: dict[Finetune, Tap] = {"last_stage": "trunk", "head": "pooled"}
"""Where the inputs of a trainable tail are taken from the network; ``full`` reads the images themselves."""


class Architecture(ABC):
    """A library of networks that can be backbones."""

    @staticmethod
    @abstractmethod
    def describe(argument: str, image_size: int | None) -> Pretrained:
        """Return the network that ``argument`` names, without building it."""

    @staticmethod
    @abstractmethod
    def skeleton(argument: str, image_size: int | None) -> nn.Module:
        """Return the network of ``describe`` with arbitrary weights, read from no file: others fill it."""


BACKBONES: Registry[Architecture] = Registry("backbone", "trainables.backbones")


class Tail(nn.Module):
    """The trainable part: activations (b, ...) -> embeddings (b, e), L2-normalised.

    It stays in eval mode for ever: BatchNorm keeps its ImageNet statistics (batches mix two domains), and
    dropout and stochastic depth are off. Gradients flow as usual.

    Args:
        layers: the network's part, then the embedding.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        for module in self.layers.modules():
            if next(module.children(), None) is None:
                module.register_forward_hook(_keep_layout_of_gradient)
        self.train()

    def train(self, mode: bool = True) -> Tail:
        """Stay in eval mode whatever ``mode`` says."""
        del mode
        return super().train(False)

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        """(b, ...) -> (b, e), each row of norm 1."""
        return unit_rows(self.layers(activations))


def _keep_layout_of_gradient(_module: nn.Module, _inputs: object, output: Any) -> None:
    """Let the gradient of a channels_last map be channels_last as well.

    Pooling gives it another layout, in which the layers before take longer.
    """
    if isinstance(output, torch.Tensor) and output.ndim == 4 and output.requires_grad:
        output.register_hook(_channels_last)  # type: ignore[no-untyped-call]


def _channels_last(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network cut in two.

    Attributes:
        transform: geometry of the images.
        fingerprint: hash of the frozen trunk, of its cut and its weights.
        embedding_dim: e, the size of an embedding.
        trunk: frozen, in eval mode; (b, s, s, 3) uint8 -> activations (b, ...).
        tail: trainable; activations -> (b, e) L2-normalised embeddings.
    """

    transform: ImageTransform
    fingerprint: str
    embedding_dim: int
    trunk: nn.Module
    tail: Tail


def build_backbone(
    name: str,
    finetune: Finetune,
    embedding_dim: int | None,
    image_size: int | None,
    seed: int,
) -> Backbone:
    """Build a pretrained network with its embedding.

    Args:
        name: ``efficientnet_lite0``, or ``timm:<model>[/<checkpoint>]`` or ``torchvision:...`` likewise.
        finetune: what trains: ``full``, ``last_stage`` or ``head``.
        embedding_dim: e of a linear map without bias, initially orthogonal. None takes the pooled features
            themselves (with ``head``: a square map, initially the identity).
        image_size: side of the images in pixels; the network's own when None.
        seed: of the initial weights.

    Raises:
        TwofoldError: the name, the cut or the weights cannot be had.
    """
    pretrained = describe_backbone(name, finetune, image_size)
    trunk, body, dim = _kept_cut(pretrained, finetune)
    return _joined(pretrained, finetune, embedding_dim, (trunk, copy.deepcopy(body), dim), seed)


def assemble_backbone(pretrained: Pretrained, finetune: Finetune, embedding_dim: int | None) -> Backbone:
    """Build a network with its embedding that shares nothing with others, so that weights can be loaded.

    Args:
        pretrained: the network.
        finetune: where it is cut.
        embedding_dim: see ``build_backbone``.

    Raises:
        TwofoldError: the network cannot be built or cut.
    """
    return _joined(pretrained, finetune, embedding_dim, _cut(pretrained, finetune), seed=0)


def describe_backbone(name: str, finetune: str, image_size: int | None) -> Pretrained:
    """The network behind a backbone's name, not built; its names and checkpoint file are checked.

    Raises:
        UnknownName: no such backbone or finetune.
        TwofoldError: the checkpoint file is missing.
    """
    if finetune not in get_args(Finetune):
        known = get_args(Finetune)
        raise UnknownName(
            f"unknown finetune '{finetune}'.{nearest_name(finetune, known)} Known: {', '.join(known)}."
        )
    kind, _, argument = name.partition(":")
    pretrained: Pretrained = BACKBONES.get(kind).describe(argument, image_size)
    return pretrained


def trunk_activations(
    domain: ImageDomain,
    name: str,
    finetune: Finetune,
    image_size: int | None,
    cache: ArrayCache,
    shuffled: bool = False,
) -> np.ndarray:
    """Output of a backbone's frozen trunk for a whole domain, from the cache where it has it.

    Args:
        domain: the images, in the order of ``domain.ids``.
        name: see ``build_backbone``.
        finetune: where the network is cut.
        image_size: side of the images in pixels; the network's own when None.
        cache: where images and activations are kept.
        shuffled: take the patch-shuffled pseudo-anomalies instead.

    Returns:
        (n, ...) float32, memory-mapped; with ``full`` the images, (n, s, s, 3) uint8.
    """
    pretrained = describe_backbone(name, finetune, image_size)
    if finetune == "full":
        return decode(domain, pretrained.transform, cache, shuffled)
    return extract(domain, [Output(pretrained, TAPS[finetune])], cache, shuffled)[0]


_Cut = tuple[nn.Module, nn.Module, int]
"""Trunk from uint8 images, the network's part of the tail, size of the pooled features."""


def _joined(
    pretrained: Pretrained, finetune: Finetune, embedding_dim: int | None, cut: _Cut, seed: int
) -> Backbone:
    trunk, body, dim = cut
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU alone: weights are drawn there
        embed = _embedding(dim, embedding_dim, square=finetune == "head")
    fingerprint = _fingerprint(pretrained, finetune)
    return Backbone(pretrained.transform, fingerprint, embedding_dim or dim, trunk, Tail(body, embed))


def _fingerprint(pretrained: Pretrained, finetune: str) -> str:
    return stable_hash([pretrained.fingerprint, finetune])


@functools.lru_cache(maxsize=1)
def _kept_cut(pretrained: Pretrained, finetune: Finetune) -> _Cut:
    """Kept for the next training: building a network and reading its weights takes as long as some epochs."""
    return _cut(pretrained, finetune)


def _cut(pretrained: Pretrained, finetune: Finetune) -> _Cut:
    """Build a network and cut it in two."""
    normalise, network = pretrained.normalisation(), pretrained.build().eval()
    trunk: nn.Module
    body: nn.Module
    if finetune == "full":
        trunk, body = nn.Identity(), nn.Sequential(normalise, network)
    elif finetune == "head":
        trunk, body = nn.Sequential(normalise, network), nn.Identity()
    else:
        front, body = split_last_stage(network, pretrained.name)
        trunk = nn.Sequential(normalise, front)
    return trunk.requires_grad_(False).eval(), body, _pooled_dim(pretrained, nn.Sequential(trunk, body))


@torch.no_grad()
def _pooled_dim(pretrained: Pretrained, network: nn.Module) -> int:
    """Size of the pooled features, from one grey image: also the proof that this image size fits."""
    size = pretrained.transform.size
    try:
        return int(network(torch.full((1, size, size, 3), 128, dtype=torch.uint8)).shape[1])
    except (RuntimeError, AssertionError, ValueError) as error:
        raise TwofoldError(
            f"{pretrained.name} cannot take images of {size} pixels ({error}); change `image_size`."
        ) from error


def _embedding(pooled: int, embedding_dim: int | None, square: bool) -> nn.Module:
    if embedding_dim is None and not square:
        return nn.Identity()
    if embedding_dim is not None and embedding_dim < 1:
        raise TwofoldError(f"embedding_dim must be at least 1, not {embedding_dim}.")
    linear = nn.Linear(pooled, embedding_dim or pooled, bias=False)
    (nn.init.eye_ if embedding_dim is None else nn.init.orthogonal_)(linear.weight)
    return linear
