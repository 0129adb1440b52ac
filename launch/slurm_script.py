"""The scripts of a Slurm job: what sbatch takes, and what each of its tasks runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.cluster import ClusterConfig
from launch.run_directory import LaunchDir
from launch.script import Shell, directive, render, words
from videomae.core.errors import UserError


def job_scripts(
    module: str, place: LaunchDir, cluster: ClusterConfig, *, members: Sequence[Path] = ()
) -> dict[str, str]:
    """The texts of job.sh and task.sh; with `members`, the runs of an array of jobs, one task each.

    Raises:
        UserError: a value cannot stand in a script.
    """
    for run in (place.run, *members):
        if "%" in str(run) or "\\" in str(run):
            raise UserError(f"{run}: Slurm reads % and \\ in the path of its output as a pattern; rename the run")
    return {
        "job.sh": render(
            "job.sh.jinja",
            module=module,
            place=place,
            members=members,
            nodes=cluster.nodes or 1,
            processes=cluster.processes,
            threads=cluster.slurm.cpus_per_task or 1,
            directives=_directives(place, cluster, members),
            setup=[Shell(line) for line in cluster.setup],
            environment=list(cluster.environment.items()),
            srun=_srun(place, cluster),
            inside=inside(place, cluster),
        ),
        "task.sh": render("task.sh.jinja", stage=stage(module, cluster)),
    }


def stage(module: str, cluster: ClusterConfig) -> Shell:
    """The words that run a stage in one process; the config's path follows."""
    return words(cluster.interpreter, "-m", module)


def inside(place: LaunchDir, cluster: ClusterConfig) -> Shell:
    """The words before a command that put it into apptainer's container, with a blank at their end; or nothing."""
    container = cluster.container
    if container.kind != "apptainer":
        return Shell("")
    binds = [word for mount in _mounts(place, cluster) for word in ("--bind", mount)]
    gpus = ["--nv"] if cluster.gpus_per_node else []
    return Shell(words("apptainer", "exec", *gpus, *binds, *container.options, container.image) + " ")


def _directives(place: LaunchDir, cluster: ClusterConfig, members: Sequence[Path]) -> list[Shell]:
    """The options of sbatch, in the order in which one reads them."""
    slurm = cluster.slurm
    gpus = f"{slurm.gpu_type}:{cluster.gpus_per_node}" if slurm.gpu_type else str(cluster.gpus_per_node)
    chosen = {
        "job-name": place.run.name,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "time": slurm.time,
        "nodes": cluster.nodes or 1,
        "ntasks-per-node": cluster.processes,
        "cpus-per-task": slurm.cpus_per_task,
        "gpus-per-node": gpus if cluster.gpus_per_node else None,
        "mem": slurm.memory,
        "array": f"0-{len(members) - 1}" if members else None,
    }
    options = [Shell(f"--{name}={directive(value)}") for name, value in chosen.items() if value is not None]
    output = f"--output={directive(place.run / 'logs')}/slurm-{'%A_%a' if members else '%j'}.log"
    fixed = (output, "--open-mode=append", "--requeue", f"--signal=USR1@{slurm.signal_seconds}")
    return [*options, *map(Shell, fixed), *map(directive, slurm.extra)]


def _srun(place: LaunchDir, cluster: ClusterConfig) -> Shell:
    nodes, processes, container = cluster.nodes or 1, cluster.processes, cluster.container
    parts = ["srun", f"--nodes={nodes}", f"--ntasks={nodes * processes}", f"--ntasks-per-node={processes}"]
    if cluster.slurm.cpus_per_task is not None:  # srun does not take it over from sbatch
        parts.append(f"--cpus-per-task={cluster.slurm.cpus_per_task}")
    parts.append("--kill-on-bad-exit=1")
    if container.kind == "pyxis":
        mounts = ",".join(_mounts(place, cluster))
        parts += [f"--container-image={container.image}", f"--container-mounts={mounts}", *container.options]
    return words(*parts, *cluster.slurm.srun)


def _mounts(place: LaunchDir, cluster: ClusterConfig) -> list[str]:
    folders = [place.root] if place.run.is_relative_to(place.root) else [place.root, place.run]
    return [*(f"{folder}:{folder}" for folder in folders), *cluster.container.mounts]
