"""The machines of a run: hosts or a Slurm partition, how they are reached, and what is set up on them.

A file below configs/cluster/ holds these values and nothing of the science, so one cluster's file serves every run.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.core.ranks import plain_address

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOSTFILE_LINE = re.compile(r"(\S+)(?:\s+slots=(\d+))?(?:\s+max[_-]slots=\d+)?\s*(?:#.*)?")
_NAME = re.compile(r"[^\s\x00-\x1f\x7f-][^\s\x00-\x1f\x7f]*")  # of a host: what begins with - would be an option of ssh
_FIRST_PORT, _PORTS = 16384, 16000  # below the ports that systems hand out by themselves


@dataclass(frozen=True)
class Host:
    """A machine and the number of processes on it."""

    name: str
    processes: int


@configclass
class SshConfig:
    """How other hosts are reached."""

    options: tuple[str, ...] = ()  # words for ssh, for example [-F, cluster_ssh_config] or [-p, "2222"]
    wait_seconds: int = 10  # for a host that does not answer


@configclass
class SlurmConfig:
    """What sbatch and srun are told; None leaves the choice to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | int | None = None  # for example "24:00:00", in quotes
    constraint: str | None = None
    memory: str | None = None  # of a node; "0" takes all
    gpu_type: str | None = None  # as the cluster calls it, for example h200
    cpus_per_task: int | None = None
    signal_seconds: int = 300  # before the time is up: long enough to save
    extra: tuple[str, ...] = ()  # further options of sbatch, one a line of the script, for example --exclusive
    srun: tuple[str, ...] = ()  # further options of srun, for example --cpu-bind=none

    def __post_init__(self) -> None:
        if isinstance(self.time, int):
            raise UserError('YAML reads 24:00:00 as a number; put it in quotes: time: "24:00:00"')
        if self.signal_seconds < 1:
            raise UserError(f"signal_seconds must be at least 1, got {self.signal_seconds}")
        for option in (*self.extra, *self.srun):
            if not option.startswith("-"):
                raise UserError(f"extra and srun hold options, got {option!r}; wanted for example --exclusive")


@configclass
class ContainerConfig:
    """The image that the processes run in, if any."""

    kind: Literal["none", "pyxis", "apptainer"] = "none"
    image: str | None = None  # pyxis: file.sqsh or registry#name:tag; apptainer: file.sif
    mounts: tuple[str, ...] = ()  # SOURCE:TARGET, beside the cluster's root, which is always there
    options: tuple[str, ...] = ()  # further options of srun (pyxis) or of apptainer exec

    def __post_init__(self) -> None:
        if (self.kind == "none") != (self.image is None):
            raise UserError(f"a container needs a kind and an image, got {self.kind} and {self.image}")


@configclass
class ClusterConfig:
    """Everything that a launcher must know of the machines."""

    nodes: int | None = None  # default: every host, or one node of Slurm
    processes_per_node: int | None = None  # default: one a GPU, or one
    gpus_per_node: int = 0
    hosts: tuple[str, ...] = ()  # names by which the hosts reach each other
    hostfile: str | None = None  # instead of hosts: lines `NAME slots=N`
    address: str | None = None  # of the first host, where processes meet; default: its name
    port: int | None = None  # there; default: drawn from the run's name, under Slurm from the job's number
    deepspeed_ssh: Literal["pdsh", "none"] = "pdsh"  # none: our ssh starts `deepspeed --no_ssh` on each host
    root: str | None = None  # shared folder that relative paths start from, on all machines; default: where you type
    python: str | None = None  # default: the Python that launches; in a container: python
    setup: tuple[str, ...] = ()  # lines of shell, run as they are: module load cuda/12.8
    environment: dict[str, str] = Field(default_factory=dict)
    container: ContainerConfig = ContainerConfig()
    ssh: SshConfig = SshConfig()
    slurm: SlurmConfig = SlurmConfig()
    stop_seconds: int = 600  # what a stop by signal may take before the processes are ended unsaved

    def __post_init__(self) -> None:
        if self.hosts and self.hostfile:
            raise UserError("got hosts and a hostfile; keep one of them")
        if len(set(self.hosts)) < len(self.hosts):
            raise UserError(f"hosts must differ, got {', '.join(self.hosts)}")
        for name in (*self.hosts, *((self.address,) if self.address is not None else ())):
            require_name(name)
        for name in self.environment:
            if not _VARIABLE.fullmatch(name):
                raise UserError(f"environment holds NAME: value, got the name {name!r}")
        for what, count in (("nodes", self.nodes), ("processes_per_node", self.processes_per_node)):
            if count is not None and count < 1:
                raise UserError(f"{what} must be at least 1, got {count}")

    @property
    def processes(self) -> int:
        """Processes on a node whose number the hostfile does not give."""
        return self.processes_per_node or self.gpus_per_node or 1

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return Path(self.root or ".").resolve()

    @property
    def interpreter(self) -> str:
        return self.python or (sys.executable if self.container.kind == "none" else "python")

    def machines(self) -> tuple[Host, ...]:
        """The hosts of a run, the first `nodes` of those listed; none where the cluster lists none.

        Raises:
            UserError: fewer hosts are listed than `nodes` wants, or the hostfile is missing or malformed.
        """
        listed = tuple(Host(name, self.processes) for name in self.hosts)
        if self.hostfile is not None:
            listed = read_hostfile(Path(self.hostfile), self.processes_per_node, default=self.processes)
        if listed and self.nodes is not None and self.nodes > len(listed):
            raise UserError(f"{self.nodes} nodes wanted, but the cluster lists {len(listed)} hosts; add some, or type "
                             f"--nodes {len(listed)}")  # fmt: skip
        return listed[: self.nodes]

    def meeting(self, hosts: Sequence[Host]) -> str:
        """The name or address where the processes on `hosts` meet; one of IPv6 without brackets."""
        return plain_address(self.address or hosts[0].name)

    def port_of(self, run: Path) -> int:
        """The port where the processes of `run` meet: the same at every call."""
        return self.port or _FIRST_PORT + zlib.crc32(str(run).encode()) % _PORTS


def require_name(name: str) -> str:
    """`name` if a command can take it for that of a host.

    Raises:
        UserError: it begins with a dash, or holds blanks or control characters.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"got the host {name!r}, wanted a name or an address, such as node1 or fd00::1")
    return name


def read_hostfile(file: Path, processes: int | None = None, *, default: int = 1) -> tuple[Host, ...]:
    """The hosts of MPI's and DeepSpeed's hostfile; `processes` overrides the slots, `default` fills them in.

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
        hosts.append(Host(require_name(match[1]), processes or int(match[2] or default)))
    if not hosts or len({host.name for host in hosts}) < len(hosts):
        raise UserError(f"{file}: wanted at least one host, and each once")
    return tuple(hosts)
