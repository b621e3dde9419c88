from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from orchestrator.oracle import LABELS, main
from trainables.data.base import build_dataset
from trainables.data.settings_file import read_settings

CLASSES = ("cat", "dog", "horse")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for domain in ("photo", "sketch"):
        for label in (*CLASSES, *(("boat",) if domain == "sketch" else ())):
            (root / domain / label).mkdir(parents=True)
            for index in range(20):
                Image.new("L", (2, 2), index).save(root / domain / label / f"{index}.png")
    return root


def draw(out: Path, images: Path, **changes: Any) -> int:
    request = {
        "dataset": "folder",
        "arguments": {"root": str(images)},
        "pairs": [["photo", "sketch"]],
        "classes": None,
        "anomaly_classes": None,
        "contamination": [0.1, 0.2],
        "split_seeds": [0, 1],
        "transductive": False,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "request.json").write_text(json.dumps({**request, **changes}))
    return main(["settings", str(out / "request.json"), str(out)])


def labels(out: Path) -> dict[tuple[str, str], bool]:
    rows = pq.read_table(out / "oracle" / "labels.parquet").to_pylist()
    known = {(row["setting"], row["id"]): row["anomalous"] for row in rows}
    assert len(known) == len(rows)
    return known


def write_units(out: Path, units: list[dict[str, Any]]) -> None:
    schema = pa.schema(
        {
            "key": pa.string(),
            "setting": pa.string(),
            "state": pa.string(),
            "error": pa.string(),
            "test": pa.list_(pa.float32()),
            "trusted_fit": pa.list_(pa.bool_()),
        }
    )
    pq.write_table(pa.Table.from_pylist(units, schema), out / "units.parquet")


def results(out: Path) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in pq.read_table(out / "oracle" / "auroc.parquet").to_pylist()}


def by_ranks(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Probability, in percent, that an anomaly scores above a normal image; a tie counts half."""
    high, low = scores[anomalous][:, None], scores[~anomalous][None, :]
    return 100 * float((high > low).mean() + 0.5 * (high == low).mean())


def test_settings_and_labels_agree_with_the_dataset(tmp_path: Path, images: Path) -> None:
    assert draw(tmp_path, images) == 0
    settings, known = read_settings(tmp_path / "settings.parquet"), labels(tmp_path)
    class_of = build_dataset("folder", root=images).class_of("sketch")
    assert [(s.task.normal_class, s.contamination, s.split_seed) for s in settings] == [
        (label, rho, seed) for label in CLASSES for rho in (0.1, 0.2) for seed in (0, 1)
    ]
    for setting in settings:
        target = (*setting.target_fit, *setting.target_sel, *setting.test)
        assert {image for key, image in known if key == setting.key} == set(target)
        assert all(known[setting.key, i] == (class_of[i] != setting.task.normal_class) for i in target)
        assert "boat" not in {class_of[image] for image in target}
        training = [known[setting.key, i] for i in (*setting.target_fit, *setting.target_sel)]
        assert np.mean(training) == pytest.approx(setting.contamination, abs=0.04)


def test_true_normals_are_the_normals_of_target_fit(tmp_path: Path, images: Path) -> None:
    draw(tmp_path, images)
    known = labels(tmp_path)
    rows = pq.read_table(tmp_path / "oracle" / "true_normals.parquet").to_pylist()
    expected = {
        (setting.key, image)
        for setting in read_settings(tmp_path / "settings.parquet")
        for image in setting.target_fit
        if not known[setting.key, image]
    }
    assert {(row["setting"], row["id"]) for row in rows} == expected


def test_drawing_again_gives_the_same_bytes(tmp_path: Path, images: Path) -> None:
    for out in (tmp_path / "a", tmp_path / "b"):
        draw(out, images)
    for name in ("settings.parquet", "oracle/labels.parquet", "oracle/true_normals.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_settings_do_not_depend_on_the_stored_labels(tmp_path: Path, images: Path) -> None:
    """Garbage in place of the labels changes no setting, when judged and when drawn again."""
    draw(tmp_path, images)
    drawn = (tmp_path / "settings.parquet").read_bytes()
    table = pq.read_table(tmp_path / "oracle" / "labels.parquet")
    noise = np.random.default_rng(0).random(len(table)) < 0.5
    garbage = pa.table([table["setting"], table["id"], pa.array(noise)], schema=LABELS)
    pq.write_table(garbage, tmp_path / "oracle" / "labels.parquet")
    setting = read_settings(tmp_path / "settings.parquet")[0]
    write_units(tmp_path, [unit(setting.key, np.arange(len(setting.test)))])
    assert main(["evaluate", str(tmp_path)]) == 0
    assert (tmp_path / "settings.parquet").read_bytes() == drawn
    draw(tmp_path, images)
    assert (tmp_path / "settings.parquet").read_bytes() == drawn


def test_anomaly_classes_may_be_missing_in_the_source(tmp_path: Path, images: Path) -> None:
    assert draw(tmp_path, images, classes=["cat"], anomaly_classes=["boat", "cat"]) == 0
    class_of = build_dataset("folder", root=images).class_of("sketch")
    known = labels(tmp_path)
    assert {class_of[image] for (_, image), anomalous in known.items() if anomalous} == {"boat"}


def test_transductive_labels_cover_each_image_once(tmp_path: Path, images: Path) -> None:
    draw(tmp_path, images, transductive=True, classes=["cat"], anomaly_classes=["dog"], split_seeds=[0])
    known = labels(tmp_path)
    for setting in read_settings(tmp_path / "settings.parquet"):
        assert len(setting.test) == 40 == sum(key == setting.key for key, _ in known)


def test_repeated_values_give_one_setting(tmp_path: Path, images: Path) -> None:
    draw(tmp_path, images, classes=["cat", "dog"], contamination=[0.1, 0.1], split_seeds=[0, 0])
    assert len(read_settings(tmp_path / "settings.parquet")) == 2


def unit(setting: str, scores: Any, trusted: Any = None, key: str = "u", **changes: Any) -> dict[str, Any]:
    listed = None if trusted is None else [bool(value) for value in trusted]
    scores = None if scores is None else [float(value) for value in scores]
    done = {"key": key, "setting": setting, "state": "done", "test": scores, "trusted_fit": listed}
    return {**done, **changes}


def test_evaluate_against_the_rank_formula(tmp_path: Path, images: Path) -> None:
    draw(tmp_path, images)
    known, rng = labels(tmp_path), np.random.default_rng(0)
    units, expected = [], {}
    for number, setting in enumerate(read_settings(tmp_path / "settings.parquet")):
        anomalous = np.array([known[setting.key, image] for image in setting.test])
        normal = ~np.array([known[setting.key, image] for image in setting.target_fit])
        scores = np.round(rng.normal(size=len(anomalous)) + anomalous, 1).astype(np.float32)
        trusted = rng.random(len(normal)) < 0.6
        units.append(unit(setting.key, scores, trusted, f"u{number}"))
        purity = sum(trusted & normal) / sum(trusted)
        expected[f"u{number}"] = (by_ranks(scores, anomalous), purity, sum(trusted & normal) / sum(normal))
    rng.shuffle(units)
    write_units(tmp_path, units)
    assert main(["evaluate", str(tmp_path)]) == 0
    found = {key: (row["auroc"], row["purity"], row["coverage"]) for key, row in results(tmp_path).items()}
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values)


def test_labels_are_found_by_id_not_by_position(tmp_path: Path, images: Path) -> None:
    draw(tmp_path, images)
    setting, known = read_settings(tmp_path / "settings.parquet")[0], labels(tmp_path)
    perfect = [known[setting.key, image] for image in setting.test]
    write_units(tmp_path, [unit(setting.key, perfect), unit(setting.key, -np.array(perfect, int), key="v")])
    path = tmp_path / "oracle" / "labels.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(np.random.default_rng(1).permutation(len(table))), path)
    assert main(["evaluate", str(tmp_path)]) == 0
    found = results(tmp_path)
    assert (found["u"]["auroc"], found["v"]["auroc"]) == (100, 0)


def test_units_without_a_verdict_have_no_row(tmp_path: Path, images: Path) -> None:
    draw(tmp_path, images, classes=["cat"], anomaly_classes=["dog"], contamination=[0.1], split_seeds=[0])
    setting = read_settings(tmp_path / "settings.parquet")[0]
    scores = np.arange(len(setting.test))
    write_units(
        tmp_path,
        [
            unit(setting.key, scores, key="plain"),
            unit(setting.key, scores, [], key="empty"),
            unit(setting.key, None, None, "broken", state="failed", error="Traceback"),
        ],
    )
    assert main(["evaluate", str(tmp_path)]) == 0
    found = results(tmp_path)
    assert found.keys() == {"plain", "empty"}
    assert all(row["purity"] is None and row["coverage"] is None for row in found.values())


def test_test_of_one_kind_has_no_auroc(tmp_path: Path, images: Path) -> None:
    draw(tmp_path, images, classes=["cat"], contamination=[0])
    setting = read_settings(tmp_path / "settings.parquet")[0]
    write_units(tmp_path, [unit(setting.key, np.arange(len(setting.test)))])
    assert main(["evaluate", str(tmp_path)]) == 0
    assert results(tmp_path) == {}


def test_all_units_failed(tmp_path: Path, images: Path) -> None:
    draw(tmp_path, images)
    failed = {"key": ["u"], "setting": ["s"], "state": ["failed"], "test": [None], "trusted_fit": [None]}
    pq.write_table(pa.table(failed), tmp_path / "units.parquet")
    assert main(["evaluate", str(tmp_path)]) == 0
    assert results(tmp_path) == {}


def test_unlabelled_dataset(tmp_path: Path, images: Path) -> None:
    arguments = {"source": str(images / "photo" / "cat"), "target": str(images / "sketch")}
    assert draw(tmp_path, images, dataset="unlabelled", arguments=arguments, pairs=None) == 0
    settings = read_settings(tmp_path / "settings.parquet")
    assert [(s.task.normal_class, s.split_seed, len(s.test)) for s in settings] == [
        ("normal", 0, 80),
        ("normal", 1, 80),
    ]
    assert labels(tmp_path) == {}
    assert pq.read_table(tmp_path / "oracle" / "true_normals.parquet").num_rows == 0
    write_units(tmp_path, [unit(settings[0].key, np.arange(80))])
    assert main(["evaluate", str(tmp_path)]) == 0
    assert results(tmp_path) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "foldr"}, "unknown dataset 'foldr'. Did you mean 'folder'?"),
        ({"arguments": {}}, "`root`"),
        ({"pairs": [["photo", "skech"]]}, "Did you mean 'sketch'?"),
        ({"pairs": [["photo", "photo"]]}, "both 'photo'"),
        ({"pairs": []}, "`pairs`"),
        (
            {"classes": ["cats"]},
            "class 'cats' is missing in domain 'photo' of dataset 'folder'. Did you mean 'cat'?",
        ),
        ({"classes": ["boat"]}, "class 'boat' is missing in domain 'photo'"),
        ({"anomaly_classes": ["ship"]}, "class 'ship' is missing in domain 'sketch'"),
        ({"contamination": [0.9]}, "`contamination` 0.9 is not reachable"),
        ({"contamination": ["much"]}, "`contamination.0`"),
        ({"split_seed": 1}, "`split_seed`: Extra inputs are not permitted"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    assert draw(tmp_path, images, **changes) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "settings.parquet").exists()


def test_mistakes_in_files_are_named(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def complaint() -> str:
        assert main(["evaluate", str(tmp_path)]) == 2
        return capsys.readouterr().err

    assert "no settings file" in complaint()
    draw(tmp_path, images)
    assert "units.parquet" in complaint()
    setting = read_settings(tmp_path / "settings.parquet")[0]
    good = np.arange(len(setting.test), dtype=float)
    write_units(tmp_path, [unit("elsewhere", good)])
    assert "setting elsewhere" in complaint()
    write_units(tmp_path, [unit(setting.key, good[:-1])])
    assert "unit u: `test` has" in complaint()
    write_units(tmp_path, [unit(setting.key, good, [True])])
    assert "unit u: `trusted_fit` has 1 values" in complaint()
    write_units(tmp_path, [unit(setting.key, np.where(good == 3, np.nan, good))])
    assert "unit u: a test score is not finite" in complaint()
    path = tmp_path / "oracle" / "labels.parquet"
    pq.write_table(pq.read_table(path).slice(7), path)
    assert "has no label for image" in complaint()
    path.write_bytes(b"no parquet")
    assert "labels.parquet" in complaint()


def test_unwritable_output(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, images)
    (tmp_path / "file").write_text("in the way")
    assert main(["settings", str(tmp_path / "request.json"), str(tmp_path / "file" / "out")]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_as_a_process(tmp_path: Path, images: Path) -> None:
    draw(tmp_path / "in", images)
    module = [sys.executable, "-X", "importtime", "-m", "orchestrator.oracle"]
    request, out = str(tmp_path / "in" / "request.json"), str(tmp_path / "out")
    done = subprocess.run([*module, "settings", request, out], capture_output=True, text=True)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "pyarrow" in imported
    assert not imported & {"torch", "ray", "mlflow", "sklearn", "matplotlib"}
    drawn = [(tmp_path / name / "settings.parquet").read_bytes() for name in ("in", "out")]
    assert drawn[0] == drawn[1]
    failed = subprocess.run([module[0], *module[3:], "evaluate", out], capture_output=True, text=True)
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert "units.parquet" in failed.stderr
