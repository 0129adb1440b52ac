"""VideoMAE for classification: the pretrained encoder, mean pooling, a norm and a linear head.

Tong et al. 2022 (arXiv 2203.12602), fine-tuning: no final norm in the encoder, the mean of all tokens -> fc_norm ->
head, whose initial weights are scaled by 0.001. probes.py has the probes of a frozen encoder.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from finetune.models.interface import ModelInput, Published
from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.models.encoder import EncoderConfig, VideoEncoder
from videomae.models.transformer import initialize
from videomae.models.weights.export import describe_encoder, load_encoder
from videomae.models.weights.files import WeightsError, load_strictly, without


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
    drop_path: float = 0.1
    head_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("drop_path", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must lie in [0, 1), got {getattr(self, name)}")


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
        self.input.check(video_BCTHW)
        return self.fc_norm(self.encoder(video_BCTHW).mean(1))

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(video_BCTHW)))


def encoder_config(given: EncoderConfig | None, weights: str | None) -> EncoderConfig:
    """The encoder's config: that of the weights, which must equal `given` if both are present.

    Drop path and final norm depend on the training stage and are not compared.

    Raises:
        WeightsError: both are present and differ; the message names each setting.
    """
    if weights is None:
        return given or EncoderConfig()
    exported, _ = describe_encoder(weights)
    if given is None:
        return exported
    per_stage = {"drop_path", "final_norm"}
    names = [field.name for field in dataclasses.fields(EncoderConfig) if field.name not in per_stage]
    differing = [
        f"{name} is {getattr(given, name)} in model.encoder and {getattr(exported, name)} in {weights}"
        for name in names
        if getattr(given, name) != getattr(exported, name)
    ]
    if differing:
        raise WeightsError("; ".join(differing) + "; remove model.encoder to take the settings of the weights")
    return given


def encoder_label(weights: str | None) -> str:
    """The label of these weights in tables."""
    if weights is None:
        return "scratch"
    _, metadata = describe_encoder(weights)
    return f"VideoMAE ({metadata.get('run') or Path(weights).name})"


def load_backbone(encoder: VideoEncoder, weights: str) -> None:
    """Load an exported encoder strictly; its final norm is skipped if `encoder` has none."""
    export = load_encoder(weights)
    dropped = [] if encoder.config.final_norm else ["norm."]
    load_strictly(encoder, without(export.state, dropped), source=f"the encoder in {weights}")


PUBLISHED = {
    "videomae": Published(
        source="course, RWF-2000 table (parameters, accuracy); VideoMAE (GMACs of ViT-B, 16 x 224 x 224)",
        parameters=86.2,
        gmacs=180.3,
        rwf2000=91.3,
        pretrained="VideoMAE",
    )
}
