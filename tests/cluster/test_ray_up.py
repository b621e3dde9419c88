"""`ray up` of the shipped file for own hosts, unchanged: laptop, head and two workers, all in namespaces."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import REPOSITORY, TINY, sets, wait_until
from hosts import PATH, Host, hosts, why_not

from orchestrator.ledger import read_units

LACK = why_not()
pytestmark = [pytest.mark.skipif(LACK is not None, reason=f"{LACK}"), pytest.mark.timeout(600)]

FILE = "clusters/on_premise.yaml"
# The addresses of the shipped file, which no real network uses.
ADDRESSES = {"laptop": "192.0.2.1", "head": "192.0.2.10", "one": "192.0.2.11", "two": "192.0.2.12"}
LAPTOP = {"PATH": f"{Path(sys.executable).parent}:{PATH}", "RAY_UP_enable_autoscaler_v2": "0"}


def on_laptop(laptop: Host, command: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository, and say on one line how long it took."""
    started = time.monotonic()
    done = laptop.run(f"cd {REPOSITORY} && {command}", timeout, LAPTOP)
    print(f"{time.monotonic() - started:6.1f} s  {command[:90]}")
    assert done.returncode == 0, done.stdout[-6000:]
    return done


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Host]]:
    with hosts(tmp_path_factory.mktemp("network"), ADDRESSES) as started:
        yield started


@pytest.fixture(scope="module")
def cluster(network: dict[str, Host]) -> dict[str, Host]:
    """The cluster, up: both workers have joined."""
    laptop, head = network["laptop"], network["head"]
    on_laptop(laptop, "ray get-auth-token --generate")
    on_laptop(laptop, f"twofold cluster check {FILE}")
    started = time.monotonic()
    on_laptop(laptop, f"ray up -y {FILE}")
    joined = f"ray exec {FILE} 'ray status' | grep -q '/4.0 CPU'"
    wait_until(lambda: laptop.run(f"cd {REPOSITORY} && {joined}", env=LAPTOP).returncode == 0, 240)
    print(
        f"{time.monotonic() - started:6.1f} s  until both workers had joined; head: {len(head.processes())}"
    )
    return network


def test_a_submitted_sweep_runs_on_both_workers_and_is_seen_in_mlflow(
    cluster: dict[str, Host], tmp_path: Path
) -> None:
    laptop = cluster["laptop"]
    places = ("output=$HOME/runs", "ledger=$TWOFOLD_STORE/ledger", "tracking_uri=http://127.0.0.1:5000")
    overrides = " ".join(sets(*TINY, *places))
    sweep = f"twofold sweep ~/twofold/search_spaces/digits_small.yaml --address auto {overrides}"
    job = f"ray job submit --address http://127.0.0.1:8265 -- {sweep}"
    done = on_laptop(laptop, f"ray exec {FILE} '{job}'")
    assert "succeeded" in done.stdout
    on_laptop(laptop, f"mkdir -p /srv/runs && ray rsync-down {FILE} '~/runs/' /srv/runs/")

    records = read_units(laptop.folder.parent / "common/runs/digits_small/units.parquet")
    assert records and {record["state"] for record in records} == {"done"}
    assert len({record["key"] for record in records}) == len(records)
    trials = {
        name: host.run("grep -l UnitGroup /tmp/ray/session_latest/logs/worker-*.out")
        for name, host in cluster.items()
    }
    assert {name for name, found in trials.items() if found.returncode == 0} == {"one", "two"}

    forward = laptop.start(
        f"cd {REPOSITORY} && ray exec -p 5000 {FILE} 'sleep 30'", tmp_path / "forward.log", LAPTOP
    )
    address = "http://127.0.0.1:5000"
    wait_until(lambda: laptop.run(f"curl -fs {address}/health").returncode == 0, 30)
    search = '-d \'{"experiment_ids": ["1"], "max_results": 1000}\' -H \'Content-Type: application/json\''
    answer = json.loads(laptop.run(f"curl -fs {search} {address}/api/2.0/mlflow/runs/search").stdout)
    assert {run["info"]["status"] for run in answer["runs"]} == {"FINISHED"}
    assert len(answer["runs"]) == len(records) + 1  # the sweep's own
    forward.wait(60)
    on_laptop(laptop, f"ray rsync-down {FILE} '~/mlflow.db' /srv/fetched.db")
    assert (laptop.folder.parent / "common/fetched.db").read_bytes().startswith(b"SQLite format 3")


def test_nothing_listens_beyond_the_network_of_the_cluster_without_the_token(
    cluster: dict[str, Host],
) -> None:
    head = cluster["head"]
    listening = head.run("ss -Hltnp").stdout
    services = re.findall(r"^LISTEN\s+\S+\s+\S+\s+(\S+):(5000|8265)\s", listening, re.M)
    assert {address for address, _ in services} == {"127.0.0.1"} and len(services) == 2
    stranger = "RAY_AUTH_MODE=disabled python -c 'import ray; ray.init(\"192.0.2.10:6379\")'"
    refused = cluster["laptop"].run(f"mv ~/.ray ~/away; {stranger}; mv ~/away ~/.ray", 120, LAPTOP)
    assert re.search("[Uu]nauthenticated|authentication token", refused.stdout), refused.stdout[-3000:]


def test_ray_down_leaves_nothing(cluster: dict[str, Host]) -> None:
    on_laptop(cluster["laptop"], f"ray down -y {FILE}")
    started = time.monotonic()
    left = {name: 1.0 for name in cluster}
    while left and time.monotonic() - started < 180:
        for name in [name for name in left if not cluster[name].processes()]:
            print(f"{time.monotonic() - started:6.1f} s  until {name} was empty")
            del left[name]
        time.sleep(1)
    assert not left, [cluster[name].processes() for name in left]
