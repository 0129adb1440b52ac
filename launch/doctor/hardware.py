"""The devices: alike, free, linked to each other, and each as fast as the others."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import torch

from launch.doctor.finding import Answer, Context, Finding, by_host, places
from videomae.run.metrics.peak import lookup

DEVICES, LINKS, SPEED = "devices", "links", "matrix products"
BUSY = 0.05  # of a device's memory that may be taken before we come
SLOW = 0.75  # of the ranks' median speed
EXPECTED = 0.5  # of the table's peak rate that a large matrix product must reach
SECONDS = 0.5


def probe_devices(context: Context) -> dict[str, Any]:
    """The rank's device."""
    device = context.world.device
    if device.type != "cuda":
        return {"name": "cpu", "index": None, "taken": 0.0}
    free, total = torch.cuda.mem_get_info(device)
    return {"name": torch.cuda.get_device_name(device), "index": device.index, "taken": 1 - free / total}


def judge_devices(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """One kind of device, and nobody else on it."""
    kinds: dict[str, list[Answer]] = {}
    for answer in answers:
        kinds.setdefault(answer.value["name"], []).append(answer)
    if len(kinds) > 1:
        said = "; ".join(f"{name} on {places(where)}" for name, where in kinds.items())
        remedy = "ask for one kind (slurm.gpu_type, slurm.constraint); where a rank shows cpu, look at nvidia-smi there"
        return [Finding(DEVICES, "red", said, remedy)]
    busy = [answer for answer in answers if answer.value["taken"] > BUSY]
    if busy:
        shares = ", ".join(f"{answer.value['taken']:.0%} on {answer.place}" for answer in busy[:4])
        return [Finding(DEVICES, "red", f"memory is taken: {shares}", "end what nvidia-smi shows there, or ask anew")]
    name = next(iter(kinds))
    if name == "cpu":
        return [
            Finding(DEVICES, "yellow", f"{len(answers)} processes on CPUs", "for GPUs, see torch.cuda.is_available()")
        ]
    return [Finding(DEVICES, "green", f"{len(answers)} x {name}")]


def probe_links(context: Context) -> dict[str, Any]:
    """Which devices of this host cannot reach each other's memory, and how the driver says they are linked."""
    count = torch.cuda.device_count()
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    barred = [pair for pair in pairs if not torch.cuda.can_device_access_peer(*pair)]
    return {"count": count, "barred": barred, "kinds": _link_kinds()}


def _link_kinds() -> list[str]:
    """What `nvidia-smi topo -m` says between devices: NV18, PIX, SYS, ..."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    done = subprocess.run([command, "topo", "-m"], capture_output=True, text=True, timeout=15)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("GPU")]
    cells = [cell for row in rows for cell in row[1 : 1 + len(rows)]]
    return sorted({cell for cell in cells if cell not in ("X", "\x1b[4m")})


def judge_links(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """Direct access between all devices of each host."""
    barred = [answer for answer in by_host(answers) if answer.value["barred"]]
    kinds = sorted({kind for answer in answers for kind in answer.value["kinds"]})
    if barred:
        said = "; ".join(f"{len(answer.value['barred'])} pairs on {answer.host}" for answer in barred)
        remedy = "slower, but works; in a container or virtual machine, have peer access (ACS off, IPC on) allowed"
        return [Finding(LINKS, "yellow", f"no direct access between devices: {said} ({', '.join(kinds)})", remedy)]
    return [Finding(LINKS, "green", f"all devices of a host reach each other: {', '.join(kinds) or 'no topology'}")]


def probe_speed(context: Context) -> float:
    """TFLOP/s of large products, bf16 on GPUs that have it."""
    device = context.world.device
    on_gpu = device.type == "cuda"
    dtype = torch.float32
    if on_gpu:
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    width = 8192 if on_gpu else 512
    left = torch.randn(width, width, device=device).to(dtype)
    count, start = 0, time.perf_counter()
    for _ in range(2):  # the first round warms up
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS:
            for _ in range(8):
                torch.mm(left, left)
            count += 8
            if on_gpu:
                torch.cuda.synchronize(device)
    return 2 * width**3 * count / (time.perf_counter() - start) / 1e12


def judge_speed(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """Every rank near the median, and the median near what the device can do."""
    median = statistics.median(answer.value for answer in answers)
    slow = [answer for answer in answers if answer.value < SLOW * median]
    on_gpu = context.world.device.type == "cuda"
    speeds = f"median {median:.3g} TFLOP/s"
    if slow:
        named = ", ".join(f"{answer.value:.3g} on {answer.place}" for answer in slow[:4])
        remedy = "nvidia-smi -q -d CLOCK,PERFORMANCE,TEMPERATURE there, and leave the host out" if on_gpu else ""
        level = "red" if on_gpu else "yellow"
        return [Finding(SPEED, level, f"{named}; {speeds}", remedy or "see with top what else runs there")]
    name = torch.cuda.get_device_name(context.world.device) if on_gpu else "cpu"
    peak = lookup(name, precision="bf16", tf32=False).tflops
    if peak is not None and median < EXPECTED * peak:
        remedy = "look at power caps and clocks: nvidia-smi -q -d CLOCK,POWER"
        return [Finding(SPEED, "red", f"{speeds}, the table says {peak:g} for {name}", remedy)]
    return [Finding(SPEED, "green", f"{speeds}, slowest {min(answer.value for answer in answers):.3g}")]
