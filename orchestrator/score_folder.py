"""``twofold score``: every image of a folder through an exported detector, to a table."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from orchestrator.config import mlflow_address
from trainables.cache import write_atomically
from trainables.data.folder import ImageFile, read_image
from trainables.data.unlabelled import images_below
from trainables.detector import Detector
from trainables.errors import TwofoldError
from trainables.memory import keep_freed_memory

BLOCK = 256
"""Images whose pixels are in memory at once; what a score learns of the reference, it learns once a block."""
SCHEMA = pa.schema({"id": pa.string(), "score": pa.float64(), "anomalous": pa.bool_()})


def score_folder(folder: Path, detector: str, to: Path, console: Console) -> bool:
    """Write ``<to>.parquet`` and ``<to>.csv``; say whether every image could be read.

    ``id`` is an image's path below the folder. Unreadable images are named, and have no row.

    Args:
        folder: of images, searched recursively.
        detector: folder of a detector, or an address ``models:/...``.
        to: path of the tables without its ending.
        console: where to say what came out.

    Raises:
        TwofoldError: there is no such detector, or no image.
    """
    keep_freed_memory()
    files = sorted(images_below(folder), key=lambda file: file.path)
    loaded = open_detector(detector)
    ids: list[str] = []
    scores: list[np.ndarray] = []
    unreadable: list[str] = []
    blocks = [files[start : start + BLOCK] for start in range(0, len(files), BLOCK)]
    for block in track(blocks, "Scoring", console=console, transient=True, disable=not console.is_terminal):
        pixels = []
        for file, decoded in zip(block, _decoded(loaded, block), strict=True):
            if isinstance(decoded, TwofoldError):
                unreadable.append(str(decoded))
            else:
                ids.append(file.path.relative_to(folder).as_posix())
                pixels.append(decoded)
        if pixels:
            scores.append(loaded.score(np.stack(pixels)))
    found = np.concatenate(scores) if scores else np.empty(0)
    flagged = loaded.is_anomalous(found)
    _write_tables(pa.table([ids, found, flagged], schema=SCHEMA), to)
    _say(loaded, flagged, unreadable, to, console)
    return not unreadable


def open_detector(where: str) -> Detector:
    """Load a detector from its folder or from MLflow.

    Raises:
        TwofoldError: it is not there, or damaged.
    """
    if not where.startswith("models:"):
        return Detector.load(Path(where))
    from orchestrator.serving import download_detector

    with tempfile.TemporaryDirectory() as temporary:
        return Detector.load(download_detector(where, mlflow_address(), Path(temporary)))


def _decoded(detector: Detector, files: Sequence[ImageFile]) -> Iterator[np.ndarray | TwofoldError]:
    """Pixels of each file, or what is wrong with it; threads decode, and keep no image at its own size."""

    def decode(file: ImageFile) -> np.ndarray | TwofoldError:
        try:
            return detector.transform(read_image(file.path))
        except TwofoldError as error:
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(decode, files)


def _write_tables(table: pa.Table, to: Path) -> None:
    write_atomically(Path(f"{to}.parquet"), lambda path: pq.write_table(table, path))
    write_atomically(Path(f"{to}.csv"), lambda path: csv.write_csv(table, path))


def _say(
    detector: Detector, flagged: np.ndarray, unreadable: Sequence[str], to: Path, console: Console
) -> None:
    for message in unreadable:
        console.print(f"[red]left out:[/] {escape(message)}", highlight=False, soft_wrap=True)
    left_out = f", {len(unreadable)} left out" if unreadable else ""
    part = f" ({flagged.mean():.1%})" if len(flagged) else ""
    share = detector.description.threshold.contamination
    console.print(
        f"{len(flagged)} images scored{left_out}: {np.count_nonzero(flagged)} anomalous{part}.\n"
        f"Expected of images like the sweep's: about {share.estimate:.1%} "
        f"({share.low:.1%} to {share.high:.1%}, estimated without labels).",
        highlight=False,
    )
    console.print(f"Scores: {to}.parquet, {to}.csv", highlight=False, soft_wrap=True)
