"""The plan of a run on given machines: batch split, memory, FLOPs, time, data and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from launch.plan.devices import CLIPS_PER_CORE, Machines, Mfu
from launch.plan.memory import FP32_BYTES, DeviceMemory, estimate_memory
from launch.plan.model import Config, ModelProfile, TrainingData
from videomae.core.errors import UserError
from videomae.engine.schedule import steps_of

DEFAULT_VIDEO = 207_000  # bytes: ten seconds at 340 x 256, 7.5 frames a second, GOP 16 (measured with x264)
DECODE_SHARE = 0.83  # of a core's time per clip that is decoding; the rest is cropping, once per crop


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run needs on `machines`. The loader's workers decode or draw while the devices compute."""

    machines: Machines
    parameters: int
    trained_parameters: int
    batch: int
    micro_batch: int
    micro_batches: int  # per step and device
    memory: tuple[DeviceMemory, ...]  # every ZeRO stage, without and with checkpointing
    chosen: DeviceMemory  # the row of the config
    mfu: Mfu
    flops: float  # of a step on all devices, without recomputation
    compute_seconds: float  # what these take at that MFU
    load_seconds: float  # what decoding and drawing the clips of a step takes on all cores
    loading: Literal["decoding", "drawing"]  # how most clips are made
    steps: int | None  # None: the duration is in epochs, and the number of videos is unknown
    epochs: float | None  # None: the number of videos is unknown
    step_bytes: float  # read from the shards per step, by all nodes
    epoch_bytes: float | None
    checkpoint_bytes: int
    data_error: str | None  # why the data set's size is unknown, and its videos' size assumed

    @property
    def step_seconds(self) -> float:
        return max(self.compute_seconds, self.load_seconds)

    @property
    def bound(self) -> Literal["compute", "decoding", "drawing"]:
        return "compute" if self.compute_seconds >= self.load_seconds else self.loading

    @property
    def load_cores(self) -> float:
        """Cores per node for the loader to keep up with the devices."""
        return self.machines.node_cores * self.load_seconds / self.compute_seconds

    @property
    def hours(self) -> float | None:
        """From the first step to the last, without start-up, evaluation and checkpoints."""
        return None if self.steps is None else self.steps * self.step_seconds / 3600


def plan_run(
    profile: ModelProfile, data: TrainingData, machines: Machines, mfu: Mfu, *, samples: int | None = None
) -> RunPlan:
    """Plan the run of `profile`'s config; `samples` replaces the number of videos in the manifests.

    Raises:
        UserError: the batch does not divide, the device lacks the config's precision, or the model cannot run on the
            meta device.
    """
    config, engine, repeats = profile.config, profile.config.engine, profile.config.data.repeated_aug
    micro_batch, micro_batches = _split(config, machines.world_size)
    table = _memory_table(profile, machines, micro_batch)
    wanted = (engine.zero_stage if engine.kind == "deepspeed" else 0, engine.activation_checkpointing)
    flops = float(profile.flops_per_clip * config.batch)
    peak = machines.device.peak_flops(engine.precision) * machines.world_size
    videos = samples or data.videos
    steps, epochs = _length(config, videos)
    video_bytes = (1 - data.drawn) * (data.bytes_per_video or DEFAULT_VIDEO)  # nothing for one that is drawn
    return RunPlan(
        machines=machines,
        parameters=profile.parameters,
        trained_parameters=profile.trained_parameters,
        batch=config.batch,
        micro_batch=micro_batch,
        micro_batches=micro_batches,
        memory=table,
        chosen=next(row for row in table if (row.stage, row.checkpointing) == wanted),
        mfu=mfu,
        flops=flops,
        compute_seconds=flops / (mfu.value * peak),
        load_seconds=config.batch * _load_seconds(data, machines, repeats) / (machines.nodes * machines.node_cores),
        loading="drawing" if data.drawn > 0.5 else "decoding",
        steps=steps,
        epochs=epochs,
        step_bytes=config.batch / repeats * video_bytes,
        epoch_bytes=videos * video_bytes if videos else None,
        checkpoint_bytes=checkpoint_bytes(profile),
        data_error=data.error,
    )


def _split(config: Config, world_size: int) -> tuple[int, int]:
    """Clips per micro-batch, whole videos, and micro-batches per step on each device."""
    micro_batch, micro_batches = config.engine.split(batch=config.batch, world_size=world_size)
    if micro_batch % config.data.repeated_aug:
        raise UserError(
            f"a micro-batch of {micro_batch} clips does not hold whole videos: "
            f"data.repeated_aug={config.data.repeated_aug}; type multiples of it for batch and engine.micro_batch"
        )
    return micro_batch, micro_batches


def clips_per_core(machines: Machines, repeats: int) -> float:
    """Clips per second that one core decodes if each video yields `repeats` clips."""
    return (machines.clips_per_core or CLIPS_PER_CORE) / (DECODE_SHARE / repeats + 1 - DECODE_SHARE)


def checkpoint_bytes(profile: ModelProfile) -> int:
    """Bytes of one checkpoint: float32 weights, moments and, if there is one, the moving average."""
    return FP32_BYTES * (profile.parameters + profile.optimizer_values)


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


def _load_seconds(data: TrainingData, machines: Machines, repeats: int) -> float:
    """Core seconds of a clip, the mean of those that are decoded and those that are drawn."""
    draw_seconds = 1 / machines.clips_per_core if machines.clips_per_core else data.draw_seconds
    return (1 - data.drawn) / clips_per_core(machines, repeats) + data.drawn * draw_seconds


def _length(config: Config, videos: int | None) -> tuple[int | None, float | None]:
    """Steps and epochs of the run, None where they are unknown."""
    duration = config.schedule.duration
    if not videos:
        known = "epoch" not in duration.lower()
        return (steps_of(duration, steps_per_epoch=1, batch=config.batch) if known else None), None
    clips = videos * config.data.repeated_aug
    per_epoch = -(-clips // config.batch) if config.data.partial == "pad" else max(1, clips // config.batch)
    steps = steps_of(duration, steps_per_epoch=per_epoch, batch=config.batch)
    return steps, steps / per_epoch
