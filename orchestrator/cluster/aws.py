"""Node types on AWS, held against botocore's own description of ``RunInstances``.

``node_config`` is passed on to EC2 at launch, minutes after ``ray up`` accepted it: Ray looks at none of it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from orchestrator.cluster.findings import Fields, Finding, entries, hint, join, section, unknown_names
from orchestrator.cluster.instances import AWS, resource_findings
from orchestrator.cluster.nodes import TYPES

WORLD = ("0.0.0.0/0", "::/0")


def aws_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """Mistakes in the provider section and the node types of a launcher file for AWS."""
    yield from _security_findings(config)
    types = section(config.get(TYPES))
    request = run_instances()
    if request is None:
        yield Finding(
            TYPES,
            "the fields of node_config were not checked, because botocore is missing: "
            "pip install -c constraints.txt -e '.[aws]'",
            warning=True,
        )
    for name, kind in types.items():
        key, node = f"{TYPES}.{name}", section(section(kind).get("node_config"))
        yield from _type_findings(section(kind), node, key, name == config.get("head_node_type"))
        if request is not None:
            yield from _request_findings(node, request, f"{key}.node_config")
    yield from _profile_findings(config, types)
    yield from _spot_findings(types)


def _type_findings(kind: dict[str, Any], node: dict[str, Any], key: str, head: bool) -> Iterator[Finding]:
    instance = node.get("InstanceType")
    if instance is None:
        yield Finding(f"{key}.node_config.InstanceType", "is required, for example g5.xlarge")
    elif isinstance(instance, str) and instance in AWS:
        cpus, gpus, _ = AWS[instance]
        yield from resource_findings(kind.get("resources"), cpus, gpus, instance, key, head)


@functools.cache
def run_instances() -> Any | None:
    """What botocore knows of the request, which comes with the package; None without botocore."""
    try:
        from botocore.loaders import Loader
        from botocore.model import ServiceModel
    except ImportError:
        return None
    return (
        ServiceModel(Loader().load_service_model("ec2", "service-2"))
        .operation_model("RunInstances")
        .input_shape
    )


def _request_findings(node: dict[str, Any], request: Any, key: str) -> Iterator[Finding]:
    """Unknown fields with the nearest name, values of a wrong type, and an instance type nobody knows."""
    from botocore.validate import ParamValidator

    # Ray chooses among `SubnetIds` and counts the nodes itself.
    fields = {**(_fields(request) or {}), "SubnetIds": None}
    yield from unknown_names(node, fields, key, "EC2 RunInstances")
    asked = {**node, "MinCount": 1, "MaxCount": 1}
    asked.pop("SubnetIds", None)
    for line in ParamValidator().validate(asked, request).generate_report().splitlines():
        if line and not line.startswith("Unknown parameter"):
            yield Finding(key, line)
    known = request.members["InstanceType"].enum
    instance = node.get("InstanceType")
    if isinstance(instance, str) and instance not in known:
        near = hint(instance, known)
        yield Finding(join(key, "InstanceType"), f"botocore knows no instance type {instance!r}.{near}")


def _fields(shape: Any) -> Fields | None:
    """Names of a botocore shape; a list has those of its members."""
    if shape.type_name == "list":
        return _fields(shape.member)
    if shape.type_name != "structure":
        return None
    return {name: _fields(member) for name, member in shape.members.items()}


def _security_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """Rules of the security group that let the world in by anything but SSH."""
    group = section(section(config.get("provider")).get("security_group"))
    for index, rule in enumerate(entries(group.get("IpPermissions"))):
        ranges = [section(entry).get("CidrIp") for entry in entries(section(rule).get("IpRanges"))]
        ranges += [section(entry).get("CidrIpv6") for entry in entries(section(rule).get("Ipv6Ranges"))]
        ports = (section(rule).get("FromPort"), section(rule).get("ToPort"))
        if any(entry in WORLD for entry in ranges) and ports != (22, 22):
            yield Finding(
                f"provider.security_group.IpPermissions.{index}",
                f"opens ports {ports[0]} to {ports[1]} to the world: name your own addresses, or leave "
                "it out and "
                "reach services by `ray attach -p PORT`",
            )


def _profile_findings(config: dict[str, Any], types: dict[str, Any]) -> Iterator[Finding]:
    """Workers write to the bucket, and Ray creates an instance profile for the head alone."""
    if "s3://" not in str(config.get("head_setup_commands")):
        return
    for name, kind in types.items():
        node = section(section(kind).get("node_config"))
        if name != config.get("head_node_type") and "IamInstanceProfile" not in node:
            yield Finding(
                f"{TYPES}.{name}.node_config.IamInstanceProfile",
                "is missing: workers write their records to the bucket, and Ray gives a profile to the "
                "head only "
                "(docs/cluster.md)",
            )


def _spot_findings(types: dict[str, Any]) -> Iterator[Finding]:
    """Spot workers without another type to fall back on."""
    nodes = {name: section(section(kind).get("node_config")) for name, kind in types.items()}
    spot = [name for name, node in nodes.items() if is_spot(node)]
    rest = [name for name, node in nodes.items() if not is_spot(node) and not _is_plain_head(types[name])]
    if spot and not rest:
        yield Finding(
            f"{TYPES}.{spot[0]}",
            "there are spot workers only: without capacity the sweep waits. Add an on-demand type of "
            "lower priority",
            warning=True,
        )


def is_spot(node: dict[str, Any]) -> bool:
    """Whether a ``node_config`` asks for spot or preemptible instances, on AWS or Google Cloud."""
    market = section(node.get("InstanceMarketOptions")).get("MarketType")
    schedules = node.get("scheduling") or {}
    merged = {name: value for part in _as_list(schedules) for name, value in section(part).items()}
    return market == "spot" or merged.get("provisioningModel") == "SPOT" or merged.get("preemptible") is True


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_plain_head(kind: Any) -> bool:
    return section(section(kind).get("resources")).get("CPU") == 0
