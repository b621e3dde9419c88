"""What a cluster file would start: nodes, types, GPUs, and who pays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.cluster.aws import is_spot
from orchestrator.cluster.findings import entries, section
from orchestrator.cluster.gcp import accelerators
from orchestrator.cluster.instances import AWS, GCP
from orchestrator.cluster.kuberay import GPU, documents_of, limits
from orchestrator.cluster.source import ClusterFile


def summarise(file: ClusterFile) -> list[str]:
    """Lines for a person; the file has no mistakes."""
    if file.kubernetes:
        return [line for document in documents_of(file.documents, "RayCluster") for line in _pods(document)]
    config = file.documents[0]
    provider = section(config["provider"])
    if provider["type"] == "local":
        return _own_hosts(provider)
    idle = config.get("idle_timeout_minutes", 5)
    payers = {
        "aws": "the AWS account whose credentials start it",
        "gcp": f"the billing account of project {provider.get('project_id')}",
    }
    place = provider.get("availability_zone") or provider.get("region") or provider["type"]
    return [
        f"{config['cluster_name']} on {provider['type']}, {place}: at most {config['max_workers']} workers",
        *_node_types(config),
        f"Workers end after {idle} idle minutes, the head at `ray down`. "
        f"Paid by {payers.get(provider['type'], 'whoever owns the account')}.",
    ]


def _node_types(config: dict[str, Any]) -> Iterator[str]:
    for name, kind in section(config["available_node_types"]).items():
        node = section(kind["node_config"])
        machine = str(node.get("InstanceType") or node.get("machineType") or "?")
        _, gpus, gpu = {**AWS, **GCP}.get(machine, (0, 0, ""))
        has = [f"{gpus} x {gpu}"] if gpus else []
        has += [f"{count} x {accelerator}" for accelerator, count in accelerators(node)]
        what = f"{machine} ({', '.join(has)})" if has else machine
        if name == config["head_node_type"]:
            yield f"  {name}: 1 x {what}, on demand, without trials"
        else:
            counts = f"{kind.get('min_workers', 0)} to {kind.get('max_workers', config['max_workers'])}"
            yield f"  {name}: {counts} x {what}, {'spot' if is_spot(node) else 'on demand'}"


def _own_hosts(provider: dict[str, Any]) -> list[str]:
    workers = [str(address) for address in entries(provider.get("worker_ips"))]
    return [
        f"own hosts: head {provider.get('head_ip')} without trials, {len(workers)} workers "
        f"{', '.join(workers)}",
        "Their CPUs and GPUs are found when Ray starts. Nothing is rented: their owner pays.",
    ]


def _pods(document: dict[str, Any]) -> Iterator[str]:
    spec = section(document["spec"])
    yield f"{document['metadata']['name']} on Kubernetes: 1 head pod without trials"
    for group in entries(spec.get("workerGroupSpecs")):
        gpus = limits(group).get(GPU, 0)
        counts = f"{group.get('minReplicas', 0)} to {group.get('maxReplicas')}"
        yield f"  {group['groupName']}: {counts} pods of {gpus} GPU"
    idle = section(spec.get("autoscalerOptions")).get("idleTimeoutSeconds", 60)
    yield f"Worker pods end after {idle} idle seconds. Paid by whoever runs the Kubernetes cluster."
