"""Between the ranks: names and ports, clocks, and how fast tensors travel."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import torch

from launch.doctor.finding import Answer, Context, Finding, by_host, places
from launch.plan.devices import recognize_device

LINK_EFFICIENCY = 0.8  # share of a link's rate that large messages reach: assumed
NAMES, CLOCKS, REDUCE = "names and ports", "clocks", "all-reduce"
LATE, VERY_LATE = 0.1, 1.0  # seconds between clocks
ROUNDS = 7
POOR, BAD = 0.75, 0.5  # of the bandwidth that is expected
SLOW_LATENCY = 2e-3  # seconds for a few bytes, on GPUs


def several(context: Context) -> bool:
    """Whether there is anybody to talk to."""
    return context.world.size > 1


def probe_names(context: Context) -> dict[str, Any]:
    """Whether this host's name and the meeting point's resolve, and whether a port can be had here."""
    faults = []
    for name in (context.host, os.environ.get("MASTER_ADDR", context.host)):
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            faults.append(f"{name!r} does not resolve ({error.strerror})")
    with socket.socket() as listener:
        listener.bind(("", 0))
        port = listener.getsockname()[1]
    return {"faults": faults, "port": port}


def judge_names(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """Every name resolves everywhere."""
    wrong = [answer for answer in by_host(answers) if answer.value["faults"]]
    if wrong:
        said = "; ".join(f"on {answer.host} {', '.join(answer.value['faults'])}" for answer in wrong[:4])
        return [
            Finding(NAMES, "red", said, "add the names to DNS or /etc/hosts of every host, or set address: to an IP")
        ]
    hosts = [answer.host for answer in by_host(answers)]
    return [Finding(NAMES, "green", f"{len(hosts)} hosts resolve and have free ports: {', '.join(hosts[:6])}")]


def probe_doors(context: Context) -> str | None:
    """Connect to the next rank on a port that it has just opened; why not, or None."""
    world = context.world
    with socket.create_server(("", 0)) as listener:
        doors = world.gather((socket.gethostname(), listener.getsockname()[1]))
        host, port = doors[(world.rank + 1) % world.size]
        try:
            with socket.create_connection((host, port), timeout=5):
                fault = None
        except OSError as error:
            fault = f"{host}:{port} refuses {socket.gethostname()} ({error})"
        world.gather(None)  # all have tried before a door closes
    return fault


def judge_doors(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """Hosts reach each other on any port."""
    closed = [answer.value for answer in answers if answer.value]
    if closed:
        remedy = "open all ports between the hosts of a job: NCCL and gloo use ports that the system hands out"
        return [Finding("firewall", "red", "; ".join(closed[:4]), remedy)]
    return [Finding("firewall", "green", "each rank reaches the next one on a fresh port")]


def probe_clock(context: Context) -> dict[str, float]:
    """How far each rank's clock is ahead of rank 0's, by the round that took least.

    All read their clocks on leaving a barrier; what the round took bounds the error of the comparison.
    """
    rounds = []
    for _ in range(ROUNDS):
        context.world.barrier()
        read, start = context.clock(), time.perf_counter()
        readings = context.world.gather(read)
        rounds.append((time.perf_counter() - start, read - readings[0]))
    took, ahead = min(rounds)
    return {"ahead": ahead, "error": took}


def judge_clock(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """Clocks near each other: ages of files and heartbeats are compared between hosts."""
    off = [answer for answer in answers if abs(answer.value["ahead"]) > LATE + answer.value["error"]]
    widest = max(abs(answer.value["ahead"]) for answer in answers)
    if off:
        level = "red" if widest > VERY_LATE else "yellow"
        said = ", ".join(f"{answer.value['ahead']:+.2f} s on {answer.place}" for answer in off[:4])
        return [
            Finding(CLOCKS, level, f"against rank 0: {said}", "start chrony or ntpd there: timedatectl set-ntp true")
        ]
    error = max(answer.value["error"] for answer in answers)
    return [Finding(CLOCKS, "green", f"within {widest * 1e3:.1f} ms of rank 0 (measured to {error * 1e3:.1f} ms)")]


def probe_reduce(context: Context) -> dict[str, float]:
    """Latency of a few bytes, and bytes a second that each rank sends in a large ring all-reduce."""
    world = context.world
    on_gpu = world.device.type == "cuda"
    small = torch.zeros(8, device=world.device)
    large = torch.zeros((256 if on_gpu else 16) * 2**18, device=world.device)
    latency = _seconds(context, small, 20)
    seconds = _seconds(context, large, 5)
    return {"latency": latency, "bandwidth": 2 * (world.size - 1) / world.size * large.numel() * 4 / seconds}


def _seconds(context: Context, tensor: torch.Tensor, times: int) -> float:
    """Of one all-reduce, the shortest of three series."""
    shortest = float("inf")
    for _ in range(3):
        context.world.barrier()
        start = time.perf_counter()
        for _ in range(times):
            context.world.add(tensor)
        float(tensor[0])  # waits for the device
        shortest = min(shortest, (time.perf_counter() - start) / times)
    return shortest


def judge_reduce(answers: Sequence[Answer], context: Context) -> list[Finding]:
    """Against the device table's links; gloo on CPUs is only reported."""
    latency = max(answer.value["latency"] for answer in answers)
    slowest = min(answers, key=lambda answer: answer.value["bandwidth"])
    bandwidth = slowest.value["bandwidth"] / 1e9
    said = f"{bandwidth:.2f} GB/s a rank, {latency * 1e6:.0f} us"
    if context.world.device.type != "cuda":
        return [Finding(REDUCE, "green", f"{said} (gloo)")]
    device = recognize_device(torch.cuda.get_device_name(context.world.device))
    if device is None:
        return [Finding(REDUCE, "green", f"{said}; nothing is known of this device's links")]
    hosts = len(by_host(answers))
    link = device.intra_node if hosts == 1 else min(device.intra_node, device.inter_node)
    return [judged_rate(bandwidth, LINK_EFFICIENCY * link, latency, f"{said}, slowest {places([slowest])}", hosts)]


def judged_rate(bandwidth: float, expected: float, latency: float, said: str, hosts: int) -> Finding:
    """A rate in GB/s and a latency in seconds beside what the links of `hosts` hosts should give."""
    share = bandwidth / expected
    level = "red" if share < BAD else "yellow" if share < POOR or latency > SLOW_LATENCY else "green"
    inside = "look at nvidia-smi topo -m and NCCL_P2P_DISABLE; in a container, give it enough /dev/shm"
    outside = "look whether NCCL uses the fast adapters (NCCL_DEBUG=INFO: NET/IB and not NET/Socket; NCCL_IB_HCA)"
    remedy = "" if level == "green" else inside if hosts == 1 else outside
    return Finding(REDUCE, level, f"{said}: {share:.0%} of the {expected:.0f} GB/s expected", remedy)
