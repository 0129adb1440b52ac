"""What in a plan should be changed before it runs, and what to type for it."""

from __future__ import annotations

from dataclasses import dataclass

from launch.plan import memory
from launch.plan.devices import GB
from launch.plan.estimate import Estimate
from launch.plan.scaling import Curve
from launch.plan.workload import Config, Data, Workload

FULL = 0.92  # of the device's memory that a plan may fill
FEW_CLIPS = 4


@dataclass(frozen=True)
class Warning:
    """A fault of the plan, and its remedy."""

    problem: str
    remedy: str


def warnings_of(workload: Workload, data: Data, plan: Estimate, curve: Curve) -> list[Warning]:
    """Everything worth changing, the gravest first."""
    config = workload.config
    found = [
        _memory(workload, plan),
        _batch(config, plan),
        _kind(config, plan),
        _cores(config, plan),
        _workers(config, plan),
        _stage(config, plan),
        _clips(plan, curve),
        _nodes(plan, curve),
        _data(data, plan),
    ]
    return [warning for warning in found if warning is not None]


def fits(row: memory.Memory, plan: Estimate) -> bool:
    """Whether a row of the table leaves room on the device."""
    return row.total <= FULL * plan.machine.device.memory * GB


def _memory(workload: Workload, plan: Estimate) -> Warning | None:
    if fits(plan.chosen, plan):
        return None
    device = plan.machine.device
    need = f"needs {plan.chosen.total / GB:.1f} GB of the {device.memory:g} GB of {device.name}"
    return Warning(need, _what_fits(workload, plan) or "take a larger device, or more of them with engine.zero_stage=3")


def _what_fits(workload: Workload, plan: Estimate) -> str | None:
    """The mildest settings that fit: smaller micro-batches, then checkpointing, then a higher stage."""
    chosen, clips = plan.chosen, plan.step.split.micro_batch
    parts = [part for part in range(clips - 1, 0, -1) if clips % part == 0]
    smaller = [(part, chosen.checkpointing, chosen.stage) for part in parts if part >= FEW_CLIPS]
    lighter = [(clips, True, chosen.stage)] if workload.has_blocks else []
    both = [(part, bool(lighter) or chosen.checkpointing, stage) for stage in (1, 2, 3) for part in (clips, *parts)]
    for part, checkpointing, stage in (*smaller, *lighter, *both):
        row = memory.estimate(
            workload,
            size=plan.machine.size,
            stage=stage,
            checkpointing=checkpointing,
            clips=part,
            device=plan.machine.device,
        )
        if stage >= chosen.stage and fits(row, plan):
            words = [f"engine.micro_batch={part}"] * (part != clips)
            words += ["engine.activation_checkpointing=true"] * (checkpointing and not chosen.checkpointing)
            words += [f"engine.zero_stage={stage}"] * (stage != chosen.stage)
            return f"type {' '.join(words)}: {row.total / GB:.1f} GB"
    return None


def _batch(config: Config, plan: Estimate) -> Warning | None:
    split, size = plan.step.split, plan.machine.size
    if split.batch != config.batch:
        return Warning(
            f"batch={config.batch} cannot be cut into {size} equal shares of whole videos "
            f"(data.repeats={config.data.repeats}); planned with {split.batch}",
            f"type batch={split.batch}",
        )
    if config.engine.micro_batch not in (None, split.micro_batch):
        return Warning(
            f"engine.micro_batch={config.engine.micro_batch} does not divide the {split.clips} clips of each device",
            f"type engine.micro_batch={split.micro_batch}",
        )
    return None


def _kind(config: Config, plan: Estimate) -> Warning | None:
    if config.engine.kind == "local" and plan.machine.size > 1:
        return Warning(
            f"engine.kind=local runs in one process, {plan.machine.size} are planned", "type engine.kind=deepspeed"
        )
    return None


def _cores(config: Config, plan: Estimate) -> Warning | None:
    machine = plan.machine
    if plan.cores_needed <= machine.cores:
        return None
    remedies = [f"data.repeats={config.data.repeats * 2}, which decodes each video half as often"]
    remedies.append("shards of smaller frames (`videomae.data.shards build --short-side 256 --fps 15`)")
    return Warning(
        f"the devices of a node would use up {plan.cores_needed:.0f} cores of decoding, it has {machine.cores:g}: "
        f"they wait {1 - machine.cores / plan.cores_needed:.0%} of the time",
        f"type {', or take '.join(remedies)}; measure your clips with `python -m benchmarks.loading` and type "
        "--clips-a-core",
    )


def _workers(config: Config, plan: Estimate) -> Warning | None:
    machine, workers = plan.machine, config.loader.workers
    usable = int(machine.cores // machine.gpus)
    needed = max(1, -(-int(min(plan.cores_needed, machine.cores)) // machine.gpus))
    if workers > max(1, usable):
        return Warning(
            f"loader.workers={workers} on {machine.gpus} devices is more than the {machine.cores:g} cores of a node",
            f"type loader.workers={max(1, usable)}",
        )
    if workers < needed:
        return Warning(
            f"loader.workers={workers} cannot feed a device, which needs {needed} cores",
            f"type loader.workers={needed}",
        )
    return None


def _stage(config: Config, plan: Estimate) -> Warning | None:
    chosen = plan.chosen
    same = [row for row in plan.memory if row.checkpointing == chosen.checkpointing and fits(row, plan)]
    enough = max(1, min((row.stage for row in same), default=chosen.stage))
    if chosen.stage <= enough or config.engine.kind == "local":
        return None
    return Warning(
        f"engine.zero_stage={chosen.stage} is more than needed: stage {enough} fits and moves less",
        f"type engine.zero_stage={enough}",
    )


def _clips(plan: Estimate, curve: Curve) -> Warning | None:
    split, time = plan.step.split, plan.step.time
    if plan.machine.size == 1 or (split.clips >= FEW_CLIPS and time.launching < time.compute):
        return None
    return Warning(
        f"{split.clips} clips a device are too few: launching kernels takes {time.launching:.3f} s of a step",
        f"type a larger batch=, engine.compile=true, or --nodes {curve.pays_until}",
    )


def _nodes(plan: Estimate, curve: Curve) -> Warning | None:
    if plan.machine.nodes <= curve.pays_until:
        return None
    return Warning(
        f"scaling stops paying at --nodes {curve.pays_until}, {plan.machine.nodes} are planned",
        f"type --nodes {curve.pays_until}",
    )


def _data(data: Data, plan: Estimate) -> Warning | None:
    if data.videos is None and plan.length is None:
        return Warning(
            f"the length of the run is not known: {data.fault}",
            "type --samples NUMBER, the videos of the training split",
        )
    return None
