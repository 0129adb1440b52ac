"""The machines that a plan is for: how many, what they hold, and how their devices reach each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

from launch.plan.devices import GB, Device, find_device

DECODED_A_CORE = 140.0
"""Clips a second that one core decodes, crops and hands over from shards as `videomae.data.shards build` makes them.

From the repository's own benchmark (`python -m benchmarks.loading`), on a 2-core server; measure your own there.
"""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`nodes` machines of `gpus` devices each. Rates are of one direction, in bytes a second."""

    nodes: int
    gpus: int
    device: Device
    cores: float  # of one node
    inside: float  # between devices of a node, of one device
    outside: float  # between nodes, of one node
    disk: float  # of one node to the file system with shards and checkpoints, or to its own cache of shards
    decoded_a_core: float = DECODED_A_CORE

    @property
    def size(self) -> int:
        """Devices in all, one process each."""
        return self.nodes * self.gpus

    def with_nodes(self, nodes: int) -> Machine:
        """The same with another number of machines."""
        return replace(self, nodes=nodes)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person says of the machines; None takes the device table's. Links and disk in GB/s."""

    nodes: int
    gpus: int  # a node
    device: str
    cores: float | None = None  # a node
    inside: float | None = None  # of one device
    outside: float | None = None  # of one device
    disk: float = 2.0  # of one node
    decoded_a_core: float | None = None


def resolve(request: Request) -> Machine:
    """The machines of a request.

    Raises:
        ValueError: a number is not positive, or the device is unknown.
    """
    kind = find_device(request.device)
    for name in ("nodes", "gpus", "cores", "inside", "outside", "disk", "decoded_a_core"):
        value = getattr(request, name)
        if value is not None and value <= 0:
            typed = {"decoded_a_core": "clips-a-core"}.get(name, name)
            raise ValueError(f"--{typed} must be more than 0, got {value:g}")
    return Machine(
        nodes=request.nodes,
        gpus=request.gpus,
        device=kind,
        cores=request.cores or kind.cores * request.gpus,
        inside=(request.inside or kind.inside) * GB,
        outside=(request.outside or kind.outside) * GB * request.gpus,
        disk=request.disk * GB,
        decoded_a_core=request.decoded_a_core or DECODED_A_CORE,
    )
