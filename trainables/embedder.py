"""Phi at inference: images -> embeddings, built again without the files that its first weights came from."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from trainables.backbones.base import (
    BACKBONES,
    Finetune,
    Tail,
    assemble_backbone,
    build_backbone,
    describe_backbone,
)
from trainables.configuration import Configuration
from trainables.encoders.base import ENCODERS, build_encoder
from trainables.errors import TwofoldError
from trainables.extract import batch_size
from trainables.images import ImageTransform
from trainables.networks import Pretrained, best_device
from trainables.weights import summary


class NetworkDescription(BaseModel):
    """What a network is, but for its weights.

    Attributes:
        kind: of what registry the name is; a frozen encoder is the backbone where nothing was trained.
        name: as in the configuration; a checkpoint file in it is where the weights came from, not needed now.
        finetune: where the backbone is cut; None for an encoder.
        embedding_dim: size of the linear map behind the backbone; None without one.
        precision: of the trained part.
        image_size: pixels, where it is not the network's own.
        transform: geometry of the images.
        mean, std: per-channel normalisation of pixels scaled to [0, 1].
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["backbone", "encoder"]
    name: str
    finetune: Finetune | None
    embedding_dim: int | None
    precision: Literal["float32", "bfloat16"]
    image_size: int | None
    transform: ImageTransform
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, configuration: Configuration, image_size: int | None) -> NetworkDescription:
        """The network whose embeddings a configuration scores.

        Raises:
            TwofoldError: its checkpoint file is missing.
        """
        values = configuration.as_dict()
        if configuration.method is None:
            assert configuration.encoder is not None
            found: dict[str, Any] = {"kind": "encoder", "name": configuration.encoder, "finetune": None}
            pretrained = build_encoder(configuration.encoder, image_size).pretrained
        else:
            found = {"kind": "backbone", "name": values["backbone"], "finetune": values["finetune"]}
            pretrained = describe_backbone(values["backbone"], values["finetune"], image_size)
        return cls(
            **found,
            embedding_dim=values.get("embedding_dim"),
            precision=values.get("precision", "float32"),
            image_size=image_size,
            transform=pretrained.transform,
            mean=pretrained.mean,
            std=pretrained.std,
        )

    def frozen_part(self) -> nn.Module:
        """What no training changes, with its weights: all of an encoder, or the trunk of a backbone."""
        if self.finetune is None:
            return _whole(build_encoder(self.name, self.image_size).pretrained)
        return build_backbone(self.name, self.finetune, self.embedding_dim, self.image_size, seed=0).trunk

    def skeleton(self) -> Embedder:
        """The whole network with arbitrary weights, to be loaded.

        Raises:
            TwofoldError: the installed libraries do not have this network.
        """
        kind, _, argument = self.name.partition(":")
        library = (ENCODERS if self.kind == "encoder" else BACKBONES).get(kind)
        pretrained = Pretrained(
            name=self.name,
            transform=self.transform,
            mean=self.mean,
            std=self.std,
            fingerprint="",
            build=lambda: library.skeleton(argument, self.image_size),
        )
        try:
            # Weights that are drawn to be replaced take nothing from what others draw.
            with torch.random.fork_rng(devices=[]):
                if self.finetune is None:
                    return Embedder(_whole(pretrained), None, self)
                backbone = assemble_backbone(pretrained, self.finetune, self.embedding_dim)
                return Embedder(backbone.trunk, backbone.tail, self)
        except TwofoldError:
            raise
        except Exception as error:  # every library raises its own kind
            raise TwofoldError(
                f"the network {self.name} cannot be built ({type(error).__name__}: {summary(error)}). "
                "Install the versions of constraints.txt with which the detector was exported."
            ) from error


def _whole(pretrained: Pretrained) -> nn.Module:
    return nn.Sequential(pretrained.normalisation(), pretrained.build())


class Embedder(nn.Module):
    """A frozen trunk and the tail that was trained behind it, in eval mode.

    Args:
        trunk: (b, s, s, 3) uint8 -> activations (b, ...), or the pooled features of an encoder (b, e).
        tail: activations -> (b, e); None where the features are the embeddings.
        description: of both.
    """

    def __init__(self, trunk: nn.Module, tail: Tail | None, description: NetworkDescription) -> None:
        super().__init__()
        self.trunk = trunk
        self.tail = Tail() if tail is None else tail
        self.description = description
        # channels_last: the layout in which the sweep ran it
        self.eval().requires_grad_(False).to(best_device()).to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(b, s, s, 3) uint8 -> (b, e) float32, L2-normalised.

        Raises:
            NonFinite: an embedding is zero or not finite.
        """
        activations = self.trunk(images)
        reduced = self.description.precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=reduced):
            embeddings: torch.Tensor = self.tail(activations)
        return embeddings.float()

    @torch.inference_mode()
    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embeddings (n, e) float32 of images (n, s, s, 3) uint8, batch by batch."""
        size = batch_size(self.description.transform.size)
        blocks = [
            self(torch.tensor(images[start : start + size], device=best_device())).cpu().numpy()
            for start in range(0, len(images), size)
        ]
        return np.concatenate(blocks)

    def weights(self) -> dict[str, torch.Tensor]:
        """Contiguous copies of all weights and buffers in the CPU's memory, by name."""
        return {
            name: value.detach().to("cpu", copy=True).contiguous()
            for name, value in self.state_dict().items()
        }
