"""The plan of a run on given machines: batch split, memory, FLOPs, time, data and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from launch.plan.devices import Machines, Mfu
from launch.plan.memory import FP32_BYTES, DeviceMemory, estimate_memory
from launch.plan.model import Config, ModelProfile, TrainingData
from videomae.core.errors import UserError
from videomae.engine.schedule import steps_of

DEFAULT_VIDEO = 207_000  # bytes: ten seconds at 340 x 256, 7.5 frames a second, GOP 16 (measured with x264)
DECODE_SHARE = 0.83  # of a core's time per clip that is decoding; the rest is cropping, once per crop


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """One optimizer step on all devices. The loader's workers decode while the devices compute."""

    flops: float  # of all devices, without recomputation
    mfu: Mfu
    compute_seconds: float  # what the FLOPs take at that MFU
    decode_seconds: float  # what decoding takes on all cores
    data_bytes: float  # read by all nodes

    @property
    def seconds(self) -> float:
        return max(self.compute_seconds, self.decode_seconds)

    @property
    def bound(self) -> Literal["compute", "decoding"]:
        return "compute" if self.compute_seconds >= self.decode_seconds else "decoding"


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """From the first step to the last, without start-up, evaluation and checkpoints."""

    steps: int
    epochs: float
    hours: float
    gpu_hours: float


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run needs on `machines`."""

    machines: Machines
    parameters: int
    trained_parameters: int
    batch: int
    micro_batch: int
    micro_batches: int  # per step and device
    memory: tuple[DeviceMemory, ...]  # every ZeRO stage, without and with checkpointing
    chosen: DeviceMemory  # the row of the config
    step: StepPlan
    decode_cores: float  # per node, for the loader to keep up with the devices
    length: RunLength | None  # None: the number of videos is unknown
    epoch_bytes: float | None  # read from the shards per epoch
    checkpoint_bytes: int
    data_error: str | None  # why the data set's size is unknown, and its videos' size assumed


def plan_run(
    profile: ModelProfile, data: TrainingData, machines: Machines, mfu: Mfu, *, samples: int | None = None
) -> RunPlan:
    """Plan the run of `profile`'s config; `samples` replaces the number of videos in the manifests.

    Raises:
        UserError: the batch does not divide, the device lacks the config's precision, or the model cannot run on the
            meta device.
    """
    config, engine = profile.config, profile.config.engine
    micro_batch, micro_batches = engine.split(batch=config.batch, world_size=machines.world_size)
    if micro_batch % config.data.repeated_aug:
        raise UserError(
            f"a micro-batch of {micro_batch} clips does not hold whole videos: "
            f"data.repeated_aug={config.data.repeated_aug}; type multiples of it for batch and engine.micro_batch"
        )
    table = _memory_table(profile, machines, micro_batch)
    wanted = (engine.zero_stage if engine.kind == "deepspeed" else 0, engine.activation_checkpointing)
    step = _plan_step(profile, data, machines, mfu)
    videos = samples or data.videos
    return RunPlan(
        machines=machines,
        parameters=profile.parameters,
        trained_parameters=profile.trained_parameters,
        batch=config.batch,
        micro_batch=micro_batch,
        micro_batches=micro_batches,
        memory=table,
        chosen=next(row for row in table if (row.stage, row.checkpointing) == wanted),
        step=step,
        decode_cores=machines.node_cores * step.decode_seconds / step.compute_seconds,
        length=_plan_length(config, step, videos, machines.world_size) if videos else None,
        epoch_bytes=videos * (data.bytes_per_video or DEFAULT_VIDEO) if videos else None,
        checkpoint_bytes=checkpoint_bytes(profile),
        data_error=data.error,
    )


def clips_per_core(machines: Machines, repeats: int) -> float:
    """Clips per second of one core if each decoded video yields `repeats` clips."""
    return machines.clips_per_core / (DECODE_SHARE / repeats + 1 - DECODE_SHARE)


def checkpoint_bytes(profile: ModelProfile) -> int:
    """Bytes of one checkpoint: float32 master weights, both moments and, if there is one, the moving average."""
    values = 3 if profile.config.optimizer.ema is None else 4
    return FP32_BYTES * (values * profile.trained_parameters + profile.parameters - profile.trained_parameters)


def _memory_table(profile: ModelProfile, machines: Machines, micro_batch: int) -> tuple[DeviceMemory, ...]:
    """Every ZeRO stage, without and, if the model has transformer blocks, with activation checkpointing."""
    return tuple(
        estimate_memory(
            profile,
            world_size=machines.world_size,
            stage=stage,
            checkpointing=checkpointing,
            micro_batch=micro_batch,
            device=machines.device,
        )
        for stage in range(4)
        for checkpointing in (False, True)
        if not checkpointing or profile.has_blocks
    )


def _plan_step(profile: ModelProfile, data: TrainingData, machines: Machines, mfu: Mfu) -> StepPlan:
    config = profile.config
    flops = float(profile.flops_per_clip * config.batch)
    peak = machines.device.peak_flops(config.engine.precision) * machines.world_size
    cores = machines.nodes * machines.node_cores
    return StepPlan(
        flops=flops,
        mfu=mfu,
        compute_seconds=flops / (mfu.value * peak),
        decode_seconds=config.batch / (cores * clips_per_core(machines, config.data.repeated_aug)),
        data_bytes=config.batch / config.data.repeated_aug * (data.bytes_per_video or DEFAULT_VIDEO),
    )


def _plan_length(config: Config, step: StepPlan, videos: int, world_size: int) -> RunLength:
    clips = videos * config.data.repeated_aug
    steps_per_epoch = -(-clips // config.batch) if config.data.partial == "pad" else max(1, clips // config.batch)
    steps = steps_of(config.schedule.duration, steps_per_epoch=steps_per_epoch, batch=config.batch)
    hours = steps * step.seconds / 3600
    return RunLength(steps=steps, epochs=steps / steps_per_epoch, hours=hours, gpu_hours=hours * world_size)
