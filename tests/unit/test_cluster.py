"""Cluster files: the shipped ones pass and agree with each other; each mutation is named with its key."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.cluster.aws import is_spot, run_instances
from orchestrator.cluster.check import find
from orchestrator.cluster.findings import unknown_names
from orchestrator.cluster.source import ClusterFile
from orchestrator.cluster.summary import summarise
from tests.check_wheel import PACKAGES, ROOT

AWS, GCP, LOCAL, KUBERAY = (
    "cluster.yaml",
    "clusters/gcp.yaml",
    "clusters/on_premise.yaml",
    "clusters/kuberay.yaml",
)
LAUNCHER = (AWS, GCP, LOCAL)
Config = dict[str, Any]


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`ray up` is called from the repository's folder, by someone who has made a token."""
    (tmp_path / "home" / ".ray").mkdir(parents=True)
    (tmp_path / "home" / ".ray" / "auth_token").write_text("0" * 64)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_UP_enable_autoscaler_v2", "0")
    monkeypatch.chdir(ROOT)


def check(path: Path | str) -> tuple[int, str]:
    """Exit code and output, on one line, of `twofold cluster check`."""
    result = CliRunner().invoke(app, ["cluster", "check", str(path)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, " ".join(result.output.split())


def load(name: str) -> list[Config]:
    return list(yaml.safe_load_all((ROOT / name).read_text()))


class NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def unshared(documents: list[Config]) -> list[Config]:
    """Copies in which no two places share a value, as YAML's anchors do."""
    return [yaml.safe_load(yaml.dump(document, Dumper=NoAliases)) for document in documents]


def commands(config: Config) -> list[str]:
    return [command for key, value in config.items() if key.endswith("_commands") for command in value]


# ---- the shipped files ----------------------------------------------------------------------------

SUMMARIES = {
    AWS: "gpu_spot: 0 to 8 x g5.xlarge (1 x A10G), spot gpu_on_demand: 0 to 2 x g5.xlarge (1 x A10G), on",
    GCP: "gpu_spot: 0 to 8 x g2-standard-4 (1 x L4), spot gpu_on_demand: 0 to 2 x g2-standard-4 (1 x L4), on",
    LOCAL: "own hosts: head 192.0.2.10 without trials, 2 workers 192.0.2.11, 192.0.2.12",
    KUBERAY: "gpu-spot: 0 to 8 pods of 1 GPU gpu-on-demand: 0 to 2 pods of 1 GPU",
}


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_shipped_file_passes_and_says_what_it_starts_and_who_pays(name: str) -> None:
    code, output = check(name)
    assert code == 0, output
    assert SUMMARIES[name] in output
    assert re.search(r"[Pp]aid by|owner pays", output)
    assert "still the example's" in output, "what the user must fill in is a warning"


def test_every_cluster_file_is_tested() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in [ROOT / AWS, *(ROOT / "clusters").iterdir()]}
    assert files == set(SUMMARIES)


def test_a_missing_token_and_the_autoscaler_of_own_hosts_are_named_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (Path.home() / ".ray" / "auth_token").unlink()
    monkeypatch.delenv("RAY_UP_enable_autoscaler_v2")
    code, output = check(LOCAL)
    assert code == 0
    assert "`ray get-auth-token --generate` writes it" in output
    assert "`ray up` would start no worker: export RAY_UP_enable_autoscaler_v2=0" in output


def test_launcher_files_share_set_up_services_and_authentication() -> None:
    aws, *others = [load(name)[0] for name in LAUNCHER]

    def shared(config: Config) -> list[Any]:
        text = " ".join(command for command in config["head_start_ray_commands"])
        keys = ("file_mounts", "rsync_exclude", "setup_commands", "worker_setup_commands")
        assert "mlflow server --host 127.0.0.1 --port 5000" in text
        starts = [config["head_start_ray_commands"], config["worker_start_ray_commands"][:2]]
        return [config[key] for key in keys] + starts

    assert all(shared(config) == shared(aws) for config in others)


@pytest.mark.parametrize("name", LAUNCHER)
def test_nodes_install_the_tested_versions_of_every_file_an_installation_needs(name: str) -> None:
    config = load(name)[0]
    installs = [command for command in commands(config) if "pip install" in command]
    assert installs and all("-c constraints.txt -e " in command for command in installs)
    mounts = dict(config["file_mounts"])
    assert mounts.pop("/home/ubuntu/.ray/auth_token") == "~/.ray/auth_token"
    assert {*PACKAGES, "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == set(mounts.values())
    assert all(Path(remote).name == local for remote, local in mounts.items())


def test_kuberay_names_the_tested_versions_and_authenticates_like_the_others() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    text = (ROOT / KUBERAY).read_text()
    assert set(re.findall(r"ray:?(\d+\.\d+\.\d+)", text)) == {pins[canonicalize_name("ray")]}
    (cluster,) = [document for document in load(KUBERAY) if document["kind"] == "RayCluster"]
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    assert all("RAY_AUTH_MODE=token" in (ROOT / name).read_text() for name in LAUNCHER)
    for folder in (*PACKAGES, "pyproject.toml", "constraints.txt"):
        assert re.search(rf"^#   COPY .*{re.escape(folder)}", text, re.M), folder


@pytest.mark.parametrize("name", (AWS, GCP))
def test_spot_workers_start_from_none_and_have_a_fallback(name: str) -> None:
    config = load(name)[0]
    kinds = {
        key: kind for key, kind in config["available_node_types"].items() if key != config["head_node_type"]
    }
    assert {kind["min_workers"] for kind in kinds.values()} == {0}
    assert sorted(is_spot(kind["node_config"]) for kind in kinds.values()) == [False, True]
    (spot,) = [kind for kind in kinds.values() if is_spot(kind["node_config"])]
    assert all(spot["priority"] > kind["priority"] for kind in kinds.values() if kind is not spot)


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_bucket_is_named_in_one_place(name: str) -> None:
    written = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    assert sum("TWOFOLD_STORE=" in line or "TWOFOLD_STORE:" in line for line in written) == 1
    assert sum("example-bucket" in line for line in written) == (0 if name == LOCAL else 1)


# ---- mutations ------------------------------------------------------------------------------------


def put(path: str, value: Any) -> Callable[[Any], None]:
    """Set ``a/b/0/c`` in a document."""

    def change(node: Any) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        for part in parents:
            node = node[part]
        node[last] = value

    return change


def drop(path: str) -> Callable[[Any], None]:
    def change(node: Any) -> None:
        *parents, last = path.split("/")
        for part in parents:
            node = node[int(part) if part.isdigit() else part]
        del node[last]

    return change


def rename(path: str, name: str) -> Callable[[Any], None]:
    def change(node: Any) -> None:
        *parents, last = path.split("/")
        for part in parents:
            node = node[int(part) if part.isdigit() else part]
        node[name] = node.pop(last)

    return change


def replace(key: str, old: str, new: str) -> Callable[[Any], None]:
    """Replace text in a list of commands."""

    def change(node: Any) -> None:
        assert any(old in command for command in node[key])
        node[key] = [command.replace(old, new) for command in node[key]]

    return change


def unmount(remote: str) -> Callable[[Any], None]:
    def change(node: Any) -> None:
        del node["file_mounts"][remote]

    return change


SPOT = "available_node_types/gpu_spot"
AT_SPOT = "available_node_types.gpu_spot"
HEAD, WORKER = "head_start_ray_commands", "worker_start_ray_commands"
WORLD = {"IpProtocol": "tcp", "FromPort": 8265, "ToPort": 8265, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
RAYLET = "spec/workerGroupSpecs/0"
AT_RAYLET = "RayCluster twofold.spec.workerGroupSpecs.0"
MUTANTS: list[tuple[str, Callable[[Any], None], list[str]]] = [
    # Ray's own schema
    (
        AWS,
        rename("idle_timeout_minutes", "idle_timeout_minuts"),
        ["idle_timeout_minuts", "idle_timeout_minutes'?"],
    ),
    (
        AWS,
        rename(f"{SPOT}/min_workers", "min_worker"),
        [f"{AT_SPOT}.min_worker:", "Did you mean 'min_workers'?"],
    ),
    (AWS, put(f"{SPOT}/min_workers", "none"), [f"{AT_SPOT}.min_workers", "'none' is not of type 'integer'"]),
    (AWS, put("provider/type", "awz"), ["provider.type", "'awz' is not a provider"]),
    (
        LOCAL,
        put("available_node_types", {"x": {"resources": {}, "node_config": {}}}),
        ["not supported for on-prem"],
    ),
    # node_config
    (
        AWS,
        rename(f"{SPOT}/node_config/InstanceType", "InstanceTyp"),
        [f"{AT_SPOT}.node_config.InstanceTyp:", "'InstanceType'?"],
    ),
    (
        AWS,
        rename(f"{SPOT}/node_config/InstanceMarketOptions", "InstanceMarketOption"),
        ["'InstanceMarketOptions'?"],
    ),
    (
        AWS,
        put(f"{SPOT}/node_config/InstanceMarketOptions", {"MarketTyp": "spot"}),
        ["MarketTyp:", "'MarketType'?"],
    ),
    (
        AWS,
        put(f"{SPOT}/node_config/InstanceType", "g5.xlarg"),
        ["InstanceType", "'g5.xlarg'", "'g5.xlarge'?"],
    ),
    (AWS, put(f"{SPOT}/node_config/ImageId", 7), [f"{AT_SPOT}.node_config", "ImageId", "type"]),
    (
        AWS,
        drop(f"{SPOT}/node_config/IamInstanceProfile"),
        [f"{AT_SPOT}.node_config.IamInstanceProfile", "head only"],
    ),
    (
        GCP,
        rename(f"{SPOT}/node_config/machineType", "machinetype"),
        ["machinetype:", "'machineType'?", "is required"],
    ),
    (
        GCP,
        put(f"{SPOT}/node_config/scheduling", [{"preemptable": True}]),
        ["scheduling.0.preemptable", "'preemptible'?"],
    ),
    (
        GCP,
        drop(f"{SPOT}/node_config/serviceAccounts"),
        [f"{AT_SPOT}.node_config.serviceAccounts", "is missing"],
    ),
    (GCP, put("provider/project_id", None), ["provider.project_id", "is required"]),
    # counts against the instance type
    (
        AWS,
        put(f"{SPOT}/resources", {"GPU": 4}),
        [f"{AT_SPOT}.resources.GPU", "says 4, and g5.xlarge has 1: write 1"],
    ),
    (AWS, put(f"{SPOT}/resources", {"CPU": 8}), [f"{AT_SPOT}.resources.CPU", "says 8, and g5.xlarge has 4"]),
    (
        GCP,
        put(f"{SPOT}/resources", {"CPU": 4, "GPU": 2}),
        [f"{AT_SPOT}.resources.GPU", "g2-standard-4 has 1"],
    ),
    (GCP, put(f"{SPOT}/resources", {"CPU": 4}), [f"{AT_SPOT}.resources.GPU", "is missing", "Write GPU: 1"]),
    (
        GCP,
        put(
            f"{SPOT}/node_config",
            {
                "machineType": "n1-standard-4",
                "guestAccelerators": [{"acceleratorType": "nvidia-tesla-t4", "acceleratorCount": 3}],
            },
        ),
        [
            "guestAccelerators.0.acceleratorCount",
            "3 x nvidia-tesla-t4 does not exist",
            "says 1",
            "onHostMaintenance",
        ],
    ),
    # counts of nodes
    (
        AWS,
        put("head_node_type", "heads"),
        ["head_node_type", "'heads' is not one of", "Did you mean 'head'?"],
    ),
    (AWS, put(f"{SPOT}/min_workers", 9), [f"{AT_SPOT}.min_workers", "9 is more than its max_workers, 8"]),
    (AWS, put(f"{SPOT}/max_workers", 20), [f"{AT_SPOT}.max_workers", "20 can never be reached", "is 8"]),
    (
        AWS,
        put("available_node_types/head/resources", {}),
        ["head.resources.CPU", "trials would run on the head"],
    ),
    # who is let in
    (
        AWS,
        replace(HEAD, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
        [HEAD, "dashboard-host=0.0.0.0"],
    ),
    (
        AWS,
        replace(HEAD, "mlflow server --host 127.0.0.1", "mlflow server --host 0.0.0.0"),
        [HEAD, "opens MLflow"],
    ),
    (AWS, put("provider/security_group/IpPermissions", [WORLD]), ["IpPermissions.0", "8265", "to the world"]),
    (AWS, replace(HEAD, "export RAY_AUTH_MODE=token; ", ""), [HEAD, "RAY_AUTH_MODE is not set on the head"]),
    (
        AWS,
        replace(WORKER, "export RAY_AUTH_MODE=token; ", ""),
        [WORKER, "RAY_AUTH_MODE is not set on the worker"],
    ),
    (
        GCP,
        replace(WORKER, "=token", "=disabled"),
        [WORKER, "is disabled on the workers and token on the head"],
    ),
    (AWS, replace(HEAD, "=token", "=tokens"), [HEAD, "RAY_AUTH_MODE=tokens is not a mode", "'token'?"]),
    (AWS, unmount("/home/ubuntu/.ray/auth_token"), ["file_mounts", "mount ~/.ray/auth_token"]),
    (
        AWS,
        replace("setup_commands", "=token", "=disabled"),
        ["setup_commands.3", "RAY_AUTH_MODE=disabled here"],
    ),
    # what commands do
    (AWS, replace(HEAD, "--num-cpus=0 ", ""), [HEAD, "add --num-cpus=0"]),
    (AWS, replace(HEAD, "--num-cpus=0 ", "--num-cpus=04 "), [HEAD, "add --num-cpus=0"]),
    (
        AWS,
        put("head_setup_commands", ["echo 'export A=b"]),
        ["head_setup_commands.0", "is not a shell command", "' #'"],
    ),
    (AWS, put(HEAD, ["ray stop"]), [HEAD, "has no `ray start`"]),
    (
        LOCAL,
        put("provider/worker_ips", ["192.0.2.10"]),
        [WORKER, "`ray stop` on a worker ends every node", "192.0.2.10"],
    ),
    (LOCAL, drop("provider/worker_ips"), ["provider.worker_ips", "is required"]),
    # files and versions
    (
        AWS,
        put("file_mounts/x", "orchestrater"),
        ["file_mounts.x", "orchestrater is not there", "'orchestrator'?"],
    ),
    (
        AWS,
        put("head_setup_commands", ["pip install 'ray[default]==2.9.3'"]),
        ["head_setup_commands.0", "names Ray 2.9.3"],
    ),
    (
        AWS,
        put("docker", {"image": "rayproject/ray:2.9.3-py311"}),
        ["docker.image", "names Ray 2.9.3", version("ray")],
    ),
    (AWS, put("docker", {"image": "rayproject/ray:latest"}), ["docker.image", "has no version"]),
    # KubeRay
    (
        KUBERAY,
        rename("spec/enableInTreeAutoscaling", "enableInTreeAutoscaler"),
        ["enableInTreeAutoscaler:", "'enableInTreeAutoscaling'?", "neither come nor go"],
    ),
    (KUBERAY, rename(f"{RAYLET}/maxReplicas", "maxReplica"), [f"{AT_RAYLET}.maxReplica:", "'maxReplicas'?"]),
    (
        KUBERAY,
        rename(f"{RAYLET}/template/spec/nodeSelector", "nodeselector"),
        ["spec.nodeselector:", "'nodeSelector'?"],
    ),
    (KUBERAY, put("spec/rayVersion", "2.9.3"), ["spec.rayVersion", "names Ray 2.9.3"]),
    (
        KUBERAY,
        put(f"{RAYLET}/template/spec/containers/0/image", "x/y:ray2.60.0-py39"),
        ["all nodes must share one version of Python"],
    ),
    (KUBERAY, put(f"{RAYLET}/minReplicas", 9), [f"{AT_RAYLET}.minReplicas", "9 is more than maxReplicas, 8"]),
    (
        KUBERAY,
        put(f"{RAYLET}/rayStartParams", {"num-gpus": "4"}),
        ["rayStartParams.num-gpus", "says 4, and the pod has 1"],
    ),
    (
        KUBERAY,
        put(f"{RAYLET}/template/spec/containers/0/resources/requests", {"nvidia.com/gpu": "2"}),
        ["wants both equal"],
    ),
    (
        KUBERAY,
        put("spec/headGroupSpec/rayStartParams", {"num-cpus": 0}),
        ["rayStartParams.num-cpus", 'write "0"'],
    ),
    (
        KUBERAY,
        put("spec/headGroupSpec/rayStartParams", {}),
        ["rayStartParams.num-cpus", "trials would run on the head"],
    ),
    (
        KUBERAY,
        put("spec/headGroupSpec/serviceType", "LoadBalancer"),
        ["serviceType", "opens the head beyond Kubernetes"],
    ),
    (
        KUBERAY,
        put("spec/authOptions", {"mode": "disabled"}),
        ["rayStartParams.dashboard-host", "to every pod"],
    ),
    (KUBERAY, drop("spec/authOptions"), ["authOptions.mode", "RAY_AUTH_MODE is not set"]),
    (KUBERAY, put("apiVersion", "ray.io/v1alpha1"), ["apiVersion", "write ray.io/v1"]),
    (
        KUBERAY,
        put("metadata/name", "twofolds"),
        ["RayJob twofold-digits.spec.clusterSelector", "no RayCluster 'twofold'"],
    ),
]


@pytest.mark.parametrize(
    ("name", "change", "parts"),
    MUTANTS,
    ids=[f"{name.split('/')[-1]}-{parts[0]}" for name, _, parts in MUTANTS],
)
def test_a_mutated_file_is_refused_by_key_and_remedy(
    name: str, change: Callable[[Any], None], parts: list[str], tmp_path: Path
) -> None:
    documents = unshared(load(name))
    change(next(d for d in documents if d.get("kind") in (None, "RayCluster")))
    mutant = tmp_path / "mutant.yaml"
    mutant.write_text(yaml.safe_dump_all(documents))
    code, output = check(mutant)
    assert code == 2, output
    mistakes = output.partition("is not ready to start:")[2]
    for part in parts:
        assert part in mistakes, output


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    config = load(AWS)[0]
    config["available_node_types"]["gpu_spot"]["node_config"]["ImageID"] = "ami-1"
    config["head_node_type"] = "heads"
    config["upscaling_sped"] = 1
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    code, output = check(tmp_path / "c.yaml")
    assert code == 2
    assert all(part in output for part in ("'ImageId'?", "'heads' is not one of", "'upscaling_speed'?"))


def test_spot_without_fallback_is_a_warning(tmp_path: Path) -> None:
    config = load(AWS)[0]
    del config["available_node_types"]["gpu_on_demand"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    code, output = check(tmp_path / "c.yaml")
    assert code == 0 and "spot workers only" in output


def test_a_python_other_than_this_is_a_warning(tmp_path: Path) -> None:
    config = {
        **load(AWS)[0],
        "docker": {"image": f"rayproject/ray:{version('ray')}-py39", "container_name": "ray"},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    code, output = check(tmp_path / "c.yaml")
    assert code == 0 and f"has Python 3.9, and Python 3.{sys.version_info.minor} runs here" in output


def test_without_botocore_the_check_says_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.loaders", None)
    run_instances.cache_clear()
    code, output = check(AWS)
    run_instances.cache_clear()
    assert code == 0 and "were not checked, because botocore is missing" in output


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "cannot read"),
        ("a: [", "is not YAML"),
        ("- a", "must hold mappings"),
        ("", "must hold mappings"),
        ("cluster_name: a\n---\ncluster_name: b", "holds 2 YAML documents"),
        ("apiVersion: ray.io/v1\nkind: RayClusters", "Did you mean 'RayCluster'?"),
        ("cluster_name: a", "'provider' is a required property"),
        ("cluster_name: a\nprovider: aws", "is not of type 'object'"),
        ("cluster_name: a\nprovider: {type: aws}\navailable_node_types: 3", "is not of type 'object'"),
        ("apiVersion: ray.io/v1\nkind: RayCluster\nspec: 3", "RayCluster None.spec: is required"),
    ],
)
def test_what_is_no_cluster_file_is_refused(content: str | None, part: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "c.yaml").write_text(content)
    code, output = check(tmp_path / "c.yaml")
    assert code == 2 and part in output, output


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Path of everything below ``node``."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_value_of_a_wrong_type_anywhere_is_no_accident(name: str) -> None:
    documents = unshared(load(name))
    for *parents, last in [place for place in places(documents) if len(place) > 1]:
        for value in (None, 3):
            changed = copy.deepcopy(documents)
            node: Any = changed
            for part in parents:
                node = node[part]
            node[last] = value
            file = ClusterFile(ROOT / name, tuple(changed), name == KUBERAY)
            if all(finding.warning for finding in find(file)):
                assert summarise(file)


def test_unknown_names_look_through_lists_and_below_known_names() -> None:
    found = unknown_names(
        {"a": [{"b": 1}, {"c": 2}], "d": {"e": 3}}, {"a": {"b": None}, "d": None}, "top", "X"
    )
    assert [finding.key for finding in found] == ["top.a.1.c"]
