"""A plan as terminal tables, and warnings with the words to type."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.plan.devices import GB
from launch.plan.estimate import DEFAULT_VIDEO, RunPlan
from launch.plan.memory import DeviceMemory, estimate_memory
from launch.plan.model import Config, ModelProfile

_USABLE = 0.92  # share of the device's memory that a plan may fill
_MIN_CLIPS = 4  # smallest micro-batch that is advised before checkpointing


@dataclass(frozen=True)
class PlanWarning:
    """A problem of the plan, and what to type."""

    problem: str
    remedy: str


def find_warnings(profile: ModelProfile, plan: RunPlan) -> list[PlanWarning]:
    """Problems of the plan: the model does not fit, or decoding or drawing is too slow."""
    found = (_memory_warning(profile, plan), _loading_warning(profile.config, plan))
    return [warning for warning in found if warning is not None]


def fits(row: DeviceMemory, plan: RunPlan) -> bool:
    """Whether the peak leaves room on the device."""
    return row.peak <= _USABLE * plan.machines.device.memory * GB


def plan_to_dict(plan: RunPlan, warnings: Sequence[PlanWarning]) -> dict[str, Any]:
    """Everything that a plan says, for JSON."""
    values = dataclasses.asdict(plan)
    for row, entry in zip((*plan.memory, plan.chosen), (*values["memory"], values["chosen"]), strict=True):
        entry.update(between_steps=row.between_steps, peak=row.peak)
    values["step"].update(seconds=plan.step.seconds, bound=plan.step.bound)
    return {**values, "warnings": [dataclasses.asdict(warning) for warning in warnings]}


def _memory_warning(profile: ModelProfile, plan: RunPlan) -> PlanWarning | None:
    if fits(plan.chosen, plan):
        return None
    device = plan.machines.device
    problem = f"the run needs {plan.chosen.peak / GB:.1f} GB of the {device.memory:g} GB of {device.name}"
    remedy = _what_fits(profile, plan) or "take a larger device, or more devices with engine.zero_stage=3"
    return PlanWarning(problem, remedy)


def _what_fits(profile: ModelProfile, plan: RunPlan) -> str | None:
    """The cheapest settings that fit: smaller micro-batches, then checkpointing, then a higher ZeRO stage."""
    chosen, clips = plan.chosen, plan.micro_batch
    repeats = profile.config.data.repeated_aug  # a micro-batch holds whole videos
    sizes = [size for size in range(clips, 0, -repeats) if clips % size == 0]
    checkpointing = chosen.checkpointing or profile.has_blocks
    candidates = [(size, chosen.checkpointing, chosen.stage) for size in sizes[1:] if size >= _MIN_CLIPS]
    last_stage = 3 if profile.config.engine.kind == "deepspeed" else chosen.stage
    stages = range(chosen.stage, last_stage + 1)
    candidates += [(size, checkpointing, stage) for stage in stages for size in sizes]
    for size, recomputed, stage in candidates:
        row = estimate_memory(
            profile,
            world_size=plan.machines.world_size,
            stage=stage,
            checkpointing=recomputed,
            micro_batch=size,
            device=plan.machines.device,
        )
        if fits(row, plan):
            words = [f"engine.micro_batch={size}"] * (size != clips)
            words += ["engine.activation_checkpointing=true"] * (recomputed and not chosen.checkpointing)
            words += [f"engine.zero_stage={stage}"] * (stage != chosen.stage)
            return f"type {' '.join(words)}: {row.peak / GB:.1f} GB"
    return None


def _loading_warning(config: Config, plan: RunPlan) -> PlanWarning | None:
    machines, workers, loading = plan.machines, config.loader.workers, plan.step.loading
    if plan.load_cores > machines.node_cores:
        remedies = {
            "decoding": f"type data.repeated_aug={config.data.repeated_aug * 2} to decode each video half as often, "
            "build smaller frames (--short-side 256 --fps 15), or measure the speed of your clips with `python -m "
            "benchmarks.loading` and type --clips-per-core",
            "drawing": "draw smaller clips (encoder.size) or simpler ones (objects, textures), or take more cores",
        }
        return PlanWarning(
            f"{loading} needs {plan.load_cores:.0f} cores per node, a node has {machines.node_cores:g}: the devices "
            f"wait {1 - machines.node_cores / plan.load_cores:.0%} of the time",
            remedies[loading],
        )
    needed = max(1, -(-int(plan.load_cores) // machines.gpus))
    if workers < needed:
        return PlanWarning(
            f"loader.workers={workers} cannot feed a device: {loading} needs {needed} cores per device",
            f"type loader.workers={needed}",
        )
    return None


def plan_page(plan: RunPlan, warnings: Sequence[PlanWarning]) -> RenderableType:
    """The whole plan, warnings last."""
    lines = [Text.assemble(("warning: ", "yellow"), each.problem, "\n  ", each.remedy) for each in warnings]
    return Group(_summary(plan), _memory_table(plan), *lines)


def _summary(plan: RunPlan) -> Table:
    machines, step = plan.machines, plan.step
    title = f"{machines.nodes} x {machines.gpus} {machines.device.name}"
    table = Table(title=title, title_justify="left", show_header=False)
    trained = plan.trained_parameters
    frozen = "" if trained == plan.parameters else f", {trained / 1e6:.2f} M trained"
    epoch = f", {plan.epoch_bytes / GB:.1f} GB an epoch" if plan.epoch_bytes else ""
    assumed = f" ({DEFAULT_VIDEO / 1e3:.0f} kB a video assumed: no manifest)" if plan.data_error else ""
    read = f"{step.data_bytes / 1e6:.1f} MB a step, {step.data_bytes / step.seconds / 1e6:.0f} MB/s{epoch}{assumed}"
    per_clip = step.flops / plan.batch / 1e9
    speed = plan.batch / step.seconds
    rows = {
        "parameters": f"{plan.parameters / 1e6:.2f} M{frozen}",
        "batch": f"{plan.batch} = {machines.world_size} devices x {plan.micro_batches} x {plan.micro_batch} clips",
        "FLOPs": f"{step.flops / 1e12:.2f} TFLOP a step, {per_clip:.1f} GFLOP a clip, forward and backward",
        "MFU": f"{step.mfu.value:.1%} ({step.mfu.source})",
        "step": f"{step.seconds:.3f} s, bound by {step.bound}: compute {step.compute_seconds:.3f} s, {step.loading} "
        f"{step.load_seconds:.3f} s",
        "speed": f"{speed:.0f} clips/s, {speed / machines.world_size:.1f} a device",
        step.loading: f"{plan.load_cores:.1f} cores a node to keep up with the devices; a node has "
        f"{machines.node_cores:g}",
        "run": _length(plan),
        "data": read if step.data_bytes else "nothing is read: all clips are drawn",
        "checkpoint": f"{plan.checkpoint_bytes / GB:.2f} GB",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _length(plan: RunPlan) -> str:
    length = plan.length
    if length is None:
        return f"length unknown ({plan.data_error}); type --samples NUMBER, the videos of the training split"
    epochs = "" if length.epochs is None else f", {length.epochs:.1f} epochs"
    return f"{length.steps} steps{epochs}: {length.hours:.2f} h, {length.gpu_hours:.1f} GPU hours"


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
