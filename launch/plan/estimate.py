"""The plan of a run on given machines: memory, work, traffic, time, checkpoints, put together from their own files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from launch.plan import memory
from launch.plan.machine import Machine
from launch.plan.memory import SINGLE, Memory, setting_of
from launch.plan.timing import SNAPSHOT, Pass, StepTime, step_time
from launch.plan.traffic import DEFAULT_VIDEO, Traffic, clips_a_core, traffic
from launch.plan.workload import Config, Data, Workload
from videomae.engine.schedule import steps_of

STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a global batch is cut."""

    batch: int
    clips: int  # a step on each device
    micro_batch: int
    micro_batches: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One checkpoint of the run: float32 fragments of masters, moments and, if there is one, average."""

    bytes: int
    seconds: float  # to write, each node its share
    blocking: float  # seconds to copy them to the host, which a step waits for


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step on all devices."""

    split: Split
    flops: float  # of all devices, without what checkpointing computes again
    network: Traffic
    shard_bytes: float  # of all devices
    time: StepTime
    mfu: float  # share of the devices' peak rate


@dataclass(frozen=True, kw_only=True)
class Length:
    """From the first step to the last; evaluation, start and checkpoints are not in it."""

    steps: int
    epochs: float
    hours: float
    gpu_hours: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Everything that a run needs on `machine`."""

    machine: Machine
    parameters: int
    trained: int
    memory: tuple[Memory, ...]  # every stage, without and with checkpointing
    chosen: Memory
    step: Step
    cores_needed: float  # of each node, for the loader to keep up with the devices
    length: Length | None  # None: the data set's size is not known
    checkpoint: Checkpoint
    data_fault: str | None  # why the size of the videos is assumed


def split_batch(config: Config, size: int) -> Split:
    """Cut the batch, or the nearest one that can be cut, into `size` equal shares of whole videos."""
    unit = size * config.data.repeats
    batch = config.batch if config.batch % unit == 0 else max(1, round(config.batch / unit)) * unit
    clips = batch // size
    wanted = config.engine.micro_batch or clips
    micro_batch = max(part for part in range(1, clips + 1) if clips % part == 0 and part <= max(1, wanted))
    return Split(batch=batch, clips=clips, micro_batch=micro_batch, micro_batches=clips // micro_batch)


def estimate(workload: Workload, data: Data, machine: Machine, *, samples: int | None = None) -> Estimate:
    """Plan the run of `workload` on `machine`; `samples` are the data set's videos where no manifest says so.

    Raises:
        ValueError: the model or the device cannot be planned for.
    """
    config = workload.config
    step = estimate_step(workload, data, machine)
    engine = config.engine
    table = tuple(
        memory.estimate(
            workload,
            size=machine.size,
            stage=stage,
            checkpointing=checkpointing,
            clips=step.split.micro_batch,
            device=machine.device,
        )
        for stage in STAGES
        for checkpointing in (False, True)
        if not checkpointing or workload.has_blocks
    )
    wanted = (engine.zero_stage if engine.kind == "deepspeed" else 0, engine.activation_checkpointing)
    videos = samples or data.videos
    speed = step.split.clips * machine.gpus / (step.time.compute + step.time.network)
    return Estimate(
        machine=machine,
        parameters=workload.counts[0],
        trained=workload.counts[1],
        memory=table,
        chosen=next(row for row in table if (row.stage, row.checkpointing) == wanted),
        step=step,
        cores_needed=speed / clips_a_core(machine, config.data.repeats),
        length=_length(config, step, videos, machine) if videos else None,
        checkpoint=_checkpoint(workload, machine),
        data_fault=data.fault,
    )


def estimate_step(workload: Workload, data: Data, machine: Machine) -> Step:
    """Work, traffic and time of one step."""
    config, engine = workload.config, workload.config.engine
    stage = engine.zero_stage if engine.kind == "deepspeed" else 0
    split = split_batch(config, machine.size)
    setting = setting_of(engine, stage=stage, checkpointing=engine.activation_checkpointing)
    network = traffic(workload, machine, stage=stage, micro_batches=split.micro_batches)
    work = Pass(
        trace=workload.trace(split.micro_batch, setting),
        micro_batches=split.micro_batches,
        updated=workload.counts[1] / (machine.size if stage else 1),
        precision=engine.precision,
        compiled=engine.compile,
        overlapped=stage == 3,
    )
    bytes_a_clip = (data.bytes_a_video or DEFAULT_VIDEO) / config.data.repeats
    time = step_time(work, machine, network, clips=split.clips, repeats=config.data.repeats, bytes_a_clip=bytes_a_clip)
    once = workload.trace(split.micro_batch, dataclasses.replace(setting, checkpointing=False))
    flops = float(once.flops * split.micro_batches * machine.size)
    peak = machine.device.peak(engine.precision) * machine.size
    return Step(
        split=split,
        flops=flops,
        network=network,
        shard_bytes=bytes_a_clip * split.batch,
        time=time,
        mfu=flops / (time.total * peak),
    )


def _length(config: Config, step: Step, videos: int, machine: Machine) -> Length:
    clips, batch = videos * config.data.repeats, step.split.batch
    steps_per_epoch = -(-clips // batch) if config.data.partial == "pad" else max(1, clips // batch)
    steps = steps_of(config.schedule.duration, steps_per_epoch=steps_per_epoch, batch=batch)
    hours = steps * step.time.total / 3600
    return Length(steps=steps, epochs=steps / steps_per_epoch, hours=hours, gpu_hours=hours * machine.size)


def checkpoint_bytes(workload: Workload) -> int:
    """Of one checkpoint: float32 fragments of masters, moments and, if there is one, average."""
    everything, trained = workload.counts
    kept = 3 if workload.config.optimizer.ema is None else 4
    return SINGLE * (kept * trained + everything - trained)


def _checkpoint(workload: Workload, machine: Machine) -> Checkpoint:
    size = checkpoint_bytes(workload)
    return Checkpoint(bytes=size, seconds=size / machine.disk / machine.nodes, blocking=size / machine.size / SNAPSHOT)
