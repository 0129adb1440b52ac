"""Measure the receptive field of every layer: the input pixels that can influence the centre of its output.

The model runs once with every layer that mixes its inputs replaced by a plain sum over them, on values kept at one. The
gradient of a central output is then the number of paths from each pixel: positive where a path exists, exactly zero
elsewhere, independent of weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def receptive_fields(module: nn.Module, shape: tuple[int, ...]) -> dict[str, str]:
    """The receptive field of the central output of every called submodule, by dotted name.

    It is T x H x W in pixels of the input, clipped at its borders, or "-" if no gradient reaches the input, as through
    optical flow. `shape` is (channels, frames, height, width) of one video.
    """
    module = copy.deepcopy(module).double().eval().requires_grad_(False)
    video_BCTHW = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        tensor = output[0] if isinstance(output, (tuple, list)) else output
        if isinstance(tensor, Tensor):
            outputs[name] = tensor

    for name, layer in module.named_modules():
        layer.register_forward_hook(lambda layer, inputs, output, name=name: keep(name, output))
    with _Paths():
        module(video_BCTHW)
    of_tensor = {id(output): _extent(output, video_BCTHW) for output in {id(o): o for o in outputs.values()}.values()}
    return {name: of_tensor[id(output)] for name, output in outputs.items()}


class _Paths(TorchFunctionMode):
    """Replaces layers by sums while the model runs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replacement = _REPLACED.get(func)
        return (replacement or func)(*args, **(kwargs or {}))


def _one(paths: Tensor) -> Tensor:
    """A tensor of ones with the gradient of `paths`."""
    return paths - paths.detach() + 1


def _convolution(input: Tensor, weight: Tensor, bias: Tensor | None = None, *settings: Any, **more: Any) -> Tensor:
    """Stride, padding and dilation hold. Groups do not: where each channel is one, all have the same field."""
    del bias
    more.pop("groups", None)
    ones = torch.ones(1, 1, *weight.shape[2:], dtype=input.dtype)
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[weight.dim() - 2]
    paths = convolve(input.sum(1, keepdim=True), ones, None, *settings[:3], **more)
    return _one(paths).expand(-1, weight.shape[0], *[-1] * (weight.dim() - 2))


def _pooling(average: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def pool(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        **_: Any,
    ) -> Tensor:
        del dilation
        axes = input.dim() - 2
        sides = (padding,) * axes if isinstance(padding, int) else tuple(padding)
        padded = functional.pad(input, [side for pair in reversed(sides) for side in (pair, pair)])
        return _one(average(padded, kernel_size, stride, 0, ceil_mode))

    return pool


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    del bias
    return _one(input.sum(-1, keepdim=True)).expand(*input.shape[:-1], weight.shape[0])


def _last_axis(input: Tensor, *_: Any, **__: Any) -> Tensor:
    """A norm over channels: every channel depends on all channels."""
    return _one(input.sum(-1, keepdim=True)).expand_as(input)


def _same(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return input


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    paths = (key.sum(-1, keepdim=True) + value.sum(-1, keepdim=True)).sum(-2, keepdim=True)
    return _one(query.sum(-1, keepdim=True) + paths).expand(*query.shape[:-1], value.shape[-1])


def _softmax(input: Tensor, dim: int = -1, *_: Any, **__: Any) -> Tensor:
    """One where attention is allowed, zero where large negative scores mask it."""
    return (input.detach() > input.detach().amax(dim, keepdim=True) - 50).to(input.dtype)


def _add(input: Tensor, other: Tensor, **_: Any) -> Tensor:
    return input + other  # an in-place operation would fail on expanded tensors


_REPLACED: dict[Any, Callable[..., Tensor]] = {
    torch.conv1d: _convolution,
    torch.conv2d: _convolution,
    torch.conv3d: _convolution,
    functional.max_pool1d: _pooling(functional.avg_pool1d),
    functional.max_pool2d: _pooling(functional.avg_pool2d),
    functional.max_pool3d: _pooling(functional.avg_pool3d),
    functional.linear: _linear,
    functional.layer_norm: _last_axis,
    torch.layer_norm: _last_axis,
    functional.rms_norm: _last_axis,
    torch.rms_norm: _last_axis,
    functional.batch_norm: _same,
    torch.batch_norm: _same,
    torch.relu: _same,
    torch.relu_: _same,
    functional.relu: _same,
    functional.relu_: _same,
    functional.gelu: _same,
    functional.silu: _same,
    torch.dropout: _same,
    functional.scaled_dot_product_attention: _attention,
    torch.softmax: _softmax,
    functional.softmax: _softmax,
    Tensor.softmax: _softmax,
    Tensor.__iadd__: _add,
    Tensor.add_: _add,
}


def _extent(output: Tensor, video_BCTHW: Tensor) -> str:
    """Extent along each axis of the pixels that reach the centre of `output`, of which all channels are summed."""
    if not output.requires_grad:
        return "-"
    middle = output[tuple(size // 2 for size in output.shape)]
    (gradient,) = torch.autograd.grad(middle, video_BCTHW, retain_graph=True, allow_unused=True, materialize_grads=True)
    places_N3 = (gradient[0] != 0).any(0).nonzero()
    if not len(places_N3):
        return "-"
    return "x".join(str(int(span) + 1) for span in places_N3.amax(0) - places_N3.amin(0))
