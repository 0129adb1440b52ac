"""The image network inside the course's CNNs: torchvision's ResNet-18, its last layer replaced by 512 features."""

from __future__ import annotations

import torch
from torch import nn

from videomae.torchvision_door import models
from videomae.weights.files import load_strictly
from videomae.weights.torchvision import torchvision_state

WIDTH = 512


def resnet18(*, weights: str | None, conv1_frames: int = 1) -> models.ResNet:
    """ResNet-18 with a fresh `fc` to 512 features, (B, 3 * conv1_frames, H, W) -> features_BD.

    Args:
        weights: None for random, "imagenet", or the path of a file with torchvision's keys; its classifier is dropped.
        conv1_frames: frames stacked on the channel axis; the pretrained first kernel is repeated for each and divided
            by their number, so that a still video gives what its frame gave.
    """
    network = models.resnet18(num_classes=WIDTH)
    if weights is not None:
        load_strictly(network, torchvision_state("resnet18", weights), source=f"weights {weights}", fresh=["fc."])
    if conv1_frames > 1:
        network.conv1 = _stacked(network.conv1, conv1_frames, keep=weights is not None)
    return network


def classifier(features: int, classes: int) -> nn.Sequential:
    """The course's head: features -> 128 -> ReLU -> classes."""
    return nn.Sequential(nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, classes))


def _stacked(layer: nn.Conv2d, frames: int, *, keep: bool) -> nn.Conv2d:
    stacked = nn.Conv2d(3 * frames, layer.out_channels, 7, stride=2, padding=3, bias=False)
    if keep:
        with torch.no_grad():
            stacked.weight.copy_(layer.weight.repeat(1, frames, 1, 1) / frames)
    return stacked
