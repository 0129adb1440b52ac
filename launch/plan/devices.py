"""Accelerators and the machines that hold them: memory, links, CPU cores and the assumed or measured speed.

Peak rates come from `videomae.run.metrics.peak`, so that the MFU here and the MFU of a run's metrics have one meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic
import pydantic.dataclasses
import torch

from videomae.core.errors import UserError
from videomae.run.metrics.peak import lookup, peak_of

Precision = Literal["fp32", "bf16", "fp16"]
GB = 1e9
ASSUMED_MFU = 0.35
CLIPS_PER_CORE = 140.0
"""Clips per second that one core decodes and crops from shards as `videomae shards build` writes them.

Measured by `python -m benchmarks.loading` on a 2-core server.
"""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One kind of device. Links are per device and direction; `cores` are physical host cores per device."""

    name: str
    memory: float  # GB (1e9 bytes)
    intra_node: float  # GB/s to the other devices of the node
    inter_node: float  # GB/s to other nodes: its share of the node's network adapters
    cores: float
    bf16: bool = True

    def peak_flops(self, precision: Precision) -> float:
        """Dense peak rate in FLOP/s (a multiply-add is two); that of this machine's CPU is measured.

        Raises:
            UserError: the device has no arithmetic units for `precision`.
        """
        if precision == "bf16" and not self.bf16:
            raise UserError(f"{self.name} has no bf16; type engine.precision=fp16, or fp32")
        if self.name == "cpu":
            peak = peak_of(torch.device("cpu"), precision=precision)
        else:
            peak = lookup(self.name.upper(), precision=precision, tf32=False)
        assert peak.tflops is not None, f"{self.name} is missing from the table of peak rates"
        return peak.tflops * 1e12


# NVIDIA's data sheets of DGX-1, DGX A100, DGX H100, DGX H200 and DGX B200; PCIe 4.0 servers with 64 cores for L40S.
_TABLE = (
    Device(name="v100", memory=32, intra_node=150, inter_node=6.25, cores=5, bf16=False),
    Device(name="a100", memory=80, intra_node=300, inter_node=25, cores=16),
    Device(name="h100", memory=80, intra_node=450, inter_node=50, cores=14),
    Device(name="h200", memory=141, intra_node=450, inter_node=50, cores=14),
    Device(name="b200", memory=180, intra_node=900, inter_node=50, cores=14),
    Device(name="l40s", memory=48, intra_node=25, inter_node=12.5, cores=8),
    Device(name="cpu", memory=24, intra_node=2, inter_node=1.25, cores=1),
)
DEVICES: dict[str, Device] = {device.name: device for device in _TABLE}


def recognize_device(name: str) -> Device | None:
    """The table's device for a driver's device name such as "NVIDIA H100 80GB HBM3", or None."""
    words = name.lower().replace("-", " ").split()
    return next((device for device in _TABLE if device.name in words), None)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The nodes of a planned run."""

    nodes: int
    gpus: int  # devices per node, one process each
    device: Device
    cores: float | None = None  # per node; None: those of the vendor's own machine
    clips_per_core: float | None = None  # decoded or drawn per second; None: `CLIPS_PER_CORE`, or drawing measured here

    @property
    def world_size(self) -> int:
        return self.nodes * self.gpus

    @property
    def node_cores(self) -> float:
        return self.cores or self.device.cores * self.gpus


@dataclass(frozen=True)
class Mfu:
    """Model FLOPs utilization, a share of the peak rate, and where the figure comes from."""

    value: float
    source: str


@pydantic.dataclasses.dataclass(frozen=True)
class Measurement:
    """What the step benchmark measured; other keys of the file are ignored."""

    device: str  # as the driver calls it
    model: str  # size of the encoder, or name of the classifier
    mfu: float | None = pydantic.Field(gt=0, le=1)  # None: the peak of the device is unknown
    precision: Precision | None = None  # None: any


def choose_mfu(
    device: Device,
    model: str,
    *,
    precision: Precision = "bf16",
    given: float | None = None,
    measured: Path | None = None,
) -> Mfu:
    """`given`, else the best measurement of `model` on `device` in the JSON file `measured`, else `ASSUMED_MFU`.

    The file is what `python -m benchmarks.step --json` prints, or holds one object
    `{"device": "NVIDIA H200", "model": "base", "mfu": 0.4}`, or a list of them.

    Raises:
        UserError: the file is missing or malformed.
    """
    if given is not None:
        return Mfu(given, "given by --mfu")
    if measured is None:
        return Mfu(ASSUMED_MFU, "assumed, small models reach less; type --mfu or --measured FILE")
    found = [
        row.mfu
        for row in _read_measurements(measured)
        if row.mfu is not None and (row.model, recognize_device(row.device)) == (model, device)
        if row.precision in (None, precision)
    ]
    if not found:
        return Mfu(ASSUMED_MFU, f"assumed; {measured} has no measurement of {model} on {device.name} in {precision}")
    return Mfu(max(found), f"measured: {measured}")


def _read_measurements(file: Path) -> list[Measurement]:
    wanted = 'wanted {"device": "NVIDIA H200", "model": "base", "mfu": 0.4} or a list of such objects'
    try:
        found = pydantic.TypeAdapter(Measurement | list[Measurement]).validate_json(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"no file {file}; {wanted}") from None
    except pydantic.ValidationError as error:
        raise UserError(f"{file}: {error.errors()[0]['msg']}; {wanted}") from None
    return found if isinstance(found, list) else [found]
