"""Two-stream networks (Simonyan and Zisserman 2014, arXiv 1406.2199): appearance and motion.

`temporal_stream` classifies the stacked optical flow of the clip, 2(T-1) channels, computed on the fly. `two_stream`
adds a spatial stream, the single-frame network, and averages both probabilities. Fusion by a linear SVM uses the scores
of finished runs: `videomae ensemble --fusion svm RUN RUN`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from finetune.models import resnet
from finetune.models.interface import ModelInput, Published, WeightsConfig
from finetune.models.optical_flow import stacked_flow
from finetune.models.time_fusion import SingleFrame, SingleFrameConfig
from videomae.core.config import configclass
from videomae.core.errors import UserError


@configclass
class TwoStreamConfig(WeightsConfig):
    """ResNet-18 -> 512 -> 128 -> classes on the flow; `two_stream` has another one on the frames."""

    name: Literal["temporal_stream", "two_stream"] = "two_stream"
    frames: int = 11  # ten flow fields, as in the paper
    stride: int = 1

    def __post_init__(self) -> None:
        if self.frames < 2 or self.size < 16:
            raise UserError(f"flow needs at least 2 frames of 16 x 16, got frames={self.frames}, size={self.size}")

    @property
    def input(self) -> ModelInput:
        return ModelInput(frames=self.frames, size=self.size, frame_sampling="clip", stride=self.stride)


class TemporalStream(nn.Module):
    """(video_BCTHW) -> logits_BK from the optical flow."""

    def __init__(self, config: TwoStreamConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        weights = config.weights if initialise else None
        self.network = resnet.resnet18(weights=weights, flow_fields=config.frames - 1)
        self.classifier = resnet.classifier(resnet.WIDTH, classes)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.classifier(self.network(stacked_flow(video_BCTHW, self.input.mean, self.input.std)))


class TwoStream(nn.Module):
    """(video_BCTHW) -> logits_BK, the logarithm of the mean of both streams' probabilities."""

    def __init__(self, config: TwoStreamConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        spatial = SingleFrameConfig(frames=config.frames, size=config.size, weights=config.weights)
        self.spatial = SingleFrame(spatial, classes, initialise=initialise)
        self.temporal = TemporalStream(config, classes, initialise=initialise)

    def scores(self, video_BCTHW: Tensor) -> Tensor:
        """log-probabilities_BSK of the spatial and the temporal stream."""
        logits = torch.stack([self.spatial(video_BCTHW), self.temporal(video_BCTHW)], dim=1)
        return logits.log_softmax(-1)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        scores_BSK = self.scores(video_BCTHW)
        return scores_BSK.logsumexp(1) - torch.log(torch.tensor(2.0, device=scores_BSK.device))


def build(config: TwoStreamConfig, classes: int, *, initialise: bool = True) -> nn.Module:
    """The model named `config.name`."""
    family = TwoStream if config.name == "two_stream" else TemporalStream
    return family(config, classes, initialise=initialise)


PUBLISHED = {
    "temporal_stream": Published(source="Simonyan and Zisserman 2014; the course gives no figures"),
    "two_stream": Published(source="Simonyan and Zisserman 2014; the course gives no figures"),
}
