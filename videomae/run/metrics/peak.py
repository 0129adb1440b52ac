"""Peak FLOP/s of a device, the reference of the MFU.

GPUs are in a table with the vendors' figures for dense matrix products. On a CPU a matrix product is timed. An unknown
device has no peak, and a run on it no MFU, unless metrics.peak_tflops gives one.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import torch

from videomae.core.progress import logger

_MATRIX_SIZE = 512  # of the matrix product timed on a CPU
_SECONDS = 0.05  # at least, and at least three products


@dataclass(frozen=True)
class PeakFlops:
    """Peak of one device in 1e12 FLOP/s (two per multiply-add), None if unknown, and its source."""

    tflops: float | None
    source: str


@dataclass(frozen=True)
class _Device:
    """TFLOPS for dense matrices: bf16 on tensor cores (fp16 where there is no bf16), TF32, and plain fp32."""

    half: float
    tf32: float | None
    fp32: float
    source: str


# The first key that occurs as a word in the CUDA device name is used.
_DEVICES = {
    "GB200": _Device(2500.0, 1250.0, 80.0, "NVIDIA GB200 NVL72 data sheet"),
    "B200": _Device(2250.0, 1100.0, 75.0, "NVIDIA HGX B200 data sheet"),
    "GH200": _Device(989.5, 494.7, 67.0, "NVIDIA GH200 data sheet"),
    "H200": _Device(989.5, 494.7, 67.0, "NVIDIA H200 data sheet"),
    "H100 PCIe": _Device(756.5, 378.0, 51.0, "NVIDIA H100 data sheet"),
    "H100 NVL": _Device(835.5, 417.5, 60.0, "NVIDIA H100 data sheet"),
    "H100": _Device(989.5, 494.7, 67.0, "NVIDIA H100 data sheet"),
    "H20": _Device(148.0, 74.0, 44.0, "NVIDIA H20 data sheet"),
    "A100": _Device(312.0, 156.0, 19.5, "NVIDIA A100 data sheet"),
    "A800": _Device(312.0, 156.0, 19.5, "NVIDIA A800 data sheet"),
    "A40": _Device(149.7, 74.8, 37.4, "NVIDIA A40 data sheet"),
    "A30": _Device(165.0, 82.0, 10.3, "NVIDIA A30 data sheet"),
    "A10G": _Device(70.0, 35.0, 31.5, "NVIDIA A10G data sheet"),
    "A10": _Device(125.0, 62.5, 31.2, "NVIDIA A10 data sheet"),
    "RTX A6000": _Device(154.8, 77.4, 38.7, "NVIDIA RTX A6000 data sheet"),
    "L40S": _Device(362.0, 183.0, 91.6, "NVIDIA L40S data sheet"),
    "L40": _Device(181.0, 90.5, 90.5, "NVIDIA L40 data sheet"),
    "L4": _Device(121.0, 60.0, 30.3, "NVIDIA L4 data sheet"),
    "V100": _Device(125.0, None, 15.7, "NVIDIA V100 data sheet (fp16)"),
    "T4": _Device(65.0, None, 8.1, "NVIDIA T4 data sheet (fp16)"),
    "RTX 4090": _Device(165.2, 82.6, 82.6, "NVIDIA Ada architecture paper"),
    "RTX 3090": _Device(71.0, 35.6, 35.6, "NVIDIA Ampere GA102 paper"),
    "MI300X": _Device(1307.4, 653.7, 163.4, "AMD MI300X data sheet"),
    "MI250X": _Device(191.5, None, 47.9, "AMD MI250X data sheet, one die of two"),
}


def peak_of(device: torch.device, *, precision: str, given: float | None = None) -> PeakFlops:
    """The peak of `device` in `precision` (fp32, bf16 or fp16); `given` overrides it."""
    if given is not None:
        return PeakFlops(given, "metrics.peak_tflops")
    if device.type == "cpu":
        return PeakFlops(
            _measure(torch.bfloat16 if precision == "bf16" else torch.float32), "a matrix product timed on this machine"
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    known = lookup(name, precision=precision, tf32=torch.get_float32_matmul_precision() != "highest")
    if known.tflops is None:
        logger.info("no peak FLOP/s known for %s, so no MFU; set metrics.peak_tflops=...", name)
    return known


def lookup(name: str, *, precision: str, tf32: bool) -> PeakFlops:
    """The table's peak for a CUDA device name."""
    for part, device in _DEVICES.items():
        if re.search(rf"\b{part}\b", name) and "Laptop" not in name:
            if precision != "fp32":
                return PeakFlops(device.half, device.source)
            return PeakFlops(device.tf32 if tf32 and device.tf32 else device.fp32, device.source)
    return PeakFlops(None, f"{name} is not in the table")


def _measure(dtype: torch.dtype) -> float:
    """The fastest of several products of two square matrices, with the run's threads; uses no random numbers."""
    left = torch.full((_MATRIX_SIZE, _MATRIX_SIZE), 1.5, dtype=dtype)
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < _SECONDS:
        start = time.perf_counter()
        torch.mm(left, left)
        seconds.append(time.perf_counter() - start)
    return 2 * _MATRIX_SIZE**3 / min(seconds) / 1e12
