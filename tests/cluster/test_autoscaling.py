"""A sweep makes the cluster grow and shrink: the real autoscaler, with raylets of one host for machines."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import yaml
from harness import REPOSITORY, SMALL, TINY, sets, wait_until
from hosts import PATH, hosts, why_not

from orchestrator.ledger import read_units

LACK = why_not()
pytestmark = [pytest.mark.skipif(LACK is not None, reason=f"{LACK}"), pytest.mark.timeout(400)]

PORT = 6400
HEAD = "f" * 51 + "00000"
ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}:{PATH}",
    "RAY_AUTH_MODE": "disabled",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",
}


def write_config(path: Path) -> Path:
    """A full launcher file, as the monitor of a head gets it: no trial on the head, at most two workers."""
    module = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    lists = "setup_commands head_setup_commands worker_setup_commands initialization_commands rsync_exclude"
    starts = "rsync_filter cluster_synced_files head_start_ray_commands worker_start_ray_commands"
    provider = {"type": "external", "module": module, "launch_multiple": True}
    # A raylet has no address and no SSH of its own.
    provider |= {
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    config = {
        "cluster_name": "growing",
        "max_workers": 2,
        "upscaling_speed": 10,
        "idle_timeout_minutes": 0.1,
        "provider": {**provider, "gcs_address": f"127.0.0.1:{PORT}", "head_node_id": HEAD},
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "head_node_type": "ray.head.default",
        "available_node_types": types,
        **{name: [] for name in f"{lists} {starts}".split()},
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_sweep_grows_the_cluster_from_one_node_to_three_and_back(tmp_path: Path) -> None:
    with hosts(tmp_path / "network", {"alone": "192.0.2.1"}) as started:
        alone, common = started["alone"], tmp_path / "network" / "common"
        write_config(common / "cluster.yaml")

        def nodes() -> int:
            # Without the dead that the monitor has not buried.
            return int(alone.run("pgrep -c -x -r D,R,S raylet").stdout)

        start = f"ray start --head --num-cpus=0 --port={PORT} --node-ip-address=127.0.0.1"
        up = alone.run(f"{start} --autoscaling-config=/srv/cluster.yaml", 120, ENVIRONMENT)
        assert up.returncode == 0, up.stdout
        assert nodes() == 1
        begun = time.monotonic()
        overrides = " ".join(sets(*TINY, "output=/srv/runs", "cache=/srv/cache")).replace('"', '\\"')
        sweep = f"cd {REPOSITORY} && twofold sweep {SMALL} --address 127.0.0.1:{PORT} {overrides}"
        running = alone.start(sweep, tmp_path / "sweep.log", ENVIRONMENT)
        wait_until(lambda: nodes() == 3 or running.poll() is not None, 180)
        assert running.poll() is None, (tmp_path / "sweep.log").read_text()
        print(f"{time.monotonic() - begun:6.1f} s  three nodes")
        assert running.wait(240) == 0, (tmp_path / "sweep.log").read_text()
        print(f"{time.monotonic() - begun:6.1f} s  sweep done")
        wait_until(lambda: nodes() == 1, 90)
        print(f"{time.monotonic() - begun:6.1f} s  one node")
        records = read_units(common / "runs/digits_small/units.parquet")
        assert records and {record["state"] for record in records} == {"done"}
