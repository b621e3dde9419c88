"""Own hosts: addresses, and start commands that end another node of the same host."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from typing import Any

from orchestrator.cluster.findings import Finding, entries, section

DOCUMENTATION = [ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]

AUTOSCALER = "RAY_UP_enable_autoscaler_v2"  # Ray's name


def local_findings(config: dict[str, Any]) -> Iterator[Finding]:
    """Mistakes in a launcher file with ``provider: local``."""
    provider = section(config.get("provider"))
    if "coordinator_address" in provider:
        return
    missing = [name for name in ("head_ip", "worker_ips") if not provider.get(name)]
    yield from (Finding(f"provider.{name}", "is required for own hosts") for name in missing)
    workers = [str(address) for address in entries(provider.get("worker_ips"))]
    addresses = [str(provider.get("head_ip")), *workers]
    shared = sorted({address for address in addresses if addresses.count(address) > 1})
    commands = map(str, entries(config.get("worker_start_ray_commands")))
    stops = any(command.split()[:2] == ["ray", "stop"] for command in commands)
    if shared and stops:
        yield Finding(
            "worker_start_ray_commands",
            f"`ray stop` on a worker ends every node of the host it shares ({', '.join(shared)}): "
            "leave it out",
        )
    if _documentation(addresses):
        yield Finding(
            "provider.head_ip", "the addresses are still the example's: write your own", warning=True
        )
    if os.environ.get(AUTOSCALER, "1") == "1":
        yield Finding(
            "provider.type",
            "`ray up` would start no worker: export RAY_UP_enable_autoscaler_v2=0 first",
            warning=True,
        )


def _documentation(addresses: list[str]) -> bool:
    """Whether any address is one of those that RFC 5737 keeps for examples."""
    for address in addresses:
        try:
            if any(ipaddress.ip_address(address) in network for network in DOCUMENTATION):
                return True
        except ValueError:
            continue  # a host name
    return False
