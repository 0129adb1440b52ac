"""The cluster config: hosts, and mistakes that would otherwise show on the machines only."""

from pathlib import Path

import pytest

from launch.cluster import ClusterConfig
from tests.processes import ROOT
from videomae.core.config import ConfigError, load

SHIPPED = sorted((ROOT / "configs/cluster").glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_shipped_cluster_loads_and_opens_with_its_command(file: Path) -> None:
    cluster = load(ClusterConfig, file)
    assert cluster.processes > 1
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any(f"--cluster configs/cluster/{file.name}" in line for line in head)
    with pytest.raises(ConfigError, match="unknown key 'slrum'; did you mean 'slurm'"):
        load(ClusterConfig, file, ["slrum=1"])


def test_processes_and_ports() -> None:
    cluster = ClusterConfig(hosts=("n1", "n2", "n3"), gpus_per_node=8, nodes=2)
    assert (cluster.select_hosts(), cluster.processes) == (("n1", "n2"), 8)
    assert ClusterConfig(hosts=("n1",)).processes == 1
    ports = {cluster.rendezvous_port(Path(f"/runs/{name}")) for name in "abcdef"}
    assert len(ports) == 6
    assert all(16384 <= port < 32768 for port in ports)
    assert ClusterConfig(port=5000).rendezvous_port(Path("/runs/a")) == 5000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hosts=[n1, n1]", "hosts must differ"),
        ("hosts=[n1, -oProxyCommand=x]", "got the host '-oProxyCommand=x', wanted a name or an address"),
        ("hosts=[n 1]", "got the host 'n 1'"),
        ("address=-x", "got the host '-x'"),
        ("nodes=0", "nodes: got 0; Input should be greater than 0"),
        ("environment={A-B: c}", "got the name 'A-B'"),
        ("slurm.extra=[exclusive]", "got 'exclusive'; wanted for example --exclusive"),
    ],
)
def test_mistakes(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "cluster.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=message):
        load(ClusterConfig, tmp_path / "cluster.yaml", [override])


def test_more_nodes_than_hosts() -> None:
    with pytest.raises(ValueError, match="got nodes=3, but the cluster lists 2 hosts; add hosts, or type --nodes 2"):
        ClusterConfig(hosts=("n1", "n2"), nodes=3).select_hosts()
