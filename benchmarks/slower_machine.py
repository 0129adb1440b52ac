"""How long a command takes on a slower machine: `python -m benchmarks.slower_machine "make demo" --gflops 56 [--json]`.

A real-time thread on every core takes the same part of every 5 ms from everything else: as much as leaves the given
GFLOP/s of a product of matrices in fp32 on all cores together. PyTorch is told to use no AVX-512. It needs root.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean

from videomae.command import guarded
from videomae.core.errors import UserError

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
_PERIOD = 0.005  # seconds
_CORRECTIONS = 3  # of the share that is taken
_PRODUCT = """
import statistics, time, torch
a, seconds = torch.rand(2048, 2048), []
for _ in range(17):
    began = time.perf_counter()
    a @ a
    seconds.append(time.perf_counter() - began)
print(2 * 2048**3 / statistics.median(seconds[2:]) / 1e9)
"""


def gflops() -> float:
    """GFLOP/s of a matrix product in fp32 on all cores, without AVX-512, median of 15."""
    command = [sys.executable, "-c", _PRODUCT]
    return float(subprocess.run(command, env={**os.environ, **AVX2}, check=True, capture_output=True).stdout)


@contextmanager
def slowed(share: float) -> Iterator[None]:
    """Take `share` of the time of every core while the context is open, at the same moments on all cores.

    Raises:
        UserError: this user may start no real-time threads.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except PermissionError:
        raise UserError("real-time threads need root, or the capability CAP_SYS_NICE") from None
    fresh = multiprocessing.get_context("spawn")
    takers = [fresh.Process(target=_take, args=(share, core), daemon=True) for core in os.sched_getaffinity(0)]
    for taker in takers:
        taker.start()
    try:
        yield
    finally:
        for taker in takers:
            taker.kill()
            taker.join()


def _take(share: float, core: int) -> None:
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    parent = os.getppid()
    while os.getppid() == parent:  # which may be killed
        start = time.monotonic() // _PERIOD * _PERIOD
        while time.monotonic() < start + share * _PERIOD:
            pass
        time.sleep(max(0.0, start + _PERIOD - time.monotonic()))


def share_for(wanted: float) -> float:
    """The share of the cores' time to take so that `wanted` GFLOP/s remain.

    Raises:
        UserError: this machine has no more than that.
    """
    whole = gflops()
    if wanted >= whole:
        raise UserError(f"--gflops: got {wanted:g}, wanted less than the {whole:.0f} of this machine without AVX-512")
    share = 1 - wanted / whole
    for _ in range(_CORRECTIONS):
        with slowed(share):
            time.sleep(1)  # until the threads run
            left = gflops()
        share = 1 - (1 - share) * wanted / left
    return share


def measure(command: Sequence[str], wanted: float) -> dict[str, float]:
    """Run the command with `wanted` GFLOP/s: its seconds, the GFLOP/s that were left, and the share that was taken.

    Raises:
        UserError: the command failed, or the machine cannot be made so slow.
    """
    share, left = share_for(wanted), []
    with slowed(share):
        time.sleep(1)
        left.append(gflops())
        began = time.monotonic()
        code = subprocess.run(command, env={**os.environ, **AVX2}, stdout=sys.stderr).returncode
        seconds = time.monotonic() - began
        left.append(gflops())
    if code:
        raise UserError(f"{shlex.join(command)} ended with exit code {code}")
    return {"seconds": round(seconds, 1), "gflops": round(mean(left), 1), "taken": round(share, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slower_machine")
    parser.add_argument("--gflops", type=float, required=True, help="of a matrix product in fp32, on all cores")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, alone")
    parser.add_argument("command", help="in quotation marks")
    given = parser.parse_args()
    return guarded(lambda: _report(measure(shlex.split(given.command), given.gflops), as_json=given.json))


def _report(figures: dict[str, float], *, as_json: bool) -> None:
    line = "{seconds} s on {gflops} GFLOP/s, with {taken:.0%} of every core taken".format(**figures)
    sys.stdout.write((json.dumps(figures) if as_json else line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
