"""Each optimisation inside a trial and of preparation, with and without it, in one run.

python benchmarks/optimisations.py [--repeats 5]

One thread unless a row says otherwise. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

# As the command line does.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch
from preparation import first_images
from rows import Row, table
from training import NAMES, TRAINING, training_inputs

from orchestrator.embedded import diagnose
from trainables.backbones.base import Tail, _kept_cut, build_backbone
from trainables.cache import ArrayCache
from trainables.configuration import Configuration
from trainables.extract import Output, extract
from trainables.memory import keep_freed_memory
from trainables.methods.base import TrainingInputs
from trainables.networks import efficientnet_lite0
from trainables.scores.base import SCORES, Reference

IMAGES = 96
"""Images of a training step: a batch of source, of trusted and of negative ones."""

BUSY = """
import time, torch
from torch import nn
from trainables.networks import efficientnet_lite0
torch.set_num_threads({cores})
p = efficientnet_lite0(96)
network = nn.Sequential(p.normalisation(), p.build()).eval().to(memory_format=torch.channels_last)
x = torch.zeros(32, 96, 96, 3, dtype=torch.uint8)
with torch.inference_mode():
    network(x)
    t = time.perf_counter()
    for _ in range(4):
        network(x)
print(time.perf_counter() - t)
"""


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Median time of ``run``, after one call to warm up."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def step(tail: Tail, fused: bool, precision: torch.dtype) -> Callable[[], object]:
    """One training step on random activations of the trunk at 96 pixels."""
    shape = (IMAGES, 192, 3, 3)
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    maps = maps.contiguous(memory_format=torch.channels_last)
    tail.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(tail.parameters(), lr=1e-5, fused=fused)

    def run() -> None:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            embeddings = tail(maps)
        optimiser.zero_grad()
        torch.autograd.backward((embeddings.float() - 0.1).square().sum(dim=1).mean())
        optimiser.step()

    return run


def without_hooks(tail: Tail) -> Tail:
    """The same tail, whose gradients come back in whatever layout they have."""
    for module in tail.modules():
        module._forward_hooks.clear()
    return tail


def training_steps(repeats: int) -> list[tuple[str, float, float]]:
    """What a step costs: layout, optimiser, precision."""

    def new() -> Tail:
        return build_backbone("efficientnet_lite0", "last_stage", None, 96, seed=0).tail

    exact, reduced = torch.float32, torch.bfloat16
    best = seconds(step(new(), True, exact), repeats)
    return [
        (
            "gradients kept channels_last (a step)",
            seconds(step(without_hooks(new()), True, exact), repeats),
            best,
        ),
        ("fused Adam (a step)", seconds(step(new(), False, exact), repeats), best),
        (
            "`precision: bfloat16` (a step; not the default)",
            best,
            seconds(step(new(), True, reduced), repeats),
        ),
    ]


def start(inputs: TrainingInputs, repeats: int) -> tuple[str, float, float]:
    """What the start of a training costs, with and without the network of the last one."""
    method = Configuration.parse({**NAMES, **TRAINING}).method
    assert method is not None

    def anew() -> None:
        _kept_cut.cache_clear()
        method.start(inputs)

    kept = seconds(lambda: method.start(inputs), repeats)
    return "network kept for the next training (its start)", seconds(anew, repeats), kept


def scores(inputs: TrainingInputs, repeats: int) -> list[tuple[str, float, float]]:
    """What the scores and the diagnostics of a setting cost."""
    features = {part: rows.all() for part, rows in inputs.arrays.features.items()}
    assert inputs.assignment is not None
    source = features["source_fit"]
    reference = Reference(source.mean(axis=0), source, features["target_fit"][inputs.assignment.trusted])
    parts = [features[part] for part in ("source_val", "target_sel", "pseudo", "test")]
    build = [SCORES.get(name)() for name in SCORES.names()]
    apart = seconds(lambda: [score(rows, reference) for score in build for rows in parts], repeats)
    together = seconds(lambda: [score(np.concatenate(parts), reference) for score in build], repeats)
    held_out = features["target_sel"]
    svd = seconds(lambda: np.linalg.svd(held_out - held_out.mean(axis=0), compute_uv=False), repeats)
    gram = seconds(lambda: diagnose(held_out, reference.centre, ""), repeats)
    return [
        ("all parts scored in one call (five scores)", apart, together),
        ("effective rank from the Gram matrix (once)", svd, gram),
    ]


def passes(repeats: int) -> tuple[str, float, float]:
    """Features and activations of 500 images: two passes, or one; all cores."""
    network, domain = efficientnet_lite0(96), first_images("mnist", None, 500)
    outputs = [Output(network, "features"), Output(network, "trunk")]

    def run(groups: list[list[Output]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for group in groups:
                extract(domain, group, ArrayCache(Path(folder)))

    torch.set_num_threads(os.cpu_count() or 1)
    two, one = seconds(lambda: run([[o] for o in outputs]), repeats), seconds(lambda: run([outputs]), repeats)
    torch.set_num_threads(1)
    return "one pass for features and activations (500 images, all cores)", two, one


def sharing(repeats: int) -> tuple[str, float, float]:
    """128 images on all cores, each kept busy by another process, with threads that spin for long or not."""
    cores = os.cpu_count() or 1
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    times: dict[str, list[float]] = {"": [], "3000": []}
    try:
        for _ in range(min(repeats, 3)):
            for count, found in times.items():
                environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
                environment.update({"GOMP_SPINCOUNT": count} if count else {})
                command = [sys.executable, "-c", BUSY.format(cores=cores)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                found.append(float(done.stdout))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    spin, sleep = (statistics.median(found) for found in times.values())
    return "GOMP_SPINCOUNT=3000 (128 images, all cores, which are busy)", spin, sleep


def measure(repeats: int) -> list[Row]:
    """A row for each optimisation: milliseconds without and with it."""
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        inputs = replace(training_inputs(Path(folder)), purpose="benchmark")
        found = [*training_steps(repeats), start(inputs, repeats), *scores(inputs, repeats)]
    found += [passes(repeats), sharing(repeats)]
    return [
        Row(what, "faster", f"{1000 * old:.1f} -> {1000 * new:.1f} ms ({old / new:.2f}x)", new < old)
        for what, old, new in found
    ]


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description="every optimisation with and without it")
    parser.add_argument("--repeats", type=int, default=5)
    print(table(measure(parser.parse_args().repeats)))


if __name__ == "__main__":
    main()
