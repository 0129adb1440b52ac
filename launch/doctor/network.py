"""Names, ports, clocks and bandwidth between the ranks, and the W&B server."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import torch

from launch.doctor.check import (
    Answer,
    Check,
    CheckResult,
    Context,
    by_host,
    failed,
    name_ranks,
    one_per_host,
    passed,
    warned,
)
from launch.plan.devices import recognize_device
from videomae.run.metrics.config import MetricsConfig
from videomae.run.metrics.wandb_sync import is_logged_in, requested_mode, server

_MAX_OFFSET, _BAD_OFFSET = 0.1, 1.0  # seconds between clocks
_CLOCK_ROUNDS = 7
_LINK_EFFICIENCY = 0.8  # share of a link's rate that large messages reach: assumed
_GOOD_BANDWIDTH, _MIN_BANDWIDTH = 0.75, 0.5  # share of the expected bandwidth
_MAX_LATENCY = 2e-3  # seconds of a small all-reduce on GPUs
_WANDB_SECONDS = 5.0


def probe_names(context: Context) -> list[str]:
    """Which of this host's name and MASTER_ADDR do not resolve; OSError where no port is free."""
    errors = []
    for name in (context.host, os.environ.get("MASTER_ADDR", context.host)):
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            errors.append(f"{name!r} does not resolve ({error.strerror})")
    with socket.socket() as listener:
        listener.bind(("", 0))
    return errors


def judge_names(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    wrong = [answer for answer in one_per_host(answers) if answer.value]
    if wrong:
        message = "; ".join(f"on {answer.host} {', '.join(answer.value)}" for answer in wrong[:4])
        return failed(message, "add the names to DNS or /etc/hosts of every host, or set address: to an IP")
    hosts = list(by_host(answers))
    return passed(f"{len(hosts)} hosts resolve and have free ports: {', '.join(hosts[:6])}")


def probe_ports(context: Context) -> str | None:
    """Connect to the next rank on a port that it has just opened; the error, or None."""
    world = context.world
    with socket.create_server(("", 0)) as listener:
        addresses = world.all_gather_object((socket.gethostname(), listener.getsockname()[1]))
        host, port = addresses[(world.rank + 1) % world.size]
        try:
            with socket.create_connection((host, port), timeout=5):
                error = None
        except OSError as caught:
            error = f"{host}:{port} refuses {socket.gethostname()} ({caught})"
        world.all_gather_object(None)  # all ranks have tried before any port closes
    return error


def judge_ports(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """Hosts reach each other on any port."""
    closed = [answer.value for answer in answers if answer.value]
    if closed:
        remedy = "open all ports between the hosts of a job: NCCL and gloo use ports that the system assigns"
        return failed("; ".join(closed[:4]), remedy)
    return passed("each rank reaches the next one on a new port")


def probe_clock(context: Context) -> dict[str, float]:
    """The offset of this rank's clock from rank 0's, in the round that took least.

    All ranks read their clocks after a barrier; the duration of the round bounds the error.
    """
    rounds = []
    for _ in range(_CLOCK_ROUNDS):
        context.world.barrier()
        read, start = time.time(), time.perf_counter()
        readings = context.world.all_gather_object(read)
        rounds.append((time.perf_counter() - start, read - readings[0]))
    error, offset = min(rounds)
    return {"offset": offset, "error": error}


def judge_clock(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """Clocks agree, because ages of files and heartbeats are compared between hosts."""
    wrong = [answer for answer in answers if abs(answer.value["offset"]) > _MAX_OFFSET + answer.value["error"]]
    largest = max(abs(answer.value["offset"]) for answer in answers)
    if wrong:
        found = failed if largest > _BAD_OFFSET else warned
        message = ", ".join(f"{answer.value['offset']:+.2f} s on {answer}" for answer in wrong[:4])
        return found(f"against rank 0: {message}", "start chrony or ntpd there: timedatectl set-ntp true")
    error = max(answer.value["error"] for answer in answers)
    return passed(f"within {largest * 1e3:.1f} ms of rank 0 (measured to {error * 1e3:.1f} ms)")


def probe_all_reduce(context: Context) -> dict[str, float]:
    """Latency of a small all-reduce in seconds, and bytes per second that each rank sends in a large one."""
    world = context.world
    small = torch.zeros(8, device=world.device)
    large = torch.zeros((256 if context.on_gpu else 16) * 2**18, device=world.device)
    latency = _all_reduce_seconds(context, small, 20)
    seconds = _all_reduce_seconds(context, large, 5)
    return {"latency": latency, "bandwidth": 2 * (world.size - 1) / world.size * large.numel() * 4 / seconds}


def _all_reduce_seconds(context: Context, tensor: torch.Tensor, times: int) -> float:
    """The mean of `times` all-reduces, in the fastest of three series."""
    fastest = float("inf")
    for _ in range(3):
        context.world.barrier()
        start = time.perf_counter()
        for _ in range(times):
            context.world.all_reduce(tensor)
        float(tensor[0])  # waits for the device
        fastest = min(fastest, (time.perf_counter() - start) / times)
    return fastest


def judge_all_reduce(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """Bandwidth against the links of the device table; that of gloo on CPUs is only reported."""
    latency = max(answer.value["latency"] for answer in answers)
    slowest = min(answers, key=lambda answer: answer.value["bandwidth"])
    bandwidth = slowest.value["bandwidth"] / 1e9
    message = f"{bandwidth:.2f} GB/s a rank, {latency * 1e6:.0f} us"
    if not context.on_gpu:
        return passed(f"{message} (gloo)")
    device = recognize_device(torch.cuda.get_device_name(context.world.device))
    if device is None:
        return passed(f"{message}; the links of this device are not in the table")
    one_host = len(by_host(answers)) == 1
    expected = _LINK_EFFICIENCY * (device.intra_node if one_host else min(device.intra_node, device.inter_node))
    share = bandwidth / expected
    message += f", slowest {name_ranks([slowest])}: {share:.0%} of the {expected:.0f} GB/s expected"
    if share >= _GOOD_BANDWIDTH and latency <= _MAX_LATENCY:
        return passed(message)
    remedy = "see whether NCCL uses the fast adapters (NCCL_DEBUG=INFO: NET/IB and not NET/Socket; NCCL_IB_HCA)"
    if one_host:
        remedy = "see nvidia-smi topo -m and NCCL_P2P_DISABLE; give a container enough /dev/shm"
    return (failed if share < _MIN_BANDWIDTH else warned)(message, remedy)


def probe_wandb(context: Context) -> dict[str, Any]:
    """Connect to the W&B server, on rank 0 alone, which is the only one to sync."""
    mode = requested_mode(context.config.metrics if context.config is not None else MetricsConfig())
    if not context.world.is_main or mode in ("disabled", "offline"):
        return {"mode": mode, "server": None}
    address, error = server(), None
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=_WANDB_SECONDS).close()
    except OSError as caught:
        error = str(caught)
    return {"mode": mode, "server": address.geturl(), "error": error, "logged_in": is_logged_in()}


def judge_wandb(answers: Sequence[Answer], context: Context) -> list[CheckResult]:
    """Red only where the config requires the server; otherwise a run continues without it."""
    seen = answers[0].value
    if seen["server"] is None:
        return passed(f"not used: metrics.wandb={seen['mode']}")
    found = failed if seen["mode"] == "online" else warned
    if seen["error"]:
        remedy = "type metrics.wandb=offline; metrics.jsonl holds everything, and can be synced later"
        return found(f"{seen['server']} is unreachable: {seen['error']}", remedy)
    if not seen["logged_in"]:
        remedy = "wandb login, or export WANDB_API_KEY; without it a run logs offline"
        return found(f"{seen['server']} answers, but there is no login on this host", remedy)
    return passed(f"{seen['server']} answers, logged in")


CHECKS = (
    Check(name="names and ports", probe=probe_names, judge=judge_names, timeout=15),
    Check(name="firewall", probe=probe_ports, judge=judge_ports, timeout=30, collective=True, min_ranks=2),
    Check(name="clocks", probe=probe_clock, judge=judge_clock, collective=True, min_ranks=2),
    Check(name="all-reduce", probe=probe_all_reduce, judge=judge_all_reduce, timeout=60, collective=True, min_ranks=2),
    Check(name="W&B", probe=probe_wandb, judge=judge_wandb),
)
