"""Bytes on each device, by ZeRO stage and with or without activation checkpointing.

States follow from how the engine keeps them (Rajbhandari et al. 2020, section 3, with what DeepSpeed adds): at stage 0
float32 weights, gradients and two moments, with half precision by autocast; from stage 1 on weights in the run's
precision and float32 masters and moments cut into N parts, at stage 2 the gradients too, at stage 3 everything.
Activations come from `launch.plan.trace`. `python -m launch.plan --check-memory` holds all of it against real runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from launch.plan.devices import GB, Device
from launch.plan.trace import Setting
from launch.plan.workload import Workload
from videomae.engine.deepspeed_engine import BUCKET
from videomae.engine.protocol import EngineConfig

SINGLE = 4  # bytes of a float32 value
PERSISTENT = 100_000  # ZeRO-3 leaves smaller tensors whole (DeepSpeed's param_persistence_threshold)
# Assumed, not measured: CUDA's context with the libraries' and NCCL's buffers, and what the caching allocator loses.
CONTEXT = 1.5 * GB
FRAGMENTED = 0.05


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device at the fullest moment of a step."""

    stage: int
    checkpointing: bool
    weights: int
    gradients: int  # those that are kept between backward passes
    optimizer: int  # masters, moments and average
    buffers: int  # what ZeRO holds to reduce gradients and gather weights
    activations: int  # and all else that a step takes and gives back
    overhead: int  # of the device and its allocator

    @property
    def held(self) -> int:
        """Between steps."""
        return self.weights + self.optimizer + (self.gradients + self.buffers if self.stage == 3 else 0)

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.buffers + self.activations + self.overhead


def setting_of(engine: EngineConfig, *, stage: int, checkpointing: bool) -> Setting:
    """How a pass runs at a ZeRO stage: up to stage 0, half precision is autocast."""
    autocast = stage == 0 and engine.precision != "fp32"
    return Setting(precision=engine.precision, autocast=autocast, checkpointing=checkpointing)


def estimate(workload: Workload, *, size: int, stage: int, checkpointing: bool, clips: int, device: Device) -> Memory:
    """The memory of each of `size` devices with micro-batches of `clips`."""
    config = workload.config
    ema = config.optimizer.ema is not None
    width = SINGLE if stage == 0 or config.engine.precision == "fp32" else 2
    states = _States(workload, size=size, stage=stage, width=width, kept=3 if ema else 2)
    local = config.engine.kind == "local" and size == 1 and stage == 0
    buffers = 0 if local or stage == 0 else BUCKET * width
    taken = _taken(workload, states, setting_of(config.engine, stage=stage, checkpointing=checkpointing), clips, local)
    activations = taken - states.gradients if stage != 3 else taken
    is_cpu = device.name == "cpu"
    return Memory(
        stage=stage,
        checkpointing=checkpointing,
        weights=states.weights,
        gradients=states.gradients,
        optimizer=states.optimizer,
        buffers=buffers,
        activations=max(0, activations - (0 if stage == 3 else buffers)),
        overhead=0 if is_cpu else int(CONTEXT + FRAGMENTED * max(0, activations)),
    )


class _States:
    """Bytes of weights, kept gradients and optimizer on one of `size` devices; `kept` values beside each master."""

    def __init__(self, workload: Workload, *, size: int, stage: int, width: int, kept: int) -> None:
        self.all, self.trained = workload.counts
        self.stage, self.width = stage, width
        cut = stage == 3 and size > 1
        persistent = workload.count_up_to(PERSISTENT) if cut else 0
        self.cut = self.all - persistent if cut else 0  # values that are gathered when needed
        part = 1 if stage == 0 else 1 / size
        if stage == 3:
            self.weights = int(width * (self.all / size + persistent))
        else:
            self.weights = width * self.all
        self.weights += workload.constant_bytes
        masters = 0 if stage == 0 else 1
        self.optimizer = int(SINGLE * (kept + masters) * self.trained * part)
        self.gradients = int(width * self.trained * (part if stage >= 2 else 1))


def _taken(workload: Workload, states: _States, setting: Setting, clips: int, local: bool) -> int:
    """What a step takes beyond weights, optimizer and, at stage 3, gradients and buffers.

    Each is the larger of two moments: the forward pass's end, and one after gradients have begun to be made. DeepSpeed
    keeps the loss's input to the end of the backward pass.
    """
    traced = workload.trace(clips, setting)
    peak, full = traced.peak, traced.peak_with_gradients
    if local:
        return full.whole
    whole = states.width * states.trained
    bucket = BUCKET * states.width
    flat = min(whole, bucket)  # reducing copies the gradients, a bucket at a time
    if states.stage == 0:
        return max(full.whole, whole + flat + traced.loss_input)
    if states.stage == 1:
        late = max(full.after_first_gradient + traced.loss_input, whole + flat)
        return max(peak.whole, bucket + late)
    if states.stage == 2:
        return max(peak.whole, bucket + peak.after_first_gradient + traced.loss_input, bucket + states.gradients)
    return peak.whole + states.width * states.cut
