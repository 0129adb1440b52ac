"""The DeepSpeed engine: ZeRO 0-3. Only this module and `deepspeed_state` know DeepSpeed.

DeepSpeed's settings are derived from our config and written to the run directory; there is no second config file.
Settings whose DeepSpeed default would change the training are set explicitly.

At stage 0 the weights stay float32 and half precision is PyTorch's autocast, as in the reference engine. From stage 1
on the module is in half precision and ZeRO keeps float32 master weights.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videomae.core.distributed import World, init_distributed
from videomae.core.errors import UserError
from videomae.engine.deepspeed_state import ZeroShardedState, allow_min_loss_scale, zero_grad_norm
from videomae.engine.local import ReplicatedParams, grad_norm
from videomae.engine.mixed_precision import GROWTH_STEPS, INITIAL_SCALE_POWER, MixedPrecision
from videomae.engine.muon import build_optimizer
from videomae.engine.optimizer import StepDecision, decide_step
from videomae.engine.protocol import Batch, EnginePlan, StepResult, reduce_losses, require_ema
from videomae.engine.state.sharded import EngineState, ShardedState, persistent_buffers
from videomae.engine.state.snapshot import Snapshot

BUCKET = 5_000_000  # values per reduction; the default, 500 million, would take gigabytes


def derive_settings(plan: EnginePlan) -> dict[str, Any]:
    """Return DeepSpeed's config dictionary.

    DeepSpeed uses the batch size only to count samples, which we count ourselves, so it is 1. Our AdamW clips gradients
    and skips steps, so DeepSpeed's clipping is off.
    """
    stage = plan.config.zero_stage
    precision = plan.config.precision if stage else "fp32"  # at stage 0 autocast is ours
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": plan.micro_batches,
        "gradient_clipping": 0.0,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "zero_optimization": _zero_settings(stage),
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": precision == "bf16", "check_grad_overflow": False},
        "fp16": {
            "enabled": precision == "fp16",
            "auto_cast": False,
            "loss_scale": 0,  # dynamic
            "initial_scale_power": INITIAL_SCALE_POWER,
            "loss_scale_window": GROWTH_STEPS,
            "hysteresis": 1,
            "min_loss_scale": 1,
        },
        "torch_autocast": {"enabled": False},
        "data_types": {"grad_accum_dtype": precision},
        "communication_data_type": precision,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _zero_settings(stage: int) -> dict[str, Any]:
    return {
        "stage": stage,
        "overlap_comm": stage == 3,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "round_robin_gradients": False,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": 10 * BUCKET,
        "stage3_param_persistence_threshold": 100_000,  # smaller parameters are not partitioned
    }


class DeepSpeedEngine:
    """ZeRO 0-3 over all ranks, on CUDA with NCCL or on CPUs with Gloo."""

    def __init__(self, module: nn.Module, groups: list[dict[str, Any]], plan: EnginePlan) -> None:
        self.world = plan.world
        deepspeed = _import_deepspeed(self.world)
        _require_fp16(deepspeed, plan)
        init_distributed(self.world)
        deepspeed.init_distributed(dist_init_required=False)
        self.module = module.to(self.world.device)
        self._config, self._partitioned = plan.optimizer, plan.config.zero_stage > 0
        self.settings: dict[str, Any] | None = derive_settings(plan)
        self._precision = MixedPrecision("fp32" if self._partitioned else plan.config.precision, self.world.device)
        self._optimizer = build_optimizer(groups, plan.optimizer, plan.world)
        self._hyperparameters = [{**group, "params": None} for group in groups]
        initial = _copy_to_host(self.module) if self._partitioned else {}
        if not self._partitioned:
            self._optimizer.init_state(group["params"] for group in groups)
        self._engine, self._zero, _, _ = deepspeed.initialize(
            model=self.module, optimizer=self._optimizer, config=self.settings, dist_init_required=False
        )
        self._state = EngineState(self.module, self._sharded_state(initial), self.world)

    def _sharded_state(self, initial: dict[str, Tensor]) -> ShardedState:
        if not self._partitioned:
            return ReplicatedParams(self.module, self._optimizer, self._precision)
        allow_min_loss_scale(self._zero)
        return ZeroShardedState(self.module, self._zero, self._optimizer, initial)

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        loss_of: Callable[[nn.Module, Batch], Tensor],
        *,
        lr: float,
        skip_threshold: float = math.inf,
    ) -> StepResult:
        self._optimizer.set_lr(lr)
        losses = []
        for number, batch in enumerate(micro_batches, start=1):
            losses.append(self._backward(loss_of, batch))
            if number < len(micro_batches):
                self._engine.step()  # only counts the micro-batch
        mean, highest = reduce_losses(losses, self.world)
        self._precision.unscale(self._optimizer)
        self._optimizer.set_decision(
            lambda: decide_step(self._norm(), mean, clip=self._config.clip, skip_threshold=skip_threshold)
        )
        self._engine.step()
        decision = self._optimizer.decision or self._overflow()
        return StepResult(mean, highest, decision.norm, decision.skip)

    def _backward(self, loss_of: Callable[[nn.Module, Batch], Tensor], batch: Batch) -> Tensor:
        """Run one micro-batch. At stage 0 it bypasses DeepSpeed's forward, which would disable autocast."""
        if self._partitioned:
            loss = loss_of(self._engine, batch)
        else:
            with self._precision.autocast():
                loss = loss_of(self.module, batch)
        self._engine.backward(self._precision.scale(loss))
        return loss.detach()

    def _norm(self) -> Tensor:
        return zero_grad_norm(self._zero) if self._partitioned else grad_norm(self.module)

    def _overflow(self) -> StepDecision:
        """The decision after ZeRO found gradients that are not finite and did not call the optimizer."""
        device = self.world.device
        return StepDecision(torch.full((), math.inf, device=device), torch.ones((), device=device), None)

    def sync_buffers(self) -> None:
        self.world.average_tensors(persistent_buffers(self.module).values())

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        return self._state.snapshot(into)

    def load(self, folder: Path) -> None:
        self._state.load(folder)
        for group, expected in zip(self._optimizer.param_groups, self._hyperparameters, strict=True):
            assert all(group[key] == expected[key] for key in ("weight_decay", "lr_scale")), "groups out of order"

    def full_state(self, *, ema: bool = False) -> dict[str, Tensor]:
        require_ema(self._config, ema)
        self.sync_buffers()
        return self._state.full(ema=ema)


def _copy_to_host(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", torch.float32, copy=True) for name, value in module.named_parameters()}


def _require_fp16(deepspeed: Any, plan: EnginePlan) -> None:
    supported = deepspeed.accelerator.get_accelerator().is_fp16_supported()
    if plan.config.precision == "fp16" and plan.config.zero_stage > 0 and not supported:
        raise UserError(
            f"engine.precision=fp16 with engine.zero_stage={plan.config.zero_stage} needs a device that computes in "
            f"float16, this {plan.world.device.type} device does not; type engine.precision=bf16 or engine.zero_stage=0"
        )


def _import_deepspeed(world: World) -> Any:
    """Import DeepSpeed for the rank's device, without its log output.

    On CPUs DeepSpeed would compile a shared-memory all-reduce at first use (30 s, an error without a compiler); Gloo
    does not need it, so that operator is declared unavailable.
    """
    if world.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # ZeRO calls collectives that torch 2.13 renamed.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it warns about custom optimizers; ours is tested
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
