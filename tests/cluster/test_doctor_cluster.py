"""The doctor on two hosts, on two Slurm nodes, and with a host cut off from the network."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Network
from tests.cluster.slurm import Slurm
from tests.stages import pretrain_arguments

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2000)]
SECONDS = 600.0
DOCTOR = ("env", "OMP_NUM_THREADS=1", "WANDB_MODE=offline")
WORDS = (sys.executable, "-m", "launch", "doctor", "--json")


def results(printed: str) -> dict[str, Any]:
    """The results by check, the most severe where a check has several lines."""
    found = json.JSONDecoder().raw_decode(printed[printed.index("{") :])[0]["results"]
    return {result["check"]: result for result in sorted(found, key=lambda result: result["level"] == "red")}


def _assert_two_healthy_hosts(found: dict[str, Any]) -> None:
    assert "2 hosts resolve" in found["names and ports"]["message"]
    assert "n1" in found["names and ports"]["message"]
    assert "n2" in found["names and ports"]["message"]
    for name in ("versions", "firewall", "clocks", "all-reduce", "shared run directory", "shards"):
        assert found[name]["level"] == "green", found


def test_two_hosts_and_one_that_is_cut_off(ssh: Network, shards: Path, tmp_path: Path) -> None:
    def ranks(number: int) -> list[str]:
        meeting = ("WORLD_SIZE=2", "MASTER_ADDR=n1", "MASTER_PORT=29400", f"RANK={number}", "LOCAL_RANK=0")
        return [*DOCTOR, *meeting, *WORDS, *pretrain_arguments(tmp_path / "run", shards)]

    other = ssh["n2"].start(*ranks(1), "--timeout", "300")
    found = results(ssh["n1"].run(*ranks(0), "--timeout", "300", expect=0, seconds=SECONDS))
    assert other.wait(seconds=SECONDS) == 0
    _assert_two_healthy_hosts(found)
    with ssh.cable_pulled("n2"):
        other = ssh["n2"].start(*ranks(1), "--timeout", "5")
        found = results(ssh["n1"].run(*ranks(0), "--timeout", "5", expect=1, seconds=SECONDS))
        assert other.wait(seconds=SECONDS) == 1
    assert found["network"]["level"] == "red"
    assert found["versions"]["level"] == "green"


def test_two_nodes_of_slurm(slurm: Slurm, shards: Path, tmp_path: Path) -> None:
    words = [*DOCTOR, *WORDS, *pretrain_arguments(tmp_path / "run", shards), "--timeout", "300"]
    printed = slurm.head.run("srun", "--nodes=2", "--ntasks-per-node=1", *words, expect=0, seconds=SECONDS)
    _assert_two_healthy_hosts(results(printed))
