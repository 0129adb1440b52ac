"""A plan as terminal tables, and warnings with the words to type."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.plan.devices import GB
from launch.plan.estimate import DEFAULT_VIDEO, RunPlan
from launch.plan.memory import DeviceMemory
from launch.plan.model import Config

_USABLE = 0.92  # share of the device's memory that a plan may fill


def find_warnings(config: Config, plan: RunPlan) -> list[str]:
    """What is wrong with the plan, and what to do: the model does not fit, or decoding or drawing is too slow."""
    machines, device, found = plan.machines, plan.machines.device, []
    if not fits(plan.chosen, plan):
        found.append(
            f"the run needs {plan.chosen.peak / GB:.1f} GB of the {device.memory:g} GB of {device.name}; type a "
            "smaller engine.micro_batch, take a row of the table that fits (engine.zero_stage, "
            "engine.activation_checkpointing), or larger or more devices"
        )
    needed = max(1, -(-int(plan.load_cores) // machines.gpus))
    if plan.load_cores > machines.node_cores:
        remedy = "draw smaller clips (encoder.size) or simpler ones (objects, textures), or take more cores"
        if plan.loading == "decoding":
            remedy = "raise data.repeated_aug to decode each video less often, build smaller frames (--short-side 256 "
            remedy += "--fps 15), or type the speed that `python -m benchmarks.loading` measures as --clips-per-core"
        found.append(
            f"{plan.loading} needs {plan.load_cores:.0f} cores per node, a node has {machines.node_cores:g}: the "
            f"devices wait {1 - machines.node_cores / plan.load_cores:.0%} of the time; {remedy}"
        )
    elif config.loader.workers < needed:
        found.append(
            f"loader.workers={config.loader.workers} cannot feed a device: {plan.loading} needs {needed} cores per "
            f"device; type loader.workers={needed}"
        )
    return found


def fits(row: DeviceMemory, plan: RunPlan) -> bool:
    """Whether the peak leaves room on the device."""
    return row.peak <= _USABLE * plan.machines.device.memory * GB


def plan_to_dict(plan: RunPlan, warnings: Sequence[str]) -> dict[str, Any]:
    """Everything that a plan says, for JSON."""
    values = dataclasses.asdict(plan)
    for row, entry in zip((*plan.memory, plan.chosen), (*values["memory"], values["chosen"]), strict=True):
        entry.update(between_steps=row.between_steps, peak=row.peak)
    derived = {name: getattr(plan, name) for name in ("step_seconds", "bound", "load_cores", "hours")}
    return {**values, **derived, "warnings": list(warnings)}


def plan_page(plan: RunPlan, warnings: Sequence[str]) -> RenderableType:
    """The whole plan, warnings last."""
    lines = [Text.assemble(("warning: ", "yellow"), warning) for warning in warnings]
    return Group(_summary(plan), _memory_table(plan), *lines)


def _summary(plan: RunPlan) -> Table:
    machines = plan.machines
    title = f"{machines.nodes} x {machines.gpus} {machines.device.name}"
    table = Table(title=title, title_justify="left", show_header=False)
    trained = plan.trained_parameters
    frozen = "" if trained == plan.parameters else f", {trained / 1e6:.2f} M trained"
    epoch = f", {plan.epoch_bytes / GB:.1f} GB an epoch" if plan.epoch_bytes else ""
    assumed = f" ({DEFAULT_VIDEO / 1e3:.0f} kB a video assumed: no manifest)" if plan.data_error else ""
    rate = plan.step_bytes / plan.step_seconds / 1e6
    read = f"{plan.step_bytes / 1e6:.1f} MB a step, {rate:.0f} MB/s{epoch}{assumed}"
    per_clip = plan.flops / plan.batch / 1e9
    speed = plan.batch / plan.step_seconds
    rows = {
        "parameters": f"{plan.parameters / 1e6:.2f} M{frozen}",
        "batch": f"{plan.batch} = {machines.world_size} devices x {plan.micro_batches} x {plan.micro_batch} clips",
        "FLOPs": f"{plan.flops / 1e12:.2f} TFLOP a step, {per_clip:.1f} GFLOP a clip, forward and backward",
        "MFU": f"{plan.mfu.value:.1%} ({plan.mfu.source})",
        "step": f"{plan.step_seconds:.3f} s, bound by {plan.bound}: compute {plan.compute_seconds:.3f} s, "
        f"{plan.loading} {plan.load_seconds:.3f} s",
        "speed": f"{speed:.0f} clips/s, {speed / machines.world_size:.1f} a device",
        plan.loading: f"{plan.load_cores:.1f} cores a node to keep up with the devices; a node has "
        f"{machines.node_cores:g}",
        "run": _length(plan),
        "data": read if plan.step_bytes else "nothing is read: all clips are drawn",
        "checkpoint": f"{plan.checkpoint_bytes / GB:.2f} GB",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _length(plan: RunPlan) -> str:
    if plan.hours is None:
        return f"length unknown ({plan.data_error}); type --samples NUMBER, the videos of the training split"
    epochs = "" if plan.epochs is None else f", {plan.epochs:.1f} epochs"
    return f"{plan.steps} steps{epochs}: {plan.hours:.2f} h, {plan.hours * plan.machines.world_size:.1f} GPU hours"


def _memory_table(plan: RunPlan) -> Table:
    title = f"GB on each device, of {plan.machines.device.memory:g} (micro-batch {plan.micro_batch})"
    table = Table(title=title, title_justify="left")
    table.add_column("ZeRO, checkpointing")
    for column in ("parameters", "gradients", "optimizer", "buffers", "activations", "overhead", "peak", ""):
        table.add_column(column, justify="right")
    for row in plan.memory:
        parts = (row.parameters, row.gradients, row.optimizer, row.zero_buffers, row.activations, row.overhead)
        state = "fits" if fits(row, plan) else "too large"
        chosen = row == plan.chosen
        table.add_row(
            f"{row.stage}, {'on' if row.checkpointing else 'off'}",
            *(f"{part / GB:.2f}" for part in (*parts, row.peak)),
            state + " *" * chosen,
            style="bold" if chosen else "",
        )
    return table
