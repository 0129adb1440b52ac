"""The same batch on more and more machines, and the point where adding them stops paying."""

from __future__ import annotations

from dataclasses import dataclass

from launch.plan.estimate import estimate_step
from launch.plan.machine import Machine
from launch.plan.timing import Bound
from launch.plan.workload import Data, Workload

MOST_NODES = 1024
PAYS = 0.75  # of what was added must arrive as speed


@dataclass(frozen=True, kw_only=True)
class Point:
    """The run on `nodes` machines."""

    nodes: int
    gpus: int
    clips: int  # a step on each device
    seconds: float  # a step
    speed: float  # clips a second, all devices
    efficiency: float  # speed a device, relative to the first point
    gained: float  # of the machines added since the point before, the share that arrived as speed; 1 at the first
    bound: Bound


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points by ascending number of machines."""

    points: tuple[Point, ...]
    pays_until: int  # nodes


def scaling(workload: Workload, data: Data, machine: Machine) -> Curve:
    """Points for 1, 2, 4, ... machines and for the number asked for, as far as the batch can be cut."""
    config = workload.config
    counts = sorted({2**power for power in range(MOST_NODES.bit_length())} | {machine.nodes})
    unit = machine.gpus * config.data.repeats
    counts = [nodes for nodes in counts if config.batch % (nodes * unit) == 0] or [machine.nodes]
    points: list[Point] = []
    for nodes in counts:
        points.append(_point(workload, data, machine.with_nodes(nodes), points))
    worth = points[0].nodes
    for point in points[1:]:
        if point.gained < PAYS:
            break
        worth = point.nodes
    return Curve(points=tuple(points), pays_until=worth)


def _point(workload: Workload, data: Data, machine: Machine, before: list[Point]) -> Point:
    step = estimate_step(workload, data, machine)
    speed = step.split.batch / step.time.total
    efficiency, gained = 1.0, 1.0
    if before:
        first, last = before[0], before[-1]
        efficiency = speed / first.speed * first.gpus / machine.size
        gained = (speed - last.speed) / last.speed / (machine.size / last.gpus - 1)
    return Point(
        nodes=machine.nodes,
        gpus=machine.size,
        clips=step.split.clips,
        seconds=step.time.total,
        speed=speed,
        efficiency=efficiency,
        gained=gained,
        bound=step.time.bound,
    )
