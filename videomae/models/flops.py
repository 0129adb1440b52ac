"""Multiply-adds and parameters of a module, layer by layer, counted without doing its arithmetic.

The module is copied to the meta device, where tensors have shapes and no values, and run once on meta inputs. Every
matrix product, convolution and attention that comes past is attributed to the innermost module whose `forward` is
running. A multiply-add counts once (GMACs = multiply-adds / 1e9), which is what most papers print as "GFLOPs".
Element-wise work (norms, activations, softmax) is not counted, as nobody counts it; a module whose products are
element-wise, such as a selective scan, says them itself through `extra_multiply_adds`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@runtime_checkable
class CountsItself(Protocol):
    """A module with multiply-adds that no matrix product shows, for example a recurrence of element-wise products."""

    def extra_multiply_adds(self, *inputs: Tensor) -> int:
        """Multiply-adds of one `forward(*inputs)` beyond its matrix products and convolutions."""
        ...


@dataclass(frozen=True, kw_only=True)
class LayerCount:
    """One module that was called: what it did itself, without the modules inside it.

    Parameters of a module that is never called, because another reaches for its weight, stand with the module round it.
    """

    name: str  # dotted path, "" for the counted module itself
    kind: str
    output: tuple[int, ...]  # shape of its last output, batch axis included
    parameters: int
    multiply_adds: int
    is_leaf: bool


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """Totals of a module, and its layers in the order in which they were first called."""

    layers: tuple[LayerCount, ...]
    parameters: int
    multiply_adds: int

    @property
    def gmacs(self) -> float:
        """Multiply-adds in units of 1e9."""
        return self.multiply_adds / 1e9


def count_flops(module: nn.Module, *inputs: Tensor) -> FlopCount:
    """Count `module(*inputs)` in evaluation mode; neither is changed, and no memory is taken for weights.

    Inputs may live on the meta device themselves: only their shapes and types matter.
    """
    skeleton = _skeleton(module)
    tally = _Tally()
    with ExitStack() as stack:
        for name, layer in skeleton.named_modules():
            stack.enter_context(_watched(name, layer, tally))
        stack.enter_context(torch.no_grad())
        stack.enter_context(tally)
        skeleton(*(tensor.to("meta") for tensor in inputs))
    parameters = _parameters_by_caller(skeleton, set(tally.called))
    layers = tuple(
        LayerCount(
            name=name,
            kind=type(layer).__name__,
            output=tally.outputs.get(name, ()),
            parameters=parameters[name],
            multiply_adds=tally.multiply_adds.get(name, 0),
            is_leaf=next(layer.children(), None) is None,
        )
        for name, layer in tally.called.items()
    )
    return FlopCount(
        layers=layers,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        multiply_adds=sum(tally.multiply_adds.values()),
    )


def training_multiply_adds(module: nn.Module, counted: FlopCount) -> dict[str, int]:
    """Multiply-adds of a forward and backward pass by part of `module`, its direct children; "" for what is its own.

    The backward pass does each product of the forward pass once more for the weights and once more for what came in. A
    frozen layer has no first, and a layer before which nothing is trained no second. What a checkpointed block does
    again is no work of the model's and is not counted (model FLOPs, Chowdhery et al. 2022, appendix B).
    """
    modules = dict(module.named_modules())
    totals: dict[str, int] = {}
    trained_before = False
    for layer in counted.layers:
        trained = any(parameter.requires_grad for parameter in modules[layer.name].parameters())
        passes = 1 + trained + trained_before
        part = layer.name.partition(".")[0]
        totals[part] = totals.get(part, 0) + passes * layer.multiply_adds
        trained_before |= trained and layer.is_leaf
    return totals


@dataclass
class _Tally(TorchDispatchMode):
    """Sums the multiply-adds of every operator under the module that is running."""

    running: list[str] = field(default_factory=list)
    multiply_adds: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    called: dict[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def add(self, multiply_adds: int) -> None:
        name = self.running[-1] if self.running else ""
        self.multiply_adds[name] = self.multiply_adds.get(name, 0) + multiply_adds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.add(int(formula(*args, **(kwargs or {}), out_val=result)) // 2)  # the registry counts both halves
        return result


@contextmanager
def _watched(name: str, layer: nn.Module, tally: _Tally) -> Iterator[None]:
    def enter(_: nn.Module, inputs: Any) -> None:
        tally.called.setdefault(name, layer)
        tally.running.append(name)
        if isinstance(layer, CountsItself):
            tally.add(layer.extra_multiply_adds(*inputs))

    def leave(_: nn.Module, inputs: Any, output: Any) -> None:
        tally.running.pop()
        tally.outputs[name] = _shape(output)

    handles = [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _skeleton(module: nn.Module) -> nn.Module:
    """A copy on the meta device; shared parameters stay shared, values are never copied."""
    replaced: dict[int, Any] = {}
    for parameter in module.parameters():
        replaced[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in module.buffers():
        replaced[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, replaced).eval()


def _parameters_by_caller(skeleton: nn.Module, called: set[str]) -> dict[str, int]:
    """Own parameters of every called module, and of what was never called within it; shared ones count at the first."""
    parameters = dict.fromkeys(called, 0)
    for name, parameter in skeleton.named_parameters():
        owner = name.rpartition(".")[0]
        while owner not in called:
            owner = owner.rpartition(".")[0]
        parameters[owner] += parameter.numel()
    return parameters


def _shape(output: Any) -> tuple[int, ...]:
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, (tuple, list)) and output:
        return _shape(output[0])
    return ()
