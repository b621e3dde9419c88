"""One pass over a domain: every image decoded once, every network run once, everything wanted of it kept.

A frozen encoder and the trunk of a backbone are often one network. Its features and its activations then come
from one forward pass, and the next batches are decoded while it runs.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from trainables.backbones.stages import split_last_stage
from trainables.cache import ArrayCache
from trainables.images import decoded_batches, domain_content, scratch_array
from trainables.networks import Pretrained, best_device, unit_rows
from trainables.types import ImageDomain

Tap = Literal["trunk", "pooled", "features"]
"""Where a network's output is taken: activations before its last stage, pooled, or pooled and L2-normalised."""

PIXELS_PER_BATCH = {"cpu": 400_000, "cuda": 16_000_000}
"""Measured on a CPU (benchmarks/preparation.py), where a larger batch leaves the caches; a guess on a GPU."""


@dataclass(frozen=True)
class Output:
    """One array of a domain.

    Attributes:
        pretrained: the network.
        tap: where its output is taken.
    """

    pretrained: Pretrained
    tap: Tap

    def content(self, domain: ImageDomain, shuffled: bool) -> dict[str, Any]:
        """Everything the array depends on, as a cache description."""
        return {
            **domain_content(domain, self.pretrained.transform, shuffled),
            "network": self.pretrained.fingerprint,
            "tap": self.tap,
        }


Encode = Callable[[Pretrained, tuple[Tap, ...], Iterator[np.ndarray]], Iterator[dict[Tap, np.ndarray]]]
"""Batches of images (b, s, s, 3) uint8 -> the outputs of each, in their order."""


class TappedNetwork(nn.Module):
    """A frozen network in eval mode that runs once and gives every output that is wanted.

    Args:
        pretrained: the network.
        taps: where its output is taken.

    Raises:
        TwofoldError: the weights cannot be had, or it is not known where the last stage starts.
    """

    def __init__(self, pretrained: Pretrained, taps: tuple[Tap, ...]) -> None:
        super().__init__()
        self.taps = taps
        self.normalise, network = pretrained.normalisation(), pretrained.build()
        self.trunk, self.last = (
            split_last_stage(network, pretrained.name) if "trunk" in taps else (network, nn.Identity())
        )
        # channels_last: the faster layout for convolutions, on a CPU and on a GPU
        self.eval().requires_grad_(False).to(best_device()).to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> dict[Tap, torch.Tensor]:
        """(b, s, s, 3) uint8 -> (b, ...) of every tap.

        Raises:
            NonFinite: a feature is zero or not finite.
        """
        outputs: dict[Tap, torch.Tensor] = {"trunk": self.trunk(self.normalise(images))}
        if self.taps != ("trunk",):
            outputs["pooled"] = self.last(outputs["trunk"])
        if "features" in self.taps:
            outputs["features"] = unit_rows(outputs["pooled"])
        return {tap: outputs[tap] for tap in self.taps}

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> dict[Tap, np.ndarray]:
        """Outputs of a batch of images (b, s, s, 3) uint8, each (b, ...) float32."""
        batch = torch.tensor(images, device=best_device())
        return {tap: values.float().cpu().numpy() for tap, values in self(batch).items()}


class InProcess:
    """Encodes in this process, on all its cores or its first GPU; keeps the network that ran last."""

    def __init__(self) -> None:
        self._network: tuple[Pretrained, TappedNetwork] | None = None

    def __call__(
        self, pretrained: Pretrained, taps: tuple[Tap, ...], batches: Iterator[np.ndarray]
    ) -> Iterator[dict[Tap, np.ndarray]]:
        """The outputs of each batch."""
        network = self.load(pretrained, taps)
        return (network.run(batch) for batch in batches)

    def load(self, pretrained: Pretrained, taps: tuple[Tap, ...]) -> TappedNetwork:
        """The network that ran last, or a new one."""
        if self._network is None or self._network[0] != pretrained or self._network[1].taps != taps:
            self._network = None  # two of them may not fit
            self._network = pretrained, TappedNetwork(pretrained, taps)
        return self._network[1]


def batch_size(image_size: int) -> int:
    """Images of a forward pass, so that a batch has about ``PIXELS_PER_BATCH``."""
    return max(4, PIXELS_PER_BATCH[best_device().type] // image_size**2)


def extract(
    domain: ImageDomain,
    outputs: Sequence[Output],
    cache: ArrayCache,
    shuffled: bool = False,
    encode: Encode | None = None,
) -> list[np.ndarray]:
    """Arrays of a whole domain, from the cache where it has them.

    Args:
        domain: the images, in the order of ``domain.ids``.
        outputs: the arrays that are wanted.
        cache: where they are kept.
        shuffled: take the patch-shuffled pseudo-anomalies instead.
        encode: runs a network over batches; ``InProcess`` when absent.

    Returns:
        One (n, ...) float32 array for each of ``outputs``, memory-mapped.

    Raises:
        NonFinite: a feature is zero or not finite.
        TwofoldError: the domain is empty, or a network or an image cannot be had.
    """
    found = {output: cache.read(output.tap, output.content(domain, shuffled)) for output in outputs}
    missing: dict[Pretrained, set[Tap]] = defaultdict(set)
    for output, array in found.items():
        if array is None:
            missing[output.pretrained].add(output.tap)
    for pretrained, taps in missing.items():
        arrays = _run(domain, pretrained, tuple(sorted(taps)), cache, shuffled, encode or InProcess())
        for tap, array in arrays.items():
            output = Output(pretrained, tap)
            found[output] = cache.write(tap, output.content(domain, shuffled), array)
    return [array for output in outputs if (array := found[output]) is not None]


def _run(
    domain: ImageDomain,
    pretrained: Pretrained,
    taps: tuple[Tap, ...],
    cache: ArrayCache,
    shuffled: bool,
    encode: Encode,
) -> dict[Tap, np.ndarray]:
    """The outputs of one network for a domain, each in an unnamed file: they may not fit in memory."""
    arrays: dict[Tap, np.ndarray] = {}
    start = 0
    size = batch_size(pretrained.transform.size)
    with contextlib.closing(decoded_batches(domain, pretrained.transform, size, shuffled)) as batches:
        for outputs in encode(pretrained, taps, batches):
            for tap, values in outputs.items():
                if start == 0:
                    shape = (len(domain.ids), *values.shape[1:])
                    arrays[tap] = scratch_array(cache.root, shape, np.float32)
                arrays[tap][start : start + len(values)] = values
            start += len(values)
    return arrays
