"""An exported detector in MLflow: registered under a name and an alias, served by ``mlflow models serve``.

The model is a folder and the name of this module, which MLflow imports: there is no pickle in it. It takes a
table with one column ``image``, the base64 text of an image file, and gives ``score`` and ``anomalous``.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import tempfile
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.artifacts
import mlflow.pyfunc
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema

from orchestrator.redact import redacted
from orchestrator.tracking import Outbox, open_tracker, reported
from trainables.data.folder import read_image
from trainables.detector import Detector
from trainables.errors import TwofoldError

# The progress of a few files, for each detector.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

ALIAS = "champion"
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec("string", "image")]),
    outputs=Schema([ColSpec("double", "score"), ColSpec("boolean", "anomalous")]),
)
_URI = re.compile(r"models:/([^/@]+)(?:@([^/]+)|/(\d+))")


@dataclass(frozen=True)
class Exported:
    """A detector that was written.

    Attributes:
        name: of the registered model.
        folder: of the detector.
        unit: key of the chosen unit.
        trust: high, medium or low.
    """

    name: str
    folder: Path
    unit: str
    trust: str


class ServedDetector:
    """What MLflow calls.

    Args:
        detector: the detector.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def predict(self, model_input: Any, params: object = None) -> Any:
        """Score the rows of a data frame with the column ``image``: a data frame with the same index.

        Raises:
            MlflowException: a row is no base64 text of an image file; the server answers 400.
        """
        del params
        pixels = [self._decode(row, text) for row, text in enumerate(model_input["image"])]
        scores = self._detector.score(np.stack(pixels)) if pixels else np.empty(0)
        return model_input[[]].assign(score=scores, anomalous=self._detector.is_anomalous(scores))

    def _decode(self, row: int, text: str) -> np.ndarray:
        try:
            content = base64.b64decode(text, validate=True)
            return self._detector.transform(read_image(io.BytesIO(content), f"in row {row}"))
        except (binascii.Error, TypeError, ValueError, TwofoldError) as error:
            raise MlflowException.invalid_parameter_value(
                f"row {row}: `image` must be the base64 text of a PNG, JPEG or other image file ({error})"
            ) from error


def _load_pyfunc(data_path: str) -> ServedDetector:
    """Called by MLflow, by this name, with the folder of the detector."""
    return ServedDetector(Detector.load(Path(data_path)))


def register(outbox: Outbox, exported: Sequence[Exported]) -> None:
    """Log detectors as artifacts of their units' runs and make them the champions of their names.

    Raises:
        TwofoldError: MLflow does not take them.
    """
    with open_tracker(outbox) as tracker:
        tracker.log(one.unit for one in exported)
        runs = [tracker.run_of(one.unit) for one in exported]
    with reported(outbox.uri):
        client = MlflowClient(outbox.uri)
        for one, run in zip(exported, runs, strict=True):
            source = _log_model(client, run, one.folder)
            _create_model(client, one.name)
            tags = {"twofold.key": one.unit, "twofold.trust": one.trust}
            made = client.create_model_version(one.name, source, run_id=run, tags=tags)
            client.set_registered_model_alias(one.name, ALIAS, made.version)


def _log_model(client: MlflowClient, run: str, folder: Path) -> str:
    """Log a detector's folder as a model of a run; return its address."""
    # A name of its own: the versions registered before must stay what they are.
    name = f"detector-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        # That there is no input example: a picture as base64 text shows nobody anything.
        warnings.simplefilter("ignore", UserWarning)
        model = Path(temporary) / "model"
        mlflow.pyfunc.save_model(
            model,
            loader_module=__name__,
            data_path=str(folder),
            signature=_SIGNATURE,
            pip_requirements=[f"twofold=={version('twofold')}"],
        )
        client.log_artifacts(run, str(model), name)
    return f"{client.get_run(run).info.artifact_uri}/{name}"


def _create_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def download_detector(address: str, tracking_uri: str, folder: Path) -> Path:
    """Download a registered detector into ``folder``; return where it lies.

    Args:
        address: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        tracking_uri: of the MLflow that has it.
        folder: empty.

    Raises:
        TwofoldError: the address cannot be read, or MLflow does not have it.
    """
    found = _URI.fullmatch(address)
    if found is None:
        raise TwofoldError(
            f"--detector {address}: write models:/NAME@{ALIAS} or models:/NAME/VERSION, or name a folder."
        )
    name, alias, number = found.groups()
    database = Path(tracking_uri.removeprefix("sqlite:///"))
    if tracking_uri.startswith("sqlite:///") and not database.exists():
        # MLflow would make one.
        raise TwofoldError(
            f"there is no MLflow database {database}; set MLFLOW_TRACKING_URI to the one of the sweep."
        )
    with reported(tracking_uri):
        client = MlflowClient(tracking_uri)
        try:
            if alias is not None:
                number = client.get_model_version_by_alias(name, alias).version
            source = client.get_model_version_download_uri(name, number)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise TwofoldError(
                f"MLflow at {redacted(tracking_uri)} has no {address}; `twofold export` says what it "
                "registers, and MLFLOW_TRACKING_URI which MLflow is asked."
            ) from error
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=source, dst_path=str(folder), tracking_uri=tracking_uri
        )
        data: str = Model.load(path).flavors["python_function"]["data"]
    return Path(path) / data
