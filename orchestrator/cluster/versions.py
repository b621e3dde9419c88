"""Versions of Ray and Python that a file names, beside those installed here."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.cluster.findings import Finding, join, section

RAY = version("ray")
PYTHON = ".".join(platform.python_version_tuple()[:2])
_PIN = re.compile(r"(?<![\w.-])ray(?:\[[\w,]+\])?==([\w.]+)")
_IMAGE_RAY = re.compile(r"(?:rayproject/ray(?:-\w+)?:|ray)(\d+\.\d+\.\d+)")
_IMAGE_PYTHON = re.compile(r"py(\d)(\d+)")


def version_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """Ray pinned in commands, requirement files and image tags of a launcher file."""
    for name, commands in config.items():
        if name.endswith("_commands") and isinstance(commands, list):
            for index, command in enumerate(commands):
                for pinned in _PIN.findall(str(command)):
                    yield from ray_findings(pinned, f"{name}.{index}")
    for remote, local in section(config.get("file_mounts")).items():
        path = Path(str(local)).expanduser()
        if path.suffix == ".txt" and path.is_file():
            for pinned in re.findall(r"^ray==(\S+)$", path.read_text(), re.M):
                yield from ray_findings(pinned, f"file_mounts.{remote} ({local})")
    images = {join("docker", name): image for name, image in section(config.get("docker")).items()}
    for name, kind in section(config.get("available_node_types")).items():
        docker = section(section(kind).get("docker"))
        images |= {f"available_node_types.{name}.docker.{key}": image for key, image in docker.items()}
    yield from image_findings({key: str(image) for key, image in images.items() if key.endswith("image")})


def ray_findings(named: str, key: str) -> Iterator[Finding]:
    """Another version of Ray than the one that was checked with."""
    if named != RAY:
        yield Finding(
            key, f"names Ray {named}, and Ray {RAY} is installed here: nodes and launcher must be equal"
        )


def image_findings(images: dict[str, str]) -> Iterator[Finding]:
    """Versions in the tags of container images, by their keys."""
    pythons = {}
    for key, image in images.items():
        ray, python = _IMAGE_RAY.search(image), _IMAGE_PYTHON.search(image.rpartition(":")[2])
        if ray:
            yield from ray_findings(ray[1], key)
        elif image.rpartition(":")[2] in ("latest", image):
            yield Finding(key, f"{image} has no version: name one, such as rayproject/ray:{RAY}-py311")
        if python:
            pythons[key] = f"{python[1]}.{python[2]}"
    if len(set(pythons.values())) > 1:
        listed = ", ".join(f"{key} has {value}" for key, value in pythons.items())
        yield Finding(next(iter(pythons)), f"all nodes must share one version of Python: {listed}")
    elif pythons and PYTHON not in pythons.values():
        key, named = next(iter(pythons.items()))
        yield Finding(
            key,
            f"has Python {named}, and Python {PYTHON} runs here: jobs that are submitted do not mind, "
            "Ray's client does",
            warning=True,
        )
