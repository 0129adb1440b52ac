"""CNN-Mamba: selective state-space layers over the features of each frame (Gu and Dao 2023, arXiv 2312.00752).

Shapes: B batch, C channels, T frames, which are the steps of the recurrence, H height, W width, D features, E = expand
* D inner channels, N state size per channel, R rank of the step size, K classes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.models import resnet
from finetune.models.interface import Published, WeightsConfig
from videomae.core.config import configclass


@configclass
class CnnMambaConfig(WeightsConfig):
    """ResNet-18 -> 512 per frame -> Mamba layers -> norm -> mean over time -> classes."""

    name: Literal["cnn_mamba"] = "cnn_mamba"
    layers: int = 3
    expand: int = 2
    state: int = 16
    kernel: int = 4


class CnnMamba(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: CnnMambaConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        self.network = resnet.resnet18(weights=config.weights if initialise else None)
        self.layers = nn.Sequential(*(MambaLayer(resnet.WIDTH, config) for _ in range(config.layers)))
        self.norm = nn.RMSNorm(resnet.WIDTH, eps=1e-5)
        self.classifier = nn.Linear(resnet.WIDTH, classes)

    def states(self, video_BCTHW: Tensor) -> Tensor:
        """states_BTD; a state depends on no later frame."""
        return self.norm(self.layers(resnet.frame_features(self.network, video_BCTHW)))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.classifier(self.states(video_BCTHW).mean(1))


class MambaLayer(nn.Module):
    """tokens_BTD + Mamba(norm(tokens_BTD)): expand, causal convolution, selective scan, gate, project."""

    def __init__(self, dim: int, config: CnnMambaConfig) -> None:
        super().__init__()
        inner, self.rank, self.state = config.expand * dim, math.ceil(dim / 16), config.state
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.expand = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, config.kernel, groups=inner, padding=config.kernel - 1)
        self.select = nn.Linear(inner, self.rank + 2 * config.state, bias=False)
        self.step = nn.Linear(self.rank, inner)
        self.scan = SelectiveScan(inner, config.state)
        self.project = nn.Linear(inner, dim, bias=False)
        self._initialise_step()

    def _initialise_step(self) -> None:
        """Initialise step sizes log-uniformly in [0.001, 0.1], through the inverse of softplus (section 3.6)."""
        nn.init.uniform_(self.step.weight, -(self.rank**-0.5), self.rank**-0.5)
        steps = torch.exp(torch.empty_like(self.step.bias).uniform_(math.log(1e-3), math.log(1e-1)))
        with torch.no_grad():
            self.step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        steps = tokens_BTD.shape[1]
        x_BTE, gate_BTE = self.expand(self.norm(tokens_BTD)).chunk(2, dim=-1)
        convolved = self.conv(x_BTE.transpose(1, 2))[..., :steps]  # drops the padding at the end: causal
        x_BTE = functional.silu(convolved.transpose(1, 2))
        rank_BTR, b_BTN, c_BTN = self.select(x_BTE).split([self.rank, self.state, self.state], dim=-1)
        y_BTE = self.scan(x_BTE, functional.softplus(self.step(rank_BTR)), b_BTN, c_BTN)
        return tokens_BTD + self.project(y_BTE * functional.silu(gate_BTE))


class SelectiveScan(nn.Module):
    """A linear recurrence (section 3) whose step size, input and output maps depend on the input:

        h_t = exp(delta_t A) h_(t-1) + delta_t B_t x_t        y_t = C_t h_t + D x_t

    A and D are learned. It computes in float32 in any surrounding precision. CUDA tensors use the kernel of the package
    `mamba_ssm` where it is installed.
    """

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
        if kernel is not None:
            return by_kernel(kernel, inputs, a_EN, self.skip).to(x_BTE.dtype)
        y_BTE = scan(inputs[0], inputs[1], a_EN, b_BTN=inputs[2], c_BTN=inputs[3])
        return (y_BTE + self.skip * inputs[0]).to(x_BTE.dtype)

    def extra_multiply_adds(self, x_BTE: Tensor, delta_BTE: Tensor, b_BTN: Tensor, c_BTN: Tensor) -> int:
        """delta A, delta B x and the recurrence for each state value, delta x and D x for each channel.

        C h is a matrix product, which the counter sees.
        """
        return x_BTE.numel() * (3 * b_BTN.shape[-1] + 2)


def scan(x_BTE: Tensor, delta_BTE: Tensor, a_EN: Tensor, *, b_BTN: Tensor, c_BTN: Tensor) -> Tensor:
    """y_BTE without the skip term, computed step by step in the dtype of the inputs.

    Time is split by `unbind`, whose backward is one stack: indexing with `h[:, t]` would allocate a full-size gradient
    per step.
    """
    decay_BTEN = torch.exp(delta_BTE[..., None] * a_EN)
    drive_BTEN = (delta_BTE * x_BTE)[..., None] * b_BTN[:, :, None]
    state_BEN = torch.zeros_like(drive_BTEN[:, 0])
    states = []
    for decay_BEN, drive_BEN in zip(decay_BTEN.unbind(1), drive_BTEN.unbind(1), strict=True):
        state_BEN = decay_BEN * state_BEN + drive_BEN
        states.append(state_BEN)
    return (torch.stack(states, dim=1) @ c_BTN[..., None])[..., 0]


def by_kernel(
    kernel: Callable[..., Tensor], inputs: tuple[Tensor, Tensor, Tensor, Tensor], a_EN: Tensor, skip_E: Tensor
) -> Tensor:
    """y_BTE by the kernel, which expects time last: x and delta as (B, E, T), B and C as (B, N, T)."""
    x, delta, b, c = (tensor.transpose(1, 2).contiguous() for tensor in inputs)
    return kernel(x, delta, a_EN, b, c, D=skip_E.float()).transpose(1, 2)


@functools.cache
def _kernel() -> Callable[..., Tensor] | None:
    if importlib.util.find_spec("mamba_ssm") is None:
        return None
    return importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn


PUBLISHED = {
    "cnn_mamba": Published(
        source="course, RWF-2000 table; about three layers of d_model 512, expand 2, state 16, conv 4",
        parameters=16.4,
        rwf2000=83.0,
        pretrained="ImageNet",
    )
}
