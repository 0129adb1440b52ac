"""The doctor on two hosts by ssh, on two Slurm nodes, and with a host cut off from the network."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.hosts import Host, Network
from tests.cluster.slurm import Slurm
from tests.stages import pretrain_arguments

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2000)]
SECONDS = 600.0


def ask(host: Host, folder: Path, words: list[str], cluster: dict[str, Any], *, expect: int) -> dict[str, Any]:
    """Run the doctor on `host`; its results by check, the most severe where a check has several lines."""
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump({**cluster, "environment": {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}}))
    typed = [sys.executable, "-m", "launch", "doctor", *words, "--cluster", str(file), "--json"]
    printed = host.run(*typed, expect=expect, seconds=SECONDS)
    found = json.JSONDecoder().raw_decode(printed[printed.index("{") :])[0]["results"]
    return {result["check"]: result for result in sorted(found, key=lambda result: result["level"] == "red")}


def _assert_two_healthy_hosts(found: dict[str, Any]) -> None:
    assert "2 hosts resolve" in found["names and ports"]["message"]
    assert "n1" in found["names and ports"]["message"]
    assert "n2" in found["names and ports"]["message"]
    for name in ("versions", "firewall", "clocks", "all-reduce", "shared run directory", "shards"):
        assert found[name]["level"] == "green", found


def test_two_hosts_that_ssh_reaches_and_one_that_it_does_not(ssh: Network, shards: Path, tmp_path: Path) -> None:
    words = pretrain_arguments(tmp_path / "run", shards)
    cluster = {"hosts": ["n1", "n2"], "processes_per_node": 1, "ssh": {"connect_timeout": 2}}
    _assert_two_healthy_hosts(ask(ssh["n1"], tmp_path, [*words, "--timeout", "300"], cluster, expect=0))
    with ssh.cable_pulled("n2"):
        found = ask(ssh["n1"], tmp_path, [*words, "--timeout", "5"], cluster, expect=1)
    assert found["reaching hosts"]["level"] == found["network"]["level"] == "red"
    assert found["reaching hosts"]["message"].startswith("n2: ")
    assert found["versions"]["level"] == "green"


def test_two_nodes_of_slurm(slurm: Slurm, shards: Path, tmp_path: Path) -> None:
    words = [*pretrain_arguments(tmp_path / "run", shards), "--nodes", "2", "--timeout", "300"]
    _assert_two_healthy_hosts(ask(slurm.head, tmp_path, words, {"processes_per_node": 1}, expect=0))
