"""How long a step takes, and what bounds it.

One model for all devices, sizes and runs (a roofline of every operator, Williams et al. 2009): a kernel takes the
larger of its arithmetic at a share of the peak rate and its bytes at a share of the memory's rate, and no kernel starts
sooner than the host can launch it. The three constants below are all that it has; none is chosen for a run.
`python -m launch.plan --published` holds it against published runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from launch.plan.devices import GB, Device, Precision
from launch.plan.machine import Machine
from launch.plan.trace import Operator, Trace
from launch.plan.traffic import Traffic, clips_a_core

ARITHMETIC = 0.6  # of the peak rate that large matrix products reach
MEMORY = 0.7  # of the memory's rate that element-wise kernels reach
LAUNCH = 1e-5  # seconds of the host for each kernel, forward and backward, without compilation
FUSED = 0.5  # of element-wise bytes and of launches that compiling blocks leaves
OPTIMIZER_BYTES = 28  # read and written for each value that AdamW updates in float32
SNAPSHOT = 10 * GB  # bytes a second from a device to its host

Bound = Literal["compute", "latency", "network", "data"]


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step. The loader works beside the device; what the network takes is added."""

    compute: float  # the device's kernels, or their launching where that is slower
    launching: float  # the host's share of that, if it were alone
    network: float  # what of it nothing hides
    decoding: float  # the cores' time
    reading: float  # from the shards

    @property
    def data(self) -> float:
        return max(self.decoding, self.reading)

    @property
    def total(self) -> float:
        return max(self.compute + self.network, self.data)

    @property
    def bound(self) -> Bound:
        """What to make faster first."""
        if self.data > self.compute + self.network:
            return "data"
        if self.network > self.compute:
            return "network"
        return "latency" if self.launching >= self.compute else "compute"


def device_seconds(trace: Trace, device: Device, precision: Precision, *, compiled: bool = False) -> float:
    """Seconds of a pass's kernels on the device, if the host is never late."""
    return sum(
        count * _kernel_seconds(operator, device, precision, compiled=compiled) for operator, count in trace.operators
    )


def _kernel_seconds(operator: Operator, device: Device, precision: Precision, *, compiled: bool) -> float:
    half: Precision = precision if precision != "fp32" else "bf16"
    arithmetic = operator.flops / (device.peak(half if operator.half else "fp32") * ARITHMETIC) if operator.flops else 0
    fused = FUSED if compiled and not operator.flops else 1.0
    return max(arithmetic, fused * operator.bytes / (device.bandwidth * GB * MEMORY))


def launching_seconds(trace: Trace, *, compiled: bool = False) -> float:
    """Seconds that the host needs to launch a pass's kernels."""
    return trace.kernels * LAUNCH * (FUSED if compiled else 1.0)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What a device does in a step: `micro_batches` traced passes and one update of `updated` values."""

    trace: Trace
    micro_batches: int
    updated: float
    precision: Precision
    compiled: bool = False
    overlapped: bool = False  # the network works while gradients are made


def step_time(
    work: Pass, machine: Machine, network: Traffic, *, clips: int, repeats: int, bytes_a_clip: float
) -> StepTime:
    """The step of a device with `clips` clips, all of `machine` sharing its cores and its file system."""
    device = machine.device
    on_device = work.micro_batches * device_seconds(work.trace, device, work.precision, compiled=work.compiled)
    on_device += OPTIMIZER_BYTES * work.updated / (device.bandwidth * GB * MEMORY)
    launching = (
        0.0 if device.name == "cpu" else work.micro_batches * launching_seconds(work.trace, compiled=work.compiled)
    )
    compute = max(on_device, launching)
    hidden = 0.5 * compute if work.overlapped else 0.0  # two thirds of a pass is backward; most of that hides it
    return StepTime(
        compute=compute,
        launching=launching,
        network=max(0.0, network.seconds - hidden),
        decoding=clips * machine.gpus / (machine.cores * clips_a_core(machine, repeats)),
        reading=clips * machine.gpus * bytes_a_clip / machine.disk,
    )
