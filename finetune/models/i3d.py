"""I3D: torchvision's image ResNet inflated over time, optionally with non-local blocks.

Inflation (Carreira and Zisserman 2017, arXiv 1705.07750, section 2.4.1): each 2D kernel is repeated over its frames and
divided by their number, and time is padded by replicating the first and last frame. On a still video, the inflated
network therefore returns what the image network returns for its frame.

Shapes: B batch, C channels, T frames, H height, W width, N = T * H * W positions, M positions after subsampling.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from finetune.models.interface import Published, WeightsConfig
from videomae.core.config import configclass
from videomae.core.torchvision_compat import models
from videomae.models.weights.torchvision import load_torchvision

Similarity = Literal["gaussian", "embedded_gaussian", "dot_product"]
_TIME_KERNEL = 3


@configclass
class I3dConfig(WeightsConfig):
    """`i3d` is the inflated ResNet, `i3d_non_local` has a non-local block after every other block of stages 2 and 3."""

    name: Literal["i3d", "i3d_non_local"] = "i3d"
    resnet: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    similarity: Similarity = "embedded_gaussian"  # of i3d_non_local

    @property
    def pretrained(self) -> str:
        return super().pretrained + ("" if self.weights is None else ", inflated")


class I3d(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: I3dConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        flat = models.get_model(config.resnet, weights=None)
        assert isinstance(flat, models.ResNet)
        if initialise and config.weights is not None:
            load_torchvision(flat, config.resnet, config.weights, head="fc.")
        self.network = inflate_resnet(flat)
        self.network.fc = nn.Linear(self.network.fc.in_features, classes)
        if config.name == "i3d_non_local":
            for stage in ("layer2", "layer3"):
                self.network.add_module(stage, _with_non_local(self.network.get_submodule(stage), config.similarity))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.network(video_BCTHW)


class InflatedConv(nn.Conv3d):
    """A 3D convolution with replicate padding along time."""

    def forward(self, input: Tensor) -> Tensor:
        """maps_BCTHW in and out."""
        margin = self.kernel_size[0] // 2
        if margin:
            input = functional.pad(input, (0, 0, 0, 0, margin, margin), mode="replicate")
        return super().forward(input)


def inflate_resnet(network: models.ResNet) -> models.ResNet:
    """Turn a torchvision ResNet into one over maps_BCTHW in place and inflate its weights.

    Kernels of 3 x 3 and 7 x 7 get three frames, those of 1 x 1 one frame. A strided convolution has the same stride in
    time and space, except in the stem.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d):
            inflated: nn.Module = _inflated_conv(layer, stem=name == "conv1")
        elif isinstance(layer, nn.BatchNorm2d):
            inflated = nn.BatchNorm3d(layer.num_features)
            inflated.load_state_dict(layer.state_dict())
        else:
            continue
        parent, _, child = name.rpartition(".")
        network.get_submodule(parent).add_module(child, inflated.train(layer.training))
    network.add_module("maxpool", nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
    network.add_module("avgpool", nn.AdaptiveAvgPool3d(1))
    return network


def _inflated_conv(layer: nn.Conv2d, *, stem: bool) -> InflatedConv:
    size, stride = layer.kernel_size[0], layer.stride[0]
    frames = _TIME_KERNEL if size > 1 else 1
    inflated = InflatedConv(
        layer.in_channels,
        layer.out_channels,
        (frames, size, size),
        stride=(1 if stem else stride, stride, stride),
        padding=(0, size // 2, size // 2),
        bias=False,
    )
    with torch.no_grad():
        inflated.weight.copy_(repeat(layer.weight, "o i h w -> o i t h w", t=frames) / frames)
    return inflated


class NonLocal(nn.Module):
    """x + BN(W(y)), where y_i is the mean of g(x_j) weighted by the similarity f(x_i, x_j); maps_BCTHW in and out.

    Similarities (Wang et al. 2018, arXiv 1711.07971, section 3.2): `gaussian` exp(x_i . x_j), `embedded_gaussian`
    exp(theta(x_i) . phi(x_j)), both normalised over j (a softmax); `dot_product` theta(x_i) . phi(x_j) / M.

    The weight of the batch norm starts at zero, so that a new block is the identity and can be inserted into a
    pretrained network (section 4.1). Keys and values are subsampled by 2 x 2 max pooling over space.
    """

    def __init__(self, channels: int, *, similarity: Similarity) -> None:
        super().__init__()
        self.similarity: Similarity = similarity
        inner = channels // 2
        if similarity != "gaussian":
            self.theta = nn.Conv3d(channels, inner, 1)
            self.phi = nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        self.subsample = nn.MaxPool3d((1, 2, 2), ceil_mode=True)
        self.out = nn.Conv3d(inner, channels, 1)
        self.norm = nn.BatchNorm3d(channels)
        nn.init.zeros_(self.norm.weight)

    def weights(self, maps_BCTHW: Tensor) -> Tensor:
        """Attention weights_BNM of position i over positions j."""
        queries, keys = maps_BCTHW, self.subsample(maps_BCTHW)
        if self.similarity != "gaussian":
            queries, keys = self.theta(queries), self.phi(keys)
        scores_BNM = queries.flatten(2).transpose(1, 2) @ keys.flatten(2)
        return scores_BNM / scores_BNM.shape[-1] if self.similarity == "dot_product" else scores_BNM.softmax(-1)

    def forward(self, maps_BCTHW: Tensor) -> Tensor:
        values_BMC = self.g(self.subsample(maps_BCTHW)).flatten(2).transpose(1, 2)
        mixed_BNC = self.weights(maps_BCTHW) @ values_BMC
        time, height = maps_BCTHW.shape[2:4]
        mixed = rearrange(mixed_BNC, "b (t h w) c -> b c t h w", t=time, h=height)
        return maps_BCTHW + self.norm(self.out(mixed))


def _with_non_local(stage: nn.Module, similarity: Similarity) -> nn.Sequential:
    """The blocks of a stage of an inflated ResNet, every second of them followed by a non-local block."""
    channels = max(layer.num_features for layer in stage.modules() if isinstance(layer, nn.BatchNorm3d))
    extended = nn.Sequential()
    for index, block in enumerate(stage.children()):
        extended.append(block)
        if index % 2:
            extended.append(NonLocal(channels, similarity=similarity))
    return extended


PUBLISHED = {
    "i3d": Published(source="Carreira and Zisserman 2017 inflate Inception; the course gives no figures"),
    "i3d_non_local": Published(source="Wang et al. 2018; the course gives no figures"),
}
