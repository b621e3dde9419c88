"""The sweep file: YAML and ``--set a.b=1`` to one frozen, strictly checked ``SweepConfig``."""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from orchestrator.proxies.base import check_objective
from orchestrator.ranges import Range
from orchestrator.redact import redacted
from trainables.configuration import check_keys
from trainables.errors import TwofoldError, nearest_name

OUTPUT = Path("runs")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class DataConfig(_Section):
    """Which images, pairs and classes, and how the target is contaminated and split."""

    dataset: str = Field(description="digits, folder, office31, office_home, visda, pacs or unlabelled")
    root: Path | None = Field(None, description="folder of the images: root/<domain>/<class>/*")
    source: Path | None = Field(None, description="folder of source normals (dataset: unlabelled)")
    target: Path | None = Field(None, description="folder of unlabelled target images (dataset: unlabelled)")
    pairs: list[tuple[str, str]] | None = Field(
        None, description="[source, target] pairs; null = the preset's"
    )
    classes: list[str] | None = Field(None, description="normal classes, one task each; null = all")
    anomaly_classes: list[str] | None = Field(
        None, description="classes of the anomalies; null = the other selected classes"
    )
    image_size: int | None = Field(None, ge=16, description="pixels; null = each model's own size")
    contamination: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        [0.1], min_length=1, description="rho: anomalies / all images of the unlabelled target set"
    )
    split_seeds: list[int] = Field([0], min_length=1, description="seeds of the split by image id")
    transductive: bool = Field(False, description="judge the unlabelled training images as well")

    @field_validator("classes", "anomaly_classes", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        # YAML reads [0, 1] as integers; class names are text.
        return [str(item) for item in value] if isinstance(value, list) else value


class ResourceConfig(_Section):
    """What one worker takes of the cluster."""

    workers: int | None = Field(None, ge=1, description="trials at once; null = as many as fit")
    cpus_per_worker: int = Field(1, ge=1, description="CPU cores and threads of a worker")
    gpus_per_worker: float = Field(0, ge=0, description="GPUs of a worker; fractions share one GPU")
    trainings_per_trial: int = Field(8, ge=1, description="trainings of one setting that share a Ray trial")
    step_minutes: float = Field(
        60,
        gt=0,
        description="longest time for a clustering, an epoch or a score before a unit counts as hung",
    )


class BudgetConfig(_Section):
    """What one launch may spend; the next launch goes on with what is left to run."""

    hours: float | None = Field(None, gt=0, description="wall time of the units; null = no limit")
    units: int | None = Field(None, ge=1, description="units to run; null = all")


class PriceConfig(_Section):
    """What the machines cost, for the prediction of ``twofold plan``; nothing else depends on it."""

    currency: str = Field("USD", min_length=1, description="what the prices are in; printed as it is")
    worker_hour: float = Field(0, ge=0, description="price of one worker's CPU cores and memory, per hour")
    gpu_hour: float = Field(
        0, ge=0, description="price of one GPU on top, per hour; a worker may take a share"
    )


class SweepConfig(_Section):
    """Everything a sweep depends on."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="folder and MLflow experiment")
    data: DataConfig
    fixed: dict[str, Any] = Field({}, description="hyperparameters common to all configurations")
    default: dict[str, Any] = Field(description="the configuration kept unless another convinces")
    search: Literal["grid", "random", "optuna"] = Field(
        "grid", description="grid = every combination, random = drawn at once, optuna = by what went before"
    )
    samples: int | None = Field(
        None,
        ge=1,
        validate_default=True,
        description="configurations per setting that random and optuna draw, the default among them",
    )
    objective: str = Field("tail_separation", description="proxy that optuna and the scheduler go by")
    scheduler: Literal["none", "asha", "median"] = Field(
        "none", description="which trainings end early: asha = all but the best third at epochs 1, 3, 9, ..."
    )
    space: list[dict[str, Any]] = Field(
        min_length=1,
        description="blocks whose union is swept; values are one, a list, or {low, high, log} to draw from",
    )
    seeds: list[int] = Field([0], min_length=1, description="seeds of weights, batches and clusterings")
    resources: ResourceConfig = ResourceConfig()
    budget: BudgetConfig = BudgetConfig()
    prices: PriceConfig | None = Field(None, description="per hour; null = `twofold plan` tells no cost")
    output: Path = Field(OUTPUT, description="folder of all sweeps")
    cache: Path = Field(Path("runs/cache"), description="folder of images, features and activations")
    cache_gb: float = Field(
        50, gt=0, description="size of the cache above which what was not used for longest is removed"
    )
    ledger: str | None = Field(
        None, description="folder or s3://, gs:// address of the unit records; null = the sweep's folder"
    )
    tracking_uri: str | None = Field(
        None, description="MLflow; null = $MLFLOW_TRACKING_URI, else a sqlite file in the output folder"
    )

    @field_validator("ledger")
    @classmethod
    def _same_from_everywhere(cls, value: str | None) -> str | None:
        # `twofold status` may be called in another folder than `twofold sweep` was.
        return value if value is None or "://" in value else str(Path(value).absolute())

    @field_validator("fixed", "default", "space")
    @classmethod
    def _known_hyperparameters(cls, value: Any) -> Any:
        for mapping in value if isinstance(value, list) else [value]:
            try:
                check_keys(mapping)
            except TwofoldError as error:
                raise ValueError(str(error)) from error
        return value

    @field_validator("space")
    @classmethod
    def _ranges(cls, blocks: list[dict[str, Any]], info: ValidationInfo) -> list[dict[str, Any]]:
        parsed = [{key: _read_range(key, value) for key, value in block.items()} for block in blocks]
        ranges = [key for block in parsed for key, value in block.items() if isinstance(value, Range)]
        if ranges and info.data.get("search") == "grid":
            raise ValueError(
                f"'{ranges[0]}' is a range, and a grid takes lists; list its values, or set `search` to "
                "random or optuna"
            )
        return parsed

    @field_validator("samples")
    @classmethod
    def _drawn(cls, value: int | None, info: ValidationInfo) -> int | None:
        search = info.data.get("search")
        if search in ("random", "optuna") and value is None:
            raise ValueError(f"say how many configurations per setting `search: {search}` draws")
        if search == "grid" and value is not None:
            raise ValueError("a grid runs every combination; remove it, or set `search` to random or optuna")
        return value

    @field_validator("objective")
    @classmethod
    def _suitable(cls, value: str) -> str:
        try:
            check_objective(value)
        except TwofoldError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("tracking_uri")
    @classmethod
    def _without_password(cls, value: str | None) -> str | None:
        if value is not None and redacted(value) != value:
            raise ValueError(
                "this address holds a password, which would be written to config.yaml. Leave `tracking_uri` "
                "out and put the address into the environment variable MLFLOW_TRACKING_URI"
            )
        return value

    @property
    def folder(self) -> Path:
        """Folder of this sweep's settings, records, selection and report."""
        return self.output / self.name

    @property
    def ledger_location(self) -> str:
        """Folder or address of the unit records, leases, attempts and checkpoints of this sweep."""
        return self.ledger or str(self.folder.absolute())

    @property
    def mlflow_uri(self) -> str:
        """Tracking URI of MLflow; it may hold a password, so show only what ``redacted`` makes of it."""
        return self.tracking_uri or mlflow_address(self.output)


def mlflow_address(output: Path = OUTPUT) -> str:
    """$MLFLOW_TRACKING_URI, else a sqlite file in the folder of all sweeps; it may hold a password."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return given or f"sqlite:///{(output / 'mlflow.db').absolute()}"


def _read_range(key: str, value: Any) -> Any:
    """A mapping as the Range it writes; any other value as it is."""
    if not isinstance(value, Mapping):
        return value
    try:
        return Range.model_validate(value)
    except ValidationError as error:
        lines = [_explain(item, Range).strip().removeprefix(": ") for item in error.errors()]
        raise ValueError(f"'{key}' is not a range {{low, high, log}}: {'; '.join(lines)}") from error


def load_config(path: Path, overrides: Sequence[str] = (), name: str | None = None) -> SweepConfig:
    """Read a sweep file and apply ``key.path=value`` overrides; values are YAML.

    Raises:
        TwofoldError: all mistakes at once, each with its key and the nearest valid name.
    """
    raw = _read_yaml(path)
    for override in overrides:
        _apply(raw, override)
    if name is not None:
        raw["name"] = name
    try:
        return SweepConfig.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        text = "\n".join([f"{path} is not a valid sweep file:", *lines])
        # Its cause would repeat the keys and values as they are.
        raise TwofoldError(redacted(text)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise TwofoldError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TwofoldError(f"{path} is not YAML: {redacted(str(error))}") from None
    if not isinstance(raw, dict):
        raise TwofoldError(f"{path} must hold a mapping with the keys {', '.join(SweepConfig.model_fields)}")
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one ``a.b.0.c=value`` in place; sections that are absent are created."""
    key, separator, text = override.partition("=")
    shown = redacted(override)
    if not separator:
        raise TwofoldError(f"--set {shown}: write it as key=value, for example --set data.image_size=64")
    *parents, last = key.split(".")
    node: Any = raw
    try:
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(text)
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise TwofoldError(f"--set {shown}: there is no '{redacted(key)}' to set") from error
    except yaml.YAMLError:
        raise TwofoldError(f"--set {shown}: the value is not YAML") from None


def _explain(error: Mapping[str, Any], root: type[BaseModel] = SweepConfig) -> str:
    """One line per mistake: where, what, and the nearest valid key or name."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _keys_at(error["loc"][:-1], root)
        hint = nearest_name(str(error["loc"][-1]), known)
        return f"  {where}: unknown key.{hint} Known: {', '.join(known)}."
    if error["type"] == "missing":
        return f"  {where}: this key is required"
    message = re.sub(r"^Value error, ", "", error["msg"])
    shown = "" if error["type"] == "value_error" else f" (got {error['input']!r})"
    if error["type"] == "literal_error":
        shown += nearest_name(str(error["input"]), re.findall("'(.*?)'", error["ctx"]["expected"]))
    return f"  {where}: {message}{shown}"


def _keys_at(location: Sequence[str | int], root: type[BaseModel]) -> list[str]:
    """Field names of the section at ``location`` below ``root``."""
    section: Any = root
    for part in location:
        section = section.model_fields[str(part)].annotation
        if typing.get_origin(section) in (typing.Union, types.UnionType):
            section = typing.get_args(section)[0]
    return list(section.model_fields)
