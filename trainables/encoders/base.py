"""The encoder V of eq. 6: a frozen network, images -> L2-normalised features z = V(x) / ||V(x)||.

An encoder is known (transform, fingerprint) before its network is built, so that cached features cost no
model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from torch import nn

from trainables.cache import ArrayCache
from trainables.errors import TwofoldError
from trainables.extract import InProcess, Output, batch_size, extract
from trainables.images import ImageTransform
from trainables.networks import Pretrained
from trainables.registry import Registry
from trainables.types import ImageDomain


class Encoder(ABC):
    """A frozen network with its own eval transform, built when it first encodes.

    Args:
        argument: what follows the colon of the encoder's name.
        image_size: side of the images in pixels; the network's own when None.
    """

    def __init__(self, argument: str, image_size: int | None) -> None:
        self.pretrained = self.describe(argument, image_size)

    @staticmethod
    @abstractmethod
    def describe(argument: str, image_size: int | None) -> Pretrained:
        """Return the network without building it, its checkpoint file checked to exist."""

    @staticmethod
    @abstractmethod
    def skeleton(argument: str, image_size: int | None) -> nn.Module:
        """Return the network of ``describe`` with arbitrary weights, read from no file: others fill it."""

    @property
    def transform(self) -> ImageTransform:
        """Geometry of the images that ``encode`` takes."""
        return self.pretrained.transform

    @property
    def fingerprint(self) -> str:
        """Hash of the architecture and its weights, computed without building the network."""
        return self.pretrained.fingerprint

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Features of decoded images.

        Args:
            images: (b, s, s, 3) uint8.

        Returns:
            (b, d) float32, L2-normalised.

        Raises:
            NonFinite: a feature is zero or not finite.
            TwofoldError: the weights cannot be fetched or loaded.
        """
        size = batch_size(self.transform.size)
        batches = (images[start : start + size] for start in range(0, len(images), size))
        encoded = InProcess()(self.pretrained, ("features",), batches)
        return np.concatenate([outputs["features"] for outputs in encoded])


ENCODERS: Registry[Encoder] = Registry("encoder", "trainables.encoders")


def build_encoder(name: str, image_size: int | None) -> Encoder:
    """Return the encoder of this name; its network is built when it first encodes.

    Args:
        name: ``efficientnet_lite0``, ``timm:<model>[/<checkpoint>]`` or
            ``open_clip:<model>/<tag or checkpoint>``.
        image_size: side of the images in pixels; the network's own when None.

    Raises:
        TwofoldError: the name is unknown or reserved, or its checkpoint file is missing.
    """
    kind, _, argument = name.partition(":")
    if kind == "backbone":
        raise TwofoldError(
            "`backbone` clusters in the backbone's own space and is not a frozen encoder; "
            "name a network, e.g. `efficientnet_lite0`."
        )
    encoder: Encoder = ENCODERS.get(kind)(argument, image_size)
    return encoder


def encode_domain(
    domain: ImageDomain,
    encoder_name: str,
    image_size: int | None,
    cache: ArrayCache,
    shuffled: bool = False,
) -> np.ndarray:
    """Features of a whole domain, from the cache where it has them.

    Args:
        domain: the images, in the order of ``domain.ids``.
        encoder_name: see ``build_encoder``.
        image_size: side of the images in pixels; the network's own when None.
        cache: where images and features are kept.
        shuffled: encode the patch-shuffled pseudo-anomalies instead.

    Returns:
        (n, d) float32, L2-normalised, memory-mapped.

    Raises:
        NonFinite: a feature is zero or not finite.
        TwofoldError: the encoder or an image cannot be had.
    """
    output = Output(build_encoder(encoder_name, image_size).pretrained, "features")
    return extract(domain, [output], cache, shuffled)[0]
