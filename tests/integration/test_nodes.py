"""Several nodes on one machine: one that is lost, one that sees no ledger, one that cannot work."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import (
    LOOPBACK,
    Finished,
    draw_domains,
    finished,
    folder_data,
    records,
    start,
    statuses,
    twofold,
    wait_until,
    with_faults,
    write_space,
)
from ray.cluster_utils import Cluster

from orchestrator.attempts import Attempt, AttemptLog
from orchestrator.storage import Storage

EPOCHS = 30
BEFORE_THE_LOSS = 12
SCORES = ["source_centre", "knn"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints every second, and few workers that cannot start before a sweep gives up."""
    folder = tmp_path_factory.mktemp("nodes") / "environment"
    constants = {"checkpoints": {"SECONDS_BETWEEN": 1.0}, "halt": {"MAX_BARREN": 1}}
    # The nodes are on the loopback, where a driver looks for none unless it is told.
    return {**with_faults(folder, **constants), LOOPBACK: "0"}


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str]) -> Iterator[Cluster]:
    """A head on which no trial runs; each test adds nodes and takes them away."""
    before = dict(os.environ)
    os.environ.update(environment)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "node_ip_address": "127.0.0.1", "include_dashboard": False},
    )
    try:
        yield cluster
    finally:
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def node(cluster: Cluster, **environment: str) -> Iterator[Any]:
    """A node of one CPU that is there while the block runs, if nobody takes it away earlier."""
    os.environ.update(environment)
    try:
        added = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
    finally:
        for name in environment:
            del os.environ[name]
    try:
        yield added
    finally:
        if added in cluster.worker_nodes:
            cluster.remove_node(added, allow_graceful=False)


def under_way(folder: Path) -> list[Attempt]:
    log = AttemptLog(Storage(str(folder)))
    found = [log.read(bundle).open for bundle in log.bundles()]
    return [attempt for attempt in found if attempt is not None]


def test_a_lost_node_costs_the_epochs_since_the_last_checkpoint_and_no_unit(
    cluster: Cluster, environment: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    data = folder_data(draw_domains(tmp_path / "images"), classes=["plain bar"], anomaly_classes=["Größe"])
    faulty = {"alignment": "faulty", "clusterer": "all", "score": SCORES}
    short = {"lambda_align": [0.2, 0.4, 0.6, 0.8], "epochs": 4}
    space = write_space(
        tmp_path / "lost.yaml",
        cache,
        data=data,
        space=[{**faulty, "fault": "long", "epochs": EPOCHS}, {**faulty, "fault": "slow", **short}],
        resources={"trainings_per_trial": 1},
    )
    folder, traces = tmp_path / "lost", Path(environment["TWOFOLD_TEST_FAULTS"])
    with node(cluster) as first, node(cluster) as second:
        sweep = start(["sweep", space, "--address", cluster.address], environment)
        try:
            wait_until(lambda: len(list(traces.glob("long.*"))) >= BEFORE_THE_LOSS, 120)
            lost = _loses_the_long_training(folder, traces, [first, second])
            cluster.remove_node(lost, allow_graceful=False)
            done = finished(sweep, 120)
        finally:
            sweep.kill()
            sweep.wait(10)
    assert done.code == 0, done.output
    ended = records(folder)
    assert len(ended) == 2 + 2 * 4 + 1
    assert {record.state for record in ended.values()} == {"done"}
    assert statuses(folder) == {key: ["FINISHED"] for key in ended}
    for record in ended.values():
        is_long = record.config.get("fault") == "long"
        assert record.preemptions == is_long and record.attempts == 1 + is_long
        if is_long:
            assert [epoch["epoch"] for epoch in record.epochs] == list(range(1, EPOCHS + 1))
    # An epoch takes more than 0.3 s and a checkpoint is due after 1 s: four epochs, and the one under way.
    assert 0 < len(list(traces.glob("long.*"))) - EPOCHS <= 5
    assert not list((folder / "attempts").iterdir()) and not list((folder / "checkpoints").iterdir())


def _loses_the_long_training(folder: Path, traces: Path, nodes: list[Any]) -> Any:
    """Kill the raylet and the worker of the node that has trained longest; return the node."""
    longest = min(under_way(folder), key=lambda attempt: attempt.began)
    (lost,) = [one for one in nodes if one.unique_id == longest.node or _id(one) == longest.node]
    lost.kill_raylet()
    with contextlib.suppress(ProcessLookupError):
        os.kill(longest.pid, signal.SIGKILL)
    return lost


def _id(node: Any) -> str:
    return str(node.node_id)


def test_workers_that_cannot_start_end_the_sweep_with_one_message(
    cluster: Cluster, environment: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    space = _small_space(tmp_path / "bare.yaml", cache)
    with node(cluster, TWOFOLD_TEST_BARE="1"):
        done = twofold("sweep", space, "--address", cluster.address, env=environment)
    _refused(done, "workers in a row ended without a result", "No module named 'orchestrator'")
    assert not records(tmp_path / "bare") and done.seconds < 150


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, to give a node files of its own")
def test_a_node_that_does_not_see_the_ledger_is_refused(
    cluster: Cluster, environment: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    space = _small_space(tmp_path / "shared" / "unseen.yaml", cache)
    with _node_that_does_not_see(space.parent, cluster, tmp_path / "node.log"):
        done = twofold("sweep", space, "--address", cluster.address, env=environment)
    _refused(done, "does not see the ledger", "Set `ledger:` to a folder that all nodes mount")
    assert not records(space.with_suffix(""))


def _small_space(path: Path, cache: Path) -> Path:
    data = folder_data(draw_domains(path.parent / "images"), classes=["plain bar"], anomaly_classes=["Größe"])
    return write_space(path, cache, data=data)


def _refused(done: Finished, *parts: str) -> None:
    assert done.code == 2, done.output
    assert done.output.count("error: ") == 1 and "Traceback" not in done.output, done.output
    assert all(part in done.message for part in parts), done.message


_NODE = """
import signal, sys
from ray._private.node import Node
from ray._private.parameter import RayParams

parameters = RayParams(
    gcs_address=sys.argv[1], redis_address=sys.argv[1], node_ip_address="127.0.0.1", num_cpus=1, num_gpus=0,
    object_store_memory=150 * 2**20, min_worker_port=0, max_worker_port=0, node_manager_port=0,
    include_log_monitor=False, dashboard_agent_listen_port=None,
)
Node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=True)
signal.pause()
"""


@contextlib.contextmanager
def _node_that_does_not_see(folder: Path, cluster: Cluster, log: Path) -> Iterator[None]:
    """A node in a mount namespace of its own, where ``folder`` is empty. `ray start` refuses the loopback."""
    # By their ids: a node that just went may still be counted, and its end would hide the new one.
    before = set(cluster.global_state._live_node_ids())
    command = f"mount -t tmpfs -o size=10m tmpfs '{folder}' && exec '{sys.executable}' -c '{_NODE}' "
    started = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", command + cluster.address],
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        env=dict(os.environ),
    )
    try:
        wait_until(
            lambda: started.poll() is not None or bool(set(cluster.global_state._live_node_ids()) - before),
            120,
        )
        if started.poll() is not None:
            pytest.skip(f"no mount namespace here: {log.read_text().strip()[-300:]}")
        yield
    finally:
        started.terminate()
        started.wait(20)
