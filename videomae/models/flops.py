"""Parameters and multiply-adds of a module, layer by layer, counted on the meta device.

A copy of the module on the meta device, where tensors have shapes and no values, runs once under PyTorch's
`FlopCounterMode`; hooks attribute the operators to the innermost module whose `forward` is running. One multiply-add
counts once (GMACs = multiply-adds / 1e9), which most papers print as "GFLOPs". Element-wise operators (norms,
activations, softmax) are not counted, as usual. A module whose products are element-wise, such as a selective scan,
reports them through `extra_multiply_adds`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@runtime_checkable
class CountsItself(Protocol):
    """A module with multiply-adds outside matrix products, for example a recurrence of element-wise products."""

    def extra_multiply_adds(self, *inputs: Tensor) -> int:
        """Multiply-adds of one `forward(*inputs)` beyond its matrix products and convolutions."""
        ...


@dataclass(kw_only=True)
class LayerCount:
    """Counts of one called module, excluding its submodules.

    Parameters of a module that is never called, because its parent uses the weight directly, count for the parent.
    """

    name: str  # dotted path, "" for the counted module itself
    kind: str
    is_leaf: bool
    output: tuple[int, ...] = ()  # shape of the last output, batch axis included
    parameters: int = 0
    multiply_adds: int = 0


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """Totals of a module, and its layers in the order of their first call."""

    layers: tuple[LayerCount, ...]
    parameters: int
    multiply_adds: int

    @property
    def gmacs(self) -> float:
        """Multiply-adds in units of 1e9."""
        return self.multiply_adds / 1e9


def count_flops(module: nn.Module, *inputs: Tensor) -> FlopCount:
    """Count `module(*inputs)` in evaluation mode, without changing the module or allocating memory for weights.

    Inputs may be on any device, meta included: only their shapes and dtypes matter.
    """
    skeleton = _meta_copy(module)
    counter = FlopCounterMode(display=False)
    layers = _Recorder(counter).watch(skeleton)
    with torch.no_grad(), counter:
        skeleton(*(tensor.to("meta") for tensor in inputs))
    for name, parameter in skeleton.named_parameters():
        owner = name.rpartition(".")[0]
        while owner not in layers:
            owner = owner.rpartition(".")[0]
        layers[owner].parameters += parameter.numel()
    return FlopCount(
        layers=tuple(layers.values()),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        multiply_adds=sum(layer.multiply_adds for layer in layers.values()),
    )


def training_multiply_adds(module: nn.Module, counted: FlopCount) -> dict[str, int]:
    """Multiply-adds of a forward and a backward pass by direct child of `module`; "" for the module's own.

    The backward pass repeats each product of the forward pass for the gradient of the weights and for that of the
    input. A frozen layer skips the first, a layer with no trained layer before it the second. Recomputation under
    activation checkpointing is not counted (model FLOPs, Chowdhery et al. 2022, appendix B).
    """
    modules = dict(module.named_modules())
    totals: dict[str, int] = {}
    trained_before = False
    for layer in counted.layers:
        trained = any(parameter.requires_grad for parameter in modules[layer.name].parameters())
        passes = 1 + trained + trained_before
        child = layer.name.partition(".")[0]
        totals[child] = totals.get(child, 0) + passes * layer.multiply_adds
        trained_before |= trained and layer.is_leaf
    return totals


@dataclass
class _Recorder:
    """Attributes the counter's FLOPs to the module on top of the call stack."""

    counter: FlopCounterMode
    layers: dict[str, LayerCount] = field(default_factory=dict)
    stack: list[LayerCount] = field(default_factory=list)
    seen: int = 0

    def watch(self, module: nn.Module) -> dict[str, LayerCount]:
        """Hook `module` and its submodules for good; returns the layers by name, filled as they are called."""
        for name, layer in module.named_modules():
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: self.enter(name, layer, inputs))
            layer.register_forward_hook(lambda _, inputs, output: self.leave(output))
        return self.layers

    def settle(self) -> None:
        """Credit the FLOPs since the last call of this method to the running module."""
        total = self.counter.get_total_flops() // 2  # a FLOP is a multiplication or an addition
        if self.stack:
            self.stack[-1].multiply_adds += total - self.seen
        self.seen = total

    def enter(self, name: str, module: nn.Module, inputs: Any) -> None:
        self.settle()
        is_leaf = next(module.children(), None) is None
        layer = self.layers.setdefault(name, LayerCount(name=name, kind=type(module).__name__, is_leaf=is_leaf))
        if isinstance(module, CountsItself):
            layer.multiply_adds += module.extra_multiply_adds(*inputs)
        self.stack.append(layer)

    def leave(self, output: Any) -> None:
        self.settle()
        self.stack.pop().output = _shape(output)


def _meta_copy(module: nn.Module) -> nn.Module:
    """A copy on the meta device; shared parameters stay shared, values are never copied."""
    replaced: dict[int, Any] = {}
    for parameter in module.parameters():
        replaced[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in module.buffers():
        replaced[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, replaced).eval()


def _shape(output: Any) -> tuple[int, ...]:
    if isinstance(output, Tensor):
        return tuple(output.shape)
    return _shape(output[0]) if isinstance(output, (tuple, list)) and output else ()
