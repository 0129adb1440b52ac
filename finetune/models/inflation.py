"""Inflation of an image ResNet over time (I3D: Carreira and Zisserman 2017, arXiv 1705.07750, section 2.4.1).

Each 2D kernel is repeated over its frames and divided by their number, and time is padded by replicating the first and
last frame. On a still video, the inflated network therefore returns what the image network returns for its frame.
"""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor, nn
from torch.nn import functional

from videomae.core.torchvision_compat import models


class InflatedConv(nn.Conv3d):
    """A 3D convolution with replicate padding along time."""

    def forward(self, input: Tensor) -> Tensor:
        """maps_BCTHW in and out."""
        margin = self.kernel_size[0] // 2
        if margin:
            input = functional.pad(input, (0, 0, 0, 0, margin, margin), mode="replicate")
        return super().forward(input)


def inflate_resnet(network: models.ResNet, *, time_kernel: int = 3) -> models.ResNet:
    """Turn a torchvision ResNet into one over maps_BCTHW in place and inflate its weights.

    Kernels of 3 x 3 and 7 x 7 get `time_kernel` frames (odd), those of 1 x 1 one frame. A strided convolution has the
    same stride in time and space, except in the stem.
    """
    for name, child in list(network.named_modules()):
        replacement = _inflated(child, time_kernel, stem=name == "conv1")
        if replacement is not None:
            parent = network.get_submodule(name.rpartition(".")[0])
            parent.add_module(name.rpartition(".")[2], replacement.train(child.training))
    return network


def _inflated(layer: nn.Module, time_kernel: int, *, stem: bool) -> nn.Module | None:
    if isinstance(layer, nn.Conv2d):
        return _inflated_conv(layer, time_kernel, stem=stem)
    if isinstance(layer, nn.BatchNorm2d):
        norm = nn.BatchNorm3d(layer.num_features, eps=layer.eps, momentum=layer.momentum)
        norm.load_state_dict(layer.state_dict())
        return norm
    if isinstance(layer, nn.MaxPool2d):
        assert isinstance(layer.kernel_size, int)
        assert isinstance(layer.stride, int)
        assert isinstance(layer.padding, int)
        return nn.MaxPool3d(
            (1, layer.kernel_size, layer.kernel_size),
            (1, layer.stride, layer.stride),
            (0, layer.padding, layer.padding),
        )
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return nn.AdaptiveAvgPool3d(1)
    return None


def _inflated_conv(layer: nn.Conv2d, time_kernel: int, *, stem: bool) -> InflatedConv:
    height, width = layer.kernel_size
    stride = layer.stride[0]
    assert not isinstance(layer.padding, str)
    frames = time_kernel if height > 1 else 1
    inflated = InflatedConv(
        layer.in_channels,
        layer.out_channels,
        (frames, height, width),
        stride=(1 if stem else stride, stride, stride),
        padding=(0, layer.padding[0], layer.padding[1]),
        groups=layer.groups,
        bias=layer.bias is not None,
    )
    with torch.no_grad():
        inflated.weight.copy_(repeat(layer.weight, "o i h w -> o i t h w", t=frames) / frames)
        if layer.bias is not None and inflated.bias is not None:
            inflated.bias.copy_(layer.bias)
    return inflated
