"""A real Slurm on hosts of one machine: munge, slurmctld on `head`, and slurmd on `n1` and `n2`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from tests.cluster.hosts import Host, Network, Process, network, until

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
NODES = ("n1", "n2")
_CONFIG = """ClusterName=tests
SlurmctldHost=head
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
SlurmdTimeout=20
KillWait=3
MinJobAge=3600
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
NodeName=n[1-2] CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""


_ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE")


@dataclass
class Slurm:
    """The running cluster; commands are typed on `head`, the login node."""

    folder: Path
    network: Network
    _daemons: dict[str, Process] = field(default_factory=dict)

    @property
    def head(self) -> Host:
        return self.network["head"]

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol` says of a job: JobState, Restarts, ExitCode, ..."""
        words = self.head.run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, *states: str, seconds: float, restarts: int = 0) -> dict[str, str]:
        """Wait until a job that was requeued at least `restarts` times is in one of `states`.

        Slurm holds a requeued job for two minutes so that its nodes can clean up; here it is two seconds.
        """
        seen: dict[str, str] = {}

        def reached() -> bool:
            seen.update(self.job(number))
            if seen["Reason"] == "BeginTime" and _far(seen["EligibleTime"]):
                self.head.run("scontrol", "update", f"jobid={number}", "StartTime=now+2")
            there = seen["JobState"] in states and int(seen["Restarts"]) >= restarts
            assert there or seen["JobState"] not in _ENDS, f"job {number} has ended: {seen}\n{self.logs()}"
            return there

        what = f"job {number} is {' or '.join(states)}, restarted {restarts} times"
        until(reached, seconds=seconds, what=what, shown=lambda: f"{seen}\n{self.logs()}")
        return seen

    def ended(self, number: str) -> bool:
        """Whether a job has ended and will not be requeued."""
        return self.job(number)["JobState"] in _ENDS

    def start_node(self, name: str) -> None:
        """Start slurmd on a node and wait until Slurm can use it."""
        self._daemons[name] = self.network[name].start("slurmd", "-D")
        until(lambda: self._state(name) in ("idle", "mixed"), seconds=300, what=f"{name} is idle", shown=self.logs)

    def kill_node(self, name: str) -> None:
        """Kill all processes of a node, its slurmd too."""
        self.network[name].kill("")

    def _state(self, name: str) -> str:
        return self.head.run("sinfo", "--noheader", "--nodes", name, "--format", "%T").strip()

    def logs(self) -> str:
        """The last 60 lines of each daemon's log."""
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-60:])
            for path in sorted(self.folder.glob("*.log"))
        )


def _far(moment: str) -> bool:
    """Whether a time that Slurm gives is known, and more than a few seconds away."""
    return moment != "Unknown" and datetime.fromisoformat(moment) > datetime.now() + timedelta(seconds=5)


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Slurm with two nodes of two CPUs, with all files in `folder`; on exit everything that runs on it ends."""
    settings, sockets = folder / "etc", folder / "munge"
    for made in (settings, sockets, folder / "state", *(folder / f"spool-{name}" for name in NODES)):
        made.mkdir()
    (settings / "slurm.conf").write_text(_CONFIG.format(folder=folder))
    (settings / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # none is used, but one must be named
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    files = {settings: "/etc/slurm", sockets: "/run/munge"}
    with network(folder, ("head", *NODES), files) as hosts:
        cluster = Slurm(folder, hosts)
        own = (f"--{name}={folder}/munged.{name}" for name in ("pid-file", "seed-file", "log-file"))
        cluster.head.start("munged", "--foreground", "--force", f"--key-file={key}", *own)
        until((sockets / "munge.socket.2").exists, seconds=120, what="munge is up", shown=cluster.logs)
        cluster.head.start("slurmctld", "-D", "-c")
        for name in NODES:
            cluster.start_node(name)
        yield cluster
