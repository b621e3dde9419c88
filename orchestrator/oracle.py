"""The only reader of labels, in a process of its own: ``python -m orchestrator.oracle``.

``settings REQUEST.json OUT_DIR`` splits a dataset into settings and puts the labels into files that nothing
else opens; ``evaluate OUT_DIR`` judges finished units: AUROC on the test images, purity and coverage of the
trusted sets. Nobody imports this module.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.ledger import arrays, read_by_setting
from trainables.cache import write_atomically
from trainables.data.base import DATASETS, Dataset, build_dataset
from trainables.data.settings_file import read_settings, write_settings
from trainables.data.splits import draw_setting, draw_unlabelled
from trainables.errors import NonFinite, TwofoldError, nearest_name
from trainables.types import Setting, Task

LABELS = pa.schema({"setting": pa.string(), "id": pa.string(), "anomalous": pa.bool_()})
TRUE_NORMALS = pa.schema({"setting": pa.string(), "id": pa.string()})
RESULTS = pa.schema(
    {"key": pa.string(), "auroc": pa.float64(), "purity": pa.float64(), "coverage": pa.float64()}
)
_UNITS = pa.schema(
    {
        "key": pa.string(),
        "setting": pa.string(),
        "state": pa.string(),
        "test": pa.list_(pa.float32()),
        "trusted_fit": pa.list_(pa.bool_()),
    }
)
Given = Annotated[list[str], Field(min_length=1)]


class Request(BaseModel):
    """What a sweep asks for.

    Attributes:
        pairs: (source, target) domains; None: the dataset's default.
        classes: normal classes, one task each; None: all of the dataset.
        anomaly_classes: classes of the anomalies; None: the other selected classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    arguments: dict[str, Any] = {}
    pairs: Annotated[list[tuple[str, str]], Field(min_length=1)] | None = None
    classes: Given | None = None
    anomaly_classes: Given | None = None
    contamination: list[float] = Field(min_length=1)
    split_seeds: list[int] = Field(min_length=1)
    transductive: bool = False


class Drawn(NamedTuple):
    """A setting and the labels of its target images, id -> whether anomalous; empty where unknown."""

    setting: Setting
    anomalous: dict[str, bool]


class Truth(NamedTuple):
    """Labels of one setting, True = anomalous: (n_fit,) over target_fit and (n_test,) over test."""

    fit: np.ndarray
    test: np.ndarray


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a mistake of the user prints its message and gives exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.oracle")
    commands = parser.add_subparsers(dest="command", required=True)
    settings = commands.add_parser("settings", help="draw settings and store their labels apart")
    settings.add_argument("request", type=Path)
    evaluate = commands.add_parser("evaluate", help="judge the finished units")
    for command in (settings, evaluate):
        command.add_argument("out_dir", type=Path)
    given = parser.parse_args(arguments)
    try:
        if given.command == "settings":
            write_drawn(given.out_dir, draw(read_request(given.request)))
        else:
            write_results(given.out_dir)
    except TwofoldError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def read_request(path: Path) -> Request:
    """Read and check a request file.

    Raises:
        TwofoldError: naming the file and every key that is wrong.
    """
    try:
        return Request.model_validate_json(path.read_bytes())
    except OSError as error:
        raise TwofoldError(f"cannot read the request {path}: {error.strerror}.") from error
    except ValidationError as error:
        problems = (f"`{'.'.join(map(str, line['loc']))}`: {line['msg']}" for line in error.errors())
        raise TwofoldError(f"request {path}: {'; '.join(problems)}.") from error


def draw(request: Request) -> list[Drawn]:
    """Draw every setting of the request once: by pair, class, contamination and split seed, in this order.

    Raises:
        TwofoldError: a pair, class or contamination that the dataset cannot give.
    """
    dataset = build_dataset(request.dataset, **request.arguments)
    draw_task = (
        _labelled_drawer(dataset, request) if dataset.labelled else _unlabelled_drawer(dataset, request)
    )
    pairs = dataset.pairs() if request.pairs is None else request.pairs
    classes = dataset.classes() if request.classes is None else request.classes
    drawn: dict[str, Drawn] = {}
    for (source, target), normal_class in product(pairs, classes):
        if source == target:
            raise TwofoldError(f"`pairs`: source and target are both '{source}'; name two domains.")
        task = Task(request.dataset, source, target, normal_class)
        drawn.update((one.setting.key, one) for one in draw_task(task, classes))
    return list(drawn.values())


def write_drawn(out_dir: Path, drawn: Iterable[Drawn]) -> None:
    """Write settings.parquet, and under ``oracle`` the labels and the normals of every T_fit.

    Raises:
        TwofoldError: the folder cannot be written.
    """
    drawn = list(drawn)
    oracle = out_dir / "oracle"
    try:
        _write(oracle / "labels.parquet", LABELS, map(_labels, drawn))
        _write(oracle / "true_normals.parquet", TRUE_NORMALS, map(_true_normals, drawn))
        write_settings(out_dir / "settings.parquet", (one.setting for one in drawn))
    except OSError as error:
        raise TwofoldError(f"cannot write to {out_dir}: {error}. Name a folder you can write.") from error


def write_results(out_dir: Path) -> None:
    """Judge the units of ``units.parquet`` that are done and write ``oracle/auroc.parquet``.

    A unit has no row where its AUROC is undefined: without labels, or with a test of normals alone.

    Raises:
        TwofoldError: a file is missing, or does not fit the others.
    """
    settings = {setting.key: setting for setting in read_settings(out_dir / "settings.parquet")}

    def truth(setting: str) -> Truth | None:
        if setting not in settings:
            raise TwofoldError(f"setting {setting} of units.parquet is not in {out_dir}/settings.parquet.")
        return _truth(out_dir / "oracle" / "labels.parquet", settings[setting])

    judged = (_judge_units(table, truth) for table in _units(out_dir / "units.parquet"))
    _write(out_dir / "oracle" / "auroc.parquet", RESULTS, judged)


Drawer = Callable[[Task, list[str]], Iterator[Drawn]]


def _labelled_drawer(dataset: Dataset, request: Request) -> Drawer:
    """A function from (task, selected classes) to its settings; it reads each domain's labels once."""
    by_class = cache(lambda domain: _by_class(dataset.class_of(domain)))

    def ids(domain: str, name: str) -> list[str]:
        known = by_class(domain)
        if name not in known:
            raise TwofoldError(
                f"class '{name}' is missing in domain '{domain}' of dataset '{request.dataset}'."
                f"{nearest_name(name, known)} Add its images, or leave the class or the pair out."
            )
        return known[name]

    def draw_task(task: Task, classes: list[str]) -> Iterator[Drawn]:
        source, normals = ids(task.source, task.normal_class), ids(task.target, task.normal_class)
        others = dict.fromkeys(request.anomaly_classes or classes)
        anomalies = {name: ids(task.target, name) for name in others if name != task.normal_class}
        anomalous = {image for images in anomalies.values() for image in images}
        for rho, seed in product(request.contamination, request.split_seeds):
            setting = draw_setting(task, source, normals, anomalies, rho, seed, request.transductive)
            judged = (*setting.target_fit, *setting.target_sel, *setting.test)
            yield Drawn(setting, {image: image in anomalous for image in judged})

    return draw_task


def _unlabelled_drawer(dataset: Dataset, request: Request) -> Drawer:
    """As above, where there is nothing to choose anomalies by: one setting per split seed."""

    def draw_task(task: Task, classes: list[str]) -> Iterator[Drawn]:
        if task.normal_class not in dataset.classes():
            raise TwofoldError(
                f"`classes`: dataset '{request.dataset}' has {', '.join(dataset.classes())} alone."
            )
        source, target = dataset.domain(task.source).ids, dataset.domain(task.target).ids
        for seed in request.split_seeds:
            yield Drawn(draw_unlabelled(task, source, target, seed), {})

    return draw_task


def _by_class(labels: dict[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for image in sorted(labels):
        grouped.setdefault(labels[image], []).append(image)
    return grouped


def _labels(drawn: Drawn) -> pa.Table:
    keys = [drawn.setting.key] * len(drawn.anomalous)
    return pa.table([keys, list(drawn.anomalous), list(drawn.anomalous.values())], schema=LABELS)


def _true_normals(drawn: Drawn) -> pa.Table:
    # An unlabelled target has no known normal: the default keeps its images out.
    normals = [image for image in drawn.setting.target_fit if not drawn.anomalous.get(image, True)]
    return pa.table([[drawn.setting.key] * len(normals), normals], schema=TRUE_NORMALS)


def _truth(path: Path, setting: Setting) -> Truth | None:
    """The labels of a setting in the order of its ids, or None for a dataset without labels."""
    if not DATASETS.get(setting.task.dataset).labelled:
        return None
    stored = _read(path, LABELS, [("setting", "==", setting.key)])
    anomalous = dict(zip(stored["id"].to_pylist(), stored["anomalous"].to_pylist(), strict=True))
    try:
        return Truth(*(np.array([anomalous[i] for i in part]) for part in (setting.target_fit, setting.test)))
    except KeyError as error:
        raise TwofoldError(
            f"{path} has no label for image {error} of {setting.task}; start again."
        ) from error


def _units(path: Path) -> Iterator[pa.Table]:
    """The finished units of each setting, with the columns ``_UNITS``."""
    try:
        for table in read_by_setting(path, _UNITS.names):
            yield table.filter(pc.equal(table["state"], "done")).cast(_UNITS).combine_chunks()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise TwofoldError(f"cannot read {path}: {error}. Run the step that writes it again.") from error


def _judge_units(units: pa.Table, truth: Callable[[str], Truth | None]) -> pa.Table:
    """Rows of ``RESULTS`` for the finished units of one setting."""
    known = truth(units["setting"][0].as_py()) if units.num_rows else None
    # Where all images are alike AUROC is undefined.
    if known is None or known.test.all() or not known.test.any():
        return RESULTS.empty_table()
    columns = (units["key"].to_pylist(), arrays(units["test"]), arrays(units["trusted_fit"]))
    return pa.Table.from_pylist([_judge(*unit, known) for unit in zip(*columns, strict=True)], RESULTS)


def _judge(key: str, scores: np.ndarray, trusted: np.ndarray, truth: Truth) -> dict[str, Any]:
    """AUROC in percent, and purity and coverage of the trusted set, if there is one, as fractions.

    Args:
        key: of the unit.
        scores: (n_test,) of the test images.
        trusted: (n_fit,) bool, or (0,) without a trusted set.
        truth: in the order of the setting's ids, as the unit's values are.
    """
    from sklearn.metrics import roc_auc_score  # a second to import, which drawing settings does not need

    _check_aligned(key, "test", scores, truth.test)
    if not np.isfinite(scores).all():
        raise NonFinite(f"unit {key}: a test score is not finite; remove its record and run it again.")
    purity = coverage = None
    if trusted.any():
        _check_aligned(key, "trusted_fit", trusted, truth.fit)
        right = np.count_nonzero(trusted & ~truth.fit)
        purity, coverage = right / np.count_nonzero(trusted), right / np.count_nonzero(~truth.fit)
    auroc = 100 * float(roc_auc_score(truth.test, scores))
    return {"key": key, "auroc": auroc, "purity": purity, "coverage": coverage}


def _check_aligned(key: str, column: str, values: np.ndarray, truth: np.ndarray) -> None:
    if len(values) != len(truth):
        raise TwofoldError(
            f"unit {key}: `{column}` has {len(values)} values for {len(truth)} images; "
            "remove its record and run it again."
        )


def _read(path: Path, schema: pa.Schema, filters: list[tuple[str, str, str]] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=schema.names, filters=filters).cast(schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TwofoldError(f"cannot read {path}: {error}. Run the step that writes it again.") from error


def _write(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)

    write_atomically(path, write)


if __name__ == "__main__":
    raise SystemExit(main())
