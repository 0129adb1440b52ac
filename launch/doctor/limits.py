"""What the system allows each process: shared memory, open files, processes, locked memory, cores and threads."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Sequence
from typing import Any

from finetune.config import FinetuneConfig
from launch.doctor.finding import Answer, Context, Finding, by_host

SHARED, FILES, CORES = "shared memory", "limits", "cores and threads"
GIB = 2**30
FEW_FILES, MANY_FILES = 1024, 4096
FEW_PROCESSES = 1024


def probe_shared(context: Context) -> dict[str, int]:
    """Bytes of /dev/shm."""
    usage = shutil.disk_usage("/dev/shm")
    return {"free": usage.free, "total": usage.total}


def loader_bytes(context: Context, ranks: int) -> int:
    """Bytes of the batches that the loader workers of `ranks` processes may hold in shared memory."""
    config = context.config
    if config is None or config.loader.workers == 0:
        return 0
    encoder = config.model.input if isinstance(config, FinetuneConfig) else config.encoder
    clip = 3 * encoder.frames * encoder.size**2
    micro_batch = config.engine.micro_batch or -(-config.batch // context.world.size)
    ahead = config.loader.workers * config.loader.prefetch + 1
    return ranks * ahead * micro_batch * clip


def judge_shared(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """Room for what the loader and NCCL put there."""
    fullest, wanting = None, 0
    for answer in by_host(answers):
        ranks = sum(other.host == answer.host for other in answers)
        need = loader_bytes(context, ranks)
        missing = need - answer.value["free"]
        if fullest is None or missing > wanting:
            fullest, wanting = answer, missing
    assert fullest is not None
    free = fullest.value["free"] / GIB
    said = f"{free:.2f} GiB free in /dev/shm of {fullest.host}"
    remedy = "start the container with --shm-size=32g or --ipc=host, mount a larger /dev/shm, or lower loader.prefetch"
    if wanting > 0:
        need = (wanting + fullest.value["free"]) / GIB
        return [Finding(SHARED, "red", f"{said}, the loaders may fill {need:.2f} GiB", remedy)]
    return [Finding(SHARED, "green", said) if free >= 1 else Finding(SHARED, "yellow", said, remedy)]


def probe_limits(context: Context) -> dict[str, int]:
    """Soft limits; -1 is unlimited."""
    names = {"files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC, "locked": resource.RLIMIT_MEMLOCK}
    return {name: resource.getrlimit(number)[0] for name, number in names.items()}


def judge_limits(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """Enough of each on every host; locked memory matters where an adapter reads it."""
    on_gpu = context.world.device.type == "cuda"
    findings = []
    for answer in by_host(answers):
        files, processes, locked = (answer.value[name] for name in ("files", "processes", "locked"))
        if 0 <= files < MANY_FILES:
            level = "red" if files < FEW_FILES else "yellow"
            findings.append(_low(f"{files} open files on {answer.host}", level, "ulimit -n 65536", "nofile"))
        if 0 <= processes < FEW_PROCESSES:
            findings.append(_low(f"{processes} processes on {answer.host}", "red", "ulimit -u 65536", "nproc"))
        if on_gpu and 0 <= locked < GIB:
            said = f"{locked // 1024} KiB of locked memory on {answer.host}, too little for InfiniBand"
            findings.append(_low(said, "yellow", "ulimit -l unlimited", "memlock"))
    shown = answers[0].value
    words = {name: "unlimited" if value < 0 else str(value) for name, value in shown.items()}
    enough = f"{words['files']} files, {words['processes']} processes, {words['locked']} bytes locked"
    return findings or [Finding(FILES, "green", enough)]


def _low(said: str, level: Any, typed: str, name: str) -> Finding:
    remedy = f"{typed} before the start (setup: of the cluster's file), or {name} in /etc/security/limits.conf"
    return Finding(FILES, level, said, remedy)


def probe_cores(context: Context) -> dict[str, Any]:
    """Cores that this process may use, and its threads."""
    return {"cores": sorted(os.sched_getaffinity(0)), "threads": os.environ.get("OMP_NUM_THREADS")}


def judge_cores(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """The processes of each host and their loader workers have cores to run on."""
    findings = []
    workers = context.config.loader.workers if context.config is not None else 0
    for host in by_host(answers):
        ranks = [answer for answer in answers if answer.host == host.host]
        cores = len({core for answer in ranks for core in answer.value["cores"]})
        busy = len(ranks) * (1 + workers)
        if busy > 2 * cores:
            findings.append(_crowded(host.host, ranks, cores, workers))
            continue
        threads = host.value["threads"]
        if len(ranks) > 1 and (threads is None or int(threads) * len(ranks) > cores):
            said = (
                f"OMP_NUM_THREADS is {threads or 'not set'} for {len(ranks)} processes on {cores} cores of {host.host}"
            )
            findings.append(Finding(CORES, "yellow", said, f"export OMP_NUM_THREADS={max(1, cores // len(ranks))}"))
    cores = len(answers[0].value["cores"])
    return findings or [
        Finding(CORES, "green", f"{cores} cores for rank 0, OMP_NUM_THREADS={answers[0].value['threads']}")
    ]


def _crowded(host: str, ranks: Sequence[Answer], cores: int, workers: int) -> Finding:
    most = max(0, cores // len(ranks) - 1)
    said = f"{len(ranks)} processes with {workers} loader workers each share {cores} cores of {host}"
    remedy = f"type loader.workers={most}, or ask for more cores (slurm.cpus_per_task={workers + 1})"
    return Finding(CORES, "red" if cores < len(ranks) else "yellow", said, remedy)
