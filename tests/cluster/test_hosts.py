"""The hosts of the other tests: isolated from each other and the machine, and gone with the process that made them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.hosts import Network, until
from tests.cluster.slurm import Slurm
from tests.processes import ROOT

pytestmark = pytest.mark.cluster

_OWNER = """
import sys, time
from pathlib import Path
from tests.cluster.hosts import network
with network(Path(sys.argv[1]), ["one"]) as hosts:
    hosts["one"].start("sleep", "600")
    print(hosts["one"].init, flush=True)
    time.sleep(600)
"""


def test_hosts_reach_each_other_until_the_cable_is_pulled(ssh: Network) -> None:
    address = "import socket; print(socket.gethostname(), socket.gethostbyname(socket.gethostname()))"
    assert ssh["n1"].run("ssh", "n2", f"{sys.executable} -c '{address}'") == f"n2 {ssh['n2'].address}\n"
    connect = "import socket; socket.create_connection(('n2', 22), timeout=1)"
    with ssh.cable_pulled("n2"):
        said = ssh["n1"].run(sys.executable, "-c", connect, expect=1)
    assert "timed out" in said or "No route" in said
    until(lambda: ssh["n1"].run("ssh", "n2", "hostname") == "n2\n", seconds=120, what="n2 answers again")


def test_a_slow_host_is_slow(ssh: Network) -> None:
    blob = "head -c 300000 /dev/zero"
    timed = f"import time, subprocess; t = time.time(); subprocess.run(['ssh', 'n2', '{blob}'], stdout=-3)"
    with ssh["n2"].slowed("1mbit"):
        seconds = float(ssh["n1"].run(sys.executable, "-c", f"{timed}; print(time.time() - t)"))
    assert seconds > 2.0  # 2.4 megabits


def test_a_signal_reaches_the_command_alone_and_processes_are_seen_by_host(ssh: Network) -> None:
    sleeper = ssh["n1"].start("sleep", "456")
    until(lambda: ssh["n1"].processes("sleep 456"), seconds=120, what="sleep has started")
    assert ssh["n2"].processes("sleep 456") == {}
    sleeper.signal(signal.SIGUSR1)
    assert sleeper.wait(seconds=120) == -signal.SIGUSR1


def test_hosts_die_with_the_process_that_made_them(ssh: Network, tmp_path: Path) -> None:
    words = [sys.executable, "-c", _OWNER, str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ}) as owner:
        assert owner.stdout is not None
        init = Path("/proc") / owner.stdout.readline().strip()
        assert init.is_dir()
        owner.kill()
        until(lambda: not init.exists(), seconds=120, what="the host ends with its owner")


def test_slurm_runs_a_step_on_both_nodes(slurm: Slurm) -> None:
    assert sorted(slurm.head.run("srun", "-N2", "hostname").split()) == ["n1", "n2"]
