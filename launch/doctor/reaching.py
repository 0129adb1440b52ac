"""The commands that start the examination on the machines of a cluster's file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launch.cluster import ClusterConfig, Host
from launch.remote import ssh_words
from launch.run_directory import Place
from launch.slurm_script import inside
from videomae.core.config import load


def read(file: Path, nodes: int | None, processes: int | None) -> tuple[ClusterConfig, tuple[Host, ...]]:
    """The cluster with the given numbers in place of its own, and its hosts: none where Slurm chooses them.

    Raises:
        ValueError: the file is missing or wrong, or lists fewer hosts than wanted.
    """
    changed = {"nodes": nodes, "processes_per_node": processes}
    cluster = replace(load(ClusterConfig, file), **{name: count for name, count in changed.items() if count})
    return cluster, cluster.machines()


def ssh_commands(cluster: ClusterConfig, hosts: Sequence[Host], command: Sequence[str]) -> list[list[str]]:
    """For each host the words that start its processes there, with ranks as torchrun would give them."""
    size, first, commands = sum(host.processes for host in hosts), 0, []
    meeting = {
        "MASTER_ADDR": cluster.meeting(hosts),
        "MASTER_PORT": str(cluster.port_of(cluster.folder)),
        "WORLD_SIZE": str(size),
    }
    for host in hosts:
        told = {**meeting, "LOCAL_WORLD_SIZE": str(host.processes)}
        exports = [f"export {name}={shlex.quote(value)}" for name, value in told.items()]
        lines = [
            *_prepared(cluster),
            *exports,
            f"for local in $(seq 0 {host.processes - 1}); do",
            f"RANK=$(({first} + local)) LOCAL_RANK=$local {inside(_place(cluster), cluster)}{shlex.join(command)} &",
            "done",
            "wait",
        ]
        commands.append(ssh_words(cluster.ssh, host.name, ["bash", "-c", "\n".join(lines)]))
        first += host.processes
    return commands


def srun_command(cluster: ClusterConfig, command: Sequence[str]) -> list[str]:
    """The words of one srun, which waits for machines, or takes those of the allocation that it is typed in."""
    slurm, container, nodes = cluster.slurm, cluster.container, cluster.nodes or 1
    gpus = f"{slurm.gpu_type}:{cluster.gpus_per_node}" if slurm.gpu_type else str(cluster.gpus_per_node)
    chosen = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "nodes": nodes,
        "ntasks": nodes * cluster.processes,
        "ntasks-per-node": cluster.processes,
        "cpus-per-task": slurm.cpus_per_task,
        "gpus-per-node": gpus if cluster.gpus_per_node else None,
        "mem": slurm.memory,
        "time": "00:15:00",
        "job-name": "doctor",
        "container-image": container.image if container.kind == "pyxis" else None,
        "container-mounts": ",".join((f"{cluster.folder}:{cluster.folder}", *container.mounts))
        if container.kind == "pyxis"
        else None,
    }
    options = [f"--{name}={value}" for name, value in chosen.items() if value is not None]
    lines = [*_prepared(cluster), f"exec {inside(_place(cluster), cluster)}{shlex.join(command)}"]
    return ["srun", *options, *slurm.extra, *slurm.srun, "bash", "-c", "\n".join(lines)]


def _prepared(cluster: ClusterConfig) -> list[str]:
    """Lines of shell that stand before the processes, as in the scripts of a run."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()]
    return [f"cd {shlex.quote(str(cluster.folder))} || exit 1", *cluster.setup, *exports]


def _place(cluster: ClusterConfig) -> Place:
    return Place(root=cluster.folder, run=cluster.folder)
