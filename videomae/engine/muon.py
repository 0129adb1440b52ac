"""Muon: momentum whose matrices are orthogonalized, for the weights of transformer blocks; AdamW for all others.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon): the update of a matrix is its Nesterov momentum with all
singular values near 1, by five Newton-Schulz iterations. Scaled by 0.2 sqrt(longer side) it has the size of an AdamW
update, so that one learning rate and weight decay serve both (Liu et al. 2025, arXiv 2502.16982, section 2.2).

torch.optim.Muon is not used: it takes one matrix at a time, in bfloat16 on CPUs too, cannot skip a step on the device,
and needs whole parameters. Here the matrices of equal shape form one batch, and the ranks share the matrices: each
orthogonalizes some, then all exchange the results, which are therefore equal on all ranks. With ZeRO 1 to 3 an
optimized tensor is this rank's partition of many parameters; the updates are gathered first.

Shapes: N matrices, R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from videomae.core.distributed import World
from videomae.engine.optimizer import AdamW, OptimizerConfig

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
BATCH = 1 << 26  # values orthogonalized at a time, at most


@dataclass(frozen=True)
class Fragment:
    """A range of the flattened parameter `name`, from `start` on, that stands at `place` in an optimized tensor."""

    name: str
    start: int
    place: slice


def newton_schulz(matrices_NRC: Tensor) -> Tensor:
    """Return matrices with the singular vectors of `matrices_NRC`, R <= C, and singular values of 0.7 to 1.2.

    Each iteration multiplies by a polynomial in the matrix times its transpose. For long float32 matrices the
    polynomials are multiplied first, which saves half of the work; in half precision that would be inexact.
    """
    x_NRC = matrices_NRC / matrices_NRC.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    if x_NRC.dtype == torch.float32 and x_NRC.shape[2] >= 2 * x_NRC.shape[1]:
        return _iterate_gram(x_NRC @ x_NRC.mT) @ x_NRC
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram_NRR = x_NRC @ x_NRC.mT
        polynomial_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, polynomial_NRR, x_NRC, beta=a)
    return x_NRC


def _iterate_gram(gram_NRR: Tensor) -> Tensor:
    """Return the product of all iterations' polynomials; they commute, so the next gram is gram times squared."""
    a, b, c = COEFFICIENTS
    product_NRR: Tensor | None = None
    for step in range(STEPS):
        polynomial_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        polynomial_NRR.diagonal(dim1=1, dim2=2).add_(a)
        product_NRR = polynomial_NRR if product_NRR is None else polynomial_NRR @ product_NRR
        if step + 1 < STEPS:
            gram_NRR = gram_NRR @ (polynomial_NRR @ polynomial_NRR)
    assert product_NRR is not None
    return product_NRR


def build_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig, world: World) -> AdamW:
    return AdamW(groups, config) if config.kind == "adamw" else Muon(groups, config, world)


class Muon(AdamW):
    """Muon on the groups that name `matrices`, AdamW on the others.

    The momentum is the state `exp_avg`; there is no second moment. Steps are skipped on the device, as AdamW's are.
    """

    def __init__(self, groups: list[dict[str, Any]], config: OptimizerConfig, world: World) -> None:
        super().__init__(groups, config)
        self._world = world
        self._shapes: dict[str, tuple[int, int]] = {}
        self._names: dict[Tensor, str] = {}  # of whole parameters
        for group in groups:
            self._shapes |= group.get("matrices", {})
            self._names |= dict(zip(group["params"], group.get("matrices", ()), strict=False))
        self._fragments: dict[Tensor, list[list[Fragment]]] = {}  # of partitions, per rank
        self._shares: dict[tuple[str, ...], _Shares] = {}

    def set_fragments(self, fragments: Mapping[Tensor, Sequence[Fragment]]) -> None:
        """Tell which ranges of which parameters this rank's partitions hold; all ranks call this together."""
        by_rank = self._world.all_gather_object([list(own) for own in fragments.values()])
        for number, partition in enumerate(fragments):
            self._fragments[partition] = [found[number] for found in by_rank]

    def _update(self) -> None:
        groups = self.param_groups
        self.param_groups = [group for group in groups if "matrices" not in group]
        super()._update()
        self.param_groups = groups
        self._update_matrices([group for group in groups if "matrices" in group])

    def _update_matrices(self, groups: Sequence[dict[str, Any]]) -> None:
        pairs = [(tensor, group) for group in groups for tensor in group["params"] if tensor.grad is not None]
        if not pairs:
            return
        assert self.decision is not None
        take = 1 - self.decision.skip
        updates = {tensor: self._momentum(tensor) for tensor, _ in pairs}
        results = self._orthogonalize(self._gather(updates))
        for tensor, group in pairs:
            tensor.mul_(1 - group["lr"] * group["weight_decay"] * take)
            for fragment in self._own_fragments(tensor):
                values = results[fragment.name][fragment.start :][: fragment.place.stop - fragment.place.start]
                tensor.view(-1)[fragment.place].add_(values * take, alpha=-group["lr"])
            self.state[tensor]["step"].add_(take)

    def _momentum(self, tensor: Tensor) -> Tensor:
        """Advance the momentum of `tensor` and return the Nesterov update; a skipped step leaves it as it is."""
        assert self.decision is not None
        assert tensor.grad is not None
        skip, clip_coef = self.decision.skip.bool(), self.decision.clip_coef
        average, gradient = self.state[tensor]["exp_avg"], tensor.grad
        gradient = torch.where(skip, average, gradient if clip_coef is None else gradient / clip_coef)
        average.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp_(average, MOMENTUM)

    def _own_fragments(self, tensor: Tensor) -> Sequence[Fragment]:
        if tensor in self._fragments:
            return self._fragments[tensor][self._world.rank]
        return [Fragment(self._names[tensor], 0, slice(0, tensor.numel()))]

    def _gather(self, updates: Mapping[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the flat update of each whole matrix, the same on every rank."""
        whole: dict[str, Tensor] = {}
        for tensor, update in updates.items():
            half = update.view(-1).to(_dtype(update.device))
            if tensor not in self._fragments:
                whole[self._names[tensor]] = half
                continue
            parts = half.new_empty(self._world.size * half.numel())
            self._world.all_gather_into(half, into=parts)
            pieces: dict[str, list[tuple[int, Tensor]]] = {}
            for part, fragments in zip(parts.chunk(self._world.size), self._fragments[tensor], strict=True):
                for fragment in fragments:
                    pieces.setdefault(fragment.name, []).append((fragment.start, part[fragment.place]))
            for name, found in pieces.items():
                whole[name] = torch.cat([piece for _, piece in sorted(found, key=lambda item: item[0])])
        return whole

    def _orthogonalize(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the scaled orthogonal update of each matrix, flat float32, the same on every rank."""
        names = tuple(whole)
        if names not in self._shares:
            self._shares[names] = _Shares({name: self._shapes[name] for name in names}, self._world.size)
        shares = self._shares[names]
        own = next(iter(whole.values())).new_zeros(shares.length)
        for name, result in _orthogonal(shares.names(self._world.rank), whole, self._shapes):
            own[shares.place(name)] = result
        found = own
        if self._world.size > 1:
            found = own.new_empty(self._world.size * shares.length)
            self._world.all_gather_into(own, into=found)
        parts = found.float().chunk(self._world.size)
        return {name: parts[shares.owner(name)][shares.place(name)] for name in names}


class _Shares:
    """Which rank orthogonalizes which parameters, and where their results stand in its part of the exchange."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]], ranks: int) -> None:
        loads, ends = [0] * ranks, [0] * ranks
        self._places: dict[str, tuple[int, slice]] = {}
        for name, (rows, columns) in sorted(shapes.items(), key=lambda item: -_cost(item[1])):
            rank = loads.index(min(loads))
            loads[rank] += _cost((rows, columns))
            end = ends[rank] + rows * columns
            self._places[name] = (rank, slice(ends[rank], end))
            ends[rank] = end
        self.length = max(ends)

    def names(self, rank: int) -> list[str]:
        return [name for name, (owner, _) in self._places.items() if owner == rank]

    def owner(self, name: str) -> int:
        return self._places[name][0]

    def place(self, name: str) -> slice:
        return self._places[name][1]


def _cost(shape: tuple[int, int]) -> int:
    return min(shape) ** 2 * max(shape)


def _orthogonal(
    names: Iterable[str], whole: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]]
) -> Iterable[tuple[str, Tensor]]:
    """Yield (name, flat result); matrices that are equal in shape, up to transposition, form batches."""
    batches: dict[tuple[int, int], list[str]] = {}
    for name in names:
        batches.setdefault((min(shapes[name]), max(shapes[name])), []).append(name)
    for (short, long), members in batches.items():
        limit = max(1, BATCH // (short * long))
        for begin in range(0, len(members), limit):
            chosen = members[begin : begin + limit]
            wide_NRC = torch.stack([_wide(whole[name].view(shapes[name])) for name in chosen])
            results_NRC = newton_schulz(wide_NRC).mul_(0.2 * long**0.5)
            for name, result_RC in zip(chosen, results_NRC, strict=True):
                rows, columns = shapes[name]
                yield name, (result_RC.T if rows > columns else result_RC).reshape(-1)


def _wide(matrix_RC: Tensor) -> Tensor:
    return matrix_RC.T if matrix_RC.shape[0] > matrix_RC.shape[1] else matrix_RC


def _dtype(device: torch.device) -> torch.dtype:
    """The type of the iterations: bfloat16 is enough (Jordan et al. 2024), and slower than float32 on most CPUs."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32
