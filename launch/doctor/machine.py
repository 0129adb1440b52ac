"""Each machine: software versions, what the system grants a process (shared memory, limits, cores), and its devices.

Devices shall be of one kind, free, connected to each other, and equally fast.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.cuda import nccl

from finetune.config import FinetuneConfig
from launch.doctor.check import (
    Answer,
    Check,
    CheckResult,
    Context,
    by_host,
    failed,
    group_by,
    name_ranks,
    one_per_host,
    passed,
    warned,
)
from videomae.core.processes import command_output
from videomae.run.directory import git_state, package_versions
from videomae.run.metrics.peak import lookup

GIB = 2**30
_PACKAGES = ("torch", "deepspeed", "torchvision", "av", "numpy", "pydantic", "safetensors")
_MIN_FILES, _GOOD_FILES = 1024, 4096
_MIN_PROCESSES = 1024
_MAX_USED = 0.05  # share of a device's memory that others may use
_MIN_OF_MEDIAN = 0.75  # of the ranks' median speed
_MIN_OF_PEAK = 0.5  # of the device's peak rate, for a large matrix product
SECONDS = 0.5  # of each of two rounds of matrix products


def probe_versions(context: Context) -> dict[str, str]:
    """Versions by name; "none" where a component is missing."""
    built = nccl.version() if torch.cuda.is_available() else ()
    driver = command_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "none"
    code = git_state()
    return {
        "python": platform.python_version(),
        **{name: version or "none" for name, version in package_versions(_PACKAGES).items()},
        "cuda": str(torch.version.cuda or "none"),
        "nccl": ".".join(map(str, built)) or "none",
        "driver": driver.split()[0],
        "git commit": (code["commit"] or "none")[:12],
        "files changed since": str(code["changed_files"]),
    }


def judge_versions(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """A red line for each component whose version differs between ranks."""
    remedy = "use one environment, driver and checkout on all hosts (pip install -c constraints.txt -e .), exclude the "
    remedy += "hosts that differ, or start the ranks with `videomae launch`, which copies the code"
    results: list[CheckResult] = []
    for name in answers[0].value:
        ranks = group_by(answers, lambda answer, name=name: answer.value.get(name, "none"))
        if len(ranks) > 1:
            versions = "; ".join(f"{version} on {name_ranks(group)}" for version, group in ranks.items())
            results += failed(f"{name}: {versions}", remedy)
    shown = ", ".join(f"{name} {version}" for name, version in answers[0].value.items() if version != "none")
    return results or passed(f"equal on all ranks: {shown}")


def probe_shared_memory(context: Context) -> int:
    return shutil.disk_usage("/dev/shm").free


def loader_bytes(context: Context, ranks: int) -> int:
    """Bytes of the batches that the loader workers of `ranks` processes may hold in shared memory."""
    config = context.config
    if config is None or config.loader.workers == 0:
        return 0
    shape = config.model.input if isinstance(config, FinetuneConfig) else config.encoder
    clip = 3 * shape.frames * shape.size**2
    micro_batch = config.engine.micro_batch or -(-config.batch // context.world.size)
    return ranks * (config.loader.workers * config.loader.prefetch + 1) * micro_batch * clip


def judge_shared_memory(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """Enough shared memory on every host for the loaders and NCCL."""
    needs = {host: loader_bytes(context, len(ranks)) for host, ranks in by_host(answers).items()}
    fullest = min(one_per_host(answers), key=lambda answer: answer.value - needs[answer.host])
    free, need = fullest.value, needs[fullest.host]
    message = f"{free / GIB:.2f} GiB free in /dev/shm of {fullest.host}, the loaders may fill {need / GIB:.2f} GiB"
    remedy = "start the container with --shm-size=32g or --ipc=host, mount a larger /dev/shm, or lower loader.prefetch"
    if need > free:
        return failed(message, remedy)
    return passed(message) if free >= GIB else warned(message, remedy)


def probe_limits(context: Context) -> dict[str, int]:
    """Soft limits; -1 is unlimited."""
    names = {"files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC, "locked": resource.RLIMIT_MEMLOCK}
    return {name: resource.getrlimit(number)[0] for name, number in names.items()}


def judge_limits(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """Sufficient limits on every host; locked memory matters to network adapters of GPU nodes."""
    remedy = "{} before the start (setup: in the cluster file), or raise it in /etc/security/limits.conf"
    results: list[CheckResult] = []
    for answer in one_per_host(answers):
        files, processes, locked = (answer.value[name] for name in ("files", "processes", "locked"))
        if 0 <= files < _GOOD_FILES:
            found = failed if files < _MIN_FILES else warned
            results += found(f"{files} open files on {answer.host}", remedy.format("ulimit -n 65536"))
        if 0 <= processes < _MIN_PROCESSES:
            results += failed(f"{processes} processes on {answer.host}", remedy.format("ulimit -u 65536"))
        if context.on_gpu and 0 <= locked < GIB:
            message = f"{locked} bytes of locked memory on {answer.host}, too little for InfiniBand"
            results += warned(message, remedy.format("ulimit -l unlimited"))
    return results or passed(", ".join(f"{name} {value}" for name, value in answers[0].value.items()))


def probe_cores(context: Context) -> dict[str, Any]:
    """Cores that this process may use, and OMP_NUM_THREADS."""
    return {"cores": sorted(os.sched_getaffinity(0)), "threads": os.environ.get("OMP_NUM_THREADS")}


def judge_cores(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """Enough cores on each host for its processes, their loader workers and threads."""
    workers = context.config.loader.workers if context.config is not None else 0
    results: list[CheckResult] = []
    for host, ranks in by_host(answers).items():
        cores, count = len({core for answer in ranks for core in answer.value["cores"]}), len(ranks)
        threads = ranks[0].value["threads"]
        message = f"{count} processes with {workers} loader workers each on {cores} cores of {host}, "
        message += f"OMP_NUM_THREADS {threads or 'not set'}"
        if count * (1 + workers) > 2 * cores:
            remedy = f"type loader.workers={max(0, cores // count - 1)}, or request more cores (slurm.cpus_per_task)"
            results += (failed if cores < count else warned)(message, remedy)
        elif count > 1 and (threads is None or int(threads) * count > cores):
            results += warned(message, f"export OMP_NUM_THREADS={max(1, cores // count)}")
    return results or passed(f"{len(answers[0].value['cores'])} cores for rank 0")


def probe_devices(context: Context) -> dict[str, Any]:
    device = context.world.device
    if not context.on_gpu:
        return {"name": "cpu", "used": 0.0}
    free, total = torch.cuda.mem_get_info(device)
    return {"name": torch.cuda.get_device_name(device), "used": 1 - free / total}


def judge_devices(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """One kind of device, with free memory."""
    kinds = group_by(answers, lambda answer: answer.value["name"])
    if len(kinds) > 1:
        message = "; ".join(f"{name} on {name_ranks(ranks)}" for name, ranks in kinds.items())
        return failed(message, "request one kind (slurm.gpu_type); where a rank has cpu, see nvidia-smi there")
    busy = [answer for answer in answers if answer.value["used"] > _MAX_USED]
    if busy:
        shares = ", ".join(f"{answer.value['used']:.0%} on {answer}" for answer in busy[:4])
        return failed(f"memory is in use: {shares}", "end what nvidia-smi shows there, or request other devices")
    message = f"{len(answers)} x {next(iter(kinds))}"
    return warned(message, "for GPUs, see torch.cuda.is_available()") if "cpu" in kinds else passed(message)


def probe_links(context: Context) -> dict[str, Any]:
    """Pairs of this host's devices without peer access, and the driver's names of their links."""
    count = torch.cuda.device_count()
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    blocked = [pair for pair in pairs if not torch.cuda.can_device_access_peer(*pair)]
    topology = (command_output("nvidia-smi", "topo", "-m") or "").splitlines()
    rows = [line.split() for line in topology if line.startswith("GPU")]
    cells = {cell for row in rows for cell in row[1 : 1 + len(rows)]}
    return {"blocked": blocked, "kinds": sorted(cells - {"X", "\x1b[4m"})}  # NV18, PIX, SYS, ...


def judge_links(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """Peer access between all devices of each host."""
    blocked = [answer for answer in one_per_host(answers) if answer.value["blocked"]]
    kinds = ", ".join(sorted({kind for answer in answers for kind in answer.value["kinds"]}))
    if blocked:
        pairs = "; ".join(f"{len(answer.value['blocked'])} pairs on {answer.host}" for answer in blocked)
        remedy = "slower, but works; in a container or virtual machine, allow peer access (ACS off, IPC on)"
        return warned(f"no peer access between devices: {pairs} ({kinds})", remedy)
    return passed(f"peer access between all devices of a host: {kinds or 'no topology'}")


def probe_speed(context: Context) -> float:
    """TFLOP/s of large matrix products, in bf16 on GPUs that have it."""
    device, dtype = context.world.device, torch.float32
    if context.on_gpu:
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    width = 8192 if context.on_gpu else 512
    matrix = torch.randn(width, width, device=device).to(dtype)
    count, start = 0, time.perf_counter()
    for _ in range(2):  # the first round warms up
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS:
            for _ in range(8):
                torch.mm(matrix, matrix)
            count += 8
            if context.on_gpu:
                torch.cuda.synchronize(device)
    return 2 * width**3 * count / (time.perf_counter() - start) / 1e12


def judge_speed(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """Every rank near the median, and the median near the device's peak."""
    median = statistics.median(answer.value for answer in answers)
    slow = [answer for answer in answers if answer.value < _MIN_OF_MEDIAN * median]
    message = f"median {median:.3g} TFLOP/s"
    if slow:
        message += "".join(f", {answer.value:.3g} on {answer}" for answer in slow[:4])
        remedy = "nvidia-smi -q -d CLOCK,PERFORMANCE,TEMPERATURE there, and exclude the host"
        return failed(message, remedy) if context.on_gpu else warned(message, "see with top what else runs there")
    name = torch.cuda.get_device_name(context.world.device) if context.on_gpu else "cpu"
    peak = lookup(name, precision="bf16", tf32=False).tflops
    if peak is not None and median < _MIN_OF_PEAK * peak:
        return failed(f"{message}, the peak of {name} is {peak:g}", "see power caps and clocks: nvidia-smi -q")
    return passed(message)


CHECKS = (
    Check(name="versions", probe=probe_versions, judge=judge_versions, timeout=30),
    Check(name="shared memory", probe=probe_shared_memory, judge=judge_shared_memory),
    Check(name="limits", probe=probe_limits, judge=judge_limits),
    Check(name="cores and threads", probe=probe_cores, judge=judge_cores),
    Check(name="devices", probe=probe_devices, judge=judge_devices),
    Check(name="links", probe=probe_links, judge=judge_links, applies=lambda context: context.on_gpu),
    # At the same time on all ranks, which share a host as in a run.
    Check(name="matrix products", probe=probe_speed, judge=judge_speed, timeout=30, collective=True),
)
