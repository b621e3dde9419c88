"""CPUs and GPUs of common instance types: vendors' tables of 2025, for contradictions only.

From aws.amazon.com/ec2/instance-types and cloud.google.com/compute/docs/gpus. Other types are not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.cluster.findings import Finding, section

# (vCPUs, GPUs); the GPU's name is for the summary.
_G4DN = {"xlarge": (4, 1), "2xlarge": (8, 1), "4xlarge": (16, 1), "8xlarge": (32, 1), "16xlarge": (64, 1)}
_G5 = {**_G4DN, "12xlarge": (48, 4), "24xlarge": (96, 4), "48xlarge": (192, 8)}
_P3 = {"2xlarge": (8, 1), "8xlarge": (32, 4), "16xlarge": (64, 8)}
_M6I = {"large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16, "8xlarge": 32, "12xlarge": 48, "16xlarge": 64}
AWS: dict[str, tuple[int, int, str]] = {
    **{f"g4dn.{size}": (*count, "T4") for size, count in {**_G4DN, "12xlarge": (48, 4)}.items()},
    "g4dn.metal": (96, 8, "T4"),
    **{f"g5.{size}": (*count, "A10G") for size, count in _G5.items()},
    **{f"g6.{size}": (*count, "L4") for size, count in _G5.items()},
    **{f"p3.{size}": (*count, "V100") for size, count in _P3.items()},
    "p3dn.24xlarge": (96, 8, "V100"),
    "p4d.24xlarge": (96, 8, "A100"),
    "p4de.24xlarge": (96, 8, "A100"),
    "p5.4xlarge": (16, 1, "H100"),
    "p5.48xlarge": (192, 8, "H100"),
    "p5e.48xlarge": (192, 8, "H200"),
    **{f"m6i.{size}": (count, 0, "") for size, count in _M6I.items()},
    "m6i.24xlarge": (96, 0, ""),
    "m6i.32xlarge": (128, 0, ""),
}
# Machine types of Google Cloud that bring their GPUs along.
GCP: dict[str, tuple[int, int, str]] = {
    **{f"g2-standard-{cpus}": (cpus, 1, "L4") for cpus in (4, 8, 12, 16, 32)},
    "g2-standard-24": (24, 2, "L4"),
    "g2-standard-48": (48, 4, "L4"),
    "g2-standard-96": (96, 8, "L4"),
    **{f"a2-highgpu-{gpus}g": (12 * gpus, gpus, "A100") for gpus in (1, 2, 4, 8)},
    "a2-megagpu-16g": (96, 16, "A100"),
    **{f"a2-ultragpu-{gpus}g": (12 * gpus, gpus, "A100") for gpus in (1, 2, 4, 8)},
    **{f"a3-highgpu-{gpus}g": (26 * gpus, gpus, "H100") for gpus in (1, 2, 4, 8)},
    **{
        f"{series}-standard-{cpus}": (cpus, 0, "")
        for series in ("n1", "n2", "e2")
        for cpus in (2, 4, 8, 16, 32)
    },
}
# How many of a GPU one instance of the n1 series may carry.
ACCELERATORS = {
    "nvidia-tesla-t4": (1, 2, 4),
    "nvidia-tesla-p4": (1, 2, 4),
    "nvidia-tesla-v100": (1, 2, 4, 8),
    "nvidia-tesla-p100": (1, 2, 4),
}


def resource_findings(
    resources: Any, cpus: int, gpus: int, what: str, key: str, head: bool
) -> Iterator[Finding]:
    """Counts under ``resources`` that the instance does not have; the head may declare fewer.

    Ray believes the file: trials wait for ever for a GPU that is declared and not there, or leave idle one
    that is there and not declared.
    """
    declared = section(resources)
    for name, has in (("CPU", cpus), ("GPU", gpus)):
        says = declared.get(name)
        if says is None or says == has or (head and name == "CPU" and says == 0):
            continue
        yield Finding(f"{key}.resources.{name}", f"says {says}, and {what} has {has}: write {has}")
