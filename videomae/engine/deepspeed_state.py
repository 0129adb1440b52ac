"""Where DeepSpeed's ZeRO stages keep float32 weights and moments: all that is read of its internals stands here.

Written against DeepSpeed 0.19.8. Its public helpers give a parameter's whole value by a collective, or ZeRO-3's part of
it, but neither the ranges of stages 1 and 2 nor step counts.

Stages 1 and 2 flatten the parameters of a group, pad the result and cut it into one partition a rank, without regard to
where parameters begin. `parameter._hp_mapping` says which range of a parameter lies where in this rank's partition, and
is None where none does; the partitions are what AdamW optimizes.

Stage 3 cuts each parameter by itself into equal parts, the last one padded: `grad_position` says where this rank's
part lies in the flat buffers (`fp32_partitioned_groups_flat`) that AdamW optimizes one after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from videomae.core.errors import UserError
from videomae.engine.optimizer import AdamW
from videomae.engine.state.fragments import EMA, MASTER
from videomae.engine.state.snapshot import ParamShard


class ZeroShardedState:
    """ZeRO stages 1 to 3; `zero` is DeepSpeed's optimizer round `optimizer`.

    DeepSpeed casts the module before it copies weights into partitions; `initial` has the weights as they were, and
    trained ones are set right here. Those that are not trained have no partition, so they are kept on the host.
    """

    def __init__(self, module: nn.Module, zero: Any, optimizer: AdamW, initial: Mapping[str, Tensor]) -> None:
        self._module, self._zero, self._optimizer = module, zero, optimizer
        parameters = dict(module.named_parameters())
        self._trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        self._fixed = {name: value for name, value in initial.items() if name not in self._trained}
        self._shapes = {name: tuple(value.shape) for name, value in initial.items()}
        if self._fixed and self._by_parameter:
            raise UserError(
                f"engine.zero_stage=3 wants every parameter trained, {len(self._fixed)} are not, such as "
                f"{min(self._fixed)}; type engine.zero_stage=2, or less"
            )
        optimizer.prepare(self._partitions())
        for part in self.sharded():
            for key in part.values.keys() & {MASTER, EMA}:
                part.values[key].copy_(initial[part.name].reshape(-1)[part.start : part.stop])
        self.sync_model_weights()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def sharded(self) -> Sequence[ParamShard]:
        find = self._part if self._by_parameter else self._range
        return [part for name, parameter in self._trained.items() if (part := find(name, parameter)) is not None]

    def replicated(self) -> Sequence[ParamShard]:
        return [
            ParamShard(name, self._shapes[name], 0, {MASTER: value.view(-1)}, None)
            for name, value in self._fixed.items()
        ]

    @property
    def _by_parameter(self) -> bool:
        return hasattr(self._zero, "fp32_partitioned_groups_flat")  # stage 3

    def _partitions(self) -> list[Tensor]:
        if self._by_parameter:
            return self._zero.fp32_partitioned_groups_flat
        return self._zero.single_partition_of_fp32_groups

    def _range(self, name: str, parameter: Any) -> ParamShard | None:
        """Stages 1 and 2."""
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        place, numel = mapping.get_hp_fragment_address().start, mapping.lp_fragment_address.numel
        flat = self._partitions()[mapping.param_group_index]
        return self._held(name, mapping.lp_fragment_address.start, flat, slice(place, place + numel))

    def _part(self, name: str, parameter: Any) -> ParamShard | None:
        """Stage 3."""
        group, place, padded = self._zero.grad_position[self._zero.get_param_id(parameter)]
        start = padded * self._zero._get_param_partition_rank(parameter)
        numel = min(padded, prod(self._shapes[name]) - start)
        if numel <= 0:
            return None
        return self._held(name, start, self._partitions()[group], slice(place, place + numel))

    def _held(self, name: str, start: int, flat: Tensor, where: slice) -> ParamShard:
        state = self._optimizer.state[flat]
        values = {MASTER: flat.detach()[where]} | {key: state[key][where] for key in self._optimizer.state_keys}
        return ParamShard(name, self._shapes[name], start, values, state["step"])

    @torch.no_grad()
    def sync_model_weights(self) -> None:
        if self._by_parameter:
            self._zero._partition_all_parameters()
            for group in range(len(self._zero.fp16_groups)):
                self._zero._reassign_or_swap_out_partitioned_parameters(group)
            self._zero._post_step(set())  # gathers the small parameters that stay whole
        else:
            self._zero.update_lp_params()
        for name, value in self._fixed.items():
            self._module.get_parameter(name).copy_(value)

    def scaler(self) -> Tensor | None:
        scaler = self._zero.loss_scaler
        if not scaler.dynamic:
            return None
        return torch.tensor([scaler.cur_scale, scaler.cur_iter - scaler.last_overflow_iter - 1], dtype=torch.float64)

    def load_scaler(self, scaler: Tensor | None) -> None:
        own = self._zero.loss_scaler
        if own.dynamic and scaler is not None:
            scale, steps = scaler.tolist()
            own.cur_scale, own.cur_iter, own.last_overflow_iter = scale, int(steps), -1


def keep_lowering(zero: Any) -> None:
    """Let the loss scale stay at its lowest, where DeepSpeed would raise: when to give up is for the run to decide."""
    if zero.loss_scaler.dynamic:
        zero.loss_scaler.raise_error_at_min_scale = False


def norm_of(zero: Any) -> Tensor:
    """The norm of the gradients that the step under way goes by; ZeRO has reduced it over all ranks."""
    return zero._global_grad_norm
