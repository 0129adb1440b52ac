"""Activation memory of one forward and backward pass, found by running the model without values.

The module runs once on the meta device, whose tensors have shapes and no data. Every storage is followed from
allocation to release, which gives the peak. The real code runs, so the encoder sees the visible tokens, the decoder all
tokens, and any model of the registry is counted as it is.

Two things that CUDA does are emulated: attention as one fused operator that stores no attention matrix (Dao et al.
2022), and autocast.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from launch.plan.devices import Precision
from videomae.engine.factory import transformer_blocks

META = torch.device("meta")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_WORKSPACE = {torch.ops.aten.mse_loss: 2}  # memory that an operator takes while it runs, in sizes of its input
_FUSED_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # has meta kernels for both passes


@dataclass(frozen=True)
class PeakBytes:
    """Most bytes allocated at once: in the whole pass, and after the first parameter gradient exists."""

    whole: int = 0
    after_first_gradient: int = 0

    def updated(self, allocated: int, *, has_gradient: bool) -> PeakBytes:
        """The peak including one more moment of the pass."""
        late = max(self.after_first_gradient, allocated) if has_gradient else 0
        return PeakBytes(max(self.whole, allocated), late)


@dataclass(frozen=True, kw_only=True)
class ActivationTrace:
    """Memory of one micro-batch's forward and backward pass on one device, without the parameters."""

    peak: PeakBytes  # if each gradient is freed as soon as it exists
    peak_with_gradients: PeakBytes  # if all gradients stay
    loss_input: int  # bytes of the tensor whose mean is the loss


@dataclass(frozen=True, kw_only=True)
class PassConfig:
    """How the pass runs."""

    precision: Precision = "fp32"
    autocast: bool = False  # parameters stay float32 and products are cast, as torch.autocast does on CUDA
    checkpointing: bool = False  # each transformer block stores its input only and is recomputed


def trace_activations(module: nn.Module, loss_of: Callable[[nn.Module], Tensor], config: PassConfig) -> ActivationTrace:
    """Trace `loss_of(module)` and its backward pass; the module and all inputs must be on the meta device.

    `module` is changed: its parameters are cast to the pass's precision, and its blocks are checkpointed.
    """
    module.to(torch.float32 if config.autocast else _DTYPES[config.precision])
    allocations = _Allocations()
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(allocations.add_gradient)
    allocations.ignore(module)
    if config.checkpointing:
        for block in transformer_blocks(module):
            block.forward = _recomputed(block.forward, config)
    with _CudaEmulation(config), allocations:
        loss_of(module).backward()
    return ActivationTrace(
        peak=allocations.peak,
        peak_with_gradients=allocations.peak_with_gradients,
        loss_input=allocations.loss_input,
    )


class _CudaEmulation(TorchFunctionMode):
    """Fused attention and autocast, as on CUDA."""

    def __init__(self, config: PassConfig) -> None:
        super().__init__()
        self._config = config

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dtype = None
        if self._config.autocast:
            half = _DTYPES[self._config.precision]
            dtype = half if func in _AUTOCAST_HALF else torch.float32 if func in _AUTOCAST_SINGLE else None
        if dtype is not None:
            args = tuple(_cast(value, dtype) for value in args)
            kwargs = {name: _cast(value, dtype) for name, value in kwargs.items()}
        if func is functional.scaled_dot_product_attention:
            query, key, value, *_ = args
            return _FUSED_ATTENTION(query, key, value, 0.0, bool(kwargs.get("is_causal", False)))[0]
        return func(*args, **kwargs)


_AUTOCAST_HALF = {
    functional.linear,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    functional.scaled_dot_product_attention,
    torch.matmul,
    torch.bmm,
    Tensor.matmul,
    Tensor.__matmul__,
}
_AUTOCAST_SINGLE = {functional.layer_norm, functional.rms_norm, functional.mse_loss, functional.cross_entropy}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@dataclass
class _Allocations(TorchDispatchMode):
    """Tracks every storage that an operator allocates until it is freed."""

    allocated: int = 0  # bytes, now
    gradients: int = 0  # of these, bytes of parameter gradients
    peak: PeakBytes = PeakBytes()
    peak_with_gradients: PeakBytes = PeakBytes()
    loss_input: int = 0
    sizes: dict[int, int] = field(default_factory=dict)  # bytes by storage

    def __post_init__(self) -> None:
        super().__init__()

    def ignore(self, module: nn.Module) -> None:
        """Leave out the module's parameters and buffers."""
        for tensor in (*module.parameters(), *module.buffers()):
            self.sizes[tensor.untyped_storage()._cdata] = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        fresh = [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in self.sizes]
        for tensor in fresh:
            self._add(tensor)
        if fresh or func._schema.is_mutable:
            inputs = [_bytes(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            if outputs and outputs[0].dim() == 0 and not self.gradients:
                self.loss_input = max(self.loss_input, *inputs, 0)
            workspace = _WORKSPACE.get(func.overloadpacket, 0)
            if workspace:
                self._update_peak(self.allocated + workspace * max(inputs))
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.sizes:
            return
        self.sizes[key] = size
        self.allocated += size
        self._update_peak(self.allocated)
        weakref.finalize(storage, self._remove, key)

    def add_gradient(self, parameter: Tensor) -> None:
        """Count the gradient that `parameter` has just received."""
        if parameter.grad is not None:
            self.gradients += _bytes(parameter.grad)

    def _update_peak(self, allocated: int) -> None:
        has_gradient = self.gradients > 0
        self.peak = self.peak.updated(allocated - self.gradients, has_gradient=has_gradient)
        self.peak_with_gradients = self.peak_with_gradients.updated(allocated, has_gradient=has_gradient)

    def _remove(self, key: int) -> None:
        self.allocated -= self.sizes.pop(key, 0)


def _bytes(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _recomputed(forward: Callable[..., Tensor], config: PassConfig) -> Callable[..., Any]:
    def emulated(*inputs: Tensor) -> Tensor:
        with _CudaEmulation(config):  # the backward pass recomputes outside the mode of the forward pass
            return forward(*inputs)

    return partial(checkpoint, emulated, use_reentrant=False, preserve_rng_state=False)
