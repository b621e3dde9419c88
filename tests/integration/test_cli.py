"""The command line: help, plan, choose-k, and one clear message for every mistake before any trial runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import (
    Sweep,
    folder_data,
    free_port,
    modified,
    refused,
    sets,
    twofold,
    twofold_here,
    write_space,
)

from orchestrator.ledger import read_units

Damage = Callable[[Path], Path]


def ran_nothing(folder: Path) -> None:
    """No record, no tracking database and nothing of Ray lies below ``folder``."""
    assert not list(folder.rglob("*.arrow"))
    assert not list(folder.rglob("mlflow.db")) and not list(folder.rglob("ray"))


@pytest.fixture
def space(images: Path, tmp_path: Path) -> Path:
    """A sweep file that is right until a test changes it."""
    return write_space(tmp_path / "output" / "shapes.yaml", tmp_path / "cache", data=folder_data(images))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.image_sise=64", ["data.image_sise", "unknown key", "Did you mean 'image_size'?"]),
        ("fixed.lamda_align=1", ["unknown hyperparameter 'lamda_align'", "Did you mean 'lambda_align'?"]),
        ("space.0.clusterer=kmean", ["unknown clusterer 'kmean'", "Did you mean 'kmeans'?"]),
        ("default.alignment=identiti", ["unknown alignment 'identiti'", "Did you mean 'identity'?"]),
        ("space.0.score=nearest", ["unknown score 'nearest'", "Known: both_centres"]),
        ("fixed.encoder=efficientnet_lite", ["encoder", "Did you mean 'efficientnet_lite0'?"]),
        ("space.0.k=[0]", ["k", "0", "greater than or equal to 1"]),
        ("space.0.k=[]", ["'k' is an empty list"]),
        ("space=[]", ["space", "at least 1"]),
        ("space.0.k=999", ["k = 999 is larger", "lower `k`", "images"]),
        ("data.contamination=[0.9]", ["`contamination` 0.9 is not reachable", "largest reachable"]),
        ("data.contamination=[1.5]", ["data.contamination.0", "less than 1"]),
        ("data.classes=[cat]", ["class 'cat'", "missing", "light"]),
        ("data.pairs=[[light, dark]]", ["unknown domain 'dark'", "Did you mean 'dark paper'?"]),
        ("data.pairs=[[light, light]]", ["source and target are both 'light'"]),
        ("data.dataset=folders", ["unknown dataset 'folders'", "Did you mean 'folder'?"]),
        ("data.root=null", ["dataset 'folder'", "`root`", "required"]),
        ("data.root=/no/such/folder", ["no folder /no/such/folder"]),
        ("data.image_size=small", ["data.image_size", "'small'"]),
        ("fixed.encoder=timm:resnet18/none.pth", ["no checkpoint file none.pth", "correct the path"]),
        ("fixed.encoder=timm:resnet8", ["resnet8", "Did you mean"]),
        ("fixed.encoder=open_clip:ViT-B-32/opanai", ["unknown weights 'opanai'", "Did you mean 'openai'?"]),
        ("resources.workers=0", ["resources.workers", "greater than or equal to 1"]),
        ("name=a b", ["name", "'a b'"]),
        ("seeds", ["--set seeds", "key=value"]),
    ],
)
def test_a_wrong_value_is_refused(override: str, parts: list[str], space: Path) -> None:
    refused(twofold_here("sweep", space, *sets(override)), *parts)
    ran_nothing(space.parent)


def test_all_mistakes_of_a_file_are_told_at_once(space: Path) -> None:
    done = twofold_here("sweep", space, *sets("data.image_sise=64", "worker=2", "seeds=[a]"))
    refused(done, str(space), "data.image_sise", "worker: unknown key", "seeds.0")


def _empty_class(images: Path) -> Path:
    folder = images / "light" / "Größe"
    for path in folder.iterdir():
        path.unlink()
    return folder


def _empty_domain(images: Path) -> Path:
    shutil.rmtree(images / "dark paper")
    (images / "dark paper").mkdir()
    return images / "dark paper"


def _missing_class(images: Path) -> Path:
    shutil.rmtree(images / "dark paper" / "环")
    return Path("环")


def _truncated(images: Path) -> Path:
    path = images / "dark paper" / "plain bar" / "3 é.png"
    path.write_bytes(path.read_bytes()[:150])
    return path


def _not_an_image(images: Path) -> Path:
    path = images / "light" / "环" / "holiday.jpg"
    path.write_text("not an image")
    return path


def _empty_file(images: Path) -> Path:
    path = images / "dark paper" / "环" / "none.png"
    path.touch()
    return path


def _broken_link(images: Path) -> Path:
    for label in ("plain bar", "Größe", "环"):
        for path in (images / "light" / label).iterdir():
            path.unlink()
            path.symlink_to(images / "gone")
    return images / "light"


@pytest.mark.parametrize(
    ("damage", "remedy"),
    [
        (_empty_class, "add images or remove the folder"),
        (_empty_domain, "expected"),
        (_missing_class, "Add its images"),
        (_truncated, "Replace or remove the file"),
        (_not_an_image, "Replace or remove the file"),
        (_empty_file, "Replace or remove the file"),
        (_broken_link, "add images or remove the folder"),
    ],
)
def test_a_damaged_dataset_is_refused(damage: Damage, remedy: str, space: Path, images: Path) -> None:
    named = damage(images)
    arguments = sets('data.classes=["plain bar", "Größe", "环"]')
    done = twofold_here("sweep", space, *arguments)
    refused(done, remedy)
    assert "".join(str(named).split()) in "".join(done.output.split())
    ran_nothing(space.parent)


def test_an_image_that_was_mended_is_read_by_the_next_call(space: Path, images: Path) -> None:
    path = images / "dark paper" / "plain bar" / "3 é.png"
    whole = path.read_bytes()
    _truncated(images)
    refused(twofold_here("sweep", space), "cannot read the image")
    path.write_bytes(whole)
    assert twofold_here("plan", space, "--no-pilot").code == 0


@pytest.mark.parametrize("key", ["output", "cache"])
def test_a_folder_that_cannot_be_written_is_refused(key: str, space: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = twofold_here("sweep", space, *sets(f"{key}={tmp_path / 'file' / 'runs'}"))
    refused(done, str(tmp_path / "file"), f"`{key}:`", "a folder you can write")
    ran_nothing(space.parent)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ["cannot read", "No such file"]),
        ("name: [unclosed", ["is not YAML"]),
        ("- a\n- list\n", ["must hold a mapping", "name, data"]),
        ("", ["must hold a mapping"]),
        ("name: a\n", ["data: this key is required", "space: this key is required"]),
    ],
)
def test_a_sweep_file_that_is_none_is_refused(text: str | None, parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    if text is not None:
        path.write_text(text)
    for command in ("sweep", "plan"):
        refused(twofold_here(command, path), str(path), *parts)


@pytest.mark.parametrize("command", ["select", "rescore", "report", "sync", "retry"])
def test_a_folder_without_a_sweep_is_refused(command: str, tmp_path: Path) -> None:
    refused(twofold_here(command, tmp_path / "none"), str(tmp_path / "none"), "run `twofold sweep` first")


@pytest.mark.parametrize("command", ["select", "rescore", "report"])
def test_a_sweep_without_results_is_refused(command: str, space: Path) -> None:
    assert twofold_here("plan", space, "--no-pilot").code == 0
    folder = space.parent / "shapes"
    (folder / "config.yaml").write_text(space.read_text())
    refused(twofold_here(command, folder), "units.parquet")


def test_the_installed_command_refuses_in_the_same_way(space: Path, images: Path) -> None:
    """A process of its own, so that no library prints a traceback or a warning of its own either."""
    damaged = _truncated(images)
    done = twofold("sweep", space)
    refused(done, "cannot read the image", str(damaged), "Replace or remove the file")
    ran_nothing(space.parent)


def test_a_plan_counts_and_runs_nothing(swept: Sweep, space: Path) -> None:
    new = twofold_here("plan", space, "--no-pilot")
    assert new.code == 0
    assert "9 units = 3 settings x 3 configurations x 1 seed; 0 recorded, 9 to run" in new.output
    ran_nothing(space.parent)
    before = modified(list(swept.records.values()))
    done = twofold_here("plan", *swept.arguments)
    assert "30 units" in done.output and "0 to run" in done.output
    assert modified(list(swept.records.values())) == before


def test_a_plan_predicts_from_a_pilot_and_leaves_nothing_of_it(space: Path) -> None:
    content = yaml.safe_load(space.read_text())
    content["space"].append({"alignment": "positive", "clusterer": "kmeans", "k": 2, "score": "knn"})
    space.write_text(yaml.safe_dump(content))
    done = twofold_here("plan", space, *sets("prices={currency: CHF, worker_hour: 1.0}"))
    assert done.code == 0, done.output
    assert "3 trainings in 3 Ray trials" in done.message and re.search(r"\d+ images", done.message)
    assert "short units, whose results are thrown away" in done.message and "cost, CHF" in done.message
    assert re.search(r"│ 2\b[^│]*│ +\d+ s │ +\d+ s – \d+ s │ +0\.\d\d │ +0\.\d\d │", done.output)
    ran_nothing(space.parent)
    assert not list(space.parent.rglob("*pilot*")) and not (space.parent.parent / "cache").exists()


def test_a_plan_says_what_it_leaves_out(space: Path) -> None:
    content = yaml.safe_load(space.read_text())
    content["space"].append({"alignment": "mmd", "supervision": ["source_only", "unsupervised"], "k": 2})
    space.write_text(yaml.safe_dump(content))
    done = twofold_here("plan", space, "--no-pilot")
    assert "left out 1 combinations" in done.message and "'mmd' needs target images" in done.message
    assert "3 trainings" in done.message


COMMANDS = {
    "sweep": "Run every unit",
    "plan": "without running it",
    "retry": "failed units",
    "sync": "MLflow",
    "select": "without labels",
    "table": "Measure a table of the paper",
    "reproduce": "Run one cell of a measured table again",
    "rescore": "proxies.parquet",
    "report": "report.html",
    "export": "write and register them",
    "score": "Score every image of a folder",
    "choose-k": "Recommend K",
    "status": "units per state",
    "stop": "after the steps under way",
    "cluster": "Ray's launcher",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = twofold_here(command, "--help")
    assert done.code == 0
    assert COMMANDS[command] in " ".join(re.sub(r"[│╭╰─╮╯]", " ", done.output).split())


def test_the_help_lists_every_command() -> None:
    done = twofold("--help")
    assert done.code == 0 and "without labels" in done.message
    for command in COMMANDS:
        assert f" {command} " in done.output
    listed = set(re.findall(r"^│ ([a-z-]+) ", done.output, re.MULTILINE)) - {"-"}
    assert {name for name in listed if not name.startswith("-")} == set(COMMANDS)


def test_an_unknown_option_is_refused() -> None:
    done = twofold_here("sweep", "space.yaml", "--sett", "a=1")
    assert done.code == 2 and "--sett" in done.output and "--set" in done.output


def test_choose_k_recommends_from_a_folder_of_images(
    images: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--image-size", 32, "--max-k", 4, "--cache", cache)
    done = twofold_here("choose-k", images / "dark paper", *options)
    assert done.code == 0, done.output
    assert "48 images" in done.message and "dominant cluster's best" in done.message
    assert "Trusted set:" in done.message and "Trust: low, because" in done.message
    assert "Plotly.newPlot" in (tmp_path / "choose_k.html").read_text()
    again = twofold_here("choose-k", images / "dark paper", *options)
    assert again.output == done.output


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["/no/such/folder"], ["no folder /no/such/folder"]),
        (["{images}/light/环", "--max-k", "99"], ["too few", "--max-k"]),
        (["{images}", "--encoder", "clip"], ["unknown encoder 'clip'"]),
    ],
)
def test_choose_k_refuses_what_it_cannot_use(
    arguments: list[Any], parts: list[str], images: Path, tmp_path: Path
) -> None:
    given = [argument.format(images=images) for argument in arguments]
    refused(twofold_here("choose-k", *given, "--image-size", 32, "--cache", tmp_path / "cache"), *parts)


def test_proxies_are_computed_again_from_the_records(swept: Sweep, tmp_path: Path) -> None:
    folder = shutil.copytree(swept.folder, tmp_path / "sweep")
    done = twofold_here("rescore", folder)
    assert done.code == 0 and "tail separation" in done.output and "proxies.parquet" in done.message
    found = {(row["key"], row["proxy"]): row["value"] for row in read_units(folder / "proxies.parquet")}
    for choice in json.loads((folder / "selection.json").read_text())["choices"]:
        for entry in choice["ranking"]:
            for proxy, value in entry["proxies"].items():
                assert found[entry["key"], proxy] == pytest.approx(value), proxy
    assert twofold_here("rescore", folder, "--proxy", "bridge").code == 0
    assert {row["proxy"] for row in read_units(folder / "proxies.parquet")} == {"bridge"}
    refused(twofold_here("rescore", folder, "--proxy", "bridges"), "unknown proxy", "Did you mean 'bridge'?")


def test_a_cluster_that_does_not_answer_is_refused(space: Path) -> None:
    done = twofold("sweep", space, "--address", f"127.0.0.1:{free_port()}")
    refused(done, "--address 127.0.0.1:", "no Ray cluster answers", "leave --address out")
    assert not list(space.parent.rglob("units/*.arrow"))
