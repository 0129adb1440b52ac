"""What one forward and backward pass computes, moves and keeps, seen without doing its arithmetic.

The module runs once on the meta device, where tensors have shapes and no values. Every operator that comes past is
written down with its multiply-adds and the bytes that it reads and writes; every piece of memory is followed from its
birth to its end, which gives the peak. So visible tokens in the encoder, all tokens in the decoder, and any baseline
model are counted as they are, from the very code that will run.

What differs on a real device is emulated: attention as one fused operator that keeps no weights (Dao et al. 2022), or
as the plain products of older programs; autocast as torch does it on CUDA.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

from launch.plan.devices import Precision
from videomae.engine.blocks import blocks_of

META = torch.device("meta")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_HIDDEN = {torch.ops.aten.mse_loss: 2}  # times its input that an operator takes for itself while it runs
_FUSED_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # has a meta form and a backward one


@dataclass(frozen=True)
class Operator:
    """One kernel: floating-point operations of matrix products (a multiply-add is two), bytes moved, type of inputs."""

    flops: int
    bytes: int
    half: bool  # the product is of 16-bit numbers


@dataclass(frozen=True)
class Peak:
    """Most bytes alive at once: in the whole pass, and from the first gradient on."""

    whole: int = 0
    after_first_gradient: int = 0

    def raised(self, alive: int, *, late: bool) -> Peak:
        """The peak with one more moment; `late` if a gradient has been made."""
        return Peak(max(self.whole, alive), max(self.after_first_gradient, alive) if late else 0)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One forward and backward pass of a micro-batch on a device; parameters are left out of the bytes."""

    operators: tuple[tuple[Operator, int], ...]  # each with how often it runs
    saved: int  # bytes that the forward pass keeps for the backward pass
    peak: Peak  # when each gradient is taken away as it is made
    peak_with_gradients: Peak  # when all gradients stay
    loss_input: int  # bytes of what the loss is the mean of

    @property
    def flops(self) -> int:
        return sum(operator.flops * count for operator, count in self.operators)

    @property
    def kernels(self) -> int:
        return sum(count for _, count in self.operators)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How the pass is run."""

    precision: Precision = "fp32"
    autocast: bool = False  # weights stay float32 and products are cast, as torch.autocast does it on CUDA
    checkpointing: bool = False  # each transformer block keeps its input alone and runs again
    fused_attention: bool = True


def trace(module: nn.Module, loss_of: Callable[[nn.Module], Tensor], setting: Setting) -> Trace:
    """Follow `loss_of(module)` and its backward pass; the module and all inputs must lie on the meta device.

    `module` is changed: its weights take the setting's type and, with checkpointing, its blocks are wrapped.
    """
    module.to(torch.float32 if setting.autocast else _DTYPES[setting.precision])
    watch = _Watch()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    handles = [parameter.register_post_accumulate_grad_hook(watch.gradient_made) for parameter in trained]
    watch.ignore(module)
    blocks = _checkpointed(module, setting) if setting.checkpointing else contextlib.nullcontext()
    with blocks, _Emulated(setting), watch:
        loss = loss_of(module)
        saved = watch.alive
        loss.backward()
    for handle in handles:
        handle.remove()
    return Trace(
        operators=tuple(watch.operators.items()),
        saved=saved,
        peak=watch.peak,
        peak_with_gradients=watch.peak_with_gradients,
        loss_input=watch.loss_input,
    )


class _Emulated(TorchFunctionMode):
    """Attention and autocast as on CUDA."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self._setting = setting

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dtype = None
        if self._setting.autocast:
            half = _DTYPES[self._setting.precision]
            dtype = half if func in _AUTOCAST_HALF else torch.float32 if func in _AUTOCAST_SINGLE else None
        if dtype is not None:
            args = tuple(_cast(value, dtype) for value in args)
            kwargs = {name: _cast(value, dtype) for name, value in kwargs.items()}
        if func is functional.scaled_dot_product_attention and self._setting.fused_attention:
            query, key, value, *_ = args
            return _FUSED_ATTENTION(query, key, value, 0.0, bool(kwargs.get("is_causal", False)))[0]
        return func(*args, **kwargs)


_AUTOCAST_HALF = {
    functional.linear,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
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
class _Watch(TorchDispatchMode):
    """Follows operators and the memory that they make."""

    operators: Counter[Operator] = field(default_factory=Counter)
    alive: int = 0
    gradients: int = 0  # of those alive, in bytes
    peak: Peak = Peak()
    peak_with_gradients: Peak = Peak()
    loss_input: int = 0
    known: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def ignore(self, module: nn.Module) -> None:
        """Take the module's own tensors for given."""
        for tensor in (*module.parameters(), *module.buffers()):
            self.known[tensor.untyped_storage()._cdata] = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        fresh = [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in self.known]
        for tensor in fresh:
            self._follow(tensor)
        if fresh or func._schema.is_mutable:
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            if outputs and outputs[0].dim() == 0 and not self.gradients:
                self.loss_input = max(self.loss_input, *map(_bytes, inputs), 0)
            hidden = _HIDDEN.get(func.overloadpacket, 0)
            if hidden:
                self._compare(self.alive + hidden * max(map(_bytes, inputs)))
            self.operators[_operator(func, args, kwargs or {}, inputs, outputs, result)] += 1
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known[key] = size
        self.alive += size
        self._compare(self.alive)
        weakref.finalize(storage, self._forget, key)

    def gradient_made(self, parameter: Tensor) -> None:
        """A parameter has its gradient."""
        if parameter.grad is not None:
            self.gradients += _bytes(parameter.grad)

    def _compare(self, alive: int) -> None:
        late = self.gradients > 0
        self.peak = self.peak.raised(alive - self.gradients, late=late)
        self.peak_with_gradients = self.peak_with_gradients.raised(alive, late=late)

    def _forget(self, key: int) -> None:
        self.alive -= self.known.pop(key, 0)


def _operator(
    func: Any, args: Any, kwargs: dict[str, Any], inputs: list[Tensor], outputs: list[Tensor], result: Any
) -> Operator:
    flops = 0
    formula = flop_registry.get(func.overloadpacket)
    if func.overloadpacket is _FUSED_ATTENTION:
        flops = 2 * _attention_product(*args[:3])
    elif func.overloadpacket is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward:
        flops = 5 * _attention_product(*args[1:4])  # the weights once more, and four gradients
    elif formula is not None:
        flops = int(formula(*args, **kwargs, out_val=result))
    half = any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in inputs)
    return Operator(flops, sum(map(_bytes, inputs)) + sum(map(_bytes, outputs)), half)


def _attention_product(query_BHND: Tensor, key_BHMD: Tensor, value_BHMD: Tensor) -> int:
    """Floating-point operations of one of attention's products."""
    *batch, queries, width = query_BHND.shape
    return 2 * math.prod(batch) * queries * key_BHMD.shape[-2] * width


def _bytes(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


@contextlib.contextmanager
def _checkpointed(module: nn.Module, setting: Setting) -> Iterator[None]:
    """Let every transformer block below `module` keep its input alone."""
    blocks = blocks_of(module)
    for block in blocks:
        block.forward = _again(block.forward, setting)
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]


def _again(forward: Callable[..., Tensor], setting: Setting) -> Callable[..., Tensor]:
    def emulated(*inputs: Tensor) -> Tensor:
        with _Emulated(setting):  # the backward pass, which runs this again, is outside the mode of the forward one
            return forward(*inputs)

    def run(*inputs: Tensor) -> Tensor:
        output: Any = checkpoint(emulated, *inputs, use_reentrant=False, preserve_rng_state=False)
        return output

    return run
