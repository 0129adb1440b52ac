"""Devices: of one kind, free, connected to each other, and equally fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from launch.doctor.check import (
    Answer,
    Check,
    CheckResult,
    Context,
    failed,
    group_by,
    name_ranks,
    one_per_host,
    passed,
    warned,
)
from videomae.core.processes import command_output
from videomae.run.metrics.peak import lookup

_MAX_USED = 0.05  # share of a device's memory that others may use
_MIN_OF_MEDIAN = 0.75  # of the ranks' median speed
_MIN_OF_PEAK = 0.5  # of the device's peak rate, for a large matrix product
SECONDS = 0.5  # of each of two rounds of matrix products


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
        remedy = "request one kind (slurm.gpu_type, slurm.constraint); where a rank has cpu, see nvidia-smi there"
        return failed(message, remedy)
    busy = [answer for answer in answers if answer.value["used"] > _MAX_USED]
    if busy:
        shares = ", ".join(f"{answer.value['used']:.0%} on {answer}" for answer in busy[:4])
        return failed(f"memory is in use: {shares}", "end what nvidia-smi shows there, or request other devices")
    name = next(iter(kinds))
    if name == "cpu":
        return warned(f"{len(answers)} processes on CPUs", "for GPUs, see torch.cuda.is_available()")
    return passed(f"{len(answers)} x {name}")


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
        named = ", ".join(f"{answer.value:.3g} on {answer}" for answer in slow[:4])
        if context.on_gpu:
            remedy = "nvidia-smi -q -d CLOCK,PERFORMANCE,TEMPERATURE there, and exclude the host"
            return failed(f"{named}; {message}", remedy)
        return warned(f"{named}; {message}", "see with top what else runs there")
    name = torch.cuda.get_device_name(context.world.device) if context.on_gpu else "cpu"
    peak = lookup(name, precision="bf16", tf32=False).tflops
    if peak is not None and median < _MIN_OF_PEAK * peak:
        return failed(f"{message}, the peak of {name} is {peak:g}", "see power caps and clocks: nvidia-smi -q")
    return passed(f"{message}, slowest {min(answer.value for answer in answers):.3g}")


CHECKS = (
    Check(name="devices", probe=probe_devices, judge=judge_devices),
    Check(name="links", probe=probe_links, judge=judge_links, applies=lambda context: context.on_gpu),
    # At the same time on all ranks, which share a host as in a run.
    Check(name="matrix products", probe=probe_speed, judge=judge_speed, timeout=30, collective=True),
)
