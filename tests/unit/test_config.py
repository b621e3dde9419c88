"""The sweep file: every mistake is named by its key, with the nearest valid name, all at once."""

from __future__ import annotations

import copy
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config import PriceConfig, SweepConfig, load_config
from orchestrator.ranges import Range
from trainables.errors import TwofoldError

RAW: dict[str, Any] = {
    "name": "demo",
    "data": {"dataset": "digits", "image_size": 48},
    "fixed": {"encoder": "efficientnet_lite0"},
    "default": {"clusterer": "density", "alignment": "identity", "score": "knn"},
    "space": [{"clusterer": "kmeans", "k": [2, 5]}, {"clusterer": "density"}],
}


RANGE = {"low": 0.05, "high": 0.5, "log": True}
DRAWN = {"search": "random", "samples": 3}


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**copy.deepcopy(RAW), **changes}))
    return path


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(TwofoldError) as error:
        load_config(path, overrides)
    assert "Traceback" not in str(error.value) and "pydantic" not in str(error.value)
    return str(error.value)


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = load_config(write(tmp_path))
    assert config.data.contamination == [0.1] and config.data.split_seeds == config.seeds == [0]
    assert config.resources.trainings_per_trial >= 1 and config.data.pairs is None
    assert config.folder == Path("runs/demo")
    assert config.mlflow_uri == f"sqlite:///{Path('runs/mlflow.db').absolute()}"
    assert load_config(write(tmp_path, tracking_uri="http://host:1")).mlflow_uri == "http://host:1"


def test_every_field_is_described() -> None:
    for section in (
        SweepConfig,
        *(SweepConfig.model_fields[k].annotation for k in ("data", "resources", "budget")),
        PriceConfig,
    ):
        for name, info in section.model_fields.items():  # type: ignore[union-attr]
            assert info.description or name in ("data", "resources", "budget"), name


def test_numeric_class_names_become_text(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, data={"dataset": "digits", "classes": [0, 1, "7"]}))
    assert config.data.classes == ["0", "1", "7"]


def test_frozen(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        config.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"nme": "x"}, ["nme: unknown key", "Did you mean 'name'?", "Known: name, data"]),
        ({"data": {"dataset": "digits", "image_sise": 48}}, ["data.image_sise", "'image_size'"]),
        ({"resources": {"worker": 2}}, ["resources.worker", "'workers'"]),
        ({"data": {}}, ["data.dataset: this key is required"]),
        ({"data": "digits"}, ["data: "]),
        ({"data": {"dataset": "digits", "contamination": [1.0]}}, ["data.contamination.0", "got 1.0"]),
        ({"data": {"dataset": "digits", "contamination": [-0.1]}}, ["data.contamination.0", "got -0.1"]),
        ({"data": {"dataset": "digits", "contamination": [float("nan")]}}, ["data.contamination.0"]),
        ({"data": {"dataset": "digits", "contamination": []}}, ["data.contamination: "]),
        ({"data": {"dataset": "digits", "contamination": 0.1}}, ["data.contamination: ", "got 0.1"]),
        ({"data": {"dataset": "digits", "image_size": 8}}, ["data.image_size", "got 8"]),
        ({"data": {"dataset": "digits", "split_seeds": []}}, ["data.split_seeds: "]),
        ({"data": {"dataset": "digits", "pairs": [["typeset"]]}}, ["data.pairs.0"]),
        ({"data": {"dataset": "digits", "classes": "0"}}, ["data.classes: "]),
        ({"seeds": []}, ["seeds: "]),
        ({"seeds": ["a"]}, ["seeds.0", "got 'a'"]),
        ({"space": []}, ["space: "]),
        ({"space": {"clusterer": "all"}}, ["space: "]),
        ({"space": [{"clusterer": "all"}, {"lamda_align": 1}]}, ["space: ", "'lamda_align'", "lambda_align"]),
        ({"fixed": {"epoch": 3}}, ["fixed: ", "unknown hyperparameter 'epoch'", "'epochs'"]),
        ({"default": {"clusters": "kmeans"}}, ["default: ", "'clusters'", "Did you mean 'clusterer'?"]),
        ({"default": None}, ["default: "]),
        ({"name": "a/b"}, ["name: ", "got 'a/b'"]),
        ({"name": "../up"}, ["name: "]),
        ({"name": ""}, ["name: "]),
        ({"resources": {"cpus_per_worker": 0}}, ["resources.cpus_per_worker", "got 0"]),
        ({"resources": {"gpus_per_worker": -1}}, ["resources.gpus_per_worker"]),
        ({"resources": {"gpus_per_worker": float("inf")}}, ["resources.gpus_per_worker"]),
        ({"resources": {"trainings_per_trial": 0}}, ["resources.trainings_per_trial"]),
        ({"prices": {"gpu_hours": 2}}, ["prices.gpu_hours", "Did you mean 'gpu_hour'?"]),
        ({"prices": {"worker_hour": -1}}, ["prices.worker_hour", "got -1"]),
        ({"search": "optna", "samples": 3}, ["search: ", "got 'optna'", "Did you mean 'optuna'?"]),
        ({"scheduler": "medain"}, ["scheduler: ", "got 'medain'", "Did you mean 'median'?"]),
        ({"scheduler": None}, ["scheduler: ", "'none', 'asha' or 'median'"]),
        ({"objective": "tail_seperation"}, ["objective: unknown", "Did you mean 'tail_separation'?"]),
        ({"objective": "consensus"}, ["objective: 'consensus' cannot be an objective: it compares"]),
        ({"objective": "compactness"}, ["objective: 'compactness' cannot", "judges a trusted set"]),
        ({"objective": "shuffled"}, ["objective: 'shuffled' cannot", "it is a control"]),
        ({"search": "random"}, ["samples: say how many configurations per setting `search: random`"]),
        ({"search": "optuna", "samples": 0}, ["samples: ", "got 0"]),
        ({"samples": 3}, ["samples: a grid runs every combination"]),
        ({"space": [{"tau": RANGE}]}, ["space: 'tau' is a range, and a grid takes lists"]),
        ({**DRAWN, "space": [{"tau": {"low": 1}}]}, ["space: 'tau' is not a range", "high: this key is req"]),
        ({**DRAWN, "space": [{"tau": {**RANGE, "logg": True}}]}, ["logg: unknown key. Did you mean 'log'?"]),
        ({**DRAWN, "space": [{"tau": {"low": 2, "high": 1}}]}, ["low must be less than high"]),
        ({**DRAWN, "space": [{"tau": {**RANGE, "low": 0}}]}, ["a logarithmic range starts above 0"]),
        ({**DRAWN, "space": [{"tau": {"low": 0.1, "high": float("inf")}}]}, ["high", "finite", "inf"]),
    ],
)
def test_every_mistake_names_its_key(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    text = message(write(tmp_path, **changes))
    assert "sweep.yaml is not a valid sweep file:" in text
    for part in parts:
        assert part in text


def test_ranges_and_their_ends(tmp_path: Path) -> None:
    blocks = [{"tau": RANGE, "k": {"low": 2, "high": 9}}, {"keep": [0.4, 0.6]}]
    config = load_config(write(tmp_path, **DRAWN, space=blocks), ["space.0.tau.low=1e-3"])
    assert config.space[0] == {"tau": Range(low=0.001, high=0.5, log=True), "k": Range(low=2, high=9)}
    assert config.space[1] == blocks[1]
    copy_ = tmp_path / "copy.yaml"
    copy_.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(copy_) == config


def test_all_mistakes_of_a_search_at_once(tmp_path: Path) -> None:
    blocks = [{"tau": {"low": 2, "high": 1}}]
    text = message(write(tmp_path, search="optuna", objective="shufled", scheduler="ahsa", space=blocks))
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:]] == [
        "samples",
        "objective",
        "scheduler",
        "space",
    ]


def test_required_keys(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("output: here\n")
    text = message(path)
    for key in ("name", "data", "default", "space"):
        assert f"  {key}: this key is required" in text


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = message(
        write(
            tmp_path,
            nme=1,
            seeds=[],
            data={"dataset": "digits", "contamination": [2], "clases": ["0"]},
            fixed={"epoch": 1},
            default={"alinment": "mmd"},
        )
    )
    for part in ("nme", "seeds", "data.contamination.0", "data.clases", "'epoch'", "'alinment'"):
        assert part in text
    assert len(text.splitlines()) == 7


def test_a_file_that_is_not_yaml(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: demo\ndata: [1, 2\nspace: x\n")
    assert "bad.yaml is not YAML" in message(path) and "line 3" in message(path)
    path.write_bytes(b"name: \xff\xfe\x00")
    assert "bad.yaml is not YAML" in message(path)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just words\n", "3\n"])
def test_a_file_without_a_mapping(tmp_path: Path, content: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(content)
    text = message(path)
    assert "list.yaml must hold a mapping" in text and "space" in text


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "absent.yaml: No such file" in message(tmp_path / "absent.yaml")
    assert "cannot read" in message(tmp_path)


def test_overrides(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path),
        [
            "data.image_size=64",
            "data.classes=[0, 3]",
            "resources.workers=2",
            "space.0.k=[3]",
            "space.1.keep=0.5",
            "fixed.epochs=1",
            "tracking_uri=http://host/a=b",
            "data.root=null",
        ],
        name="again",
    )
    assert config.data.image_size == 64 and config.data.classes == ["0", "3"]
    assert config.resources.workers == 2, "an absent section is created"
    assert config.space == [{"clusterer": "kmeans", "k": [3]}, {"clusterer": "density", "keep": 0.5}]
    assert config.fixed["epochs"] == 1 and config.name == "again"
    assert config.tracking_uri == "http://host/a=b", "the value may hold an equals sign"


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("data.image_size", "write it as key=value"),
        ("space.7.k=2", "there is no 'space.7.k'"),
        ("space.first.k=2", "there is no 'space.first.k'"),
        ("name.deep.er=2", "there is no 'name.deep.er'"),
        ("data.image_size.x=2", "there is no 'data.image_size.x'"),
        ("data.classes=[1, 2", "the value is not YAML"),
        ("data.image_siz=64", "data.image_siz: unknown key. Did you mean 'image_size'?"),
        ("dta.image_size=64", "dta: unknown key. Did you mean 'data'?"),
        ("fixed.lamda_align=2", "Did you mean 'lambda_align'?"),
        ("data.image_size=big", "data.image_size"),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, part: str) -> None:
    assert part in message(write(tmp_path), override)


def test_overrides_leave_the_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = path.read_text()
    load_config(path, ["data.image_size=64"])
    assert path.read_text() == before
    assert load_config(path).data.image_size == 48


def test_written_configuration_reads_back(tmp_path: Path) -> None:
    """A sweep's folder keeps its configuration as YAML, from which it is resumed."""
    config = load_config(write(tmp_path, data={"dataset": "digits", "pairs": [["typeset", "mnist"]]}))
    copy_ = tmp_path / "copy.yaml"
    copy_.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(copy_) == config


# ---- passwords ----------------------------------------------------------------------------------

SECRET = "s3cr3t"
ADDRESSES = [
    f"postgresql://me:{SECRET}@host/db",
    f"http://me:{SECRET}@host:5000",
    f"postgresql://host/db?user=me&password={SECRET}",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_tracking_uri_with_a_password_is_refused_with_the_remedy(tmp_path: Path, address: str) -> None:
    for text in (
        message(write(tmp_path, tracking_uri=address)),
        message(write(tmp_path), f"tracking_uri={address}"),
    ):
        assert "tracking_uri: " in text and "MLFLOW_TRACKING_URI" in text
        assert SECRET not in text


@pytest.mark.parametrize(
    "override",
    [
        f"http://me:{SECRET}@host",
        f"tracking_uri.0=http://me:{SECRET}@host",
        f"name.x=http://me:{SECRET}@host",
        f"tracking_uri=[http://me:{SECRET}@host",
        f"tracking_uri=[http://me:{SECRET}@host]",
        f"output=[http://me:{SECRET}@host]",
        f"http://me:{SECRET}@host?a=b",
    ],
)
def test_no_other_mistake_shows_the_password(tmp_path: Path, override: str) -> None:
    with pytest.raises(TwofoldError) as error:
        load_config(write(tmp_path), [override])
    shown = "".join(traceback.format_exception(error.value))
    assert SECRET not in shown and "***" in str(error.value)


def test_a_file_that_is_not_yaml_does_not_show_the_password(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(f"tracking_uri: http://me:{SECRET}@host: {{\n")
    assert SECRET not in message(path)


def test_the_environment_gives_the_address_where_the_file_gives_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESSES[0])
    config = load_config(write(tmp_path))
    assert config.mlflow_uri == ADDRESSES[0]
    assert SECRET not in config.model_dump_json() + repr(config)
    assert load_config(write(tmp_path, tracking_uri="http://host:1")).mlflow_uri == "http://host:1"
