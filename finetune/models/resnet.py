"""The image backbone of the course's CNNs: torchvision's ResNet-18 with a last layer of 512 features."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from videomae.core.torchvision_compat import models
from videomae.models.weights.torchvision import load_torchvision

WIDTH = 512


def resnet18(*, weights: str | None, conv1_frames: int = 1, flow_fields: int = 0) -> models.ResNet:
    """ResNet-18 with a new `fc` to 512 features, images_BCHW -> features_BD.

    Args:
        weights: None for random, "imagenet", or the path of a file with torchvision's keys; its classifier is left out.
        conv1_frames: frames stacked on the channel axis (C = 3 * frames); the pretrained first kernel is
            repeated and divided by their number, so that a still video gives the output of its frame.
        flow_fields: if not 0, optical flow replaces frames (C = 2 * fields); every channel starts from the mean of the
            pretrained kernel over colours (Wang et al. 2016, section 3.2).
    """
    network = models.resnet18(num_classes=WIDTH)
    if weights is not None:
        load_torchvision(network, "resnet18", weights, head="fc.")
    kernel = network.conv1.weight.detach()
    if flow_fields:
        start = kernel.mean(1, keepdim=True).repeat(1, 2 * flow_fields, 1, 1)
        network.conv1 = _first_layer(start, keep=weights is not None)
    elif conv1_frames > 1:
        start = kernel.repeat(1, conv1_frames, 1, 1) / conv1_frames
        network.conv1 = _first_layer(start, keep=weights is not None)
    return network


def frame_features(network: nn.Module, video_BCTHW: Tensor) -> Tensor:
    """features_BTD of single frames."""
    features_ND = network(rearrange(video_BCTHW, "b c t h w -> (b t) c h w"))
    return rearrange(features_ND, "(b t) d -> b t d", t=video_BCTHW.shape[2])


def classifier(features: int, classes: int) -> nn.Sequential:
    """The course's head: features -> 128 -> ReLU -> classes."""
    return nn.Sequential(nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, classes))


def _first_layer(start_DCHW: Tensor, *, keep: bool) -> nn.Conv2d:
    """ResNet's first convolution with the shape of `start_DCHW`; copies its values if `keep`."""
    layer = nn.Conv2d(start_DCHW.shape[1], start_DCHW.shape[0], 7, stride=2, padding=3, bias=False)
    if keep:
        with torch.no_grad():
            layer.weight.copy_(start_DCHW)
    return layer
