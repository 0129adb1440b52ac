"""The config of a cluster: its hosts or Slurm partition, how to reach them, and how to set them up.

A file below configs/cluster/ holds these values and no setting of a run, so every run can use it.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from videomae.core.config import configclass, load
from videomae.core.errors import UserError
from videomae.core.ranks import plain_address

Launcher = Literal["local", "torchrun", "deepspeed", "slurm"]
LAUNCHERS: tuple[Launcher, ...] = ("local", "torchrun", "deepspeed", "slurm")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOSTFILE_LINE = re.compile(r"(\S+)(?:\s+slots=(\d+))?(?:\s+max[_-]slots=\d+)?\s*(?:#.*)?")
_HOST_NAME = re.compile(r"[^\s\x00-\x1f\x7f-][^\s\x00-\x1f\x7f]*")  # ssh would take a leading - for an option
_FIRST_PORT, _PORTS = 16384, 16000  # below the range of ephemeral ports


@dataclass(frozen=True)
class Host:
    """A machine and the number of processes on it."""

    name: str
    processes: int


@configclass
class SshConfig:
    options: tuple[str, ...] = ()  # words, for example [-F, cluster_ssh_config] or [-p, "2222"]
    connect_timeout: int = 10  # seconds


@configclass
class SlurmConfig:
    """Options of sbatch and srun; None leaves the choice to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | int | None = None  # for example 24:00:00, or minutes
    constraint: str | None = None
    memory: str | None = None  # per node; "0" takes all
    gpu_type: str | None = None  # the cluster's name for it, for example h200
    cpus_per_task: int | None = None
    signal_seconds: PositiveInt = 300  # seconds before the time limit at which the run is told to save
    extra: tuple[str, ...] = ()  # more options of sbatch, for example --exclusive
    srun: tuple[str, ...] = ()  # more options of srun, for example --cpu-bind=none

    def __post_init__(self) -> None:
        for option in (*self.extra, *self.srun):
            if not option.startswith("-"):
                raise UserError(f"extra and srun take options, got {option!r}; wanted for example --exclusive")


@configclass
class ContainerConfig:
    """The container image that the processes run in, if any."""

    kind: Literal["none", "pyxis", "apptainer"] = "none"
    image: str | None = None  # pyxis: file.sqsh or registry#name:tag; apptainer: file.sif
    mounts: tuple[str, ...] = ()  # SOURCE:TARGET; the cluster's root is always mounted
    options: tuple[str, ...] = ()  # more options of srun (pyxis) or of apptainer exec

    def __post_init__(self) -> None:
        if (self.kind == "none") != (self.image is None):
            raise UserError(f"a container needs a kind and an image, got {self.kind} and {self.image}")


@configclass
class ClusterConfig:
    """Everything that a launcher must know about the machines."""

    nodes: PositiveInt | None = None  # default: all hosts, or one node of Slurm
    processes_per_node: PositiveInt | None = None  # default: one per GPU, or one
    gpus_per_node: int = 0
    hosts: tuple[str, ...] = ()  # names by which the hosts reach each other
    hostfile: str | None = None  # instead of hosts: lines `NAME slots=N`
    address: str | None = None  # of rank 0's host; default: the name of the first host
    port: int | None = None  # of the rendezvous; default: derived from the run's name, under Slurm from the job id
    deepspeed_ssh: Literal["pdsh", "none"] = "pdsh"  # none: ssh starts `deepspeed --no_ssh` on each host
    root: str | None = None  # shared folder that relative paths start from, on all machines; default: the current one
    python: str | None = None  # default: the Python that launches; in a container: python
    setup: tuple[str, ...] = ()  # lines of shell code: module load cuda/12.8
    environment: dict[str, str] = Field(default_factory=dict)
    container: ContainerConfig = ContainerConfig()
    ssh: SshConfig = SshConfig()
    slurm: SlurmConfig = SlurmConfig()
    stop_seconds: int = 600  # time to save after a signal; then the processes are killed

    def __post_init__(self) -> None:
        if self.hosts and self.hostfile:
            raise UserError("got both hosts and a hostfile; remove one of them")
        if len(set(self.hosts)) < len(self.hosts):
            raise UserError(f"hosts must differ, got {', '.join(self.hosts)}")
        for name in (*self.hosts, *((self.address,) if self.address is not None else ())):
            ensure_host_name(name)
        for name in self.environment:
            if not _VARIABLE.fullmatch(name):
                raise UserError(f"environment takes NAME: value, got the name {name!r}")

    @property
    def processes(self) -> int:
        """Processes per node where the hostfile does not give their number."""
        return self.processes_per_node or self.gpus_per_node or 1

    @property
    def root_dir(self) -> Path:
        """The absolute folder that relative paths start from."""
        return Path(self.root or ".").resolve()

    @property
    def interpreter(self) -> str:
        return self.python or (sys.executable if self.container.kind == "none" else "python")

    def select_hosts(self) -> tuple[Host, ...]:
        """The hosts of a run, the first `nodes` of those listed; empty if the cluster lists none.

        Raises:
            UserError: fewer than `nodes` hosts are listed, or the hostfile is missing or malformed.
        """
        listed = tuple(Host(name, self.processes) for name in self.hosts)
        if self.hostfile is not None:
            listed = read_hostfile(Path(self.hostfile), self.processes_per_node, default=self.processes)
        if listed and self.nodes is not None and self.nodes > len(listed):
            raise UserError(f"got nodes={self.nodes}, but the cluster lists {len(listed)} hosts; add hosts, or type "
                             f"--nodes {len(listed)}")  # fmt: skip
        return listed[: self.nodes]

    def rendezvous_address(self, hosts: Sequence[Host]) -> str:
        """The name or address at which the processes on `hosts` connect; IPv6 without brackets."""
        return plain_address(self.address or hosts[0].name)

    def rendezvous_port(self, run: Path) -> int:
        """The port at which the processes of `run` connect, the same at every call."""
        return self.port or _FIRST_PORT + zlib.crc32(str(run).encode()) % _PORTS


def read_cluster(file: Path | None, *, nodes: int | None, processes: int | None) -> ClusterConfig | None:
    """The cluster `file`, if there is one, with its numbers of `nodes` and of `processes` per node replaced.

    Raises:
        UserError: the file is invalid, or several nodes are asked for without one.
    """
    if file is None:
        if nodes not in (None, 1):
            raise UserError(f"--nodes {nodes} needs --cluster FILE, such as configs/cluster/two_hosts.yaml")
        return None
    changed = {"nodes": nodes, "processes_per_node": processes}
    return replace(load(ClusterConfig, file), **{name: count for name, count in changed.items() if count})


def ensure_host_name(name: str) -> str:
    """`name` if a command can take it for that of a host.

    Raises:
        UserError: it begins with a dash, or contains blanks or control characters.
    """
    if not _HOST_NAME.fullmatch(name):
        raise UserError(f"got the host {name!r}, wanted a name or an address, such as node1 or fd00::1")
    return name


def read_hostfile(file: Path, processes: int | None = None, *, default: int = 1) -> tuple[Host, ...]:
    """The hosts of an MPI or DeepSpeed hostfile; `processes` overrides its slots, `default` is used without slots.

    Raises:
        UserError: the file is missing, empty, or has a line that is not `NAME slots=N`.
    """
    if not file.is_file():
        raise UserError(f"no hostfile at {file}; write lines `NAME slots=GPUS`, or list hosts: in the cluster's config")
    hosts = []
    for line in file.read_text().splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _HOSTFILE_LINE.fullmatch(text)
        if match is None:
            raise UserError(f"{file}: got the line {text!r}, wanted `NAME slots=GPUS`")
        hosts.append(Host(ensure_host_name(match[1]), processes or int(match[2] or default)))
    if not hosts or len({host.name for host in hosts}) < len(hosts):
        raise UserError(f"{file}: wanted at least one host, and each only once")
    return tuple(hosts)
