"""The selective scan of Mamba (Gu and Dao 2023, arXiv 2312.00752, section 3), in plain PyTorch.

A linear recurrence whose step size, input and output maps depend on the input:

    h_t = exp(delta_t A) h_(t-1) + delta_t B_t x_t        y_t = C_t h_t + D x_t

Time is split by `unbind`, whose backward is one stack: indexing with `h[:, t]` would allocate a full-size gradient per
step. CUDA tensors use the kernel of the package `mamba_ssm` where it is installed.

Shapes: B batch, T steps, E channels, N state size per channel.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, nn


class SelectiveScan(nn.Module):
    """The recurrence with learned A and D; computes in float32 in any surrounding precision."""

    def __init__(self, channels: int, state: int) -> None:
        super().__init__()
        # A starts at -1 .. -N for every channel (S4D-Real); learned as a logarithm, so that A stays negative.
        self.log_decay = nn.Parameter(torch.arange(1, state + 1).float().log().repeat(channels, 1))
        self.skip = nn.Parameter(torch.ones(channels))

    def forward(self, x_BTE: Tensor, delta_BTE: Tensor, b_BTN: Tensor, c_BTN: Tensor) -> Tensor:
        """y_BTE, in the type of `x_BTE`; `delta_BTE` is positive."""
        a_EN = -self.log_decay.float().exp()
        inputs = (x_BTE.float(), delta_BTE.float(), b_BTN.float(), c_BTN.float())
        kernel = _kernel() if x_BTE.is_cuda else None
        if kernel is None:
            y_BTE = scan(inputs[0], inputs[1], a_EN, b_BTN=inputs[2], c_BTN=inputs[3])
            return (y_BTE + self.skip * inputs[0]).to(x_BTE.dtype)
        return _by_kernel(kernel, inputs, a_EN, self.skip).to(x_BTE.dtype)

    def extra_multiply_adds(self, x_BTE: Tensor, delta_BTE: Tensor, b_BTN: Tensor, c_BTN: Tensor) -> int:
        """delta A, delta B x and the recurrence for each state value, delta x and D x for each channel.

        C h is a matrix product, which the counter sees.
        """
        return x_BTE.numel() * (3 * b_BTN.shape[-1] + 2)


def scan(x_BTE: Tensor, delta_BTE: Tensor, a_EN: Tensor, *, b_BTN: Tensor, c_BTN: Tensor) -> Tensor:
    """y_BTE without the skip term, computed step by step in the dtype of the inputs."""
    decay_BTEN = torch.exp(delta_BTE[..., None] * a_EN)
    drive_BTEN = (delta_BTE * x_BTE)[..., None] * b_BTN[:, :, None]
    state_BEN = torch.zeros_like(drive_BTEN[:, 0])
    states = []
    for decay_BEN, drive_BEN in zip(decay_BTEN.unbind(1), drive_BTEN.unbind(1), strict=True):
        state_BEN = decay_BEN * state_BEN + drive_BEN
        states.append(state_BEN)
    return (torch.stack(states, dim=1) @ c_BTN[..., None])[..., 0]


def _by_kernel(
    kernel: Callable[..., Tensor], inputs: tuple[Tensor, Tensor, Tensor, Tensor], a_EN: Tensor, skip_E: Tensor
) -> Tensor:
    """The kernel expects time last: x and delta as (B, E, T), B and C as (B, N, T)."""
    x, delta, b, c = (tensor.transpose(1, 2).contiguous() for tensor in inputs)
    return kernel(x, delta, a_EN, b, c, D=skip_E.float()).transpose(1, 2)


@functools.cache
def _kernel() -> Callable[..., Tensor] | None:
    if importlib.util.find_spec("mamba_ssm") is None:
        return None
    return importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
