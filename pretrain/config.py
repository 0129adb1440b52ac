"""The config of a pretraining run."""

from __future__ import annotations

from typing import Literal

from pretrain.autoencoder import DecoderConfig
from pretrain.masking import MaskConfig, hidden_count
from pretrain.objective import ObjectiveConfig
from videomae.core.config import configclass
from videomae.core.errors import UserError
from videomae.data.datasets import Shards
from videomae.data.stream import ClipsConfig
from videomae.models.encoder import EncoderConfig
from videomae.run.config import TrainingConfig


@configclass
class PretrainDataConfig(ClipsConfig):
    """Data and cropping of clips."""

    shards: Shards  # folder of one split, as `videomae shards build` writes it, or a list of {shards, weight}
    stride: int = 4  # stored frames from one sampled frame to the next
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)  # multi-scale crop, of the short side
    flip: float = 0.0  # probability; the official recipe does not flip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride < 1:
            raise UserError(f"stride must be at least 1, got {self.stride}")


@configclass
class PretrainConfig(TrainingConfig):
    """All settings of a pretraining run; the defaults are ViT-B at 16 x 224 x 224, tube mask 0.9."""

    stage: Literal["pretrain"] = "pretrain"
    data: PretrainDataConfig
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    mask: MaskConfig = MaskConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    visualizations: int = 4  # clips rendered as original / masked / reconstructed at the end
    visualize_every: str | None = None  # and during training, for example 100 epochs

    def __post_init__(self) -> None:
        if self.encoder.drop_path:
            raise UserError(
                f"pretraining has no drop path (VideoMAE), got {self.encoder.drop_path}; set encoder.drop_path=0"
            )
        hidden_count(self.mask, self.encoder)
        if self.batch % self.data.repeated_aug:
            raise UserError(f"batch={self.batch} must be a multiple of data.repeated_aug={self.data.repeated_aug}")
