"""Config and published figures of the four ViViT models."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from finetune.models.interface import HALF, ModelInput, Published
from finetune.models.videomae import encoder_label
from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.transforms.augment import IMAGENET_MEAN, IMAGENET_STD
from videomae.models.encoder import TransformerConfig
from videomae.models.weights.export import is_export
from videomae.models.weights.image_vit import image_label


@configclass
class VivitConfig(TransformerConfig):
    """ViViT-B/16x2 on 32 frames."""

    name: Literal["vivit_1", "vivit_2", "vivit_3", "vivit_4"] = "vivit_1"
    frames: int = 32
    temporal_depth: int = 4  # of vivit_2
    embedding: Literal["tubelet", "uniform"] = "tubelet"  # uniform: one frame per tubelet (section 3.2)
    weights: str | None = None  # "imagenet", a file of a timm ViT, an exported VideoMAE encoder, or none
    inflation: Literal["central", "average"] = "central"  # of an image ViT's patch kernel (section 3.4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "vivit_4" and self.heads % 2:
            raise UserError(f"vivit_4 splits its heads between space and time: heads must be even, got {self.heads}")

    @property
    def from_videomae(self) -> bool:
        """Whether `weights` is an exported VideoMAE encoder and not an image ViT."""
        return self.weights is not None and is_export(Path(self.weights))

    @property
    def input(self) -> ModelInput:
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if self.from_videomae else (HALF, HALF)
        return ModelInput(frames=self.frames, size=self.size, mean=mean, std=std)

    @property
    def pretrained(self) -> str:
        return encoder_label(self.weights) if self.from_videomae else image_label(self.weights)


def _published(model: int, parameters: float, gmacs: float, rwf2000: float | None = None) -> Published:
    source = f"ViViT table 2, Model {model} (B/16x2, 32 x 224 x 224, 400 classes)"
    return Published(
        source=source + ("; course, RWF-2000 table (accuracy)" if rwf2000 else ""),
        parameters=parameters,
        gmacs=gmacs,
        rwf2000=rwf2000,
        pretrained="image ViT",
        classes=400,
    )


PUBLISHED = {
    "vivit_1": _published(1, 88.9, 455.2, 84.8),
    "vivit_2": _published(2, 115.1, 284.4),
    "vivit_3": _published(3, 117.3, 372.3),
    "vivit_4": _published(4, 88.9, 277.1),
}
