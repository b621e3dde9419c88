"""Preparation against a bare forward pass of the encoder over images already decoded and in memory.

python benchmarks/preparation.py [--pacs-root FOLDER] [--repeats 3] [--batches]

Preparation decodes, resizes, encodes (features and the activations of the trunk), and writes the cache. The
bare pass is a loop over batches of one tensor in a process of its own, with the batch size that is fastest:
first as PyTorch comes, then with glibc told to keep freed memory, as twofold does. Repeats are interleaved.
Prints a table in Markdown; with ``--batches`` the speed of every batch size instead, and of bfloat16 with its
agreement.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

# As the command line does.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch
from rows import Row, spread, table
from torch.nn import functional as F

from trainables.cache import ArrayCache
from trainables.data.base import build_dataset
from trainables.extract import InProcess, Output, extract
from trainables.images import ImageTransform, decoded_batches
from trainables.memory import keep_freed_memory
from trainables.networks import efficientnet_lite0
from trainables.types import ImageDomain

BATCHES = (8, 16, 32, 64, 128)


def first_images(name: str, root: Path | None, count: int) -> ImageDomain:
    """The first images of a domain."""
    dataset = build_dataset("digits") if root is None else build_dataset("pacs", root=str(root))
    domain = dataset.domain(name)
    return replace(domain, ids=domain.ids[:count], fingerprint=f"{domain.fingerprint}-{count}")


def bare(images: np.ndarray, batch: int, dtype: torch.dtype = torch.float32) -> tuple[float, torch.Tensor]:
    """Seconds of a forward pass over all images, after one batch to warm up, and its features."""
    pretrained = efficientnet_lite0(images.shape[1])
    network = torch.nn.Sequential(pretrained.normalisation(), pretrained.build())
    network.eval().to(memory_format=torch.channels_last)
    tensor = torch.from_numpy(images)
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        network(tensor[:batch])
        started = time.perf_counter()
        features = [network(tensor[start : start + batch]) for start in range(0, len(tensor), batch)]
        return time.perf_counter() - started, torch.cat(features).float()


def bare_elsewhere(images: Path, batch: int, memory_kept: bool) -> float:
    """Seconds of ``bare`` in a new process, without twofold's settings, or with that of memory alone."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, __file__, "--bare", str(images), str(batch), "kept" if memory_kept else ""]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def prepared(domain: ImageDomain, size: int) -> float:
    """Seconds from nothing to cached features and activations; the network is built, as in the bare pass."""
    pretrained = efficientnet_lite0(size)
    with tempfile.TemporaryDirectory() as folder:
        encode = InProcess()
        encode.load(pretrained, ("features", "trunk"))
        started = time.perf_counter()
        outputs = [Output(pretrained, "features"), Output(pretrained, "trunk")]
        extract(domain, outputs, ArrayCache(Path(folder)), encode=encode)
        return time.perf_counter() - started


def warm_start(count: int = 10_000) -> float:
    """Seconds to read that many rows of cached features, checked and touched."""
    with tempfile.TemporaryDirectory() as folder:
        cache = ArrayCache(Path(folder))
        cache.write("features", {"rows": count}, np.random.default_rng(0).random((count, 1280), np.float32))
        started = time.perf_counter()
        features = ArrayCache(Path(folder)).read("features", {"rows": count})
        assert features is not None
        features.sum()
        return time.perf_counter() - started


def measure(repeats: int, pacs_root: Path | None) -> list[Row]:
    """The rows of this benchmark."""
    keep_freed_memory()
    cases = [("digits, mnist at 96 px", first_images("mnist", None, 2000), 96)]
    if pacs_root is not None:
        cases.append(("PACS, art_painting at 224 px", first_images("art_painting", pacs_root, 400), 224))
    return [row for case in cases for row in _compare(*case, repeats)] + [_warm(repeats)]


def _compare(name: str, domain: ImageDomain, size: int, repeats: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.npy")
        np.save(path, np.concatenate(list(decoded_batches(domain, ImageTransform(size), 64))))
        prepared(domain, size)
        return [_row(path, name, domain, size, repeats, memory_kept) for memory_kept in (False, True)]


def _row(path: Path, name: str, domain: ImageDomain, size: int, repeats: int, memory_kept: bool) -> Row:
    fastest = min(BATCHES, key=lambda batch: bare_elsewhere(path, batch, memory_kept))
    pairs = [(prepared(domain, size), bare_elsewhere(path, fastest, memory_kept)) for _ in range(repeats)]
    ratios = [whole / alone for whole, alone in pairs]
    speed = len(domain.ids) / statistics.median(alone for _, alone in pairs)
    how = " with twofold's memory setting" if memory_kept else ""
    return Row(
        f"preparation / bare forward pass{how} ({name}, {len(domain.ids)} images)",
        "<= 1.10",
        f"{spread(ratios)}; bare {speed:.0f} images/s at batch {fastest}",
        statistics.median(ratios) <= 1.10,
    )


def _warm(repeats: int) -> Row:
    seconds = [warm_start() for _ in range(repeats)]
    measured = f"{spread(seconds)} s"
    return Row("warm start: 10,000 cached feature rows", "< 1 s", measured, statistics.median(seconds) < 1)


def show_batches(pacs_root: Path | None) -> None:
    """Images per second of every batch size, in float32 and bfloat16, and the least cosine of the two."""
    keep_freed_memory()
    cases = [(first_images("mnist", None, 1000), 96)]
    if pacs_root is not None:
        cases.append((first_images("art_painting", pacs_root, 256), 224))
    print("| pixels | batch | float32 | bfloat16 | least cosine |\n|--:|--:|--:|--:|--:|")
    for domain, size in cases:
        images = np.concatenate(list(decoded_batches(domain, ImageTransform(size), 64)))
        for batch in BATCHES:
            exact, features = bare(images, batch)
            reduced, other = bare(images, batch, torch.bfloat16)
            cosine = float(F.cosine_similarity(features, other).min())
            speeds = f"{len(images) / exact:.0f} | {len(images) / reduced:.0f}"
            print(f"| {size} | {batch} | {speeds} | {cosine:.4f} |")


def main() -> None:
    """Print the rows, or what was asked for instead."""
    parser = argparse.ArgumentParser(description="preparation against a bare forward pass")
    parser.add_argument("--pacs-root", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", action="store_true")
    parser.add_argument("--bare", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        images, batch, memory = given.bare
        if memory:
            keep_freed_memory()
        print(json.dumps(bare(np.load(images), int(batch))[0]))
    elif given.batches:
        show_batches(given.pacs_root)
    else:
        print(table(measure(given.repeats, given.pacs_root)))


if __name__ == "__main__":
    main()
