"""What a sweep ran with: package versions, git commit and hardware, written beside its results."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = (
    "ray",
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "scikit-learn",
    "mlflow",
    "pyarrow",
    "numpy",
)


def describe_environment() -> dict[str, Any]:
    """Versions of Python and of the packages that results depend on, commit, cores and GPUs."""
    import torch

    return {
        "twofold": version("twofold"),
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: version(name) for name in PACKAGES},
    }


def _cpu() -> str | None:
    """Model of the processor, as Linux names it; None elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None


def _commit() -> str | None:
    """Commit of the checkout this package runs from, with ``+`` when it was changed; None outside of one."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
