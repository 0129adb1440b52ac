"""The cluster config: hosts, hostfiles, and mistakes that would otherwise show on the machines only."""

from pathlib import Path

import pytest

from launch.cluster import ClusterConfig, Host, read_hostfile
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


def test_a_hostfile(tmp_path: Path) -> None:
    file = tmp_path / "hostfile"
    file.write_text("# two racks\nn1 slots=8\n\nn2 slots=4 max_slots=8  # the small one\nn3\n")
    assert read_hostfile(file) == (Host("n1", 8), Host("n2", 4), Host("n3", 1))
    assert ClusterConfig(hostfile=str(file), nodes=2, gpus_per_node=2).select_hosts() == (Host("n1", 8), Host("n2", 4))
    assert ClusterConfig(hostfile=str(file), processes_per_node=3).select_hosts()[0] == Host("n1", 3)
    file.write_text("n1 slots=8 max=9\n")
    with pytest.raises(ValueError, match=r"got the line 'n1 slots=8 max=9', wanted `NAME slots=GPUS`"):
        read_hostfile(file)
    file.write_text("-oProxyCommand=x slots=8\n")
    with pytest.raises(ValueError, match="got the host '-oProxyCommand=x'"):
        read_hostfile(file)
    file.write_text("n1\nn1\n")
    with pytest.raises(ValueError, match="each only once"):
        read_hostfile(file)
    with pytest.raises(ValueError, match="no hostfile at"):
        read_hostfile(tmp_path / "none")


def test_processes_and_ports() -> None:
    cluster = ClusterConfig(hosts=("n1", "n2", "n3"), gpus_per_node=8, nodes=2)
    assert cluster.select_hosts() == (Host("n1", 8), Host("n2", 8))
    assert ClusterConfig(hosts=("n1",)).select_hosts() == (Host("n1", 1),)
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
        ("container.kind=pyxis", "a container needs a kind and an image"),
        ("container.kind=docker", "Input should be 'none', 'pyxis' or 'apptainer'"),
    ],
)
def test_mistakes(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "cluster.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=message):
        load(ClusterConfig, tmp_path / "cluster.yaml", [override])


def test_more_nodes_than_hosts() -> None:
    with pytest.raises(ValueError, match="got nodes=3, but the cluster lists 2 hosts; add hosts, or type --nodes 2"):
        ClusterConfig(hosts=("n1", "n2"), nodes=3).select_hosts()
