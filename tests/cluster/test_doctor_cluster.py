"""The doctor on two hosts by ssh and on two nodes of Slurm, with the network whole and with its cable pulled."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.hosts import Host, Network
from tests.cluster.slurm import Slurm
from tests.stages import pretrain_arguments

SECONDS = 240.0


def ask(host: Host, folder: Path, words: list[str], cluster: dict[str, Any], *, expect: int) -> dict[str, Any]:
    """What the doctor finds when it is typed on `host`, by check; the gravest where a check has several lines."""
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump({**cluster, "environment": {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}}))
    typed = [sys.executable, "-m", "launch.doctor", *words, "--cluster", str(file), "--json"]
    printed = host.run(*typed, expect=expect, seconds=SECONDS)
    found = json.JSONDecoder().raw_decode(printed[printed.index("{") :])[0]["findings"]
    return {finding["check"]: finding for finding in sorted(found, key=lambda finding: finding["level"] == "red")}


def _two_hosts_are_well(found: dict[str, Any]) -> None:
    assert "2 hosts resolve" in found["names and ports"]["said"]
    assert "n1" in found["names and ports"]["said"]
    assert "n2" in found["names and ports"]["said"]
    for name in ("versions", "firewall", "clocks", "all-reduce", "shared run directory", "shards"):
        assert found[name]["level"] == "green", found


@pytest.mark.timeout(600)
def test_two_hosts_that_ssh_reaches_and_one_that_it_does_not(ssh: Network, shards: Path, tmp_path: Path) -> None:
    words = pretrain_arguments(tmp_path / "run", shards)
    cluster = {"hosts": ["n1", "n2"], "processes_per_node": 1, "ssh": {"wait_seconds": 2}}
    _two_hosts_are_well(ask(ssh["n1"], tmp_path, words, cluster, expect=0))
    with ssh.cable_pulled("n2"):
        found = ask(ssh["n1"], tmp_path, [*words, "--patience", "5"], cluster, expect=1)
    assert found["reaching hosts"]["level"] == found["network"]["level"] == "red"
    assert found["reaching hosts"]["said"].startswith("n2: ")
    assert found["versions"]["level"] == "green"


@pytest.mark.timeout(600)
def test_two_nodes_of_slurm(slurm: Slurm, shards: Path, tmp_path: Path) -> None:
    words = [*pretrain_arguments(tmp_path / "run", shards), "--nodes", "2"]
    _two_hosts_are_well(ask(slurm.head, tmp_path, words, {"processes_per_node": 1}, expect=0))
