"""Memory of each device, by ZeRO stage and with or without activation checkpointing.

Model states follow from how the engine stores them (Rajbhandari et al. 2020, section 3, and DeepSpeed's buffers). At
stage 0: float32 parameters, gradients and moments, half precision by autocast. From stage 1 on: parameters in the
run's precision, and float32 master weights and moments partitioned across ranks; at stage 2 also the gradients, at
stage 3 also the parameters. Activations come from `launch.plan.activations`. `python -m benchmarks.plan_memory`
compares the estimate with real runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from launch.plan.activations import PassConfig
from launch.plan.devices import GB, Device
from launch.plan.model import ModelProfile
from videomae.engine.deepspeed_engine import BUCKET
from videomae.engine.muon import BATCH
from videomae.engine.protocol import EngineConfig

FP32_BYTES = 4
_PERSISTENT = 100_000  # ZeRO-3 does not partition smaller tensors (DeepSpeed's param_persistence_threshold)
# Assumed, not measured: the CUDA context with the libraries' and NCCL's buffers, and the allocator's fragmentation.
_CUDA_CONTEXT = 1.5 * GB
_FRAGMENTATION = 0.05


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """Bytes on one device."""

    stage: int
    checkpointing: bool
    parameters: int
    gradients: int  # those that stay between backward passes
    optimizer: int  # master weights, moments (Muon keeps one for the matrices of blocks) and moving average
    zero_buffers: int  # that ZeRO reduces gradients and gathers parameters in
    activations: int  # and all other memory that a step takes and releases
    overhead: int  # of CUDA and its allocator

    @property
    def between_steps(self) -> int:
        return self.parameters + self.optimizer + (self.gradients + self.zero_buffers if self.stage == 3 else 0)

    @property
    def peak(self) -> int:
        parts = (self.parameters, self.gradients, self.optimizer, self.zero_buffers, self.activations, self.overhead)
        return sum(parts)


def estimate_memory(
    profile: ModelProfile, *, world_size: int, stage: int, checkpointing: bool, micro_batch: int, device: Device
) -> DeviceMemory:
    """The memory of each of `world_size` devices."""
    engine = profile.config.engine
    states = _ModelStates(profile, world_size=world_size, stage=stage)
    local = engine.kind == "local" and world_size == 1 and stage == 0
    zero_buffers = 0 if stage == 0 else BUCKET * states.width
    step = _step_bytes(profile, states, _pass_config(engine, stage, checkpointing), micro_batch, local=local)
    step = max(step, (0 if stage == 3 else states.gradients) + _muon_bytes(profile, world_size, stage, device))
    activations = step if stage == 3 else step - states.gradients
    overhead = 0 if device.name == "cpu" else int(_CUDA_CONTEXT + _FRAGMENTATION * max(0, activations))
    return DeviceMemory(
        stage=stage,
        checkpointing=checkpointing,
        parameters=states.parameters,
        gradients=states.gradients,
        optimizer=states.optimizer,
        zero_buffers=zero_buffers,
        activations=max(0, activations - (0 if stage == 3 else zero_buffers)),
        overhead=overhead,
    )


def _pass_config(engine: EngineConfig, stage: int, checkpointing: bool) -> PassConfig:
    autocast = stage == 0 and engine.precision != "fp32"
    return PassConfig(precision=engine.precision, autocast=autocast, checkpointing=checkpointing)


class _ModelStates:
    """Bytes of parameters, stored gradients and optimizer state on one device."""

    def __init__(self, profile: ModelProfile, *, world_size: int, stage: int) -> None:
        total, self.trained = profile.parameters, profile.trained_parameters
        self.stage = stage
        self.width = FP32_BYTES if stage == 0 or profile.config.engine.precision == "fp32" else 2  # of a parameter
        partitioned = stage == 3 and world_size > 1
        persistent = profile.count_parameters(max_size=_PERSISTENT) if partitioned else 0
        self.gathered = total - persistent if partitioned else 0  # parameters that are gathered for each use
        stored = total / world_size + persistent if stage == 3 else total
        self.parameters = int(self.width * stored) + profile.buffer_bytes
        fp32_values = (0 if stage == 0 else self.trained) + profile.optimizer_values
        self.optimizer = int(FP32_BYTES * fp32_values / (1 if stage == 0 else world_size))
        self.gradients = int(self.width * self.trained / (world_size if stage >= 2 else 1))


def _muon_bytes(profile: ModelProfile, world_size: int, stage: int, device: Device) -> int:
    """Bytes that the update of Muon's matrices takes after the backward pass, see `videomae.engine.muon`.

    Each rank holds its updates in float32, their whole matrices and its share of the results in the type of the
    iterations, all results in that type and in float32, and a batch of equal matrices with three copies of it and
    four of its grams.
    """
    half = FP32_BYTES if device.name == "cpu" else 2
    converted = 0 if half == FP32_BYTES else FP32_BYTES
    whole = 0 if half == FP32_BYTES and stage == 0 else half
    per_value = FP32_BYTES / (world_size if stage else 1) + whole + half / world_size
    per_value += (half if world_size > 1 else 0) + converted
    batches = [
        min(max(1, BATCH // (short * long)), -(-count // world_size)) * short * (3 * long + 4 * short)
        for (short, long), count in profile.matrices.items()
    ]
    return int(per_value * profile.matrix_values + half * max(batches, default=0))


def _step_bytes(
    profile: ModelProfile, states: _ModelStates, config: PassConfig, micro_batch: int, *, local: bool
) -> int:
    """Bytes that a step takes beyond parameters, optimizer state and, at stage 3, gradients and ZeRO's buffers.

    Each is the larger of two moments: the end of the forward pass, and one after the first gradients. DeepSpeed holds
    the loss's input to the end of the backward pass.
    """
    trace = profile.trace(micro_batch, config)
    peak, full = trace.peak, trace.peak_with_gradients
    if local:
        return full.whole
    all_gradients = states.width * states.trained
    bucket = BUCKET * states.width
    flat = min(all_gradients, bucket)  # reduction copies the gradients, one bucket at a time
    if states.stage == 0:
        return max(full.whole, all_gradients + flat + trace.loss_input)
    if states.stage == 1:
        late = max(full.after_first_gradient + trace.loss_input, all_gradients + flat)
        return max(peak.whole, bucket + late)
    if states.stage == 2:
        return max(peak.whole, bucket + peak.after_first_gradient + trace.loss_input, bucket + states.gradients)
    return peak.whole + states.width * states.gathered
