"""Node types on Google Cloud, held against the fields of ``instances.insert``.

The fields are those of cloud.google.com/compute/docs/reference/rest/v1/instances in 2025, without outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.cluster.findings import Fields, Finding, entries, section, unknown_names
from orchestrator.cluster.instances import ACCELERATORS, GCP, resource_findings
from orchestrator.cluster.nodes import TYPES

_DISK_PARAMS = (
    "description diskName diskSizeGb diskType sourceImage sourceImageEncryptionKey sourceSnapshot labels "
    "sourceSnapshotEncryptionKey resourcePolicies onUpdateAction provisionedIops provisionedThroughput "
    "licenses "
    "enableConfidentialCompute storagePool resourceManagerTags architecture replicaZones"
)
_DISK = (
    "autoDelete boot deviceName diskEncryptionKey diskSizeGb forceAttach guestOsFeatures index "
    "interface kind mode "
    "savedState source type architecture licenses"
)
_SCHEDULING = (
    "automaticRestart availabilityDomain hostErrorTimeoutSeconds instanceTerminationAction "
    "localSsdRecoveryTimeout "
    "locationHint maxRunDuration minNodeCpus nodeAffinities onHostMaintenance onInstanceStopAction "
    "preemptible "
    "provisioningModel terminationTime"
)
_INTERFACE = (
    "accessConfigs aliasIpRanges internalIpv6PrefixLength ipv6AccessConfigs ipv6Address kind name network "
    "networkAttachment networkIP nicType queueCount stackType subnetwork"
)
_INSTANCE = (
    "advancedMachineFeatures canIpForward confidentialInstanceConfig deletionProtection description "
    "displayDevice hostname instanceEncryptionKey keyRevocationActionType kind labels machineType "
    "minCpuPlatform name networkPerformanceConfig params privateIpv6GoogleAccess reservationAffinity "
    "resourcePolicies shieldedInstanceConfig sourceMachineImage sourceInstanceTemplate startRestricted tags"
)


def _anything(names: str) -> dict[str, Fields | None]:
    return dict.fromkeys(names.split())


FIELDS: Fields = {
    **_anything(_INSTANCE),
    "disks": {**_anything(_DISK), "initializeParams": _anything(_DISK_PARAMS)},
    "scheduling": _anything(_SCHEDULING),
    "guestAccelerators": _anything("acceleratorType acceleratorCount"),
    "networkInterfaces": _anything(_INTERFACE),
    "serviceAccounts": _anything("email scopes"),
    "metadata": {"items": _anything("key value"), "kind": None, "fingerprint": None},
}


def gcp_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """Mistakes in the provider section and the node types of a launcher file for Google Cloud."""
    for name in ("project_id", "region", "availability_zone"):
        if not section(config.get("provider")).get(name):
            yield Finding(f"provider.{name}", "is required on Google Cloud")
    for name, kind in section(config.get(TYPES)).items():
        key, node = f"{TYPES}.{name}", section(section(kind).get("node_config"))
        yield from unknown_names(node, FIELDS, f"{key}.node_config", "Compute Engine")
        head = name == config.get("head_node_type")
        yield from _machine_findings(section(kind), node, key, head)
        if not head and "gs://" in str(config.get("head_setup_commands")) and "serviceAccounts" not in node:
            yield Finding(
                f"{key}.node_config.serviceAccounts",
                "is missing: workers write their records to the bucket, and Ray gives an account to "
                "the head only",
            )


def _machine_findings(kind: dict[str, Any], node: dict[str, Any], key: str, head: bool) -> Iterator[Finding]:
    """Counts that contradict the machine type and its accelerators, and GPUs that forbid live migration."""
    machine = str(node.get("machineType", "")).rpartition("/")[2]
    if not machine:
        yield Finding(f"{key}.node_config.machineType", "is required, for example g2-standard-4")
    attached = accelerators(node)
    for index, (accelerator, count) in enumerate(attached):
        allowed = ACCELERATORS.get(accelerator)
        if allowed and count not in allowed:
            choices = ", ".join(map(str, allowed))
            yield Finding(
                f"{key}.node_config.guestAccelerators.{index}.acceleratorCount",
                f"{count} x {accelerator} does not exist: choose one of {choices}",
            )
    if machine not in GCP:
        return
    cpus, gpus, _ = GCP[machine]
    gpus += sum(count for _, count in attached)
    what = " with ".join([machine, *(f"{count} x {name}" for name, count in attached)])
    declared = section(kind.get("resources"))
    if gpus and "GPU" not in declared:
        yield Finding(
            f"{key}.resources.GPU",
            f"is missing: {what} has {gpus}, which Ray does not look up on Google Cloud, so no trial "
            "would ask for "
            f"this type. Write GPU: {gpus}",
        )
    yield from resource_findings(declared, cpus, gpus, what, key, head)
    if gpus and "TERMINATE" not in str(node.get("scheduling")):
        yield Finding(
            f"{key}.node_config.scheduling.onHostMaintenance",
            "must be TERMINATE: an instance with GPUs cannot be moved while it runs",
        )


def accelerators(node: dict[str, Any]) -> list[tuple[str, int]]:
    """Name and count of each entry of ``guestAccelerators``."""
    attached = [section(entry) for entry in entries(node.get("guestAccelerators"))]
    return [
        (str(entry.get("acceleratorType", "")).rpartition("/")[2], count)
        for entry in attached
        if isinstance(count := entry.get("acceleratorCount", 1), int)
    ]
