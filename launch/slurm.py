"""Slurm: the scripts of a job, and the commands that submit, query and cancel it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.cluster import ClusterConfig
from launch.record import LaunchDir
from launch.script import Shell, container_options, quote_directive, quote_words, render
from videomae.core.errors import UserError

_INTERACTIVE = "4294967290"  # the step id of a shell of salloc


class SlurmError(UserError):
    """A command of Slurm is missing or failed; the message holds its output."""


def submit(script: Path, *, after: Sequence[str] = ()) -> str:
    """Submit a script and return the job's id; Slurm cancels the job if one of the jobs `after` fails.

    Raises:
        SlurmError: sbatch is missing or failed.
    """
    return _call(submit_words(script, after=after)).split(";")[0]


def submit_words(script: Path, *, after: Sequence[str] = ()) -> list[str]:
    """The words of `submit`'s command."""
    dependency = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    return ["sbatch", "--parsable", *dependency, str(script)]


def read_queue(jobs: Sequence[str]) -> dict[str, str]:
    """The state of each queued job, such as PENDING (Dependency) or RUNNING (n[1-2]); jobs not queued are left out.

    Raises:
        SlurmError: squeue is missing or failed, so nothing is known.
    """
    if not jobs:
        return {}
    try:
        lines = _call(["squeue", "--noheader", "--array", f"--jobs={','.join(jobs)}", "--format=%i|%A|%T|%R"])
    except SlurmError as error:
        if "Invalid job id" in str(error):  # what squeue answers for a single job that has long ended
            return {}
        raise
    found = {}
    for line in lines.splitlines():
        name, number, state, why = line.split("|", 3)
        for job in {name, number, name.split("_")[0]} & set(jobs):  # the last: a whole array
            if found.get(job, "PENDING").startswith("PENDING"):  # a running task of an array outranks pending ones
                found[job] = f"{state} {why if why.startswith('(') else f'({why})'}"
    return found


def read_final_state(job: str) -> str | None:
    """The state of a job that has left the queue, such as FAILED or NODE_FAIL; None where Slurm has no record."""
    for words in (
        ["sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={job}"],
        ["scontrol", "--oneliner", "show", "job", job],
    ):
        try:
            output = _call(words).strip()
        except SlurmError:
            continue
        if words[0] == "sacct" and output:
            return output.splitlines()[-1].split()[0]
        for field in output.split():
            if field.startswith("JobState="):
                return field.removeprefix("JobState=")
    return None


def cancel(job: str) -> None:
    """End a job at once.

    Raises:
        SlurmError: scancel is missing or failed.
    """
    _call(["scancel", job])


def in_allocation(environment: Mapping[str, str]) -> bool:
    """Whether this is a shell in an allocation, as salloc opens one; on some clusters it is a step of its own."""
    return "SLURM_JOB_ID" in environment and environment.get("SLURM_STEP_ID", _INTERACTIVE) == _INTERACTIVE


def _call(words: Sequence[str]) -> str:
    if shutil.which(words[0]) is None:
        raise SlurmError(f"{words[0]} is not on this machine; type this on a login node of the cluster")
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]} did not answer within 60 s; `sinfo` shows whether Slurm is up") from None
    if done.returncode:
        raise SlurmError(f"{' '.join(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout.strip()


def job_scripts(
    module: str, launch_dir: LaunchDir, cluster: ClusterConfig, *, array_runs: Sequence[Path] = ()
) -> dict[str, str]:
    """The texts of job.sh and task.sh; with `array_runs`, of an array with one task for each of these run directories.

    Raises:
        UserError: a value cannot stand in a script.
    """
    for run in (launch_dir.run, *array_runs):
        if "%" in str(run) or "\\" in str(run):
            raise UserError(f"{run}: Slurm interprets % and \\ in the path of a job's output; rename the run")
    job = render(
        "job.sh.jinja",
        launch_dir=launch_dir,
        cluster=cluster,
        module=module,
        array_runs=array_runs,
        nodes=cluster.nodes or 1,
        processes=cluster.processes,
        threads=cluster.slurm.cpus_per_task or 1,
        directives=_directives(launch_dir, cluster, len(array_runs)),
        srun=_srun(launch_dir, cluster),
    )
    stage = quote_words(cluster.interpreter, "-m", module)
    return {"job.sh": job, "task.sh": render("task.sh.jinja", launch_dir=launch_dir, cluster=cluster, stage=stage)}


def resource_options(cluster: ClusterConfig) -> dict[str, object]:
    """The options of sbatch and srun that ask for the cluster's nodes; those that are None are left out."""
    slurm = cluster.slurm
    gpus = f"{slurm.gpu_type}:{cluster.gpus_per_node}" if slurm.gpu_type else str(cluster.gpus_per_node)
    options = {
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
    }
    return {name: value for name, value in options.items() if value is not None}


def _directives(launch_dir: LaunchDir, cluster: ClusterConfig, tasks: int) -> list[Shell]:
    options = {"job-name": launch_dir.run.name, **resource_options(cluster)}
    if tasks:
        options["array"] = f"0-{tasks - 1}"
    output = f"--output={quote_directive(launch_dir.run / 'logs')}/slurm-{'%A_%a' if tasks else '%j'}.log"
    signal = f"--signal=USR1@{cluster.slurm.signal_seconds}"
    return [
        *(Shell(f"--{name}={quote_directive(value)}") for name, value in options.items()),
        *map(Shell, (output, "--open-mode=append", "--requeue", signal)),
        *map(quote_directive, cluster.slurm.extra),
    ]


def _srun(launch_dir: LaunchDir, cluster: ClusterConfig) -> Shell:
    nodes, processes = cluster.nodes or 1, cluster.processes
    words = ["srun", f"--nodes={nodes}", f"--ntasks={nodes * processes}", f"--ntasks-per-node={processes}"]
    if cluster.slurm.cpus_per_task is not None:  # srun does not inherit it from sbatch
        words.append(f"--cpus-per-task={cluster.slurm.cpus_per_task}")
    words += ["--kill-on-bad-exit=1", *container_options(launch_dir, cluster)]
    return quote_words(*words, *cluster.slurm.srun)
