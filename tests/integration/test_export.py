"""The choice in use: export, score a folder of new images, register and serve; and what is refused."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from harness import (
    ENVIRONMENT,
    MLFLOW,
    Finished,
    Sweep,
    copy_sweep,
    free_port,
    records,
    refused,
    twofold_here,
    wait_until,
)
from mlflow.tracking import MlflowClient
from pyarrow import csv

from orchestrator.ledger import Ledger, UnitRecord
from orchestrator.storage import Storage
from trainables.data.digits import Digits
from trainables.data.settings_file import read_settings
from trainables.types import Setting

CONTAMINATION = {"estimate": 0.1, "low": 0.05, "high": 0.15}
NAMES = {"0": "typeset-optdigits-0", "1": "typeset-optdigits-1"}


def with_contamination(folder: Path) -> Path:
    """A copy of a sweep whose choice for class 1 trains, and whose choices hold a contamination."""
    path = folder / "selection.json"
    content = json.loads(path.read_text())
    trained = {record.setting: record for record in records(folder).values() if record.epochs}
    for choice in content["choices"]:
        choice["contamination"] = CONTAMINATION
        if choice["task"]["normal_class"] == "1":
            record = trained[choice["setting"]]
            choice.update(chosen=record.key, config=record.config)
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def folder(swept: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_contamination(copy_sweep(swept, tmp_path_factory.mktemp("export")))


@pytest.fixture(scope="module")
def exported(folder: Path) -> Finished:
    done = twofold_here("export", folder)
    assert done.code == 0, done.output
    return done


@pytest.fixture(scope="module")
def uri(folder: Path) -> str:
    return f"sqlite:///{folder.parent / 'mlflow.db'}"


def chosen(folder: Path, normal_class: str) -> tuple[UnitRecord, Setting]:
    """The record of the chosen unit of a class, and its setting."""
    (choice,) = [
        entry
        for entry in json.loads((folder / "selection.json").read_text())["choices"]
        if entry["task"]["normal_class"] == normal_class
    ]
    settings = {setting.key: setting for setting in read_settings(folder / "settings.parquet")}
    return records(folder)[choice["chosen"]], settings[choice["setting"]]


def draw_test_images(setting: Setting, folder: Path, count: int) -> list[str]:
    """PNG files, in two folders, of the first test images of a setting; their paths below ``folder``."""
    domain = Digits().domain(setting.task.target)
    paths = [f"{'ab'[row % 2]}/{row:03} é.png" for row in range(count)]
    for path, image in zip(paths, setting.test, strict=False):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        domain.read(domain.ids.index(image)).save(folder / path)
    return paths


def scored(stem: Path) -> dict[str, tuple[float, bool]]:
    rows = pq.read_table(f"{stem}.parquet")
    assert rows.equals(csv.read_csv(f"{stem}.csv"))
    return {row["id"]: (row["score"], row["anomalous"]) for row in rows.to_pylist()}


def test_a_detector_says_where_it_comes_from(exported: Finished, folder: Path) -> None:
    for normal_class, name in NAMES.items():
        record, setting = chosen(folder, normal_class)
        content = json.loads((folder / "detectors" / name / "detector.json").read_text())
        assert content["origin"] == {
            "sweep": folder.name, "task": setting.description, "setting": setting.key, "unit": record.key,
            "configuration": record.config, "trust": content["origin"]["trust"], "twofold": "0.1.0",
        }  # fmt: skip
        assert content["threshold"]["contamination"] == CONTAMINATION
        flagged = record.target_sel > content["threshold"]["value"]
        assert flagged.mean() <= 0.1 + 1 / len(flagged)
        assert content["score"]["name"] == record.config["score"]
        assert content["network"]["transform"]["size"] == 32
        assert name in exported.message


@pytest.mark.parametrize("normal_class", ["0", "1"])
def test_png_files_of_test_images_get_the_scores_of_the_record(
    normal_class: str, exported: Finished, folder: Path, tmp_path: Path
) -> None:
    record, setting = chosen(folder, normal_class)
    assert bool(record.epochs) == (normal_class == "1"), "one detector is trained, the other is frozen"
    paths = draw_test_images(setting, tmp_path / "new", 60)
    where = folder / "detectors" / NAMES[normal_class]
    done = twofold_here("score", tmp_path / "new", "--detector", where, "--to", tmp_path / "out" / "s.1")
    assert done.code == 0, done.output
    found = scored(tmp_path / "out" / "s.1")
    assert set(found) == set(paths)
    scores = np.array([found[path][0] for path in paths])
    assert np.allclose(scores, record.test[:60], rtol=1e-5, atol=1e-5)
    value = json.loads((where / "detector.json").read_text())["threshold"]["value"]
    flags = [found[path][1] for path in paths]
    assert flags == (scores > value).tolist()
    assert f"60 images scored: {sum(flags)} anomalous" in done.message
    assert "about 10.0% (5.0% to 15.0%" in done.message


def test_unreadable_images_are_named_and_cost_the_exit_code(
    exported: Finished, folder: Path, tmp_path: Path
) -> None:
    _, setting = chosen(folder, "0")
    paths = draw_test_images(setting, tmp_path / "new", 4)
    broken = tmp_path / "new" / paths[1]
    broken.write_bytes(broken.read_bytes()[:40])
    detector = folder / "detectors" / NAMES["0"]
    done = twofold_here("score", tmp_path / "new", "--detector", detector, "--to", tmp_path / "s")
    assert done.code == 1
    assert paths[1] in done.message and "3 images scored, 1 left out" in done.message
    assert set(scored(tmp_path / "s")) == {paths[0], paths[2], paths[3]}


def test_what_is_no_detector_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    refused(twofold_here("score", tmp_path / "none", "--detector", folder), "there is no folder")
    refused(twofold_here("score", tmp_path / "new", "--detector", folder), "no image that Pillow reads")
    draw_test_images(chosen(folder, "0")[1], tmp_path / "new", 1)
    refused(twofold_here("score", tmp_path / "new", "--detector", folder), "there is no detector in")
    monkeypatch.chdir(tmp_path)
    refused(
        twofold_here("score", "new", "--detector", "models:/a@champion"), "no MLflow database", "mlflow.db"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_registered_detector_is_the_champion_and_scores_the_same(
    exported: Finished, folder: Path, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(uri)
    record, setting = chosen(folder, "1")
    name = f"{folder.name}-{NAMES['1']}"
    version = client.get_model_version_by_alias(name, "champion")
    run = client.get_run(version.run_id)
    assert run.data.tags["twofold.key"] == record.key == version.tags["twofold.key"]
    assert run.info.status == "FINISHED" and version.tags["twofold.trust"] in ("high", "medium", "low")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    paths = draw_test_images(setting, tmp_path / "new", 5)
    for address in (f"models:/{name}@champion", f"models:/{name}/{version.version}"):
        done = twofold_here("score", tmp_path / "new", "--detector", address, "--to", tmp_path / "s")
        assert done.code == 0, done.output
        found = scored(tmp_path / "s")
        assert np.allclose([found[path][0] for path in paths], record.test[:5], rtol=1e-5, atol=1e-5)
    for address in ("models:/nobody@champion", "models:/nobody"):
        refused(twofold_here("score", tmp_path / "new", "--detector", address), address)


def test_a_second_export_becomes_the_champion(
    exported: Finished, folder: Path, uri: str, tmp_path: Path
) -> None:
    name = f"{folder.name}-{NAMES['0']}"
    before = MlflowClient(uri).get_model_version_by_alias(name, "champion")
    done = twofold_here("export", folder, "--task", "typeset->optdigits/0", "--to", tmp_path)
    assert done.code == 0, done.output
    after = MlflowClient(uri).get_model_version_by_alias(name, "champion")
    assert int(after.version) == int(before.version) + 1 and after.source != before.source
    assert [path.name for path in tmp_path.iterdir()] == [NAMES["0"]]
    assert set(records(folder)) and len(list((tmp_path / NAMES["0"]).iterdir())) == 2


def test_scores_that_are_not_those_recorded_are_refused(swept: Sweep, tmp_path: Path) -> None:
    folder = with_contamination(copy_sweep(swept, tmp_path))
    record, _ = chosen(folder, "0")
    Ledger(Storage(str(folder))).write(replace(record, test=record.test * np.float32(1.001)))
    done = twofold_here("export", folder, "--task", NAMES["0"])
    refused(done, record.key, "the scores of test", "differ from its record by", "environment.json")
    assert not (folder / "detectors").exists()
    refused(twofold_here("export", folder, "--task", "typeset->optdigits/7"), "no such task", NAMES["0"])


def test_without_mlflow_the_detectors_are_written_all_the_same(
    swept: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_contamination(copy_sweep(swept, tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    done = twofold_here("export", folder, "--task", NAMES["0"])
    assert done.code == 1
    assert "written, but not registered" in done.message and f"`twofold export {folder}`" in done.message
    assert (folder / "detectors" / NAMES["0"] / "detector.json").exists()


@pytest.fixture
def served(exported: Finished, folder: Path, uri: str, tmp_path: Path) -> Iterator[str]:
    """Address of ``mlflow models serve`` with the trained detector."""
    port = free_port()
    model = f"models:/{folder.name}-{NAMES['1']}@champion"
    command = [MLFLOW, "models", "serve", "-m", model, "--env-manager", "local", "--host", "127.0.0.1"]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=log,
            stderr=log,
            env={**ENVIRONMENT, "MLFLOW_TRACKING_URI": uri, "PATH": f"{MLFLOW.parent}:{os.environ['PATH']}"},
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(f"{address}/ping") or server.poll() is not None, 120)
        assert server.poll() is None, (tmp_path / "server.log").read_text()
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def ask(address: str, images: list[str]) -> Any:
    body = json.dumps({"dataframe_records": [{"image": image} for image in images]}).encode()
    request = urllib.request.Request(
        f"{address}/invocations", body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_mlflow_serves_the_scores_of_the_record(served: str, folder: Path, tmp_path: Path) -> None:
    record, setting = chosen(folder, "1")
    paths = draw_test_images(setting, tmp_path / "new", 6)
    images = [base64.b64encode((tmp_path / "new" / path).read_bytes()).decode() for path in paths]
    rows = ask(served, images)["predictions"]
    assert np.allclose([row["score"] for row in rows], record.test[:6], rtol=1e-5, atol=1e-5)
    assert {type(row["anomalous"]) for row in rows} == {bool}
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(served, [images[0], "no image"])
    assert error.value.code == 400 and b"row 1" in error.value.read()
