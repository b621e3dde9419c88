"""Manifests for the KubeRay operator: Kubernetes drops the fields that it does not know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.cluster.commands import auth_mode_findings, open_findings, syntax_findings
from orchestrator.cluster.findings import Finding, entries, hint, join, section, unknown_names
from orchestrator.cluster.kuberay_fields import KINDS
from orchestrator.cluster.versions import image_findings, ray_findings

GPU = "nvidia.com/gpu"


def kuberay_findings(documents: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """Mistakes in the manifests of a file; those that are not KubeRay's are Kubernetes' matter."""
    names = [
        section(document.get("metadata")).get("name") for document in documents_of(documents, "RayCluster")
    ]
    if not names and not list(documents_of(documents, "RayJob")):
        yield Finding("kind", f"no RayCluster and no RayJob.{_near_kind(documents)}")
    for document in documents:
        kind = str(document.get("kind"))
        if kind not in KINDS:
            if str(document.get("apiVersion")).startswith("ray.io/"):
                yield Finding("kind", f"{kind!r} is not known here.{hint(kind, KINDS)}")
            continue
        key = f"{kind} {section(document.get('metadata')).get('name')}"
        if document.get("apiVersion") != "ray.io/v1":
            yield Finding(join(key, "apiVersion"), f"is {document.get('apiVersion')}: write ray.io/v1")
        for name in ("metadata", "spec"):
            if not section(document.get(name)):
                yield Finding(join(key, name), "is required")
        yield from unknown_names(document, KINDS[kind], key, f"{kind} of ray.io/v1")
        spec, key = section(document.get("spec")), join(key, "spec")
        if kind == "RayJob":
            yield from _job_findings(spec, key, names)
            spec, key = section(spec.get("rayClusterSpec")), join(key, "rayClusterSpec")
        if spec:
            yield from _cluster_findings(spec, key)


def documents_of(documents: Sequence[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    """The manifests of one kind."""
    return (document for document in documents if document.get("kind") == kind)


def pod(group: dict[str, Any]) -> dict[str, Any]:
    """The pod that a head or worker group is made of."""
    return section(section(group.get("template")).get("spec"))


def containers(group: dict[str, Any]) -> list[dict[str, Any]]:
    """The containers of a group's pod; the first one runs Ray."""
    return [section(container) for container in entries(pod(group).get("containers"))]


def limits(group: dict[str, Any]) -> dict[str, Any]:
    """Resource limits of the container that runs Ray, from which the operator takes Ray's resources."""
    return section(section((containers(group) or [{}])[0].get("resources")).get("limits"))


def _near_kind(documents: Sequence[dict[str, Any]]) -> str:
    return next(filter(None, (hint(str(document.get("kind")), KINDS) for document in documents)), "")


def _job_findings(spec: dict[str, Any], key: str, clusters: list[Any]) -> Iterator[Finding]:
    entrypoint = str(spec.get("entrypoint") or "")
    if not entrypoint:
        yield Finding(join(key, "entrypoint"), "is required: the command of the sweep")
    else:
        yield from syntax_findings(entrypoint, join(key, "entrypoint"))
    if "twofold sweep" in entrypoint and "--address" not in entrypoint:
        yield Finding(
            join(key, "entrypoint"), "the sweep would run in the head's pod alone: add --address auto"
        )
    selected = section(spec.get("clusterSelector")).get("ray.io/cluster")
    if selected is None and "rayClusterSpec" not in spec:
        yield Finding(key, "names no cluster: write clusterSelector or rayClusterSpec")
    if selected is not None and clusters and selected not in clusters:
        near = hint(str(selected), [str(name) for name in clusters])
        yield Finding(join(key, "clusterSelector"), f"no RayCluster {selected!r} is in this file.{near}")


def _cluster_findings(spec: dict[str, Any], key: str) -> Iterator[Finding]:
    if "rayVersion" in spec:
        yield from ray_findings(str(spec["rayVersion"]), join(key, "rayVersion"))
    head = section(spec.get("headGroupSpec"))
    groups = [section(group) for group in entries(spec.get("workerGroupSpecs"))]
    mode = section(spec.get("authOptions")).get("mode")
    yield from auth_mode_findings(mode, join(key, "authOptions.mode"), True, "by authOptions.mode")
    yield from _head_findings(head, join(key, "headGroupSpec"), mode)
    images = {}
    for name, group in [
        ("headGroupSpec", head),
        *((f"workerGroupSpecs.{i}", g) for i, g in enumerate(groups)),
    ]:
        place = join(key, name)
        yield from _pod_findings(group, place)
        images[join(place, "image")] = str((containers(group) or [{}])[0].get("image"))
    yield from image_findings(images)
    for index, group in enumerate(groups):
        yield from _count_findings(group, join(key, f"workerGroupSpecs.{index}"))
    if groups and spec.get("enableInTreeAutoscaling") is not True:
        yield Finding(join(key, "enableInTreeAutoscaling"), "workers would neither come nor go: write true")


def _head_findings(head: dict[str, Any], key: str, mode: str | None) -> Iterator[Finding]:
    params = section(head.get("rayStartParams"))
    if str(params.get("num-cpus")) != "0":
        yield Finding(
            join(key, "rayStartParams.num-cpus"),
            'trials would run on the head beside the driver and MLflow: write num-cpus: "0"',
        )
    if str(params.get("dashboard-host", "127.0.0.1")) in ("0.0.0.0", "::") and mode != "token":
        yield Finding(
            join(key, "rayStartParams.dashboard-host"),
            "opens Ray's dashboard, which runs any code it is sent, to every pod: write authOptions: "
            "{mode: token}",
        )
    service = head.get("serviceType", "ClusterIP")
    if service in ("LoadBalancer", "NodePort") or head.get("enableIngress"):
        yield Finding(
            join(key, "serviceType"),
            f"{service if service != 'ClusterIP' else 'enableIngress'} opens the head beyond "
            "Kubernetes: write "
            "ClusterIP, and reach it by `kubectl port-forward`",
        )


def _pod_findings(group: dict[str, Any], key: str) -> Iterator[Finding]:
    """Parameters that are no text, GPU counts that contradict each other, and open services."""
    params = section(group.get("rayStartParams"))
    for name, value in params.items():
        if not isinstance(value, str):
            yield Finding(join(key, "rayStartParams", name), f'must be text: write "{value}"')
    if not containers(group):
        yield Finding(join(key, "template.spec.containers"), "is required: a container that runs Ray")
        return
    gpus, requested = (
        limits(group).get(GPU),
        section(section(containers(group)[0].get("resources")).get("requests")),
    )
    if requested.get(GPU) is not None and str(requested[GPU]) != str(gpus):
        yield Finding(
            join(key, "template.spec.containers.0.resources"),
            f"requests {requested[GPU]} and limits {gpus} of {GPU}: Kubernetes wants both equal",
        )
    says = params.get("num-gpus")
    if says is not None and str(says) != str(gpus or 0):
        yield Finding(
            join(key, "rayStartParams.num-gpus"),
            f"says {says}, and the pod has {gpus or 0} {GPU}: leave it out",
        )
    for index, container in enumerate(containers(group)):
        command = " ".join(map(str, [*entries(container.get("command")), *entries(container.get("args"))]))
        yield from open_findings(command, join(key, f"template.spec.containers.{index}"))


def _count_findings(group: dict[str, Any], key: str) -> Iterator[Finding]:
    least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
    numbers = {"minReplicas": least, "maxReplicas": most, "replicas": group.get("replicas", least)}
    wrong = [name for name, number in numbers.items() if not isinstance(number, int)]
    yield from (Finding(join(key, name), f"{numbers[name]!r} is not a whole number") for name in wrong)
    if wrong:
        return
    if least > most:
        yield Finding(join(key, "minReplicas"), f"{least} is more than maxReplicas, {most}: raise that one")
    elif not least <= group.get("replicas", least) <= most:
        yield Finding(join(key, "replicas"), f"{group['replicas']} is not within {least} and {most}")
