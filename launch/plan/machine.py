"""The machines that a plan is for: how many, what they hold, and how their devices reach each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

from launch.plan.devices import GB, Device, find_device

DECODED_A_CORE = 76.0
"""Clips a second that one core decodes, crops and hands over from shards as `videomae.shards build` makes them.

From the repository's own benchmark (`python -m videomae.shards bench`), on a 2-core server; measure your own there.
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


def machine(
    *,
    nodes: int,
    gpus: int,
    device: str,
    cores: float | None = None,
    inside: float | None = None,
    outside: float | None = None,
    disk: float = 2.0,
    decoded_a_core: float | None = None,
) -> Machine:
    """Machines of the table's kind, but for what is given: `cores` a node; links and disk in GB/s.

    `outside` is of one device, as in the table; `disk` of one node.

    Raises:
        ValueError: a number is not positive, or the device is unknown.
    """
    kind = find_device(device)
    given = {"nodes": nodes, "gpus": gpus, "cores": cores, "inside": inside, "outside": outside, "disk": disk}
    given["clips-a-core"] = decoded_a_core
    for name, value in given.items():
        if value is not None and value <= 0:
            raise ValueError(f"--{name} must be more than 0, got {value:g}")
    return Machine(
        nodes=nodes,
        gpus=gpus,
        device=kind,
        cores=cores or kind.cores * gpus,
        inside=(inside or kind.inside) * GB,
        outside=(outside or kind.outside) * GB * gpus,
        disk=disk * GB,
        decoded_a_core=decoded_a_core or DECODED_A_CORE,
    )
