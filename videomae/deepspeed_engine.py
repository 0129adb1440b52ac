"""The engine on DeepSpeed, and the one place that imports it.

DeepSpeed's settings are derived here from our config and written to the run directory; there is no second
file to disagree with. Every value on which DeepSpeed's own default would act silently (clipping at 1.0) is written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from videomae.distributed import World, join
from videomae.engine import Batch, EnginePlan, Update, set_rate
from videomae.optimizer import adamw

TAG = "deepspeed"


def derive_settings(plan: EnginePlan) -> dict[str, Any]:
    """DeepSpeed's dictionary.

    The batch size that DeepSpeed wants is only used by it to count samples, which we do ourselves: it is set to 1.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": plan.micro_batches,
        "gradient_clipping": plan.optimizer.clip or 0.0,
        "zero_optimization": {"stage": plan.config.zero_stage},
        "bf16": {"enabled": plan.config.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


class DeepSpeedEngine:
    """ZeRO 0-3 over all ranks, on CUDA with NCCL or on CPUs with gloo."""

    def __init__(self, module: nn.Module, groups: list[dict[str, Any]], plan: EnginePlan) -> None:
        self.world = plan.world
        deepspeed = _import_deepspeed(self.world)
        join(self.world)
        deepspeed.init_distributed(dist_init_required=False)
        self.module = module.to(self.world.device)
        self._config = plan.config
        self.settings: dict[str, Any] | None = derive_settings(plan)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=self.module, optimizer=adamw(groups, plan.optimizer), config=self.settings, dist_init_required=False
        )

    def update(
        self, micro_batches: Sequence[Batch], loss_of: Callable[[nn.Module, Batch], Tensor], *, rate: float
    ) -> Update:
        set_rate(self._optimizer, rate)
        losses, own_norm = [], None
        for number, batch in enumerate(micro_batches, start=1):
            loss = loss_of(self._engine, batch)
            self._engine.backward(loss)
            losses.append(loss.detach())
            if number == len(micro_batches):
                own_norm = self._norm_before_step()
            self._engine.step()
        norm = own_norm if own_norm is not None else torch.as_tensor(self._engine.get_global_grad_norm())
        return Update(self.world.mean(torch.stack(losses).mean()), norm.float())

    def _norm_before_step(self) -> Tensor | None:
        """Stage 0 in float32 reports no norm by itself; there the gradients stand reduced on every rank."""
        if self._config.zero_stage > 0 or self._config.precision != "fp32":
            return None
        gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def agree(self) -> None:
        self.world.average(self.module.buffers())

    def save(self, folder: Path) -> None:
        self.agree()
        self._engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        if not (folder / TAG).is_dir():
            raise ValueError(f"{folder} holds no folder {TAG!r}: it was not written by engine.kind=deepspeed")
        path, _ = self._engine.load_checkpoint(str(folder), tag=TAG)
        if path is None:
            raise ValueError(f"DeepSpeed found nothing to load in {folder / TAG}")

    def full_state(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param

        self.agree()
        state = {}
        for name, parameter in self.module.named_parameters():
            master = safe_get_full_fp32_param(parameter) if self._keeps_masters() else None
            state[name] = (parameter if master is None else master).detach().float().cpu()
        persistent = self.module.state_dict().keys()
        for name, buffer in self.module.named_buffers():
            if name in persistent:
                state[name] = buffer.detach().float().cpu()
        return state

    def _keeps_masters(self) -> bool:
        return self._config.zero_stage > 0 or self._config.precision != "fp32"


def _import_deepspeed(world: World) -> Any:
    """Import DeepSpeed, quiet, for the rank's device.

    On CPUs it would compile an all-reduce over shared memory at first use (half a minute, an error without a compiler);
    gloo does without, so that operator is declared unavailable.
    """
    if world.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
