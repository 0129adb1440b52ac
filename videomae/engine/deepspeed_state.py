"""Locate float32 weights and moments in DeepSpeed's ZeRO optimizers. All access to its internals is in this module.

Written against DeepSpeed 0.19.8. Its public helpers return a whole parameter by a collective, or the partition of
ZeRO-3, but neither the ranges of stages 1 and 2 nor step counts.

Stages 1 and 2 flatten the parameters of a group, pad the result and split it into one partition per rank, regardless of
parameter boundaries. `parameter._hp_mapping` tells which range of a parameter is where in this rank's partition, and is
None if none is. AdamW optimizes the partitions.

Stage 3 splits each parameter into equal parts, the last one padded: `grad_position` tells where this rank's part is in
the flat buffers (`fp32_partitioned_groups_flat`), which AdamW optimizes one after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from videomae.core.errors import UserError
from videomae.engine.muon import Fragment, Muon
from videomae.engine.optimizer import AdamW
from videomae.engine.state.rank_file import EMA, MASTER
from videomae.engine.state.snapshot import ParamShard


class ZeroShardedState:
    """The ShardedState of ZeRO stages 1 to 3; `zero` is DeepSpeed's optimizer that wraps `optimizer`.

    DeepSpeed casts the module before it copies weights into partitions, so the exact `initial` weights are written to
    the partitions here. Parameters that are not trained have no partition; their float32 values stay on the host.
    """

    def __init__(self, module: nn.Module, zero: Any, optimizer: AdamW, initial: Mapping[str, Tensor]) -> None:
        self._module, self._zero, self._optimizer = module, zero, optimizer
        parameters = dict(module.named_parameters())
        self._trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        self._frozen = {name: value for name, value in initial.items() if name not in self._trained}
        self._shapes = {name: tuple(value.shape) for name, value in initial.items()}
        if self._frozen and self._is_stage_3:
            raise UserError(
                f"engine.zero_stage=3 needs every parameter trained, {len(self._frozen)} are not, such as "
                f"{min(self._frozen)}; type engine.zero_stage=2, or less"
            )
        optimizer.init_state(self._grouped_partitions(len(optimizer.param_groups)))
        if isinstance(optimizer, Muon):
            optimizer.set_fragments(self._fragments())
        for shard in self.sharded():
            for key in shard.values.keys() & {MASTER, EMA}:
                shard.values[key].copy_(initial[shard.name].reshape(-1)[shard.start : shard.stop])
        self.sync_model_weights()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def sharded(self) -> Sequence[ParamShard]:
        return [self._shard(flat, fragment) for flat, fragments in self._fragments().items() for fragment in fragments]

    def replicated(self) -> Sequence[ParamShard]:
        return [
            ParamShard(name, self._shapes[name], 0, {MASTER: value.view(-1)}, None)
            for name, value in self._frozen.items()
        ]

    @property
    def _is_stage_3(self) -> bool:
        return hasattr(self._zero, "fp32_partitioned_groups_flat")

    def _partitions(self) -> list[Tensor]:
        if self._is_stage_3:
            return self._zero.fp32_partitioned_groups_flat
        return self._zero.single_partition_of_fp32_groups

    def _grouped_partitions(self, groups: int) -> list[list[Tensor]]:
        """Return the partitions of each parameter group; stage 3 may cut a large group into several."""
        grouped: list[list[Tensor]] = [[] for _ in range(groups)]
        for number, flat in enumerate(self._partitions()):
            grouped[self._zero.sub_group_to_group_id[number] if self._is_stage_3 else number].append(flat)
        return grouped

    def _fragments(self) -> dict[Tensor, list[Fragment]]:
        """Return what each partition holds of which parameters, in module order."""
        find = self._stage_3_fragment if self._is_stage_3 else self._stage_1_2_fragment
        partitions = self._partitions()
        found: dict[Tensor, list[Fragment]] = {flat: [] for flat in partitions}
        for name, parameter in self._trained.items():
            number, fragment = find(name, parameter)
            if fragment is not None:
                found[partitions[number]].append(fragment)
        return found

    def _stage_1_2_fragment(self, name: str, parameter: Any) -> tuple[int, Fragment | None]:
        mapping = parameter._hp_mapping
        if mapping is None:
            return 0, None
        offset, numel = mapping.get_hp_fragment_address().start, mapping.lp_fragment_address.numel
        fragment = Fragment(name, mapping.lp_fragment_address.start, slice(offset, offset + numel))
        return mapping.param_group_index, fragment

    def _stage_3_fragment(self, name: str, parameter: Any) -> tuple[int, Fragment | None]:
        number, offset, padded = self._zero.grad_position[self._zero.get_param_id(parameter)]
        start = padded * self._zero._get_param_partition_rank(parameter)
        numel = min(padded, prod(self._shapes[name]) - start)
        return number, Fragment(name, start, slice(offset, offset + numel)) if numel > 0 else None

    def _shard(self, flat: Tensor, fragment: Fragment) -> ParamShard:
        state = self._optimizer.state[flat]
        live = {MASTER: flat.detach()} | {key: state[key] for key in self._optimizer.state_keys if key in state}
        values = {key: value[fragment.place] for key, value in live.items()}
        return ParamShard(fragment.name, self._shapes[fragment.name], fragment.start, values, state["step"])

    @torch.no_grad()
    def sync_model_weights(self) -> None:
        if self._is_stage_3:
            self._zero._partition_all_parameters()
            for group in range(len(self._zero.fp16_groups)):
                self._zero._reassign_or_swap_out_partitioned_parameters(group)
            self._zero._post_step(set())  # gathers the small parameters that are not partitioned
        else:
            self._zero.update_lp_params()
        for name, value in self._frozen.items():
            self._module.get_parameter(name).copy_(value)

    def scaler(self) -> Tensor | None:
        scaler = self._zero.loss_scaler
        if not scaler.dynamic:
            return None
        return torch.tensor([scaler.cur_scale, scaler.cur_iter - scaler.last_overflow_iter - 1], dtype=torch.float64)

    def load_scaler(self, scaler: Tensor | None) -> None:
        target = self._zero.loss_scaler
        if target.dynamic and scaler is not None:
            scale, steps = scaler.tolist()
            target.cur_scale, target.cur_iter, target.last_overflow_iter = scale, int(steps), -1


def allow_min_loss_scale(zero: Any) -> None:
    """Let the loss scale stay at its minimum, where DeepSpeed would raise: the health guard decides when to stop."""
    if zero.loss_scaler.dynamic:
        zero.loss_scaler.raise_error_at_min_scale = False


def zero_grad_norm(zero: Any) -> Tensor:
    """Return the norm, over all ranks, of the gradients of the current step."""
    return zero._global_grad_norm
