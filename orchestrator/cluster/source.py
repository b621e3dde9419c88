"""Reading a cluster file: one YAML document for Ray's launcher, or the manifests of KubeRay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainables.errors import TwofoldError


@dataclass(frozen=True)
class ClusterFile:
    """A parsed file.

    Attributes:
        path: where it was read.
        documents: its YAML documents, each a mapping; a file for Ray's launcher has one.
        kubernetes: whether the documents are Kubernetes manifests.
    """

    path: Path
    documents: tuple[dict[str, Any], ...]
    kubernetes: bool


def read_cluster_file(path: Path) -> ClusterFile:
    """Parse a cluster file.

    Raises:
        TwofoldError: the file cannot be read, is not YAML, or is neither of the two kinds.
    """
    try:
        documents = [document for document in yaml.safe_load_all(path.read_text()) if document is not None]
    except OSError as error:
        raise TwofoldError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TwofoldError(f"{path} is not YAML: {error}") from error
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise TwofoldError(f"{path} must hold mappings: a file for `ray up`, or manifests of KubeRay")
    kubernetes = any("apiVersion" in document or "kind" in document for document in documents)
    if not kubernetes and len(documents) > 1:
        raise TwofoldError(f"{path} holds {len(documents)} YAML documents, and `ray up` reads one: split it")
    return ClusterFile(path, tuple(documents), kubernetes)
