"""VideoMAE for classification: the pretrained encoder, mean pooling, a norm and a linear head.

Tong et al. 2022 (arXiv 2203.12602), fine-tuning: no final norm in the encoder, the mean of all tokens -> fc_norm ->
head, whose initial weights are scaled by 0.001. probes.py has the probes of a frozen encoder.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from finetune.models.interface import ModelInput, Published
from videomae.core.config import configclass
from videomae.models.encoder import EncoderConfig, VideoEncoder
from videomae.models.transformer import initialize
from videomae.models.weights.export import describe_encoder, encoder_config, load_backbone


@configclass
class EncoderModelConfig:
    """Base config of models with an encoder, given by its settings or by exported weights."""

    name: str
    encoder: EncoderConfig | None = None  # None: that of the weights, or ViT-B
    weights: str | None = None  # folder or .safetensors of an exported encoder; None: from scratch

    @property
    def frames(self) -> int:
        return encoder_config(self.encoder, self.weights).frames

    @property
    def size(self) -> int:
        return encoder_config(self.encoder, self.weights).size

    @property
    def input(self) -> ModelInput:
        return ModelInput(frames=self.frames, size=self.size)

    @property
    def pretrained(self) -> str:
        return encoder_label(self.weights)


@configclass
class VideomaeConfig(EncoderModelConfig):
    """A fine-tuned encoder with a linear head."""

    name: Literal["videomae"] = "videomae"
    drop_path: float = Field(0.1, ge=0, lt=1)
    head_dropout: float = Field(0.0, ge=0, lt=1)
    # Of the frames, from a random start (VideoMAE on Kinetics-400: 4); None: spread evenly.
    stride: PositiveInt | None = None

    @property
    def input(self) -> ModelInput:
        sampling = "video" if self.stride is None else "clip"
        return ModelInput(frames=self.frames, size=self.size, frame_sampling=sampling, stride=self.stride or 1)


class VideomaeClassifier(nn.Module):
    """(video_BCTHW) -> logits_BK."""

    def __init__(self, config: VideomaeConfig, classes: int, *, initialise: bool = True) -> None:
        super().__init__()
        self.input = config.input
        settings = encoder_config(config.encoder, config.weights)
        settings = dataclasses.replace(settings, drop_path=config.drop_path, final_norm=False)
        self.encoder = VideoEncoder(settings)
        self.fc_norm = nn.LayerNorm(settings.dim, eps=1e-6)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(settings.dim, classes)
        initialize(self, xavier=False)
        self.head.weight.data.mul_(0.001)
        if initialise and config.weights is not None:
            load_backbone(self.encoder, config.weights)

    def features(self, video_BCTHW: Tensor) -> Tensor:
        """features_BD: the normalised mean of all tokens."""
        return self.fc_norm(self.encoder(video_BCTHW).mean(1))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(video_BCTHW)))


def encoder_label(weights: str | None) -> str:
    """The label of these weights in tables."""
    if weights is None:
        return "scratch"
    _, metadata = describe_encoder(weights)
    return f"VideoMAE ({metadata.get('run') or Path(weights).name})"


PUBLISHED = {
    "videomae": Published(
        source="course, RWF-2000 table (parameters, accuracy); VideoMAE (GMACs of ViT-B, 16 x 224 x 224)",
        parameters=86.2,
        gmacs=180.3,
        rwf2000=91.3,
        pretrained="VideoMAE",
    )
}
