"""The devices that a plan can be made for, and the machines they stand in.

Owns the table of peak rates. Figures are the makers' for dense arithmetic (without sparsity), in units that the field
uses: TFLOP/s counts a multiply-add as two. Links are of one direction of one device. `cores` are physical cores a
device of the maker's own eight-device machine, the figure that bounds decoding.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
GB = 1e9
TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class Device:
    """One kind of device, in the machine that its maker sells it in."""

    name: str
    fp32: float  # TFLOP/s in float32 without tensor cores, which PyTorch does by default
    bf16: float | None  # TFLOP/s; None: the device has no bfloat16 unit
    fp16: float  # TFLOP/s
    memory: float  # GB (1e9 bytes)
    bandwidth: float  # GB/s of its memory
    inside: float  # GB/s to the other devices of its machine
    outside: float  # GB/s to other machines, its share of the machine's adapters
    cores: float  # of the host, for each device
    source: str

    def peak(self, precision: Precision) -> float:
        """Multiply-adds x 2 a second at `precision`.

        Raises:
            ValueError: the device does not compute in it.
        """
        rate = {"fp32": self.fp32, "bf16": self.bf16, "fp16": self.fp16}[precision]
        if rate is None:
            raise ValueError(f"{self.name} has no {precision}; type engine.precision=fp16, or fp32")
        return rate * TERA


_TABLE = (
    Device(
        name="v100",
        fp32=15.7,
        bf16=None,
        fp16=125.0,
        memory=32,
        bandwidth=900,
        inside=150,
        outside=6.25,
        cores=5,
        source="NVIDIA V100 data sheet (SXM2 32GB); DGX-1: 40 cores, 4 x 100 Gb/s",
    ),
    Device(
        name="a100",
        fp32=19.5,
        bf16=312,
        fp16=312,
        memory=80,
        bandwidth=2039,
        inside=300,
        outside=25,
        cores=16,
        source="NVIDIA A100 data sheet (SXM 80GB); DGX A100: 128 cores, 8 x 200 Gb/s",
    ),
    Device(
        name="h100",
        fp32=67,
        bf16=989,
        fp16=989,
        memory=80,
        bandwidth=3350,
        inside=450,
        outside=50,
        cores=14,
        source="NVIDIA H100 data sheet (SXM); DGX H100: 112 cores, 8 x 400 Gb/s",
    ),
    Device(
        name="h200",
        fp32=67,
        bf16=989,
        fp16=989,
        memory=141,
        bandwidth=4800,
        inside=450,
        outside=50,
        cores=14,
        source="NVIDIA H200 data sheet (SXM); DGX H200: 112 cores, 8 x 400 Gb/s",
    ),
    Device(
        name="b200",
        fp32=75,
        bf16=2250,
        fp16=2250,
        memory=180,
        bandwidth=7700,
        inside=900,
        outside=50,
        cores=14,
        source="NVIDIA DGX B200 data sheet: 112 cores, 8 x 400 Gb/s",
    ),
    Device(
        name="l40s",
        fp32=91.6,
        bf16=362,
        fp16=362,
        memory=48,
        bandwidth=864,
        inside=25,
        outside=12.5,
        cores=8,
        source="NVIDIA L40S data sheet; PCIe 4.0 x16, machines with 64 cores and 8 x 100 Gb/s assumed",
    ),
    Device(
        name="cpu",
        fp32=0.12,
        bf16=0.25,
        fp16=0.12,
        memory=24,
        bandwidth=20,
        inside=2,
        outside=1.25,
        cores=1,
        source="one core of a server with AVX-512 and AMX, measured with the steps of this repository",
    ),
)
DEVICES: dict[str, Device] = {device.name: device for device in _TABLE}


def find_device(name: str) -> Device:
    """The device called `name`, in any case.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    device = DEVICES.get(name.lower())
    if device is None:
        near = difflib.get_close_matches(name.lower(), DEVICES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"no device is called {name!r}; {hint}there are {', '.join(DEVICES)}")
    return device


def recognise(name: str) -> Device | None:
    """The device of the table that a driver's name such as "NVIDIA H100 80GB HBM3" speaks of, or None."""
    words = name.lower().replace("-", " ").split()
    return next((device for device in _TABLE if device.name in words), None)
